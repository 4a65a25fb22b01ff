"""Hits in a file: lines of an export, or the HAR file of a browser or another proxy.

Rule: they come out oldest first, whatever the order of the file: Adobe wants the hits of a
visitor in theirs.  What is no hit is counted, with the first few reasons.  Of an export only
the places of its hits are remembered, so that it may be larger than the memory.
Non-rule: sends and stores nothing.
Source: `core.render` for both forms; HAR 1.2.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from proxy.cli.exits import Exit, Stop
from proxy.core import beacon, headers, render
from proxy.core.edge import read, stamp
from proxy.core.hit import Request
from proxy.core.insertion import InsertionRefused
from proxy.errors import NotABeacon

MOST_FAULTS = 5
# An export has an object a line; a HAR file is one object whose only member is `log`.
HAR = re.compile(rb'(?:\xef\xbb\xbf)?\s*\{\s*"log"\s*:')
BEGINNING = 4096


@dataclass(frozen=True, slots=True)
class Place:
    """A hit of a file: when it was received, if that is known, and where it stands.

    `has_ts`: its client set a time. `delivered`: it had been delivered when it was exported.
    `is_event`: it is one of the Edge Network, and its suite a datastream.
    """

    at_ms: float | None
    id: int
    suites: tuple[str, ...]
    has_ts: bool
    delivered: bool
    where: str
    offset: int
    is_event: bool = False


@dataclass(slots=True)
class Contents:
    """What a file holds."""

    _file: BinaryIO
    _entries: list[Any] | None = None
    places: list[Place] = field(default_factory=list)
    others: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def calls(self) -> int:
        """Server calls, as Adobe counts them: one for each report suite of a hit."""
        return sum(len(place.suites) for place in self.places)

    @property
    def suites(self) -> list[str]:
        return sorted({rsid for place in self.places for rsid in place.suites})

    @property
    def delivered(self) -> int:
        """How many had been delivered before."""
        return sum(place.delivered for place in self.places)

    def request(self, place: Place) -> Request:
        """The hit that stands there, without the headers that a hit is kept without."""
        if self._entries is not None:
            return _hit(self._entries[place.offset])[0]
        self._file.seek(place.offset)
        return _hit(json.loads(self._file.readline()))[0]

    def _rows(self) -> Iterator[tuple[str, int, Any]]:
        if self._entries is not None:
            for number, entry in enumerate(self._entries):
                yield f"entry {number + 1}", number, entry
            return
        at = 0
        for number, line in enumerate(self._file, 1):
            if line.strip():
                yield f"line {number}", at, _json(line)
            at += len(line)

    def survey(self) -> None:
        """Look at every hit once."""
        suites: dict[tuple[str, ...], tuple[str, ...]] = {}
        for where, offset, row in self._rows():
            try:
                request, at_ms = _hit(row)
                whose, has_ts, is_event = _read(request)
            except (ValueError, NotABeacon, InsertionRefused) as error:
                self.others += 1
                if len(self.faults) < MOST_FAULTS:
                    self.faults.append(f"{where}: {error}")
                continue
            names = suites.setdefault(whose, whose)
            delivered = row.get("state") == "delivered"
            # An export has the newest first, also among those of one millisecond.
            id_ = row.get("id")
            id_ = id_ if type(id_) is int else len(self.places)
            self.places.append(Place(at_ms, id_, names, has_ts, delivered, where, offset, is_event))
        self.places.sort(key=_in_order)


def _read(request: Request) -> tuple[tuple[str, ...], bool, bool]:
    """To whom it goes, whether its client set a time, and whether it is an event."""
    path, _, query = request.target.partition(b"?")
    where = None if path.startswith(b"/b/ss/") else read.stored_endpoint(path)
    if where is None:
        said = beacon.read(request)
        return said.suites, said.ts is not None, False
    if where.call is read.Call.SESSION or request.method != "POST":
        raise NotABeacon(404, "no event that could be stored")
    read.events(read.document(request.body), where)
    return (read.asked(query).datastream,), stamp.is_dated(request.body, where), True


def _in_order(place: Place) -> tuple[float, int]:
    """By time, and within a millisecond by id; those without a time last, as they stand."""
    return (sys.float_info.max if place.at_ms is None else place.at_ms), place.id


@contextlib.contextmanager
def opened(name: str) -> Iterator[Contents]:
    """What is in the file of that name ("-": standard input), its hits oldest first."""
    try:
        file = sys.stdin.buffer if name == "-" else Path(name).open("rb")  # noqa: SIM115 - below
    except OSError as error:
        raise Stop(Exit.FAULT, f"{name}: {error.strerror or error}") from error
    with contextlib.ExitStack() as held:
        if name != "-":
            held.enter_context(file)
        if not file.seekable():
            # A pipe is read once, and its hits have to be put into order.
            spooled = held.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(file, spooled)
            file = spooled
        file.seek(0)
        is_har = HAR.match(file.read(BEGINNING)) is not None
        file.seek(0)
        found = Contents(file, _entries(file, name) if is_har else None)
        found.survey()
        yield found


def _entries(file: BinaryIO, name: str) -> list[Any]:
    match _json(file.read()):
        case {"log": {"entries": [*entries]}}:
            return entries
        case _:
            raise Stop(Exit.FAULT, f"{name} is no HAR file")


def _json(text: bytes) -> Any:
    """What the text is; None when it is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _hit(row: Any) -> tuple[Request, float | None]:
    """The request and its time; ValueError when the row has none."""
    match row:
        case {"target": _}:
            request, at_ms = render.request_of(row), row.get("received_ms")
        case {"request": _}:
            request, at_ms = render.of_har(row)
        case _:
            raise ValueError("no hit of an export")
    if at_ms is not None and (type(at_ms) not in (int, float) or not math.isfinite(at_ms)):
        raise ValueError("received_ms is no number")
    # 0: the time was lost with a damaged file.
    return request._replace(headers=headers.kept(request.headers, "")), at_ms or None
