"""`python -m proxy`, the same as `trackoffline`."""

from __future__ import annotations

import gc

# Imports make many objects that stay, and looking through them for cycles again and again was a
# twentieth of a start.
gc.set_threshold(10_000, 20, 50)

from proxy.cli.root import root  # noqa: E402 - only now


def main() -> None:
    """The console script."""
    root(prog_name="trackoffline")


if __name__ == "__main__":
    main()
