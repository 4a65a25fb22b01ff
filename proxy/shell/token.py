"""The access token of a file, for the requests that need one.

Rule: read anew when the file changes, since tokens last a day and another program renews them;
while the file cannot be read, the last one stands.
Non-rule: judges no token, and tells nobody what is in it.
Source: Adobe's page "Authentication" of the Edge Network API.
"""

from __future__ import annotations

from pathlib import Path


class Token:
    """Calling it gives the value of an Authorization header, None when there was never one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._value: bytes | None = None

    def __call__(self) -> bytes | None:
        try:
            stat = self._path.stat()
            seen = (stat.st_mtime_ns, stat.st_ino)
            if seen != self._seen:
                text = self._path.read_text(encoding="ascii").strip()
                if text and text.isprintable():
                    self._value = text.encode() if " " in text else b"Bearer " + text.encode()
                    self._seen = seen
        except (OSError, ValueError):
            pass
        return self._value
