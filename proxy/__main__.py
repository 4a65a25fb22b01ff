"""`python -m proxy`, the same as `trackoffline`."""

from __future__ import annotations

from proxy.cli.root import root


def main() -> None:
    """The console script."""
    root(prog_name="trackoffline")


if __name__ == "__main__":
    main()
