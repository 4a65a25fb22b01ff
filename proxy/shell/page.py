"""The page's files: read once, named one by one.

Rule: a fixed table of names made at the start; a path that is not in it is not found, so
there is nothing to traverse.  Each view of the page has its own address and is the same file.
Non-rule: knows nothing of what the page asks for afterwards.
Source: RFC 9110 section 8.8.3 (ETag); HTML's module scripts want a JavaScript type.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from proxy.shell.asked import Problem

FOLDER = Path(__file__).resolve().parent.parent / "page"
INDEX = "index.html"
VIEWS = ("/", "/hits", "/hits/{id:[0-9]{1,18}}", "/dead", "/health")
# Nothing in these tells anything of a hit: they are what asks for the token.
OPEN = frozenset({"/", "/hits", "/hits/{id}", "/dead", "/health", "/static/{name}"})
TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".txt": "text/plain",
    ".woff2": "font/woff2",
}
TEXT = ("text/", "application/json", "image/svg")
# What is shown must be what the daemon serves: asked for again each time, and answered 304.
FRESH = "no-cache"


@dataclass(frozen=True, slots=True)
class File:
    """One file as it is sent."""

    content: bytes
    content_type: str
    tag: str


class Page:
    """The routes of the page's files."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._files = read(folder)

    def routes(self) -> list[web.RouteDef]:
        return [
            *(web.get(view, self._index) for view in VIEWS),
            web.get("/static/{name:.+}", self._static),
        ]

    async def _index(self, request: web.Request) -> web.Response:
        return self._answer(request, INDEX)

    async def _static(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        return self._answer(request, f"static/{name}" if f"static/{name}" in self._files else name)

    def _answer(self, request: web.Request, name: str) -> web.Response:
        file = self._files.get(name)
        if file is None:
            raise Problem(404, "the page has no such file")
        headers = {"ETag": file.tag, "Cache-Control": FRESH}
        if file.tag in request.headers.get("If-None-Match", ""):
            return web.Response(status=304, headers=headers)
        return web.Response(
            body=file.content, headers={**headers, "Content-Type": file.content_type}
        )


def read(folder: Path) -> dict[str, File]:
    """The files that can be asked for, by their names below the folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        kind = TYPES.get(path.suffix)
        if path.is_file() and kind is not None:
            content = path.read_bytes()
            tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            if kind.startswith(TEXT):
                kind += "; charset=utf-8"
            found[path.relative_to(folder).as_posix()] = File(content, kind, tag)
    return found
