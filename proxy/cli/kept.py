"""The hits that are kept, from the daemon or, when none answers, from its file.

Rule: both give the same rows; whoever reads them is told when it is the file that speaks.
Non-rule: what only a running daemon knows (which hit is being sent, failed tries) is missing
from the file's answer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from proxy.cli import ask, settings
from proxy.cli.options import Options, note

if TYPE_CHECKING:
    from proxy.shell.browse import Browser

Row = dict[str, Any]
PAGE = 500


class Source(Protocol):
    """Where hits are read from."""

    def page(self, q: str, cursor: str | None, limit: int) -> Row: ...
    def hit(self, id_: int, *, unredacted: bool) -> Row | None: ...
    def compare(self, id_: int, other: int | None) -> Row | None: ...
    def raw(self, id_: int, *, unredacted: bool) -> str | None: ...
    def curl(self, id_: int, *, unredacted: bool) -> str | None: ...
    def export(self, kind: str, q: str, *, unredacted: bool) -> Iterator[bytes]: ...
    def count(self, q: str) -> int: ...


@dataclass(frozen=True, slots=True)
class Asked:
    """A running daemon."""

    daemon: ask.Daemon

    def page(self, q: str, cursor: str | None, limit: int) -> Row:
        return self.daemon.get("/api/v1/hits", q=q, cursor=cursor, limit=limit)

    def hit(self, id_: int, *, unredacted: bool) -> Row | None:
        with contextlib.suppress(ask.Missing):
            return self.daemon.get(_path(id_), **_how(unredacted))
        return None

    def compare(self, id_: int, other: int | None) -> Row | None:
        with contextlib.suppress(ask.Missing):
            return self.daemon.get(_path(id_, "/compare"), **{"with": other})
        return None

    def raw(self, id_: int, *, unredacted: bool) -> str | None:
        return self._text(_path(id_, "/raw"), unredacted)

    def curl(self, id_: int, *, unredacted: bool) -> str | None:
        return self._text(_path(id_, "/curl"), unredacted)

    def export(self, kind: str, q: str, *, unredacted: bool) -> Iterator[bytes]:
        return self.daemon.chunks(f"/api/v1/hits.{kind}", q=q, **_how(unredacted))

    def count(self, q: str) -> int:
        total, cursor = 0, None
        while True:
            found = self.daemon.get("/api/v1/counts", q=q, cursor=cursor)
            total += int(found["total"])
            cursor = found.get("cursor")
            if cursor is None:
                return total

    def _text(self, path: str, unredacted: bool) -> str | None:
        with contextlib.suppress(ask.Missing):
            return self.daemon.text(path, **_how(unredacted))
        return None


@dataclass(slots=True)
class Filed:
    """The queue file, opened for reading only; `why` no daemon was asked."""

    options: Options
    why: ask.Unreachable
    _opened: Browser | None = field(default=None, init=False)

    def page(self, q: str, cursor: str | None, limit: int) -> Row:
        return self._browser().hits(q, None if cursor is None else int(cursor), limit)

    def hit(self, id_: int, *, unredacted: bool) -> Row | None:
        return self._browser().hit(id_, unredacted=unredacted)

    def compare(self, id_: int, other: int | None) -> Row | None:
        return self._browser().compare(id_, other)

    def raw(self, id_: int, *, unredacted: bool) -> str | None:
        return self._browser().raw(id_, unredacted=unredacted)

    def curl(self, id_: int, *, unredacted: bool) -> str | None:
        return self._browser().curl(id_, unredacted=unredacted)

    def export(self, kind: str, q: str, *, unredacted: bool) -> Iterator[bytes]:
        from proxy.core import render  # noqa: PLC0415 - only when no daemon answers

        start, between, end = {
            "ndjson": ("", "", ""),
            "csv": (render.CSV_HEADER, "", ""),
            "har": (render.HAR_START, ",", render.HAR_END),
        }[kind]
        yield start.encode()
        for number, text in enumerate(self._pieces(kind, q, unredacted)):
            yield (between if number else "").encode() + text.encode()
        yield end.encode()

    def _pieces(self, kind: str, q: str, unredacted: bool) -> Iterator[str]:
        cursor: int | None = None
        while True:
            piece = self._browser().export(kind, q, cursor, unredacted=unredacted)
            cursor = piece.cursor
            if piece.text:
                yield piece.text
            if cursor is None:
                return

    def count(self, q: str) -> int:
        total, cursor = 0, None
        while True:
            found = self._browser().counts(q, cursor)
            total += found["total"]
            cursor = None if found["cursor"] is None else int(found["cursor"])
            if cursor is None:
                return int(total)

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()

    def _browser(self) -> Browser:
        if self._opened is None:
            from proxy import config  # noqa: PLC0415 - only when no daemon answers
            from proxy.shell import browse  # noqa: PLC0415 - as above

            found = settings.read(self.options)
            path = found.queue_file
            if not path.exists():
                raise ask.Unreachable(
                    f"{self.why.message}; and there is no queue file at {path}"
                ) from self.why
            note(self.options, f"from the file {path}; {self.why.message}")
            upstream, edge = found.config.upstream, found.config.edge
            told = browse.Told(
                config.suites(found.config),
                browse.OURS if upstream is None else str(upstream.server),
                edge_url=browse.OURS if edge is None else str(edge.server),
                names=config.names(found.config),
            )
            self._opened = browse.Browser(path, told)
        return self._opened


@contextlib.contextmanager
def source(options: Options) -> Iterator[Source]:
    """The daemon if it answers, else its file."""
    try:
        daemon = ask.daemon(options)
        # Whatever is wrong with a daemon that answers, its file is its own.
        with contextlib.suppress(ask.Refused):
            daemon.get("/healthz")
    except ask.Unreachable as why:
        if options.admin is not None:
            raise  # that daemon has another queue file than the one found here
        filed = Filed(options, why)
        try:
            yield filed
        finally:
            filed.close()
    else:
        yield Asked(daemon)


def newest(from_: Source, q: str, limit: int, above: int = 0) -> list[Row]:
    """The newest of these hits, newest first, so many at most, and none up to id `above`."""
    rows: list[Row] = []
    cursor: str | None = None
    while len(rows) < limit:
        page = from_.page(q, cursor, min(limit - len(rows), PAGE))
        rows += [row for row in page["hits"] if row["id"] > above]
        cursor = page["cursor"]
        if cursor is None or int(cursor) <= above:
            break
    return rows


def _path(id_: int, what: str = "") -> str:
    return f"/api/v1/hits/{id_}{what}"


def _how(unredacted: bool) -> dict[str, object]:
    return {"unredacted": 1} if unredacted else {}
