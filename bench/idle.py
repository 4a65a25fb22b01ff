"""What a daemon costs that has nothing to do: `python -m bench.idle [--seconds 30]`.

Two of them: online with an empty queue; offline with a full one.
"""

from __future__ import annotations

import argparse
import time

from bench import measure, stock
from bench.drain import adobe


def watch(pid: int, settle: float, seconds: float) -> tuple[float, float]:
    """CPU in percent of a core, and wake-ups a second."""
    time.sleep(settle)
    cpu, woken, began = measure.cpu_s(pid), measure.wake_ups(pid), time.perf_counter()
    time.sleep(seconds)
    took = time.perf_counter() - began
    return (measure.cpu_s(pid) - cpu) / took * 100, (measure.wake_ups(pid) - woken) / took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--waiting", type=int, default=100_000)
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    settle = 20.0
    if args.smoke:
        args.seconds, args.waiting, settle = 1.0, 1_000, 0.2
    measure.table("state", "CPU % of a core", "wake-ups a second")
    with adobe(0) as port, measure.folder() as folder:
        server = f"http://127.0.0.1:{port}"
        with measure.daemon(measure.free_port(), folder, server=server) as child:
            cpu, woken = watch(child.pid, settle / 4, args.seconds)
            measure.row("online, empty", f"{cpu:.2f}", f"{woken:.2f}")
    with measure.folder() as folder:
        stock.fill(folder / "hits.db", args.waiting, lambda hit: hit % 1_000)
        server = f"http://127.0.0.1:{measure.free_port()}"
        with measure.daemon(measure.free_port(), folder, server=server) as child:
            cpu, woken = watch(child.pid, settle, args.seconds)
            measure.row("offline, full", f"{cpu:.2f}", f"{woken:.2f}")


if __name__ == "__main__":
    main()
