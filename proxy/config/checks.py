"""What settings mean together: what cannot be, and what an operator should know.

Rule: a conflict refuses the start, a warning never does; each is one line with the
consequence, and with what to do.
Non-rule: asks the network nothing; of the file system only whether files named here load.
Source: SSRF by a proxy that may be pointed at itself (CVE-2025-23217); Adobe's page
"timestamp configuration" for what an unknown mode costs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from proxy.config.model import Config, Edge, KeyPath, Unlisted, Upstream, WhenFull
from proxy.config.values import Address, spell_duration
from proxy.core import hit
from proxy.core.hit import Timestamps, WhenLate
from proxy.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Conflict:
    """`keys` cannot stand together; the first of them that was written gets the blame."""

    keys: tuple[KeyPath, ...]
    text: str


_TLS_ADDRESS = ("listen", "tls_address")
_TLS_CERT = ("listen", "tls_cert")
_TLS_KEY = ("listen", "tls_key")
_ADMIN = ("admin", "address")
_TOKEN = ("admin", "token_file")


def conflicts(config: Config) -> Iterator[Conflict]:
    """Everything that refuses the start although each setting is fine by itself."""
    yield from _own_addresses(config)
    yield from _server(config, "upstream", config.upstream)
    yield from _server(config, "edge", config.edge)
    yield from _edge_token(config)
    yield from _certificate(config)
    yield from _token(config)
    yield from _named_twice(config)
    if config.retry.first > config.retry.max:
        yield Conflict(
            (("retry", "first"), ("retry", "max")),
            f"retry.first is {spell_duration(config.retry.first)} and retry.max is "
            f"{spell_duration(config.retry.max)}; the first pause cannot exceed the longest",
        )


def warnings(config: Config) -> list[str]:
    """What is allowed and may surprise, one line each."""
    return [
        *_sending(config),
        *_suite_modes(config),
        *_silences(config),
        *_losses(config),
        *_exposure(config),
    ]


def suites(config: Config) -> hit.Suites:
    """The report suites in the core's own words."""
    return hit.Suites(
        known={
            rsid: hit.ReportSuite(suite.timestamps, suite.when_late, frozenset(suite.silence))
            for rsid, suite in config.suites.known.items()
        },
        unlisted=hit.ReportSuite(
            config.suites.timestamps, silence=frozenset(config.suites.silence)
        ),
        refuse_unlisted=config.suites.unlisted is Unlisted.REFUSE,
        silence_of_events=frozenset(config.edge.silence if config.edge else ()),
    )


def names(config: Config) -> dict[str, str]:
    """What the site calls Adobe's variables, in the core's own words."""
    return {variable.lower(): name for variable, name in config.variables.items() if name}


def admin_token(config: Config) -> str | None:
    """The token that opens the page, None when none is asked for."""
    if config.admin.token_file is None:
        return None
    try:
        return token_in(config.admin.token_file)
    except (OSError, ValueError) as error:
        raise ConfigError([f"admin.token_file: {_why(error)}"]) from error


def _named_twice(config: Config) -> Iterator[Conflict]:
    seen: dict[str, str] = {}
    for name in config.variables:
        before = seen.setdefault(name.lower(), name)
        if before != name:
            yield Conflict(
                (("variables", name),),
                f"variables.{name} is the same variable as variables.{before}; keep one",
            )


def _own_addresses(config: Config) -> Iterator[Conflict]:
    for (one, here), (other, there) in itertools.combinations(_listeners(config), 2):
        everywhere = here.is_wildcard or there.is_wildcard
        if here.port == there.port != 0 and (everywhere or _same_machine(here, there)):
            yield Conflict(
                (other, one),
                f"{'.'.join(one)} and {'.'.join(other)} both use port {here.port} "
                f"({here}, {there}); give each a port of its own",
            )


def _server(config: Config, section: str, remote: Upstream | Edge | None) -> Iterator[Conflict]:
    if remote is None:
        return
    server, target = (section, "server"), remote.server.address
    if remote.server.scheme == "http" and not target.is_loopback and not remote.allow_plaintext:
        yield Conflict(
            (server,),
            f"{section}.server is {remote.server}: hits would cross the network readable by "
            f"anyone; use https://, or set {section}.allow_plaintext = true",
        )
    for key, own in _listeners(config):
        if own.port == target.port and _same_machine(own, target):
            yield Conflict(
                (server, key),
                f"{section}.server is {remote.server}, which is our own {'.'.join(key)}: "
                "hits would go in circles",
            )
    if remote.tls_ca_file is not None:
        fault = _fault(_load_authorities, remote.tls_ca_file)
        if fault:
            yield Conflict(((section, "tls_ca_file"),), f"{section}.tls_ca_file: {fault}")


def _edge_token(config: Config) -> Iterator[Conflict]:
    if config.edge is not None and config.edge.token_file is not None:
        fault = _fault(token_in, config.edge.token_file)
        if fault:
            yield Conflict((("edge", "token_file"),), f"edge.token_file: {fault}")


def _certificate(config: Config) -> Iterator[Conflict]:
    listen = config.listen
    if listen.tls_address is None:
        return
    for key, path in ((_TLS_CERT, listen.tls_cert), (_TLS_KEY, listen.tls_key)):
        if path is None:
            yield Conflict(
                (key, _TLS_ADDRESS), f"listen.tls_address needs {'.'.join(key)}, which is not set"
            )
    if listen.tls_cert is not None and listen.tls_key is not None:
        unreadable = False
        for key, path in ((_TLS_CERT, listen.tls_cert), (_TLS_KEY, listen.tls_key)):
            fault = _fault(Path.read_bytes, path)
            if fault:
                unreadable = True
                yield Conflict((key,), f"{'.'.join(key)}: {fault}")
        fault = None if unreadable else _fault(_load_pair, listen.tls_cert, listen.tls_key)
        if fault:
            yield Conflict(
                (_TLS_CERT, _TLS_KEY),
                f"listen.tls_cert and listen.tls_key do not load together: {fault}",
            )


def _token(config: Config) -> Iterator[Conflict]:
    admin = config.admin
    if admin.token_file is not None:
        fault = _fault(token_in, admin.token_file)
        if fault:
            yield Conflict((_TOKEN,), f"admin.token_file: {fault}")
    elif admin.address is not None and not admin.address.is_loopback:
        yield Conflict(
            (_ADMIN, _TOKEN),
            f"admin.address is {admin.address} but admin.token_file is not set: anyone on the "
            f"network could read hits; set it, or use 127.0.0.1:{admin.address.port}",
        )


def _sending(config: Config) -> Iterator[str]:
    if config.upstream is None:
        yield "there is no [upstream]: capture only, hits are kept and nothing is sent"
    elif config.upstream.server.scheme == "http" and not config.upstream.server.address.is_loopback:
        yield "upstream.server is http://: anyone on the way can read and change hits"
    if config.edge is not None:
        edge = config.edge
        if edge.server.scheme == "http" and not edge.server.address.is_loopback:
            yield "edge.server is http://: anyone on the way can read and change events"
        if edge.unlisted is Unlisted.REFUSE and not edge.datastreams:
            yield 'edge.unlisted is "refuse" and no datastream is listed: every event is refused'
    if config.retry.attempts == 1:
        yield (
            "retry.attempts is 1: a hit whose first attempt fails while the link is up "
            "is a dead letter at once"
        )


def _suite_modes(config: Config) -> Iterator[str]:
    settings = config.suites
    accepts = settings.unlisted is Unlisted.ACCEPT
    if accepts and settings.timestamps is Timestamps.UNKNOWN:
        yield (
            'suites.timestamps is "unknown": late hits of a suite not under [suites.known] are '
            "held until its mode is set"
        )
    if not accepts and not settings.known:
        yield 'suites.unlisted is "refuse" and no suite is listed: every hit is refused'
    for rsid, suite in settings.known.items():
        name = f"suites.known.{rsid}"
        if suite.timestamps is Timestamps.UNKNOWN:
            yield f'{name}.timestamps is "unknown": its late hits are held until the mode is set'
        elif suite.timestamps is not Timestamps.NOT_ALLOWED:
            continue
        elif suite.when_late is WhenLate.SEND:
            yield f'{name}.when_late is "send": late hits count at the time they are delivered'
        else:
            yield f'{name}.timestamps is "not-allowed": its late hits are held until you decide'


def _silences(config: Config) -> Iterator[str]:
    said = {f"suites.known.{rsid}": one.silence for rsid, one in config.suites.known.items()}
    said["suites"] = config.suites.silence
    said["edge"] = config.edge.silence if config.edge else ()
    if not any(said.values()):
        return
    from proxy.core.findings import LOST  # noqa: PLC0415 - tables that most need not pay for

    for name, rules in said.items():
        hidden = ", ".join(rule for rule in rules if rule in LOST)
        if hidden:
            yield f"{name}.silence hides {hidden}: of hits that Adobe will drop nothing is said"


def _losses(config: Config) -> Iterator[str]:
    queue = config.queue
    if queue.when_full is WhenFull.DROP_OLDEST:
        yield (
            'queue.when_full is "drop-oldest": at a limit the oldest waiting hits are discarded '
            "for good, counted and logged"
        )
    if queue.max_age:
        yield (
            f"queue.max_age is {spell_duration(queue.max_age)}: a hit that waited longer expires, "
            "counted and never sent"
        )
    if queue.max_bytes < config.listen.max_request:
        yield "queue.max_bytes is below listen.max_request: the largest hits never fit and get 503"
    if queue.min_free_disk == 0:
        yield "queue.min_free_disk is 0: the queue may fill the disk"


def _exposure(config: Config) -> Iterator[str]:
    listen = config.listen
    taken = [listen.address, *([listen.tls_address] if listen.tls_address else [])]
    if config.suites.unlisted is Unlisted.ACCEPT and not all(a.is_loopback for a in taken):
        yield (
            'beacons are taken from the network and suites.unlisted is "accept": '
            "anyone there can send hits of any report suite"
        )
    edge = config.edge
    accepts = edge is not None and edge.unlisted is Unlisted.ACCEPT
    if accepts and not all(a.is_loopback for a in taken):
        yield (
            'events are taken from the network and edge.unlisted is "accept": '
            "anyone there can send events to any datastream"
        )
    if listen.tls_address is None and (listen.tls_cert or listen.tls_key):
        yield "listen.tls_cert and tls_key have no effect: listen.tls_address is not set"


def _listeners(config: Config) -> list[tuple[KeyPath, Address]]:
    addresses = [
        (("listen", "address"), config.listen.address),
        (_TLS_ADDRESS, config.listen.tls_address),
        (_ADMIN, config.admin.address),
    ]
    return [(key, address) for key, address in addresses if address is not None]


def _same_machine(one: Address, other: Address) -> bool:
    """Whether what is sent to `other` may reach a listener at `one`, as far as names tell."""
    if one.host == other.host:
        return True
    local = all(address.is_loopback or address.is_wildcard for address in (one, other))
    loose = any(address.is_wildcard or address.host == "localhost" for address in (one, other))
    return local and loose


def _fault(attempt: Callable[..., object], *paths: Path) -> str | None:
    try:
        attempt(*paths)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        return _why(error)
    return None


def _why(error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {(error.strerror or str(error)).lower()}"
    reason = getattr(error, "reason", None)
    return str(reason).replace("_", " ").lower() if reason else str(error)


def _load_authorities(path: Path) -> None:
    import ssl  # noqa: PLC0415 - 10 ms that a start without TLS need not pay

    path.read_bytes()  # for an error that names the file
    ssl.create_default_context(cafile=path)


def _load_pair(cert: Path, key: Path) -> None:
    import ssl  # noqa: PLC0415 - as above

    # The passphrase is given, so that OpenSSL never asks a terminal for one.
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key, password="")


def token_in(path: Path) -> str:
    """The token in a file; OSError or ValueError when there is none."""
    token = path.read_text(encoding="utf-8").strip()
    if not token:
        raise ValueError(f"{path} is empty")
    return token
