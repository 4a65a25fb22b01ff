"""The documents say what is so: their commands exist and their links lead somewhere."""

from __future__ import annotations

import ast
import asyncio
import re
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from daemon import Launch, free_ports

from proxy import config
from proxy.cli.exits import Exit
from proxy.cli.install import ENABLE
from proxy.core import search
from proxy.core.findings import RULES
from proxy.daemon import needs_restart

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)(?:\s\"[^\"]*\")?\)")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchors(document: str) -> set[str]:
    """The places a link can name: each heading, spelled as code hosts spell it."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


def test_two_commands_open_the_readme() -> None:
    """One installs and serves, one installs what the tests need and passes them."""
    serve, test = (body for _, body in FENCE.findall((ROOT / "README.md").read_text())[:2])

    assert serve.count("\n") == test.count("\n") == 1
    assert serve.startswith("python3 -m venv .venv && ")
    assert serve.endswith(" && .venv/bin/trackoffline serve --config config.example.toml\n")
    assert test.startswith("python3 -m venv .venv && ")
    assert test.endswith(" && .venv/bin/python -m pytest -n 2\n")


def test_what_the_two_commands_read_is_here() -> None:
    """Each file that the commands name lies in the checkout."""
    commands = "".join(body for _, body in FENCE.findall((ROOT / "README.md").read_text())[:2])
    named = set(re.findall(r"(?:-r|--config) (\S+)", commands))

    assert named >= {"requirements.txt", "requirements-test.txt", "config.example.toml"}
    assert not [file for file in named if not (ROOT / file).is_file()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    """A file that is linked exists, and so does the heading after `#`."""
    broken = []
    for link in LINK.findall(FENCE.sub("", document.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = document.parent / file if file else document
        if not target.exists() or (
            anchor and target.suffix == ".md" and anchor not in anchors(target.read_text())
        ):
            broken.append(link)

    assert not broken


def test_every_command_in_the_documents_exists() -> None:
    """What stands in code as `trackoffline VERB` is a verb of the command line."""
    documented = {
        verb
        for document in DOCUMENTS
        for code in re.findall(r"```.*?```|`[^`]+`", document.read_text(), re.DOTALL)
        for verb in re.findall(r"\btrackoffline ([a-z][a-z-]+)\b(?![/.=])", code)
    }
    shown = subprocess.run(
        [sys.executable, "-m", "proxy", "--help"], capture_output=True, check=True, text=True
    ).stdout
    listed = shown.partition("\nCommands:\n")[2].partition("\n\n")[0]
    verbs = set(re.findall(r"^  ([a-z-]+)\b", listed, re.MULTILINE))

    assert documented
    assert not documented - verbs


def test_the_readme_has_the_table_of_settings() -> None:
    """Every key, its default and its meaning, as the model has them."""
    readme = (ROOT / "README.md").read_text()
    begin, end = "<!-- configuration -->\n", "\n<!-- /configuration -->"
    shown = readme.partition(begin)[2].partition(end)[0]

    assert shown == config.table().strip()


def test_the_readme_has_the_table_of_exit_codes() -> None:
    """Scripts rely on them."""
    rows = [f"| {code.value} | {code.meaning} |" for code in Exit]

    assert "\n".join(rows) in (ROOT / "README.md").read_text()


# -- the operators' page ---------------------------------------------------------------------

OPERATING = (ROOT / "docs/operating.md").read_text()
LEVELS = {"warning": "warning", "error": "error", "exception": "error", "critical": "error"}
# Lines whose words are put together, and what the page says of them instead.
COMPOSED = {"proxy/daemon.py": "the queue file was damaged", "proxy/cli/serve.py": "warning of"}


def logged() -> list[tuple[str, str, str | None]]:
    """Each call that logs a fault: file, level, and its words when they are constant."""
    found: list[tuple[str, str, str | None]] = []
    for path in sorted((ROOT / "proxy").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Attribute(value=logger, attr=method), args=[words, *_]) if (
                    method in LEVELS and ast.unparse(logger).lower().find("log") >= 0
                ):
                    constant = str(words.value) if isinstance(words, ast.Constant) else None
                    found.append((name(path), LEVELS[method], constant))
    return found


def test_every_fault_in_the_log_is_on_the_operators_page() -> None:
    """At its level: what wakes someone at night says what to do."""
    lines = logged()
    assert len(lines) > 15

    missing = [line for line in lines if line[2] and f"| {line[1]} | `{line[2]}`" not in OPERATING]
    assert not missing
    composed = {file for file, _, words in lines if words is None}
    assert composed == COMPOSED.keys()
    assert all(words in OPERATING for words in COMPOSED.values())


def test_every_log_line_on_the_operators_page_exists() -> None:
    """What nobody logs any more is not looked for at night."""
    code = "".join(path.read_text() for path in (ROOT / "proxy").rglob("*.py"))
    listed = re.findall(r"^\| (?:error|warning|info) \| `([^`]+)`", OPERATING, re.MULTILINE)

    assert len(listed) > 20
    assert not [words for words in listed if f'"{words}' not in code]


def test_the_operators_page_names_every_setting_that_needs_a_restart() -> None:
    """The keys the daemon itself tells apart."""
    known = ROOT / "config.example.toml"
    old = config.load(known, {})
    other = {
        "TRACKOFFLINE_LISTEN__ADDRESS": "127.0.0.1:1",
        "TRACKOFFLINE_LISTEN__TLS_ADDRESS": "",
        "TRACKOFFLINE_LISTEN__MAX_REQUEST": "9KiB",
        "TRACKOFFLINE_LISTEN__ALLOWED_HOSTS": '["a.example"]',
        "TRACKOFFLINE_UPSTREAM__SERVER": "https://a.example",
        "TRACKOFFLINE_QUEUE__PATH": "other.db",
        "TRACKOFFLINE_DRAIN__CONCURRENCY": "3",
        "TRACKOFFLINE_ADMIN__ADDRESS": "",
        "TRACKOFFLINE_LOG__FORMAT": "json",
    }
    keys = needs_restart(old, config.load(known, other))
    sentence = OPERATING.partition("With a restart only")[2].partition("\n")[0]

    assert len(keys) >= 8
    assert not [key for key in keys if f"`{key}`" not in sentence]


def test_the_operators_page_starts_the_service_as_the_program_says() -> None:
    """`install-service` ends with the very line that the page ends with."""
    assert f"install-service\n{ENABLE}\n" in OPERATING


def follow_the_tls_page(folder: Path) -> None:
    """Its commands for an internal authority."""
    for language, body in FENCE.findall((ROOT / "docs/tls.md").read_text()):
        if language == "sh" and "openssl" in body:
            subprocess.run(["sh", "-euc", body], check=True, cwd=folder, capture_output=True)


async def test_the_commands_of_the_tls_page_make_a_certificate_that_works(
    process: Launch, tmp_path: Path
) -> None:
    """Run as they stand; a client that trusts the authority is content with every name."""
    await asyncio.to_thread(follow_the_tls_page, tmp_path)
    (port,) = free_ports(1)
    daemon = process(
        None,
        {
            "listen.tls_address": f"127.0.0.1:{port}",
            "listen.tls_cert": str(tmp_path / "cert.pem"),
            "listen.tls_key": str(tmp_path / "key.pem"),
        },
    )
    await daemon.start()
    trusting = ssl.create_default_context(cafile=tmp_path / "authority.pem")
    for host in ("metrics.shop.example", "localhost", "127.0.0.1"):
        _, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=trusting, server_hostname=host
        )
        writer.close()
        await writer.wait_closed()


def test_every_finding_is_explained() -> None:
    """The table of `docs/get-the-data-right.md`, as the rules have it."""
    page = (ROOT / "docs" / "get-the-data-right.md").read_text()
    rows = [
        f"| {rule.id} | {rule.severity} | {rule.title} | {rule.why} [Adobe]({rule.doc}) |"
        for rule in RULES
    ]
    head = "| rule | | seen | and then |\n| --- | --- | --- | --- |"

    assert f"<!-- rules -->\n{head}\n{chr(10).join(rows)}\n<!-- /rules -->" in page


def test_every_field_of_a_filter_is_documented_with_its_choices() -> None:
    """And whatever is written there as a filter is one."""
    document = (ROOT / "docs" / "filter.md").read_text()
    rows = {
        field: row
        for row in document.splitlines()
        for field in re.findall(r"`([a-z]+):`", row.partition(" | ")[0])
    }
    assert not set(search.FIELDS) - set(rows)
    for field in search.FIELDS:
        for choice in search.choices(field):
            if field not in ("state", "rule"):
                assert f"`{choice}`" in rows[field], (field, choice)
    (example,) = [body for _, body in FENCE.findall(document)]
    written = [example, *re.findall(r"`(!?[a-z][a-z0-9.]*:[^`\s]+)`", document)]
    for text in written:
        search.parse(text.replace("\\|", "|").strip())
