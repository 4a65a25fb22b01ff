"""`decode`: what a hit says, from its URL, with no daemon and no network.

Rule: whatever holds a hit is read (`pasted` knows the forms).  What holds none is said on
standard error, and the exit code tells.
Source: clig.dev, for a verb that stands in a pipe.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from proxy.cli import settings
from proxy.cli.exits import Exit, Stop
from proxy.cli.options import Options, Verb

if TYPE_CHECKING:
    from proxy.core.hit import Request, Suites

# Of a hit without its request line nobody is blamed for these.
OF_THE_LINE = frozenset({("L5", ""), ("E1", "configId"), ("E8", "xdm.timestamp")})


@click.command(cls=Verb)
@click.argument("urls", metavar="[URL|-]...", nargs=-1)
@click.option(
    "--body", metavar="TEXT", help="What the request had as its body; @FILE or @- reads it."
)
@click.pass_obj
def decode(options: Options, urls: tuple[str, ...], body: str | None) -> None:
    """What a hit says, from its URL; needs no daemon.

    Without a URL, or with "-", standard input: URLs, lines of an access log or of an export,
    the query of a beacon, the JSON body of a Web SDK request (its URL may stand in the line
    before), an event as a page gives it to sendEvent, or a request that a browser copied as
    cURL. With --json each hit is one line.
    """
    from proxy.cli import pasted  # noqa: PLC0415 - tables that `--help` need not pay for

    suites, called = _suites(options)
    missed = count = 0
    given = b"" if body is None else _body(body)
    lines = given.splitlines(keepends=True) if given and not urls else _lines(urls)
    for found in pasted.hits(lines, given if urls else b""):
        if found.request is None:
            missed += 1
            click.echo(f"line {found.line} {found.why}", err=True)
            continue
        _say(options, _found(found.request, suites, called, is_whole=found.is_whole), count)
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


def _body(text: str) -> bytes:
    if not text.startswith("@"):
        return text.encode("utf-8", "surrogateescape")
    if text == "@-":
        return sys.stdin.buffer.read()
    try:
        return Path(text[1:]).read_bytes()
    except OSError as error:
        raise Stop(Exit.FAULT, f"{text[1:]}: {error.strerror or error}") from error


def _found(
    request: Request, suites: Suites, called: Mapping[str, str], *, is_whole: bool
) -> dict[str, Any]:
    """What the API would say of the hit, as far as the hit alone tells it."""
    from proxy.core import names, render  # noqa: PLC0415 - as above
    from proxy.core.edge import findings  # noqa: PLC0415 - as above
    from proxy.core.edge.decode import decode as decoded_  # noqa: PLC0415 - as above

    decoded = decoded_(request)
    now_ms = time.time() * 1000
    found = findings.findings(decoded, request, suites, received_ms=now_ms, at_ms=now_ms)
    return {
        "kind": decoded.kind,
        "title": decoded.title,
        "suites": decoded.suites,
        "decoded": names.as_json(decoded, called),
        "findings": [
            render.finding_json(one)
            for one in found
            if is_whole or (one.rule, one.key) not in OF_THE_LINE
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


def _suites(options: Options) -> tuple[Suites, Mapping[str, str]]:
    """The report suites and names of the configuration, where there is one that can be read."""
    from proxy.core.hit import Suites  # noqa: PLC0415 - as above

    if settings.find(options) is None:
        return Suites({}), {}
    from proxy import config  # noqa: PLC0415 - pydantic costs 0.1 s

    found = settings.read(options).config
    return config.suites(found), config.names(found)
