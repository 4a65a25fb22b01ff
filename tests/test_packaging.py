"""What a release promises before anything of it runs: ranges, pins, versions, the two commands.

Building and installing the wheel is `.ci/smoke.py`, which needs minutes and a network.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import proxy

ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = {
    "requirements.txt": PROJECT["project"]["dependencies"],
    ".ci/lowest.txt": PROJECT["project"]["dependencies"],
    ".ci/exercise.txt": PROJECT["dependency-groups"]["exercise"],
    "requirements-build.txt": PROJECT["build-system"]["requires"],
    "requirements-test.txt": [
        *PROJECT["project"]["dependencies"],
        *PROJECT["build-system"]["requires"],
        *(line for line in PROJECT["dependency-groups"]["test"] if isinstance(line, str)),
    ],
}
# Types in the public API of a dependency; its own requirement brings them in the right version.
PART_OF = {"multidict": "aiohttp", "yarl": "aiohttp", "pydantic-core": "pydantic"}
PYTHONS = ["3.11", "3.12", "3.13"]


def requirement_lines(lock: str) -> list[str]:
    """One logical line a requirement, its hashes on it."""
    text = (ROOT / lock).read_text().replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.strip() and line.lstrip()[0] != "#"]


def pins(lock: str) -> dict[str, Version]:
    found: dict[str, Version] = {}
    for line in requirement_lines(lock):
        name, _, version = line.split("--hash")[0].partition(";")[0].partition("==")
        found[canonicalize_name(name.strip())] = Version(version.strip())
    return found


def tracked_files() -> list[Path]:
    """What a clone holds; where there is no git, all but what tools leave behind."""
    if (ROOT / ".git").exists():
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
        )
        return [
            ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()
        ]
    left = {".venv", "__pycache__", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache"}
    return [path for path in ROOT.rglob("*") if path.is_file() and not left & set(path.parts)]


# -- ranges and pins ------------------------------------------------------------------------


@pytest.mark.parametrize("lock", LOCKS)
def test_every_declared_dependency_is_pinned_within_its_range(lock: str) -> None:
    """What is tested is what the wheel allows: each pin lies in the range beside it."""
    pinned = pins(lock)
    for line in LOCKS[lock]:
        declared = Requirement(line)

        assert pinned[canonicalize_name(declared.name)] in declared.specifier, line


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_is_one_version_with_hashes_and_no_address(lock: str) -> None:
    """A pinned install takes these very files, from wherever the machine gets its packages."""
    for line in requirement_lines(lock):
        assert re.fullmatch(
            r"[a-z0-9-]+==[0-9a-z.]+( ; [a-z_]+ [!=]= '\w+'( and [a-z_]+ [!=]= '\w+')?)?\s+"
            r"(--hash=sha256:[0-9a-f]{64}\s*)+",
            line,
        ), line[:80]


def test_the_tests_run_against_the_versions_that_are_served() -> None:
    """A package pinned in two files has one version."""
    tested = pins("requirements-test.txt")
    for lock in ("requirements.txt", "requirements-build.txt"):
        assert pins(lock).items() <= tested.items(), lock


@pytest.mark.parametrize("lock", LOCKS)
def test_one_lock_serves_every_python_the_project_names(lock: str) -> None:
    """No pin depends on the Python version: what passed on one was installed on all."""
    assert not [line for line in requirement_lines(lock) if "python_version" in line]


def test_the_wheel_declares_ranges_whose_lower_bounds_are_tried() -> None:
    """No pin, which would fight with other packages; and CI's lowest versions are the bounds."""
    lowest = pins(".ci/lowest.txt")
    for line in PROJECT["project"]["dependencies"]:
        declared = Requirement(line)
        bounds = {one.operator: Version(one.version) for one in declared.specifier}

        assert bounds.keys() <= {">=", "<"}, line
        assert bounds[">="] == lowest[canonicalize_name(declared.name)], line


def test_the_package_imports_nothing_it_does_not_declare() -> None:
    """Every import is the standard library's, ours, a declared dependency's or its own API's."""
    assert foreign_imports() <= declared_dependencies()


def test_the_package_declares_nothing_it_does_not_import() -> None:
    """A dependency nobody uses is weight and risk for everyone who installs."""
    assert declared_dependencies() <= foreign_imports()


def declared_dependencies() -> set[str]:
    return {Requirement(line).name for line in PROJECT["project"]["dependencies"]}


def foreign_imports() -> set[str]:
    names = {
        name.partition(".")[0]
        for path in (ROOT / "proxy").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in imports(node)
    }
    foreign = {name.replace("_", "-") for name in names - {"proxy"} - sys.stdlib_module_names}
    return {PART_OF.get(name, name) for name in foreign}


def imports(node: ast.AST) -> list[str]:
    match node:
        case ast.Import():
            return [alias.name for alias in node.names]
        case ast.ImportFrom(module=str(module), level=0):
            return [module]
        case _:
            return []


# -- versions -------------------------------------------------------------------------------


def test_the_version_is_written_once() -> None:
    """`proxy.__version__` is the distribution's version; pyproject.toml reads it from there."""
    assert "version" in PROJECT["project"]["dynamic"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "proxy/__init__.py"
    assert str(Version(proxy.__version__)) == proxy.__version__


def test_the_pythons_named_agree_everywhere() -> None:
    """Classifiers, the lower bound and the linters speak of the same versions."""
    named = [
        line.rpartition(" ")[2]
        for line in PROJECT["project"]["classifiers"]
        if re.fullmatch(r"Programming Language :: Python :: 3\.\d+", line)
    ]
    allowed = SpecifierSet(PROJECT["project"]["requires-python"])

    assert named == PYTHONS
    assert [version for version in named if version in allowed] == PYTHONS
    assert "3.10" not in allowed
    assert PROJECT["tool"]["mypy"]["python_version"] == PYTHONS[0]
    assert PROJECT["tool"]["ruff"]["target-version"] == "py" + PYTHONS[0].replace(".", "")


def test_the_build_backend_is_pinned_as_it_is_declared() -> None:
    """`pip install --no-build-isolation` finds the backend that pyproject.toml asks for."""
    assert PROJECT["build-system"]["requires"] == PROJECT["dependency-groups"]["build"]


# -- the repository -------------------------------------------------------------------------


def test_ci_runs_the_readme_s_own_test_command() -> None:
    """What the README tells a stranger to type is what every change must pass."""
    (command,) = re.findall(
        r"^python3 .*-m pytest -n 2$", (ROOT / "README.md").read_text(), re.MULTILINE
    )

    assert f"\n{command} || exit 1\n" in (ROOT / ".ci/run").read_text()


@pytest.mark.parametrize("script", ["run", "check", "exercise", "lint", "pin"])
def test_a_script_of_ci_stops_at_its_first_failure(script: str) -> None:
    """Strict mode, and executable, so that it can be called by its name."""
    path = ROOT / ".ci" / script

    assert "\nset -euo pipefail\n" in path.read_text()
    assert path.stat().st_mode & 0o111


def test_no_tracked_file_names_a_package_index_or_one_machine_s_paths() -> None:
    """Whoever clones this gets packages from where they get them, and files where they are."""
    hosts = ("pypi" + r"\.org", "pythonhosted", "npm" + r"js\.org", r"\bdeb\.debian")
    options = ("--(extra-)?index-" + "url=", "--find-" + "links=")
    paths = (
        r"(?<![\w}])/work" + "/",
        r"(?<![\w}])/root/",
        r"/home" + r"/\w",
        r"\.pyenv",
        "/opt/" + "(wheels|pypi)",
    )
    forbidden = re.compile("|".join(hosts + options + paths))
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in tracked_files()
        if path != Path(__file__).resolve()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1)
        if forbidden.search(line)
    ]

    assert not found
