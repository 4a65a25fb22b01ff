"""The page in the browser of whoever started the daemon.

Rule: only where a person sits: never for a supervisor, never in a terminal's own browser, which
would take the terminal away.  What cannot be opened is said, and the daemon runs all the same.
Non-rule: knows no token; where one is asked for, the page asks.
Source: Python's `webbrowser`, which finds the program; xdg-open(1).
"""

from __future__ import annotations

import threading
import webbrowser
from collections.abc import Callable, Mapping

# A screen, or a program that somebody chose.
SCREENS = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
SUPERVISORS = ("NOTIFY_SOCKET", "LISTEN_FDS")


def lacking(environ: Mapping[str, str], platform: str) -> str | None:
    """Why no browser is opened here; None when one may be."""
    if any(environ.get(name) for name in SUPERVISORS):
        return "a service opens no browser"
    if platform != "darwin" and not any(environ.get(name) for name in SCREENS):
        return "there is no screen here"
    return None


def open_page(url: str, failed: Callable[[], None]) -> None:
    """Open it and wait for nothing: some browsers stay in the foreground."""

    def ask() -> None:
        try:
            done = webbrowser.open(url)
        except (webbrowser.Error, OSError):
            done = False
        if not done:
            failed()

    threading.Thread(target=ask, daemon=True).start()
