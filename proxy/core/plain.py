"""What needs no parser: a GET that differs from an earlier one in its target alone.

Rule: a request is taken from here only if the parser would say the very same of it.  Its first line
is one that no two readers can read differently, and what follows is byte for byte what a parser
has read before as the head of a request without a body, whose connection goes on.  Whatever else
comes is the parser's.  A head is kept when it comes for the second time: who never sends one twice
costs next to nothing.
Non-rule: parses no header, and judges nothing.
Source: RFC 9112 section 3; RFC 3986 section 2.  A tab, a kiosk or an app sends the same headers
with each of its hits; docs/design/0019.
"""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")

METHOD, VERSION, END = "GET", b" HTTP/1.1", b"\r\n\r\n"
# What may stand in a target: visible ASCII, but for what would begin a fragment.
VISIBLE = bytes(byte for byte in range(0x21, 0x7F) if byte != ord("#"))

# So many heads are kept, twice over while the older ones go, and none that is longer, or has more
# lines, or more pieces divided by `;` (cookies): each of those takes memory of its own.  Usual is a
# head of 500 bytes in ten lines, which takes some 4 KB with what is made of it.
MOST, LONGEST, MOST_PIECES = 1_024, 2_048, 32
# Of so many it is known that they came once.
MOST_ONCE = 8_192


def split(data: bytes) -> tuple[bytes, bytes] | None:
    """The target of a GET, and what follows its first line; None when it is not plain."""
    ends = data.find(b"\r")
    if not data.startswith(b"GET /") or data[ends - 9 : ends] != VERSION:
        return None
    target = data[4 : ends - 9]
    return None if target.translate(None, VISIBLE) else (target, data[ends:])


def is_head(rest: bytes) -> bool:
    """Whether what follows a first line is one whole head, short enough to be kept."""
    return (
        len(rest) <= LONGEST
        and max(rest.count(b"\n"), rest.count(b";")) <= MOST_PIECES
        and rest.startswith(b"\r\n")
        and rest.find(END) == len(rest) - len(END)
    )


class Heads(Generic[T]):
    """What was made of the heads that came last, by their bytes and who sent them."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._young: dict[tuple[bytes, str], T] = {}
        self._old: dict[tuple[bytes, str], T] = {}
        self._once: set[int] = set()
        self._once_before: set[int] = set()

    def again(self, rest: bytes, peer: str) -> bool:
        """Whether such a head came before, as far as is known; it is noted."""
        key = hash((rest, peer))  # where two clash, one is kept a little early
        if key in self._once or key in self._once_before:
            return True
        if len(self._once) >= MOST_ONCE // 2:
            self._once_before, self._once = self._once, set()
        self._once.add(key)
        return False

    def get(self, rest: bytes, peer: str) -> T | None:
        key = rest, peer
        found = self._young.get(key)
        if found is None and (found := self._old.pop(key, None)) is not None:
            self._keep(key, found)
        return found

    def keep(self, rest: bytes, peer: str, made: T) -> None:
        self._keep((rest, peer), made)

    def _keep(self, key: tuple[bytes, str], made: T) -> None:
        if len(self._young) >= self._most:
            self._old, self._young = self._young, {}
        self._young[key] = made
