"""`decode`: what a hit says, from its URL, with no daemon and no network.

Rule: whatever holds a hit is read: a URL, a line of a log with one in it, the query alone, a
line of an export.  What holds none is said on standard error, and the exit code tells.
Source: clig.dev, for a verb that stands in a pipe.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from proxy.cli import settings
from proxy.cli.exits import Exit, Stop
from proxy.cli.options import Options, Verb

if TYPE_CHECKING:
    from proxy.core.hit import Request, Suites

# The path as a client writes it, wherever in a line; a quote or a space ends it.
BEACON = re.compile(rb"/b/ss/[^\s\"'<>]*")
QUERY = re.compile(rb"\??[^\s=&]+=[^\s]*")


@click.command(cls=Verb)
@click.argument("urls", metavar="[URL|-]...", nargs=-1)
@click.option("--body", metavar="TEXT", help="What the request had as its body.")
@click.pass_obj
def decode(options: Options, urls: tuple[str, ...], body: str | None) -> None:
    """What a hit says, from its URL; needs no daemon.

    Without a URL, or with "-", lines of standard input: URLs, lines of an access log or of an
    export. With --json each hit is one line.
    """
    suites = _suites(options)
    missed = count = 0
    for number, line in enumerate(_lines(urls)):
        if not line.strip():
            continue
        request = _request(line.strip(), b"" if body is None else body.encode())
        if request is None:
            missed += 1
            click.echo(f"line {number + 1} holds no hit", err=True)
            continue
        _say(options, _found(request, suites), count)
        count += 1
    if missed:
        raise Stop(Exit.FAULT)


def _lines(urls: tuple[str, ...]) -> Iterator[bytes]:
    if not urls and sys.stdin.isatty():
        raise click.UsageError("give a URL, or pipe some in")
    for url in urls or ("-",):
        if url == "-":
            yield from sys.stdin.buffer
        else:
            yield url.encode("utf-8", "surrogateescape")


def _request(line: bytes, body: bytes) -> Request | None:
    """The hit in the line, if there is one."""
    from proxy.core import render  # noqa: PLC0415 - tables that `--help` need not pay for
    from proxy.core.hit import Request  # noqa: PLC0415 - as above

    if line.startswith(b"{"):
        try:
            return render.request_of(json.loads(line))
        except (ValueError, TypeError, RecursionError):
            return None
    beacon = BEACON.search(line)
    if beacon is not None:
        return Request("POST" if body else "GET", beacon[0].partition(b"#")[0], (), body)
    if QUERY.fullmatch(line) and b"://" not in line.partition(b"=")[0]:
        return Request("GET", b"?" + line.removeprefix(b"?"), (), body)
    return None


def _found(request: Request, suites: Suites) -> dict[str, Any]:
    """What the API would say of the hit, as far as the hit alone tells it."""
    from proxy.core import render  # noqa: PLC0415 - as above
    from proxy.core.edge import findings  # noqa: PLC0415 - as above
    from proxy.core.edge.decode import decode as decoded_  # noqa: PLC0415 - as above

    decoded = decoded_(request)
    now_ms = time.time() * 1000
    found = findings.findings(decoded, request, suites, received_ms=now_ms, at_ms=now_ms)
    return {
        "kind": decoded.kind,
        "title": decoded.title,
        "suites": decoded.suites,
        "decoded": render.as_json(decoded),
        # A query without its path says nothing of report suites.
        "findings": [
            render.finding_json(one)
            for one in found
            if one.rule != "L5" or not request.target.startswith(b"?")
        ],
    }


def _say(options: Options, found: dict[str, Any], number: int) -> None:
    if options.json:
        click.echo(json.dumps(found))
        return
    from proxy.cli import tell  # noqa: PLC0415 - not needed for JSON

    if number:
        click.echo()
    for line in tell.detail_lines(found):
        click.echo(line)


def _suites(options: Options) -> Suites:
    """The report suites of the configuration, where there is one that can be read."""
    from proxy.core.hit import Suites  # noqa: PLC0415 - as above

    if settings.find(options) is None:
        return Suites({})
    from proxy import config  # noqa: PLC0415 - pydantic costs 0.1 s

    return config.suites(settings.read(options).config)
