"""Bytes on disk: `python -m bench.disk [--hits 20000] [--under DIRECTORY]`.

In bytes of the requests as clients sent them: the queue file with all of them waiting, and
everything written over a hit's life (stored, sent, kept as delivered, purged).
Each way once at full load (many hits share a commit) and once a hit at a time (none does).
"""

from __future__ import annotations

import argparse
import socket
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


def life(hits: int, connections: int, under: Path | None) -> tuple[float, ...]:
    """Of the raw bytes: the file with all waiting, what storing wrote, what all its life wrote.

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
                quiet = measure.written_bytes(child.pid)
                while True:  # until the purge is through
                    time.sleep(1.5)
                    if (now := measure.written_bytes(child.pid)) == quiet:
                        break
                    quiet = now
                left = quiet - before
    return file / raw, stored / raw, (stored + left) / raw, raw / hits, file / hits


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
        *("file, all waiting", "written to store", "over its life", "raw bytes a hit", "file"),
    )
    for connections in (64, 1):
        found = life(args.hits // (1 if connections > 1 else 8), connections, args.under)
        sizes = (f"{size:,.0f}" for size in found[3:])
        measure.row(f"{connections} at a time", *(f"{ratio:.2f}" for ratio in found[:3]), *sizes)


if __name__ == "__main__":
    main()
