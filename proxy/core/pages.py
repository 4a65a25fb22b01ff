"""Rows out of a damaged SQLite file: what its pages still say, whatever leads to them.

Rule: a page is believed when it parses; a row when its values have the shape asked for.
Pages are found by number, not by the tree, so that a broken interior page costs nothing
below it; the pointer map says which tree a page belongs to, and which pages are free (a
free page may hold rows that have left the queue, and reading those would send them twice).
Non-rule: repairs nothing, opens nothing, and knows no table of ours.
Source: sqlite.org, "Database File Format" (sections 1.5, 1.6, 1.8, 2.1, 4); docs/design/0010.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

Value: TypeAlias = int | float | bytes | str | None
Row: TypeAlias = tuple[Value, ...]

MAGIC = b"SQLite format 3\0"
WAL_MAGIC = (0x377F0682, 0x377F0683)
LEAF, INTERIOR = 13, 5
ROOT, FREE, OVERFLOW_FIRST, OVERFLOW_NEXT, TREE = 1, 2, 3, 4, 5
LOCK_BYTE = 1 << 30
DEEPEST = 20  # a tree of 2^31 pages is no deeper
LONGEST_ROW = 64 * 1024 * 1024
TELLING = 4 * 1024 * 1024  # so much of a file tells its page size
_INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}


@dataclass(frozen=True, slots=True)
class Frame:
    """One page as the write-ahead log has it; `sound` while the checksums hold up to here."""

    page: int
    data: bytes
    commit: bool
    sound: bool


class _Laid(Mapping[int, bytes]):
    """Pages of a file, read when asked for, with the log's versions laid over them."""

    def __init__(self, database: bytes, page_size: int, over: dict[int, bytes]) -> None:
        self._database, self._page_size, self._over = database, page_size, over
        # A page that is cut short says nothing that could be relied on.
        self._whole = len(database) // page_size

    def __getitem__(self, number: int) -> bytes:
        if number in self._over:
            return self._over[number]
        if not 0 < number <= self._whole:
            raise KeyError(number)
        return self._database[(number - 1) * self._page_size : number * self._page_size]

    def __iter__(self) -> Iterator[int]:
        yield from range(1, self._whole + 1)
        yield from (number for number in sorted(self._over) if number > self._whole)

    def __len__(self) -> int:
        return self._whole + sum(number > self._whole for number in self._over)


@dataclass(slots=True)
class Image:
    """The pages of a file, the log's versions laid over them.

    `pages` maps a page number (from 1) to its bytes; `usable` is the page size without the
    reserved bytes at its end.
    """

    page_size: int
    usable: int
    pages: Mapping[int, bytes]
    auto_vacuum: bool = True
    _trees: dict[int, int | None] = field(default_factory=dict)

    def rows(self, root: int, columns: int) -> Iterator[tuple[int, Row]]:
        """Rowid and values of every row of the table whose root page this is.

        Leaves whose way to the root cannot be told are left out: see `strays`.
        """
        for number in self.pages:
            if self._tree_of(number) == root:
                yield from self._leaf(number, columns)

    def strays(self, roots: set[int], columns: int) -> Iterator[tuple[int, Row]]:
        """Rows of that many columns on leaves that belong to no known tree, and are not free."""
        for number in self.pages:
            if self._tree_of(number) not in roots and self._kind(number)[0] != FREE:
                yield from self._leaf(number, columns)

    def schema(self) -> dict[str, int]:
        """The root page of each table; what page 1 still says of them."""
        found: dict[str, int] = {}
        for _, row in self.rows(1, 5):
            kind, name, _, root, _ = row
            if kind == "table" and isinstance(name, str) and isinstance(root, int):
                found[name] = root
        return found

    # -- which tree ------------------------------------------------------------------------

    def _tree_of(self, number: int) -> int | None:
        """The root page above a page; None when the way up is broken or there is none."""
        if number == 1:
            return 1
        if number not in self._trees:
            at, steps = number, 0
            while steps < DEEPEST:
                kind, parent = self._kind(at)
                if kind == ROOT or at == 1:
                    break
                if kind != TREE or parent not in self.pages:
                    at = 0
                    break
                at, steps = parent, steps + 1
            self._trees[number] = at if at and steps < DEEPEST else None
        return self._trees[number]

    def _kind(self, number: int) -> tuple[int, int]:
        """What the pointer map says of a page: its kind and its parent; (0, 0) if nothing."""
        if not self.auto_vacuum or number < 3:
            return (0, 0)
        each = self.usable // 5 + 1
        where = (number - 2) // each * each + 2
        if where == LOCK_BYTE // self.page_size + 1:
            where += 1
        entry = (number - where - 1) * 5
        page = self.pages.get(where)
        if page is None or entry < 0 or entry + 5 > self.usable:
            return (0, 0)
        return page[entry], int.from_bytes(page[entry + 1 : entry + 5], "big")

    # -- one page ----------------------------------------------------------------------------

    def cells(self, number: int) -> int:
        """How many rows of any table a page shows."""
        return sum(1 for _ in self._leaf(number, None))

    def _leaf(self, number: int, columns: int | None) -> Iterator[tuple[int, Row]]:
        page = self.pages[number]
        start = 100 if number == 1 else 0
        if len(page) < self.page_size or page[start] != LEAF:
            return
        cells = int.from_bytes(page[start + 3 : start + 5], "big")
        if start + 8 + 2 * cells > self.usable:
            return
        for index in range(cells):
            at = start + 8 + 2 * index
            cell = int.from_bytes(page[at : at + 2], "big")
            row = self._cell(page, cell) if start + 8 <= cell < self.usable else None
            if row is not None and columns in (None, len(row[1])):
                yield row

    def _cell(self, page: bytes, at: int) -> tuple[int, Row] | None:
        try:
            size, at = varint(page, at)
            rowid, at = varint(page, at)
            if size > LONGEST_ROW:
                return None
            local = self._local(size)
            if at + local > self.usable:
                return None
            payload = page[at : at + local]
            if local < size:
                follows = int.from_bytes(page[at + local : at + local + 4], "big")
                payload += self._overflow(follows, size - local)
            return signed(rowid), record(payload)
        except (ValueError, IndexError, UnicodeDecodeError, struct.error):
            return None

    def _local(self, size: int) -> int:
        """How many bytes of a payload stand on the leaf itself."""
        most = self.usable - 35
        if size <= most:
            return size
        least = (self.usable - 12) * 32 // 255 - 23
        kept = least + (size - least) % (self.usable - 4)
        return kept if kept <= most else least

    def _overflow(self, number: int, size: int) -> bytes:
        parts: list[bytes] = []
        seen: set[int] = set()
        while size > 0:
            if number in seen or number not in self.pages:
                raise ValueError("a broken chain of overflow pages")
            seen.add(number)
            page = self.pages[number]
            part = page[4 : min(self.usable, 4 + size)]
            parts.append(part)
            size -= len(part)
            number = int.from_bytes(page[:4], "big")
        return b"".join(parts)


def image(database: bytes, frames: list[Frame], usual: Sequence[int]) -> Image:
    """The file as it stood with these frames of its log.

    The bytes may be a memory map.  Later frames of a page win over earlier ones.  `usual`
    are the page sizes to choose from when neither file nor log tells it.
    """
    page_size = _page_size(database)
    reserved = database[20] if page_size and len(database) > 20 else 0
    auto_vacuum = database[52:56] != bytes(4) if page_size else True
    if not page_size:
        page_size = len(frames[0].data) if frames else _likely(database, usual)
    over = {frame.page: frame.data for frame in frames if len(frame.data) == page_size}
    pages = _Laid(database, page_size, over)
    return Image(page_size, page_size - reserved, pages, auto_vacuum)


def _likely(database: bytes, sizes: Sequence[int]) -> int:
    """The page size by which the start of the file shows the most rows.

    Read by half of its size a page shows fewer, for they stand at its end; by its double every
    other page is not seen as one.
    """

    def cells(size: int) -> int:
        start = Image(size, size, _Laid(database[:TELLING], size, {}))
        return sum(start.cells(number) for number in start.pages)

    return max(sizes, key=cells)


def _page_size(database: bytes) -> int:
    if len(database) < 100 or bytes(database[:16]) != MAGIC:
        return 0
    size = int.from_bytes(database[16:18], "big")
    size = 65_536 if size == 1 else size
    return size if size >= 512 and size & (size - 1) == 0 else 0


def frames(log: bytes) -> list[Frame]:
    """The frames of a write-ahead log that belong to its last generation, in order.

    SQLite stops at the first one whose checksum fails and forgets the rest; here the rest
    follows with `sound` false.  Frames of an older generation (other salts) are left out.
    """
    if len(log) < 32:
        return []
    magic, _, page_size, _, *salts = struct.unpack(">IIIIII", log[:24])
    if magic not in WAL_MAGIC or not 512 <= page_size <= 65_536 or page_size & (page_size - 1):
        return []
    order = "<" if magic == WAL_MAGIC[0] else ">"
    running = _checksum((0, 0), log[:24], order)
    sound = running == struct.unpack(">II", log[24:32])
    found: list[Frame] = []
    for at in range(32, len(log) - 24 - page_size + 1, 24 + page_size):
        page, size, salt1, salt2, sum1, sum2 = struct.unpack(">IIIIII", log[at : at + 24])
        if [salt1, salt2] != salts:
            # The log is written over from its start: what follows is older.
            if sound:
                break
            continue
        data = bytes(log[at + 24 : at + 24 + page_size])
        if sound:
            running = _checksum(_checksum(running, log[at : at + 8], order), data, order)
            sound = running == (sum1, sum2)
        if 0 < page < 1 << 31:
            found.append(Frame(page, data, size > 0, sound))
    return found


def _checksum(start: tuple[int, int], data: bytes, order: str) -> tuple[int, int]:
    first, second = start
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second


def varint(data: bytes, at: int) -> tuple[int, int]:
    """A variable-length integer, unsigned, and where it ends."""
    value = 0
    for index in range(at, at + 8):
        value = value << 7 | data[index] & 0x7F
        if data[index] < 0x80:
            return value, index + 1
    return value << 8 | data[at + 8], at + 9


def signed(value: int) -> int:
    """A 64-bit pattern as the integer it stands for."""
    return value - (1 << 64) if value >= 1 << 63 else value


def record(payload: bytes) -> Row:
    """The values of a row.  ValueError, IndexError or UnicodeDecodeError when it is none."""
    head, at = varint(payload, 0)
    if head > len(payload):
        raise ValueError("a header longer than its record")
    kinds: list[int] = []
    while at < head:
        kind, at = varint(payload, at)
        kinds.append(kind)
    values: list[Value] = []
    at = head
    for kind in kinds:
        value, at = _value(payload, at, kind)
        values.append(value)
    if at != len(payload):
        raise ValueError("a record of another length than it says")
    return tuple(values)


def _value(payload: bytes, at: int, kind: int) -> tuple[Value, int]:
    if kind == 0:
        return None, at
    if kind in (8, 9):
        return kind - 8, at
    if kind in (10, 11):
        raise ValueError("a reserved type")
    size = _INTEGER_BYTES.get(kind, 8) if kind < 12 else (kind - 12) // 2
    if at + size > len(payload):
        raise ValueError("a value beyond its record")
    raw = payload[at : at + size]
    if kind == 7:
        return struct.unpack(">d", raw)[0], at + size
    if kind < 12:
        return int.from_bytes(raw, "big", signed=True), at + size
    return (raw.decode("utf-8") if kind % 2 else bytes(raw)), at + size
