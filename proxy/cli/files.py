"""Files that come with the program: the commented configuration, the units.

Rule: inside the package when installed, beside it in a checkout.
"""

from __future__ import annotations

from pathlib import Path


def shipped(name: str) -> Path:
    """The file by its path in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for place in (package / name, package.parent / name):
        if place.is_file():
            return place
    raise FileNotFoundError(f"{name} is missing from this installation")
