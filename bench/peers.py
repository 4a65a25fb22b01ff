"""Against what one would otherwise pick, each told to keep what it took: `python -m bench.peers`.

    naive       `bench.servers naive`, and `alone`: aiohttp and aiosqlite, a commit a hit
    Fluent Bit  in_http, storage.type filesystem, storage.sync full, out_http
    rsyslog     imrelp, a main queue on disk, synced, a checkpoint a line, omfwd
    syslog-ng   network(), disk-buffer(reliable(yes)), http()

Rule: each gets the same beacons from 64 connections while nobody listens upstream, in rounds that
take turns; then it is killed (-9) in the midst of that, started again with its upstream there, and
what it had taken is compared with what arrives.  A peer this machine has not is left out, and said
so.  What `taken` means differs, and a kill is no power cut: see `bench.wires`, and the syncs.
Non-rule: none of the peers but the naive script speaks to Adobe: they get a beacon as text and
pass it on as text, do not judge, stamp or recognise it, and keep no order by visitor.
Source: each peer's manual on its buffer.  Debian has rsyslog (8.2302, with rsyslog-relp; no omhttp)
and syslog-ng (3.38, syslog-ng-mod-http); Fluent Bit was built from its source.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from bench import measure
from bench.measure import spread
from bench.slowdisk import shim

PAUSE_S = 0.2
Child = subprocess.Popen[bytes]

FLUENT_BIT = """
[SERVICE]
    flush 1
    log_level error
    scheduler.base 1
    scheduler.cap 2
    storage.path {folder}/chunks
    storage.sync full
    storage.backlog.mem_limit 50M
[INPUT]
    name http
    listen 127.0.0.1
    port {port}
    storage.type filesystem
[OUTPUT]
    name http
    match *
    host 127.0.0.1
    port {upstream}
    format json_lines
    retry_limit no_limits
"""
RSYSLOG = """
global(workDirectory="{folder}" maxMessageSize="16k")
main_queue(queue.type="Disk" queue.filename="hits" queue.size="100000000"
  queue.syncQueueFiles="on" queue.checkpointInterval="1")
module(load="imrelp")
input(type="imrelp" port="{port}" maxDataSize="16k")
template(name="hit" type="string" string="%msg%\\n")
action(type="omfwd" target="127.0.0.1" port="{upstream}" protocol="tcp" template="hit"
  action.resumeRetryCount="-1" action.resumeInterval="1")
"""
SYSLOG_NG = """
@version: 3.38
options {{ time-reopen(1); }};
source hits {{
  network(ip(127.0.0.1) port({port}) flags(no-parse) log-msg-size(16384)
    max-connections(1000) log-iw-size(100000));
}};
destination upstream {{
  http(url("http://127.0.0.1:{upstream}/") method("POST") body("$MSG")
    disk-buffer(reliable(yes) disk-buf-size(4294967296) mem-buf-size(16777216) dir("{folder}")));
}};
log {{ source(hits); destination(upstream); flags(flow-control); }};
"""


@dataclass(frozen=True, slots=True)
class Peer:
    """How to run it, and what speaks to it; a `program` of its own, or else Python."""

    name: str
    wire: str
    says: str  # with what it answers, and when
    program: str = ""
    config: str = ""
    argv: tuple[str, ...] = ()

    def missing(self) -> bool:
        return bool(self.program) and shutil.which(self.program) is None

    def start(
        self, folder: Path, port: int, upstream: int, env: dict[str, str] | None = None
    ) -> AbstractContextManager[Child]:
        if not self.argv:
            return measure.daemon(port, folder, server=f"http://127.0.0.1:{upstream}", env=env)
        values = {"folder": folder, "port": port, "upstream": upstream}
        argv = [part.format(**values) for part in self.argv]
        (folder / "peer.conf").write_text(self.config.format(**values), encoding="ascii")
        return measure.command(self.program or sys.executable, *argv, env=env)


SCRIPT = ("-m", "bench.servers")
HITS = ("{port}", "{folder}/hits.db", "http://127.0.0.1:{upstream}")
PEERS = (
    Peer("trackoffline", "get", "200 after the commit"),
    Peer("naive", "get", "200 after a commit", argv=(*SCRIPT, "naive", *HITS)),
    Peer("naive, alone", "get", "200 after its commit", argv=(*SCRIPT, "alone", *HITS)),
    Peer(
        *("Fluent Bit", "post", "201", "fluent-bit", FLUENT_BIT),
        argv=("-c", "{folder}/peer.conf"),
    ),
    Peer(
        *("rsyslog", "relp", "RELP's 200", "rsyslogd", RSYSLOG),
        argv=("-n", "-f", "{folder}/peer.conf", "-i", "{folder}/pid"),
    ),
    Peer(
        *("syslog-ng", "line", "nothing (TCP)", "syslog-ng", SYSLOG_NG),
        argv=(
            *("-F", "--no-caps", "-f", "{folder}/peer.conf", "-R", "{folder}/persist"),
            *("-p", "{folder}/pid", "-c", "{folder}/control"),
        ),
    ),
)


def send(
    peer: Peer, port: int, folder: Path, connections: int, seconds: float
) -> subprocess.Popen[str]:
    """The load, under way; it prints what it found, and `folder/taken` says what was taken."""
    load = subprocess.Popen(
        [
            *(sys.executable, "-m", "bench.wires", peer.wire),
            *(str(port), str(connections), str(seconds), str(folder / "taken")),
        ],
        cwd=measure.ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert load.stdout
    load.stdout.readline()  # all are connected
    return load


def result(load: subprocess.Popen[str]) -> dict[str, float]:
    said, _ = load.communicate()
    if load.returncode:
        raise RuntimeError("the load failed")
    found: dict[str, float] = json.loads(said)
    return found


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@contextlib.contextmanager
def running(
    peer: Peer, folder: Path, port: int, upstream: int, env: dict[str, str] | None = None
) -> Iterator[Child]:
    with peer.start(folder, port, upstream, env) as child:
        measure.wait_for(lambda: listens(port), child)
        yield child


def settle(pid: int) -> None:
    """Until a peer that answers nothing has read what was sent to it."""
    last = -1.0
    while (now := measure.cpu_s(pid)) - last > 0.02:
        last = now
        time.sleep(PAUSE_S)


def taking(peer: Peer, under: Path | None, connections: int, seconds: float) -> dict[str, float]:
    """Hits while nobody listens upstream: rate, CPU, bytes written, waits."""
    with measure.folder(under) as folder:
        port, upstream = measure.free_port(), measure.free_port()
        with running(peer, folder, port, upstream) as child:
            cpu, written = measure.cpu_s(child.pid), measure.written_bytes(child.pid)
            load = send(peer, port, folder, connections, seconds)
            began = time.perf_counter()
            found = result(load)
            took = found["seconds"]
            if peer.wire == "line":
                settle(child.pid)
                took = time.perf_counter() - began - PAUSE_S
            found["rate"] = found["hits"] / took
            found["cpu_us"] = (measure.cpu_s(child.pid) - cpu) / found["hits"] * 1e6
            found["written"] = (measure.written_bytes(child.pid) - written) / found["bytes"]
    return found


def syncs_a_hit(peer: Peer, under: Path | None, seconds: float) -> float:
    """With one connection, where nobody shares: less than one, and some of it was not synced."""
    with measure.folder(under) as folder:
        port, counted = measure.free_port(), folder / "syncs"
        env = {"LD_PRELOAD": str(shim(folder)), "SYNCS": str(counted)}
        with running(peer, folder, port, measure.free_port(), env):
            before = counted.stat().st_size if counted.exists() else 0
            found = result(send(peer, port, folder, 1, seconds))
            after = counted.stat().st_size if counted.exists() else 0
    return (after - before) / found["hits"]


def killed(
    peer: Peer, under: Path | None, connections: int, seconds: float, quiet_s: float
) -> tuple[int, int, int, float]:
    """Taken; of these lost; arrived more than once; hits a second that left after the restart."""
    with measure.folder(under) as folder:
        port, upstream = measure.free_port(), measure.free_port()
        with running(peer, folder, port, upstream) as child:
            load = send(peer, port, folder, connections, seconds * 2)
            time.sleep(seconds)
            child.kill()
            result(load)
        arrived = folder / "arrived"
        counting = measure.process("-m", "bench.servers", "count", str(upstream), str(arrived))
        with counting as counter:
            measure.wait_for(lambda: listens(upstream), counter)
            with running(peer, folder, port, upstream):
                wait_until_quiet(arrived, quiet_s)
        taken = [int(line) for line in (folder / "taken").read_text("ascii").splitlines()]
        came = [line.split() for line in arrived.read_text("ascii").splitlines()]
        numbers = [int(number) for number, _ in came]
        seen = set(numbers)
        span = float(came[-1][1]) - float(came[0][1]) if came else 0.0
        lost = sum(number not in seen for number in taken)
        return len(taken), lost, len(numbers) - len(seen), len(came) / span if span > 0.5 else 0.0


def wait_until_quiet(arrived: Path, quiet_s: float, within_s: float = 120) -> None:
    """Until nothing more has come for a while."""
    end = time.monotonic() + within_s
    size, since = 0, time.monotonic()
    while time.monotonic() < min(end, since + quiet_s):
        if (now := arrived.stat().st_size) != size:
            size, since = now, time.monotonic()
        time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--under", type=Path, help="a directory on the disk to be measured")
    parser.add_argument("--peers", nargs="+", choices=[peer.name for peer in PEERS])
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    peers = [peer for peer in PEERS if not args.peers or peer.name in args.peers]
    if args.smoke:
        args.rounds, args.seconds, args.connections, peers = 1, 0.2, 8, peers[:1]
    for peer in peers:
        if peer.missing():
            print(f"{peer.name} is not on this machine: no {peer.program}")
    peers = [peer for peer in peers if not peer.missing()]
    rows: dict[Peer, list[dict[str, float]]] = {peer: [] for peer in peers}
    for turn in range(args.rounds):
        for peer in peers[turn % len(peers) :] + peers[: turn % len(peers)]:
            rows[peer].append(taking(peer, args.under, args.connections, args.seconds))
    print(f"{args.connections} connections, {args.rounds} rounds of {args.seconds} s; offline")
    measure.table(
        *("taken by", "answers", "hits/s in", "CPU µs a hit", "bytes written / raw", "p99 ms")
    )
    for peer, found in rows.items():
        columns = (("rate", 0), ("cpu_us", 0), ("written", 2), ("p99_ms", 1))
        cells = [spread([row[name] for row in found], digits) for name, digits in columns]
        if peer.wire == "line":
            cells[-1] = "–"
        measure.row(peer.name, peer.says, *cells)
    print("\nOne connection, one hit at a time; then killed under load, and started again")
    measure.table(
        *("taken by", "syncs a hit", "p50 ms", "taken", "lost", "came twice", "hits/s out")
    )
    for peer in peers:
        syncs = f"{syncs_a_hit(peer, args.under, args.seconds):.2f}" if shutil.which("cc") else "–"
        one = [taking(peer, args.under, 1, args.seconds / 2)["p50_ms"] for _ in range(args.rounds)]
        ack = "–" if peer.wire == "line" else f"{statistics.median(one):.2f}"
        taken, lost, twice, out = killed(
            peer, args.under, args.connections, args.seconds / 2, 1 if args.smoke else 5
        )
        measure.row(peer.name, syncs, ack, f"{taken:,}", lost, twice, f"{out:,.0f}" if out else "–")


if __name__ == "__main__":
    main()
