"""The documents say what is so: their commands exist and their links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from proxy import config
from proxy.cli.exits import Exit

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
    assert test.endswith(" && .venv/bin/python -m pytest\n")


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
