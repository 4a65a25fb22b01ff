"""All that is done in minutes, one after another: `python -m bench [--smoke] [NAME ...]`.

Some eleven minutes on two cores; each table stands below the command that prints it alone.
Non-rule: not `backlog` (it fills some 8 GB of disk three times) and nothing of reliability.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from bench import measure

# So much of each that the medians hold on a quiet machine.
SHORT: dict[str, tuple[str, ...]] = {
    "intake": ("--rounds=5", "--seconds=2", "--naive", "--uvloop"),
    "drain": ("--rounds=2", "--seconds=2"),
    "disk": (),
    "slowdisk": ("--rounds=3", "--seconds=2"),
    "idle": ("--seconds=20",),
    "startup": ("--rounds=10",),
    "page": ("--rounds=2", "--seconds=2", "--hits=60000"),
    "peers": ("--rounds=2", "--seconds=2"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SHORT))
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    if unknown := set(args.names) - set(SHORT):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    failed = []
    began = time.monotonic()
    for name in args.names or SHORT:
        argv = ("-m", f"bench.{name}", *(("--smoke",) if args.smoke else SHORT[name]))
        print(f"\n## `python {' '.join(argv)}`\n", flush=True)
        if subprocess.run([sys.executable, *argv], cwd=measure.ROOT, check=False).returncode:
            failed.append(name)
    print(f"\n{time.monotonic() - began:.0f} s in all", flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
