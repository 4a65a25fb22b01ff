"""Asking a running daemon, through its admin port.

Rule: where the daemon is comes from the configuration or `--admin`; nothing else is
contacted: no proxy of the environment, no redirect, so that the token goes nowhere else.
Non-rule: prints nothing; a `Stop` says what went wrong.
Source: the routes of `shell/admin.py`; RFC 9457 for what a refusal looks like.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from proxy.cli import settings
from proxy.cli.exits import Exit, Stop
from proxy.cli.options import Options, detail
from proxy.errors import ConfigError

TIMEOUT_S = 10.0
# Where hits may have to be looked for: a filter that means few of many says nothing for long.
SEARCH_S = 600.0
CHUNK = 64 * 1024
TOKEN = "TRACKOFFLINE_TOKEN"  # noqa: S105 - the name of a variable


class Unreachable(Stop):
    """No daemon answers."""

    def __init__(self, message: str) -> None:
        super().__init__(Exit.UNREACHABLE, message)


class Refused(Stop):
    """The daemon answers, and does not do it."""


class Missing(Refused):
    """The daemon has nothing of that name."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """A daemon's admin port, `http://host:port`, and the token it wants, if any."""

    url: str
    token: str | None = None
    told: Callable[[str], None] = field(default=lambda _: None, compare=False)

    def get(self, path: str, /, **query: object) -> dict[str, Any]:
        with self._asked("GET", _with(path, query)) as answer:
            return self._object(answer)

    def post(
        self, path: str, body: Mapping[str, object] | None = None, *, within_s: float = TIMEOUT_S
    ) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        with self._asked("POST", path, data, within_s=within_s) as answer:
            return self._object(answer)

    def give(self, path: str, lines: Iterable[bytes]) -> dict[str, Any]:
        """A POST of lines of JSON; each ends with its line feed."""
        with self._asked("POST", path, b"".join(lines), "application/x-ndjson") as answer:
            return self._object(answer)

    def text(self, path: str, /, **query: object) -> str:
        """An answer that is no JSON."""
        with self._asked("GET", _with(path, query)) as answer:
            return answer.read().decode()

    def chunks(self, path: str, /, **query: object) -> Iterator[bytes]:
        """A streamed answer, some of it at a time; `Stop` when it breaks off."""
        with self._asked("GET", _with(path, query), within_s=SEARCH_S) as answer:
            while chunk := answer.read1(CHUNK):
                yield chunk

    def lines(self, path: str) -> Iterator[bytes]:
        """A streamed answer, line by line; `Stop` when it breaks off."""
        with self._asked("GET", path, within_s=SEARCH_S) as answer:
            yield from answer

    def _object(self, answer: http.client.HTTPResponse) -> dict[str, Any]:
        try:
            found = json.load(answer)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise Unreachable(f"what answers at {self.url} is no trackoffline")
        return found

    @contextlib.contextmanager
    def _asked(
        self,
        method: str,
        path: str,
        data: bytes | None = None,
        kind: str = "application/json",
        within_s: float = TIMEOUT_S,
    ) -> Iterator[http.client.HTTPResponse]:
        headers = {"Accept": "application/json"}
        if data is not None:
            headers["Content-Type"] = kind
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        connection, prefix = self._connection()
        self.told(f"> {method} {self.url}{path}" + (f" ({len(data):,} bytes)" if data else ""))
        began = time.monotonic()
        try:
            connection.connect()
            connection.sock.settimeout(within_s)
            connection.request(method, prefix + path, data, headers)
            answer = connection.getresponse()
            took_ms = (time.monotonic() - began) * 1000
            self.told(f"< {answer.status} {answer.reason}, {took_ms:.0f} ms")
            if answer.status >= 300:
                raise _refused(answer, self.url)
            yield answer
        except TimeoutError as error:
            raise Unreachable(f"the daemon at {self.url} did not answer in time") from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise Unreachable(f"no daemon answers at {self.url}: {reason}") from error
        finally:
            connection.close()

    def _connection(self) -> tuple[http.client.HTTPConnection, str]:
        try:
            parts = urllib.parse.urlsplit(self.url)
            port = parts.port
        except ValueError:
            parts, port = urllib.parse.urlsplit(""), None
        kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
        if parts.scheme not in kinds or not parts.hostname:
            raise Stop(Exit.USAGE, f"--admin {self.url}: give it as http://127.0.0.1:8278")
        return kinds[parts.scheme](parts.hostname, port, timeout=TIMEOUT_S), parts.path.rstrip("/")


def daemon(options: Options) -> Daemon:
    """The daemon the options or the configuration mean."""
    told = partial(detail, options)
    if options.admin is not None:
        # The token of the configuration belongs to the address of the configuration.
        return Daemon(options.admin.rstrip("/"), os.environ.get(TOKEN) or None, told)
    from proxy import config  # noqa: PLC0415 - pydantic costs 0.1 s that `--help` need not pay

    try:
        found = settings.read(options).config
        token = os.environ.get(TOKEN) or config.admin_token(found)
    except ConfigError as error:
        if all("permission denied" in problem for problem in error.problems):
            raise Stop(Exit.TOKEN, str(error)) from error
        raise
    address = found.admin.address
    if address is None:
        raise Unreachable('admin.address is "": a running daemon cannot be asked')
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)  # noqa: S104
    return Daemon(f"http://{config.Address(host, address.port)}", token, told)


def _with(path: str, query: Mapping[str, object]) -> str:
    """The path with what is asked; what is None is not asked."""
    given = {name: value for name, value in query.items() if value is not None}
    return f"{path}?{urllib.parse.urlencode(given)}" if given else path


def _refused(answer: http.client.HTTPResponse, url: str) -> Stop:
    code = Exit.TOKEN if answer.status in (401, 403) else Exit.FAULT
    try:
        found = json.loads(answer.read())
        detail = found.get("detail") or found.get("reason")
    except (ValueError, AttributeError):
        detail = None
    kind = Missing if answer.status == 404 else Refused
    return kind(code, f"{url}: {detail or f'{answer.status} {answer.reason}'}")
