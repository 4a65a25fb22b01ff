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

from proxy.core.lately import Lately

T = TypeVar("T")

METHOD, VERSION, END = "GET", b" HTTP/1.1", b"\r\n\r\n"
# What may stand in a target: visible ASCII, but for what would begin a fragment.
VISIBLE = bytes(byte for byte in range(0x21, 0x7F) if byte != ord("#"))

# So many heads are kept, and none that is longer, or has more lines, or more pieces divided by `;`
# (cookies): each of those takes memory of its own.  Usual is a head of 500 bytes in ten lines,
# which takes some 4 KB with what is made of it.
MOST, LONGEST, MOST_PIECES = 2_048, 2_048, 32
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
        self._made: Lately[tuple[bytes, str], T] = Lately(most)
        self._once: Lately[int, bool] = Lately(MOST_ONCE)

    def again(self, rest: bytes, peer: str) -> bool:
        """Whether such a head came before, as far as is known; it is noted."""
        key = hash((rest, peer))  # where two clash, one is kept a little early
        if self._once.get(key):
            return True
        self._once.keep(key, True)
        return False

    def get(self, rest: bytes, peer: str) -> T | None:
        return self._made.get((rest, peer))

    def keep(self, rest: bytes, peer: str, made: T) -> None:
        self._made.keep((rest, peer), made)
