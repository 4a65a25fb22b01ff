"""What has happened lately, numbered, so that a listener who lost the line can go on.

Rule: the last few events are kept; who heard the n-th gets those behind it, who heard
something older or something unknown is told that there is a gap (`None`).
Non-rule: keeps no time and knows no listener.
Source: the WHATWG's HTML standard, "Server-sent events" (`Last-Event-ID`).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """`data` is text, ready to be sent."""

    number: int
    name: str
    data: str


class Feed:
    """The events of one process; `origin` tells it from the processes before it."""

    def __init__(self, origin: str, most: int = 100) -> None:
        self._origin = origin
        self._events: deque[Event] = deque(maxlen=most)
        self.last = 0

    def publish(self, name: str, data: str) -> None:
        self.last += 1
        self._events.append(Event(self.last, name, data))

    def id(self, number: int) -> str:
        """What a listener is told the number as."""
        return f"{self._origin}-{number}"

    def heard(self, id_: str) -> int | None:
        """The number a listener says it heard last; None when that cannot be built upon."""
        origin, _, number = id_.rpartition("-")
        if origin != self._origin or not (number.isascii() and number.isdigit()):
            return None
        heard = int(number[:19])
        return heard if self.after(heard) is not None else None

    def after(self, number: int) -> list[Event] | None:
        """The events behind this one; None when some of them are forgotten or it never was."""
        first = self._events[0].number if self._events else self.last + 1
        if not first - 1 <= number <= self.last:
            return None
        return [event for event in self._events if event.number > number]
