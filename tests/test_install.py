"""Claims about what a release brings along: the configuration to start from, and the units."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
from pathlib import Path

import pytest

from proxy import config
from proxy.cli.install import ENABLE, PROGRAM, STATE, UNITS, first_configuration

CHECKOUT = Path(__file__).resolve().parent.parent


def run(*words: str, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(CHECKOUT), *sys.path])}
    command = [python, "-m", "proxy", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environ)


def unit(name: str) -> configparser.RawConfigParser:
    """The last value of each key; enough for what is asked here."""
    parsed = configparser.RawConfigParser(strict=False, delimiters=("=",), interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]  # the documented way
    parsed.read(CHECKOUT / "deploy" / name)
    return parsed


def test_the_example_is_printed_as_it_is() -> None:
    """`trackoffline config example > config.toml` is a start."""
    done = run("config", "example")

    assert done.returncode == 0, done.stderr
    assert done.stdout == (CHECKOUT / "config.example.toml").read_text()


def test_the_first_configuration_of_a_service_names_its_queue(tmp_path: Path) -> None:
    """So that root's verbs find the file the service writes."""
    file = tmp_path / "config.toml"
    file.write_text(first_configuration())
    loaded = config.load(file, {})

    assert config.queue_path(loaded, {}) == Path(STATE)
    folder = unit("trackoffline.service")["Service"]["StateDirectory"]
    assert Path(STATE).parent == Path("/var/lib") / folder


def test_the_units_fit_together() -> None:
    """Names of sockets are those the daemon knows, addresses those of the defaults."""
    service = unit("trackoffline.service")["Service"]
    beacons, tls = (unit(f"trackoffline{kind}.socket")["Socket"] for kind in ("", "-tls"))

    assert service["ExecStart"] == f"{PROGRAM} serve"
    assert service["User"] != "proxy"  # Debian's own account, which would be used as it is
    assert beacons["FileDescriptorName"] == "beacons"
    assert beacons["ListenStream"] == str(config.Config().listen.address)
    assert tls["FileDescriptorName"] == "tls"
    assert tls["Service"] == "trackoffline.service"


def test_the_compose_example_shows_hits_to_this_machine_alone() -> None:
    """The admin port is published on loopback and wants its token; the root is read-only."""
    example = (CHECKOUT / "deploy/compose.yaml").read_text()
    published = [line.strip() for line in example.splitlines() if ":8278" in line and "- " in line]

    assert published == ['- "127.0.0.1:8278:8278"']
    assert "TRACKOFFLINE_ADMIN__TOKEN_FILE: /run/secrets/token\n" in example
    assert "- ./token:/run/secrets/token:ro\n" in example
    assert "read_only: true\n" in example


def test_every_unit_is_in_the_wheel() -> None:
    """And each is put in place by `install-service`, whose last word starts them."""
    included = (CHECKOUT / "pyproject.toml").read_text()

    for name in UNITS:
        assert f'"deploy/{name}" = "proxy/deploy/{name}"' in included
    assert {path.name for path in (CHECKOUT / "deploy").glob("trackoffline*")} == set(UNITS)
    assert ENABLE.startswith("systemctl daemon-reload")


@pytest.mark.parametrize("place", ["/tmp", "/var/tmp"])
def test_an_installation_the_service_cannot_see_is_refused(tmp_path: Path, place: str) -> None:
    """Before anything is written: the service would end with a riddle."""
    folder = Path(place) / f"trackoffline-test-{os.getpid()}"
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    try:
        python.symlink_to(sys.executable)
        (python.parent / "trackoffline").touch()
        done = run("install-service", "--root", str(tmp_path), python=str(python))
    finally:
        for path in python.parent.iterdir():
            path.unlink()
        python.parent.rmdir()
        folder.rmdir()

    assert done.returncode == 1
    assert f"below {place}, which the service does not see" in done.stderr
    assert not list(tmp_path.iterdir())
