"""Bytes on disk: `python -m bench.disk [--hits 20000] [--under DIRECTORY]`.

In bytes of the requests as clients sent them: the queue file with all of them waiting, and
everything written over a hit's life (stored, sent, kept as delivered, purged).
Each way once at full load (many hits share a commit) and once a hit at a time (none does).
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import sqlite3
import time
from pathlib import Path

from bench import measure
from bench.drain import adobe, until
from bench.load import templates


def send(port: int, hits: int, connections: int) -> int:
    """That many hits over connections in step; the bytes of their requests."""
    beacons = templates(1, range(500))
    links = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
    size = sent = 0
    while sent < hits:
        for link in links:
            before, behind = beacons[sent % len(beacons)]
            request = b"%b%014d%b" % (before, sent, behind)
            link.sendall(request)
            size += len(request)
            sent += 1
        for link in links:
            assert link.recv(4096).startswith(b"HTTP/1.1 200")
    for link in links:
        link.close()
    return size


def kept(file: Path) -> int:
    """How many hits are still in the file, delivered or not."""
    with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as db:
        (count,) = db.execute("SELECT count(*) FROM hits").fetchone()
    return int(count)


def life(hits: int, connections: int, under: Path | None, *, smoke: bool) -> tuple[float, ...]:
    """Of the raw bytes: the file with all waiting; written to store, to deliver, to purge; in all.

    Last the bytes of a request and those of the file a waiting hit, as they are.
    """
    with measure.folder(under) as folder:
        own = measure.free_port()
        with measure.daemon(own, folder) as child:
            before = measure.written_bytes(child.pid)
            raw = send(own, hits, connections)
            stored = measure.written_bytes(child.pid) - before
        stored += sum(path.stat().st_size for path in folder.glob("hits.db-wal"))
        file = (folder / "hits.db").stat().st_size
        with adobe(0) as port:
            server = f"http://127.0.0.1:{port}"
            # Kept for a second and no longer, so that the purge is part of what is seen.
            with measure.daemon(
                own, folder, server=server, concurrency=connections, keep="1s"
            ) as child:
                before = measure.written_bytes(child.pid)
                until(own + 1, hits)
                delivered = measure.written_bytes(child.pid)
                if not smoke:  # the purge comes every ten seconds
                    measure.wait_for(lambda: not kept(folder / "hits.db"), child)
                    time.sleep(1.5)  # empty pages go back to the disk
                purged = measure.written_bytes(child.pid) - delivered
                delivered -= before
    life = stored + delivered + purged
    parts = (size / raw for size in (file, stored, delivered, purged, life))
    return *parts, raw / hits, file / hits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hits", type=int, default=20_000)
    parser.add_argument("--under", type=Path, help="a directory on the disk to be measured")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    if args.smoke:
        args.hits = 128
    measure.table(
        "bytes / raw bytes",
        *("file, all waiting", "written to store", "to note the delivery", "to purge", "in all"),
        *("raw bytes a hit", "file"),
    )
    for connections in (64, 1):
        hits = args.hits // (1 if connections > 1 else 8)
        found = life(hits, connections, args.under, smoke=args.smoke)
        sizes = (f"{size:,.0f}" for size in found[5:])
        measure.row(f"{connections} at a time", *(f"{ratio:.2f}" for ratio in found[:5]), *sizes)


if __name__ == "__main__":
    main()
