"""Whether the addresses of a configuration can be listened on, and who is in the way.

Rule: names the address, the setting to change, and whether the other side is trackoffline.
Non-rule: a free address is given back at once; it may be gone when `serve` wants it.
"""

from __future__ import annotations

import errno
import http.client
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.cli.exits import Exit

if TYPE_CHECKING:
    from proxy.config import Address, Config

ASK_S = 1.0
ANY = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - read, not bound


@dataclass(frozen=True, slots=True)
class Problem:
    """`ours`: what is in the way is trackoffline."""

    code: Exit
    text: str
    setting: str
    ours: bool = False


def listeners(config: Config) -> list[tuple[str, Address]]:
    """Each address to listen on, by its setting."""
    addresses = [
        ("listen.address", config.listen.address),
        ("listen.tls_address", config.listen.tls_address),
        ("admin.address", config.admin.address),
    ]
    return [(setting, address) for setting, address in addresses if address is not None]


def problems(config: Config) -> Iterator[Problem]:
    """The addresses that cannot be listened on now."""
    for setting, address in listeners(config):
        try:
            _bind(address)
        except OSError as error:
            yield _problem(setting, address, error)


def reachable(address: Address) -> tuple[str, int]:
    """Where to connect to reach what listens at `address`."""
    return ANY.get(address.host, address.host).strip("[]"), address.port


def is_trackoffline(address: Address) -> bool:
    """Whether what answers there is one of us."""
    connection = http.client.HTTPConnection(*reachable(address), timeout=ASK_S)
    try:
        # Both ports answer it with their name, and the beacon port counts no refusal for it.
        connection.request("OPTIONS", "/b/ss/")
        return connection.getresponse().getheader("Server") == "trackoffline"
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _bind(address: Address) -> None:
    for family, kind, _, _, where in socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    ):
        with socket.socket(family, kind) as probe:
            # As asyncio does, so that connections of a daemon just gone are no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(where)
            probe.listen(1)


def _problem(setting: str, address: Address, error: OSError) -> Problem:
    if error.errno == errno.EADDRINUSE:
        ours = is_trackoffline(address)
        who = "another trackoffline" if ours else "another program"
        text = f"{setting}: {address} is in use by {who}; stop that one, or set another address"
        return Problem(Exit.TEMPORARY, text, setting, ours)
    reason = (error.strerror or str(error)).lower()
    code = Exit.TOKEN if error.errno in (errno.EACCES, errno.EPERM) else Exit.TEMPORARY
    return Problem(code, f"{setting}: cannot listen on {address}: {reason}", setting)
