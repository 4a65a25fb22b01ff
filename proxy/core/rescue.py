"""What of a damaged queue can be kept: rows found in its pages, sorted out.

Rule: a hit is kept when its row is whole (its sum is right) and nothing says that it left
the queue; where the marks of what left may be lost too, it is kept and marked as ambiguous.
The loss is a number, against what the ledger said when the ledger itself can be read.
Non-rule: opens no file and writes none; contents pass through one by one.
Source: docs/design/0010.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace

from proxy.core.hit import Ledger
from proxy.core.pages import Frame, Image, Row

HIT_COLUMNS, DEAD_COLUMNS, NARROW_COLUMNS = 8, 12, 4
LEDGER_COLUMNS = len(fields(Ledger)) + 2


def row_sum(lane: int, boot: int, received_ms: int, content: bytes) -> int:
    """What a row carries to prove that it is whole: CRC-32 of what a hit is made of."""
    return zlib.crc32(content, zlib.crc32(b"%d %d %d" % (lane, boot, received_ms)))


def is_whole(row: Row) -> bool:
    """Whether a row of `hits`, or the beginning of one of `dead`, is what was written."""
    _, lane, boot, received_ms, flags, suites, content, total = row
    return (
        isinstance(lane, int)
        and isinstance(boot, int)
        and isinstance(received_ms, int)
        and isinstance(flags, int)
        and (suites is None or isinstance(suites, str))
        and isinstance(content, bytes)
        and total == row_sum(lane, boot, received_ms, content)
    )


@dataclass(slots=True)
class Found:
    """What the pages still say, but for the hits themselves."""

    schema: dict[str, int] = field(default_factory=dict)
    settled: set[int] = field(default_factory=set)  # delivered, or a dead letter
    held: dict[int, Row] = field(default_factory=dict)
    boots: dict[int, Row] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    tallies: dict[str, int] = field(default_factory=dict)
    ledger: Ledger | None = None
    last_id: int = 0
    strayed: int = 0  # hits from pages that may have been free: they may have left


def survey(now: Image) -> Found:
    """Everything around the hits."""
    found = Found(now.schema())
    for id_, row in _rows(now, found, "dead", DEAD_COLUMNS):
        if is_whole(row[:HIT_COLUMNS]):
            found.settled.add(id_)
    for id_, (_, second, third, fourth) in _rows(now, found, "delivered", NARROW_COLUMNS):
        if isinstance(second, int) and isinstance(third, int) and not isinstance(fourth, str):
            found.settled.add(id_)
    found.held = _shaped(_rows(now, found, "held", NARROW_COLUMNS), int, str, str)
    found.boots = _shaped(_rows(now, found, "boots", 3), str, int)
    _read_ledger(now, found)
    found.settings = {n: v for n, v in _pairs(now, found, "settings") if isinstance(v, str)}
    found.tallies = {n: v for n, v in _pairs(now, found, "tallies") if isinstance(v, int)}
    return found


def waiting(now: Image, found: Found) -> Iterator[tuple[int, Row]]:
    """The hits that are whole and did not leave; one may come twice.

    Those of pages nobody can tell the table of are counted while they come.
    """
    if "hits" in found.schema:
        for id_, row in now.rows(found.schema["hits"], HIT_COLUMNS):
            if _waits(id_, row, found):
                yield id_, row
    for id_, row in now.strays({1, *found.schema.values()}, HIT_COLUMNS):
        if _waits(id_, row, found):
            found.strayed += 1
            yield id_, row


def _waits(id_: int, row: Row, found: Found) -> bool:
    return id_ > 0 and id_ not in found.settled and is_whole(row)


def dead(now: Image, found: Found) -> Iterator[tuple[int, Row]]:
    """The dead letters that are whole; one may come twice."""
    for id_, row in _rows(now, found, "dead", DEAD_COLUMNS):
        if is_whole(row[:HIT_COLUMNS]) and isinstance(row[8], str):
            yield id_, row


def forgotten(log: list[Frame], now: Image, last_id: int) -> Iterator[tuple[int, Row]]:
    """Hits newer than `last_id` in frames that SQLite will not read.

    It stops at the first frame whose checksum fails and forgets the rest of the log.  What
    follows may be a transaction that was cut short, whose clients got no 200, or one they
    did get it for, behind a damaged frame: storing the former is the lesser evil.
    """
    unsound = {frame.page: frame.data for frame in log if not frame.sound}
    if unsound:
        later = replace(now, pages=unsound)
        for id_, row in later.strays(set(), HIT_COLUMNS):
            if id_ > last_id and is_whole(row):
                yield id_, row


def is_certain(found: Found, hits: int, *, marks_whole: bool) -> bool:
    """Whether so many hits are all waiting ones, and none of them was delivered.

    `marks_whole`: SQLite's own check of the marks of delivered hits passes.
    """
    known = found.ledger
    if known is None or found.strayed or hits > known.waiting:
        return False
    return marks_whole or not known.delivered


def settle(
    found: Found, hits: int, letters: int, size: int, timeless: int = 0
) -> tuple[Ledger, int]:
    """The account of what was kept, and how many hits are lost.

    `timeless`: waiting hits that became dead letters, beside the `letters` there were.
    They are in `discarded`, since every accepted hit is accounted for.  Where it is not
    certain that all that is kept waits, a delivered hit may stand in for a lost one: the
    loss is then the least that it can be.
    """
    known = found.ledger or Ledger(delivered=len(found.settled) - letters)
    left = hits + timeless + letters + known.delivered + known.expired
    accepted = max(known.accepted, left + known.discarded)
    ledger = replace(
        known,
        accepted=accepted,
        waiting=hits,
        dead=letters + timeless,
        held=len(found.held),
        discarded=accepted - left,
        waiting_bytes=size,
    )
    return ledger, ledger.discarded - known.discarded


def _shaped(rows: Iterator[tuple[int, Row]], *kinds: type) -> dict[int, Row]:
    """Those rows whose values, but for the first, are of these kinds."""
    return {
        id_: row
        for id_, row in rows
        if all(isinstance(value, kind) for value, kind in zip(row[1:], kinds, strict=True))
    }


def _rows(now: Image, found: Found, table: str, columns: int) -> Iterator[tuple[int, Row]]:
    """Rows of a table, and those of its width on leaves whose table cannot be told."""
    if table in found.schema:
        yield from now.rows(found.schema[table], columns)
    yield from now.strays({1, *found.schema.values()}, columns)


def _read_ledger(now: Image, found: Found) -> None:
    for _, row in _rows(now, found, "ledger", LEDGER_COLUMNS):
        counts = [value for value in row[1:] if isinstance(value, int)]
        if len(counts) == len(row) - 1 and Ledger(*counts[1:]).balanced:
            found.last_id, found.ledger = counts[0], Ledger(*counts[1:])


def _pairs(now: Image, found: Found, table: str) -> Iterator[tuple[str, object]]:
    if table in found.schema:
        for _, row in now.rows(found.schema[table], 2):
            name, value = row
            if isinstance(name, str):
                yield name, value
