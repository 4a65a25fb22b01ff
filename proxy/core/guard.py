"""Who may speak to a listener: the Host a request names, and the page that sent it.

Rule: a web page anywhere can make a browser send requests to this machine, and a name it
controls can be made to point here (DNS rebinding); so a Host must be one of ours, and an
admin request that changes something must come from our own page or from no page at all.
Non-rule: no tokens and no addresses of clients; those belong to the listener.
Source: Fetch Metadata (`Sec-Fetch-Site`), RFC 6761 (`localhost`), RFC 9110 section 7.2.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def hostname(host: bytes | str) -> str:
    """The name in a Host header, lower case, without port and brackets."""
    text = host.decode("latin-1") if isinstance(host, bytes) else host
    text = text.strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.rpartition(":")[0] if text.count(":") == 1 else text


def is_loopback(name: str) -> bool:
    """Whether a name or address means this machine and nothing else."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def is_our_host(host: bytes | str, bound: str, allowed: Iterable[str]) -> bool:
    """Whether a Host header can have been meant for a listener bound to address `bound`.

    Loopback names always; what the configuration allows; and, for a listener that serves
    other devices, any IP address and any name without a dot: a rebinding page needs a
    public name, and those have dots.
    """
    name = hostname(host)
    if is_loopback(name) or name in {hostname(entry) for entry in allowed}:
        return True
    if is_loopback(bound) or not name:
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return "." not in name
    return True


def may_read(site: str | None) -> bool:
    """Whether the page that asks may have it read and worked for, by Sec-Fetch-Site.

    Another site's page gets no answer to see, but it could keep us busy: each stream and each
    search is work.
    """
    return site in (None, "same-origin", "none")


def may_change(method: str, site: str | None, origin: str | None, host: str, scheme: str) -> bool:
    """Whether a request may change something, by where it was sent from.

    `site` is Sec-Fetch-Site, `origin` Origin.  Neither of them means no browser sent it.
    """
    if method in SAFE_METHODS:
        return True
    if site is not None:
        return site in ("same-origin", "none")
    if origin is not None:
        return origin == f"{scheme}://{host}"
    return True
