"""Claims about who may import what: the core decides, a shell does, and neither knows the other.

The rules are read off the imports of every module; the planted violations at the end show
that each rule can fail.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "proxy"

# The standard library the core may use: it computes and touches nothing outside. A list of
# what is allowed, for a list of what is not would forget something. Where a module reads
# clocks too, the one name that does not is listed.
PURE = frozenset(
    {
        "__future__",
        "array",
        "base64.b64decode",
        "bisect",
        "collections",
        "collections.abc",
        "dataclasses",
        "email.utils.parsedate_to_datetime",
        "enum",
        "functools",
        "hashlib",
        "heapq",
        "http.HTTPStatus",
        "ipaddress",
        "itertools",
        "json.JSONDecoder",
        "json.dumps",
        "json.loads",
        "math",
        "operator",
        "re",
        "struct",
        "typing",
        "urllib.parse",
        "xml.parsers.expat",
        "xml.sax.saxutils.escape",
        "zlib",
    }
)
# Built-in, and yet no values in, values out.
IMPURE_CALLS = frozenset({"open", "print", "input", "eval", "exec", "__import__", "breakpoint"})

# A library that computes and touches nothing, where the core needs one.
COMPUTES = {"proxy.core.wire": frozenset({"zstandard", "threading"})}

# The one library of each shell, with the packages that are part of its interface; a shell
# that is not listed has none.
LIBRARY = {
    "proxy.shell.admin": {"aiohttp"},
    "proxy.shell.api": {"aiohttp"},
    "proxy.shell.asked": {"aiohttp"},
    "proxy.shell.browse": set[str](),
    "proxy.shell.clock": set[str](),
    "proxy.shell.door": {"aiohttp"},
    "proxy.shell.given": {"aiohttp"},
    "proxy.shell.hits": {"aiohttp"},
    "proxy.shell.intake": {"aiohttp"},
    "proxy.shell.live": {"aiohttp", "aiohttp_sse"},
    "proxy.shell.metrics": {"prometheus_client"},
    "proxy.shell.migrate": set[str](),
    "proxy.shell.page": {"aiohttp"},
    "proxy.shell.outcomes": set[str](),
    "proxy.shell.queue": {"aiosqlite"},
    "proxy.shell.reader": set[str](),
    "proxy.shell.rows": set[str](),
    "proxy.shell.upstream": {"aiohttp", "yarl"},
}
# Shells do not know each other, but for these: (who, whom) and why.
ACQUAINTED = {
    ("proxy.shell.admin", "proxy.shell.api"): "the listener serves these routes",
    ("proxy.shell.admin", "proxy.shell.asked"): "one way of reading questions and refusing them",
    ("proxy.shell.admin", "proxy.shell.door"): "one way of letting connections in",
    ("proxy.shell.admin", "proxy.shell.page"): "the page may be had without the token",
    ("proxy.shell.api", "proxy.shell.asked"): "as for the listener",
    ("proxy.shell.given", "proxy.shell.asked"): "likewise",
    ("proxy.shell.hits", "proxy.shell.asked"): "likewise",
    ("proxy.shell.intake", "proxy.shell.door"): "one way of letting connections in",
    ("proxy.shell.live", "proxy.shell.asked"): "likewise",
    ("proxy.shell.page", "proxy.shell.asked"): "likewise",
    ("proxy.shell.reader", "proxy.shell.browse"): "the reader is a process around it",
    ("proxy.shell.queue", "proxy.shell.migrate"): "opening a queue file brings it up to date",
    ("proxy.shell.queue", "proxy.shell.outcomes"): "its transactions are made of these",
    ("proxy.shell.queue", "proxy.shell.rows"): "it reads with these",
    ("proxy.shell.browse", "proxy.shell.rows"): "a row is the same hit to both",
    ("proxy.shell.outcomes", "proxy.shell.rows"): "a change looks at what there is first",
    ("proxy.shell.rows", "proxy.shell.migrate"): "a file of a newer release is not misread",
    ("proxy.shell.queue", "proxy.shell.clock"): "the queue notes the boot and its offset",
    ("proxy.shell.queue", "proxy.shell.beside"): "its own small files lie beside the queue file",
    ("proxy.shell.queue", "proxy.shell.salvage"): "a damaged file is salvaged before it is opened",
    ("proxy.shell.browse", "proxy.shell.migrate"): "what a newer release wrote is not misread",
    ("proxy.shell.audit", "proxy.shell.migrate"): "a file of a newer release is not judged",
    ("proxy.shell.audit", "proxy.shell.rows"): "the account is read as the queue reads it",
    ("proxy.shell.audit", "proxy.shell.salvage"): "what a start takes for damage is damage",
    ("proxy.shell.salvage", "proxy.shell.migrate"): "what is kept goes into a file of our version",
}
CLIENT_OF_ADOBE = "proxy.shell.upstream"
SERVER_SIDE = (
    "aiohttp.web",
    "aiohttp.http_exceptions",
    "aiohttp.http_parser",
    "aiohttp.streams",
    "aiohttp.web_protocol",
    "aiohttp.HttpVersion",
    "aiohttp.HttpVersion10",
    "aiohttp.HttpVersion11",
)
MAY_READ_CONFIG = ("proxy.config", "proxy.daemon", "proxy.cli", "proxy.demo", "proxy.__main__")
# (A door welcomes each connection in a task, as asyncio's own server does.)
MAY_START_TASKS = (
    "proxy.daemon",
    "proxy.drain",
    "proxy.fake",
    "proxy.demo",
    "proxy.shell.door",
)
STARTING_TASKS = frozenset({"create_task", "ensure_future"})


def modules() -> dict[str, Path]:
    """Every module of the package, by its dotted name."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def is_within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def imported(tree: ast.Module) -> Iterator[str]:
    """What is imported anywhere, also under TYPE_CHECKING or within a function.

    `from a import b` is `a.b`: for a module of ours that is what it names, and of a library
    it is the narrower thing to judge.  A relative import begins with its dots.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            where = "." * node.level + (node.module or "")
            yield from (f"{where}.{alias.name}" for alias in node.names)


def called(tree: ast.Module) -> Iterator[str]:
    """The last name of whatever is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                yield node.func.id
            elif isinstance(node.func, ast.Attribute):
                yield node.func.attr


def violations(module: str, source: str) -> list[str]:
    """What the module does against the rules, one line each."""
    tree = ast.parse(source)
    return [
        *(wrong for name in imported(tree) for wrong in _wrong_imports(module, name)),
        *(wrong for name in called(tree) for wrong in _wrong_calls(module, name)),
    ]


def _wrong_imports(module: str, name: str) -> Iterator[str]:
    if name.startswith("."):
        yield f"relative import {name}"
    computes = COMPUTES.get(module, frozenset())
    if is_within(module, "proxy.core") and not (_is_pure(name) or name in computes):
        yield f"the core imports {name}"
    if is_within(module, "proxy.shell"):
        yield from _wrong_in_a_shell(module, name)
    is_client = is_within(name, "aiohttp") and not is_within(name, *SERVER_SIDE)
    if is_client and module != CLIENT_OF_ADOBE:
        yield f"{name} is the client's part of aiohttp"
    if is_within(name, "proxy.config") and not is_within(module, *MAY_READ_CONFIG):
        yield f"{name} is read"


def _wrong_calls(module: str, name: str) -> Iterator[str]:
    if is_within(module, "proxy.core") and name in IMPURE_CALLS:
        yield f"the core calls {name}"
    if name in STARTING_TASKS and not is_within(module, *MAY_START_TASKS):
        yield f"{name} is called"


def _is_pure(name: str) -> bool:
    if is_within(name, PACKAGE):
        return is_within(name, "proxy.core", "proxy.errors")
    return name in PURE or name.rpartition(".")[0] in PURE


def _wrong_in_a_shell(module: str, name: str) -> Iterator[str]:
    top = name.partition(".")[0]
    if top == PACKAGE:
        friends = [whom for who, whom in ACQUAINTED if who == module]
        if not is_within(name, "proxy.core", "proxy.errors", "proxy.points", module, *friends):
            yield f"a shell imports {name}"
    elif top not in sys.stdlib_module_names and top not in LIBRARY.get(module, set()):
        yield f"{top} is not this shell's library"


@pytest.mark.parametrize("module", MODULES)
def test_every_module_keeps_to_its_place(module: str) -> None:
    assert violations(module, MODULES[module].read_text(encoding="utf-8")) == []


def test_the_rules_speak_of_modules_that_exist() -> None:
    """A rule about a module that was renamed would hold for ever."""
    shells = {module for module in MODULES if is_within(module, "proxy.shell")}
    assert set(LIBRARY) <= shells
    assert {module for pair in ACQUAINTED for module in pair} <= shells
    assert any(is_within(module, "proxy.core") for module in MODULES)
    assert "proxy.errors" in MODULES


def test_a_friendship_between_shells_is_one_that_is_used() -> None:
    for who, whom in ACQUAINTED:
        tree = ast.parse(MODULES[who].read_text(encoding="utf-8"))
        assert any(is_within(name, whom) for name in imported(tree))


IMPURE = (
    "asyncio",
    "aiohttp",
    "aiosqlite",
    "sqlite3",
    "logging",
    "structlog",
    "time",
    "random",
    "secrets",
    "uuid",
    "os",
    "os.path",
    "io",
    "socket",
    "pathlib",
    "threading",
    "subprocess",
    "datetime",
    "ssl",
    "tempfile",
)


@pytest.mark.parametrize(
    "module, source",
    [
        *[("proxy.core.stamp", f"import {name}") for name in IMPURE],
        ("proxy.core.stamp", "import re, time"),
        ("proxy.core.stamp", "from time import monotonic"),
        ("proxy.core.stamp", "from email.utils import formatdate"),
        ("proxy.core.stamp", "from collections import abc\nimport os as collections"),
        ("proxy.core.stamp", "def late():\n    from random import random\n"),
        ("proxy.core.stamp", "if TYPE_CHECKING:\n    from asyncio import Event\n"),
        ("proxy.core.stamp", "from proxy.shell import queue"),
        ("proxy.core.stamp", "from proxy.shell.queue import Queue"),
        ("proxy.core.stamp", "import proxy.shell.queue"),
        ("proxy.core.stamp", "from proxy import config"),
        ("proxy.core.stamp", "from proxy import drain"),
        ("proxy.core.stamp", "from . import beacon"),
        ("proxy.core.stamp", "open('x')"),
        ("proxy.core.stamp", "print(1)"),
        ("proxy.shell.intake", "from proxy.shell import queue"),
        ("proxy.shell.intake", "from proxy.shell.queue import Queue"),
        ("proxy.shell.intake", "from proxy.shell import clock"),
        ("proxy.shell.migrate", "from proxy.shell import queue"),
        ("proxy.shell.queue", "from proxy.shell.intake import Intake"),
        ("proxy.shell.queue", "from proxy.drain import Drain"),
        ("proxy.shell.queue", "import aiohttp"),
        ("proxy.shell.queue", "import structlog"),
        ("proxy.shell.clock", "import aiosqlite"),
        ("proxy.shell.upstream", "import aiosqlite"),
        ("proxy.shell.newcomer", "import click"),
        ("proxy.shell.intake", "import aiohttp"),
        ("proxy.shell.intake", "from aiohttp import ClientSession"),
        ("proxy.shell.intake", "from aiohttp.client import ClientSession"),
        ("proxy.shell.intake", "from aiohttp import web, ClientTimeout"),
        ("proxy.daemon", "from aiohttp import ClientSession"),
        ("proxy.drain", "import aiohttp"),
        ("proxy.drain", "from proxy.config import Config"),
        ("proxy.drain", "from proxy import config"),
        ("proxy.desk", "import proxy.config.load"),
        ("proxy.shell.intake", "from proxy.config import Config"),
        ("proxy.shell.queue", "async def run(self):\n    asyncio.create_task(self.work())"),
        ("proxy.desk", "tasks.create_task(work())"),
        ("proxy.desk", "asyncio.ensure_future(work())"),
    ],
)
def test_a_planted_violation_is_seen(module: str, source: str) -> None:
    assert violations(module, source)


@pytest.mark.parametrize(
    "module, source",
    [
        ("proxy.core.stamp", "from proxy.core import beacon\nfrom proxy.errors import NotABeacon"),
        ("proxy.core.verdict", "from email.utils import parsedate_to_datetime"),
        ("proxy.core.insertion", "from xml.parsers import expat\nfrom collections.abc import Set"),
        ("proxy.shell.intake", "import asyncio, os\nfrom aiohttp import web\n"),
        ("proxy.shell.queue", "from proxy.shell import migrate\nimport sqlite3\nimport aiosqlite"),
        ("proxy.shell.upstream", "import aiohttp\nfrom yarl import URL"),
        ("proxy.daemon", "from proxy import config\nloops.create_task(queue.run())"),
        ("proxy.cli.run", "from proxy.config import load"),
    ],
)
def test_what_is_allowed_is_not_reported(module: str, source: str) -> None:
    assert violations(module, source) == []
