"""How one setting is written: durations, sizes, addresses, names, and their bounds.

Rule: a parser takes what stood in the file and returns the value, or raises `ValueError`
with the end of a sentence an operator can act on ("it must be ..."); a bound carries its
reason beside it.
Non-rule: knows no key, no file and no other setting.
Source: systemd's and Caddy's habits for durations and sizes; RFC 3986 for hosts.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Protocol, Self, TypeVar

_LARGEST = 2**63 - 1  # what TOML guarantees and SQLite stores

_MILLISECONDS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_BYTES = {
    "": 1,
    "b": 1,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
}
_QUANTITY = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?) *([A-Za-z]*)")
_RATE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) *(?:/ *s)?")
_BASE_PATH = re.compile(r"[A-Za-z0-9._~-]+(?:/[A-Za-z0-9._~-]+)*")
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.-]+)?)\]|([A-Za-z0-9_][A-Za-z0-9_.-]*))")
_ADDRESS = re.compile(rf"(?P<host>{_HOST.pattern}):(?P<port>[0-9]{{1,5}})")
_SERVER = re.compile(
    rf"(?P<scheme>https?)://(?P<host>{_HOST.pattern})(?::(?P<port>[0-9]{{1,5}}))?/?",
    re.IGNORECASE,
)
_SUITE_ID = re.compile(r"[A-Za-z0-9._-]+")


class _Ordered(Protocol):
    def __le__(self, other: Self, /) -> bool: ...


N = TypeVar("N", bound=_Ordered)
T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Address:
    """Where we listen. Port 0 lets the system choose one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{_bracketed(self.host)}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it; a name other than `localhost` is not sure."""
        address = _ip(self.host)
        return self.host == "localhost" if address is None else address.is_loopback

    @property
    def is_wildcard(self) -> bool:
        """Whether it stands for every interface of this machine."""
        address = _ip(self.host)
        return address is not None and address.is_unspecified


@dataclass(frozen=True, slots=True)
class Server:
    """A collection server: scheme and address, nothing else; the rest comes with each hit."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        default = self.port == (443 if self.scheme == "https" else 80)
        return f"{self.scheme}://{_bracketed(self.host)}" + ("" if default else f":{self.port}")

    @property
    def address(self) -> Address:
        return Address(self.host, self.port)


def duration(value: object) -> float:
    """Seconds of `"500ms"`, `"30s"`, `"5m"`, `"2h"`, `"7d"`; zero needs no unit."""
    found = _QUANTITY.fullmatch(str(value).strip()) if _is_plain(value) else None
    if found is not None and Decimal(found[1]) == 0 and not found[2]:
        return 0.0
    if found is None or found[2] not in _MILLISECONDS:
        raise ValueError('it must be a duration such as "30s": a number and ms, s, m, h or d')
    return float(Decimal(found[1]) * _MILLISECONDS[found[2]] / 1000)


def size(value: object) -> int:
    """Bytes of `"64KiB"`, `"10MB"`, `"2GiB"` or a plain whole number."""
    found = _QUANTITY.fullmatch(str(value).strip()) if _is_plain(value) else None
    if found is None or found[2].lower() not in _BYTES:
        raise ValueError(
            'it must be a size such as "64KiB", "2GiB" or "10MB", or a number of bytes'
        )
    return _fitting(int(Decimal(found[1]) * _BYTES[found[2].lower()]))


def rate(value: object) -> float:
    """Hits a second: a number, or the same as `"20/s"`."""
    if isinstance(value, float) and value >= 0:
        return value
    found = _RATE.fullmatch(str(value).strip()) if _is_plain(value) else None
    if found is None:
        raise ValueError('it must be a number of hits a second, such as 20 or "20/s"')
    return float(found[1])


def whole(value: object) -> int:
    """A whole number."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("it must be a whole number, without quotes")  # noqa: TRY004 - as pydantic wants it
    return _fitting(value)


def flag(value: object) -> bool:
    """Exactly true or false."""
    if not isinstance(value, bool):
        raise ValueError("it must be true or false, without quotes")  # noqa: TRY004 - as pydantic wants it
    return value


def address(value: object) -> Address:
    """`"host:port"`, IPv6 in brackets."""
    found = _ADDRESS.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(
            'it must be "host:port", such as "127.0.0.1:8277", "[::1]:8277" '
            'or "0.0.0.0:8277" for every interface'
        )
    return Address(_host(found["host"]), _port(found["port"]))


def server(value: object) -> Server:
    """`"scheme://host"` or `"scheme://host:port"`."""
    found = _SERVER.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(_not_a_server(value))
    scheme = found["scheme"].lower()
    port = _port(found["port"] or ("443" if scheme == "https" else "80"))
    if port == 0:
        raise ValueError("port 0 cannot be connected to; leave the port out for the usual one")
    return Server(scheme, _host(found["host"]), port)


def hosts(value: object) -> tuple[str, ...]:
    """A list of host names as a `Host` header may carry them: lower case, no port."""
    given = list(value) if isinstance(value, list | tuple) else [None]
    names = [name for name in given if isinstance(name, str)]
    if names != given:
        raise ValueError('it must be a list of host names, such as ["kiosk17.shop.example"]')
    for name in names:
        if _ip(name) is None and not _HOST.fullmatch(name):
            raise ValueError(f'"{name}" is not a host name; leave scheme, port and path out')
    return tuple(_host(name) for name in names)


def datastreams(value: object) -> tuple[str, ...]:
    """A list of datastream ids as they stand in a request."""
    given = list(value) if isinstance(value, list | tuple) else [None]
    names = [name for name in given if isinstance(name, str) and name and name.isprintable()]
    if names != given:
        raise ValueError("it must be a list of datastream ids in quotes")
    return tuple(names)


LONGEST_LABEL = 64


def rules(value: object) -> tuple[str, ...]:
    """A list of rules of findings, by their ids."""
    given = list(value) if isinstance(value, list | tuple) else [None]
    named = tuple(name for name in given if isinstance(name, str))
    if len(named) < len(given):
        raise ValueError('it must be a list of rules, such as ["N1"]')
    if named:
        from proxy.core.findings import RULES  # noqa: PLC0415 - tables that most need not pay for

        ids = [rule.id for rule in RULES]
        for name in named:
            if name not in ids:
                guess = nearest(name, ids)
                raise ValueError(f'"{name}" is no rule; there are {" ".join(ids)}{guess}')
    return named


def label(value: object) -> str:
    """A short name for people, on one line."""
    if not isinstance(value, str) or not value.isprintable() or len(value) > LONGEST_LABEL:
        raise ValueError('it must be a name of 64 characters at most, such as "store-17"')
    return value.strip()


def variable(value: str) -> str:
    """A variable, an event or context data, in any case."""
    from proxy.core import names  # noqa: PLC0415 - tables that most need not pay for

    if names.spelled(value) is None:
        guess = nearest(value, names.known())
        raise ValueError(
            f'Adobe has no variable of this name; write "eVar12", "prop5", "event3" or '
            f'"ctx.cart.size"{guess}'
        )
    return value


def base_path(value: object) -> str:
    """What comes before the endpoints in a path, without slashes at its ends."""
    if not isinstance(value, str) or not _BASE_PATH.fullmatch(value):
        raise ValueError('it must be a path without slashes at its ends, such as "ee"')
    if value == "id" or value.split("/")[0] == "b":
        raise ValueError("that is where hits of Adobe Analytics go")
    return value


def file_path(value: object) -> Path:
    """A path as the operating system takes it; nothing in it is expanded."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError('it must be a path in quotes, such as "/etc/trackoffline/token"')
    if value.startswith("~"):
        raise ValueError('"~" is not expanded here; write the whole path')
    return Path(value)


def queue_file(value: object) -> Path:
    """A path of a file; never SQLite's own spellings of "not on disk"."""
    if value == ":memory:" or (isinstance(value, str) and value.startswith("file:")):
        raise ValueError("a hit that got its 200 must be on disk; give the path of a file")
    path = file_path(value)
    if not path.name or str(value).endswith("/"):
        raise ValueError('it must name a file, such as "hits.db", not a directory')
    return path


def suite_id(value: str) -> str:
    """A report suite id."""
    if not _SUITE_ID.fullmatch(value):
        raise ValueError("a report suite id has only letters, digits, dot, hyphen and underscore")
    return value


def choice(kind: type[E]) -> Callable[[object], E]:
    """One of the words of an enumeration."""
    words = [str(word) for word in kind]

    def one_of(value: object) -> E:
        if isinstance(value, str) and value in words:
            return kind(value)
        raise ValueError(f"choose {', '.join(words[:-1])} or {words[-1]}{nearest(value, words)}")

    return one_of


def within(
    parse: Callable[[object], N], low: object, high: object, reason: str
) -> Callable[[object], N]:
    """A parser with bounds; `reason` completes "it must be LOW to HIGH: "."""
    lowest, highest = parse(low), parse(high)

    def bounded(value: object) -> N:
        parsed = parse(value)
        if lowest <= parsed <= highest:
            return parsed
        raise ValueError(f"it must be {low} to {high}: {reason}")

    return bounded


def at_least(parse: Callable[[object], N], low: object, reason: str) -> Callable[[object], N]:
    """A parser with a lower bound; `reason` completes "it must be at least LOW: "."""
    lowest = parse(low)

    def bounded(value: object) -> N:
        parsed = parse(value)
        if lowest <= parsed:
            return parsed
        raise ValueError(f"it must be at least {low}: {reason}")

    return bounded


def optional(parse: Callable[[object], T]) -> Callable[[object], T | None]:
    """The empty string stands for "not set": TOML has no null, the environment no absence."""
    return lambda value: None if value in ("", None) else parse(value)


def nearest(word: object, names: Iterable[str]) -> str:
    """The question to ask after an unknown word, or nothing when no name is close."""
    by_lower = {name.lower(): name for name in names}
    close = difflib.get_close_matches(str(word).lower(), list(by_lower), n=1)
    return f'. Did you mean "{by_lower[close[0]]}"?' if close else ""


def spell_duration(seconds: float) -> str:
    """The shortest spelling `duration` reads back."""
    milliseconds = round(seconds * 1000)
    for unit in ("d", "h", "m", "s"):
        length = _MILLISECONDS[unit]
        if milliseconds and milliseconds % length == 0:
            return f"{milliseconds // length}{unit}"
    return f"{milliseconds}ms" if milliseconds else "0s"


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _fitting(number: int) -> int:
    if not -_LARGEST <= number <= _LARGEST:
        raise ValueError("it is larger than 64 bits hold")
    return number


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None


def _host(text: str) -> str:
    address = _ip(text)
    if address is not None:
        return str(address)
    if "[" in text or re.fullmatch(r"[0-9.]+", text):
        # Resolvers read "127.1" or "010.0.0.1" each in its own way: no guessing.
        raise ValueError(f'"{text}" is not an IP address')
    return text.lower()


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _port(text: str) -> int:
    port = int(text)
    if port > 65_535:
        raise ValueError("a port is at most 65535")
    return port


def _not_a_server(value: object) -> str:
    if not isinstance(value, str) or not value:
        return 'it must be a URL such as "https://example.data.adobedc.net"'
    if "@" in value:
        return "a collection server takes no user name or password; leave them out"
    if "://" not in value:
        return 'it must begin with "https://"'
    if not value.lower().startswith(("http://", "https://")):
        return "only https:// (and http://) can be sent to"
    if re.search(r"//[^/?#]+[/?#].", value):
        return "it must be scheme://host[:port] alone; path and query come with each hit"
    return 'it must be scheme://host[:port], such as "https://example.data.adobedc.net"'
