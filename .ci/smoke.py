"""Builds the distribution, installs it where nothing else is, and uses it as a user does.

Rule: what is proved here is proved of the built files, in a temporary folder, with an
environment of its own; the checkout is only read.
Non-rule: no behaviour of the daemon is tested that `tests/` can test.
Use: `python3 .ci/smoke.py`, with any Python the project names; needs no package.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TREE = Path(__file__).resolve().parent.parent
SHIPPED = (
    "config.example.toml",
    "deploy/trackoffline.service",
    "deploy/trackoffline.socket",
    "deploy/trackoffline-tls.socket",
)
OTHER_PYTHONS = ("python3.12", "python3.13")
HIT = "/b/ss/examplersid/1/JS-2.22.0/s1234567890123?AQB=1&ndh=1&pageName=smoke&AQE=1"
PATIENCE = 30.0  # seconds; a cold start on a busy machine takes three


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="trackoffline-smoke-") as folder:
        work = Path(folder)
        wheel = build(work)
        for python in pythons():
            bin_ = install(work / f"venv-{Path(python).name}", python, wheel)
            use(bin_, work / f"home-{Path(python).name}")
            say(f"{run(bin_ / 'python', '--version').strip()}: installed, served, stopped")


# -- building -------------------------------------------------------------------------------


def build(work: Path) -> Path:
    """The wheel; the same bytes come from the tree and from the sdist alone."""
    bin_ = venv(work / "venv-build", sys.executable)
    pip(bin_, "install", "-r", str(TREE / "requirements-build.txt"))
    run(bin_ / "hatchling", "build", "-t", "sdist", "-d", str(work / "sdist"), cwd=TREE)
    (sdist,) = (work / "sdist").iterdir()
    with tarfile.open(sdist) as archive:
        archive.extractall(work / "unpacked", filter="data")
    (unpacked,) = (work / "unpacked").iterdir()
    wheels: list[Path] = []
    for name, source in (("tree", TREE), ("sdist", unpacked)):
        out = work / f"wheel-of-{name}"
        pip(bin_, "wheel", "--no-deps", "--no-build-isolation", "-w", str(out), str(source))
        wheels += out.iterdir()
    of_tree, of_sdist = (contents(wheel) for wheel in wheels)
    require(of_tree == of_sdist, "the sdist builds another wheel than the tree")
    inspect(of_tree)
    say(f"{wheels[0].name}: {len(of_tree)} files, the same from the sdist")
    return wheels[0]


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def inspect(files: dict[str, bytes]) -> None:
    """The package, its migrations and its licence are in the wheel; nothing else is."""
    package = {
        f"{inside}/{path.relative_to(TREE / outside).as_posix()}": path.read_bytes()
        for outside, inside in (("proxy", "proxy"), ("migrations", "proxy/migrations"))
        for path in (TREE / outside).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    package |= {f"proxy/{name}": (TREE / name).read_bytes() for name in SHIPPED}
    for name in ("proxy/migrations/0001_queue.sql", "proxy/py.typed"):
        require(name in package, f"the tree has no {name}")
    for name, data in package.items():
        require(files.get(name) == data, f"{name} is missing or changed in the wheel")
    info = {name.partition("/")[2]: name for name in files if name not in package}
    strays = [name for name in info.values() if ".dist-info/" not in name.partition("/")[0] + "/"]
    require(not strays, f"the wheel carries more than the package: {strays}")
    require("licenses/LICENSE" in info, "the wheel has no LICENSE")
    metadata = files[info["METADATA"]].decode()
    require(f"\nVersion: {version()}\n" in metadata, "the wheel has another version than proxy")
    ranges = re.findall(r"^Requires-Dist: (.+)$", metadata, re.MULTILINE)
    require(bool(ranges), "the wheel declares no dependencies")
    require(not any("==" in range_ for range_ in ranges), f"pins in the wheel: {ranges}")


def version() -> str:
    source = (TREE / "proxy/__init__.py").read_text()
    found = re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE)
    return found[1] if found else ""


# -- installing -----------------------------------------------------------------------------


def pythons() -> Iterator[str]:
    """The running Python, and each other one the project names that this machine has."""
    yield sys.executable
    for name in OTHER_PYTHONS:
        try:
            found = subprocess.run(
                [name, "-c", "import sys, venv; print(sys.executable)"],
                capture_output=True,
                check=True,
                text=True,
                # Where pyenv has the Pythons its name for each is only heard with this.
                env=os.environ | {"PYENV_VERSION": name.removeprefix("python")},
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        if Path(found.stdout.strip()).resolve() != Path(sys.executable).resolve():
            yield found.stdout.strip()


def install(folder: Path, python: str, wheel: Path) -> Path:
    """The wheel beside its pinned dependencies and nothing else."""
    bin_ = venv(folder, python)
    pip(bin_, "install", "--require-hashes", "-r", str(TREE / "requirements.txt"))
    pip(bin_, "install", "--no-deps", str(wheel))
    pip(bin_, "check")
    return bin_


def venv(folder: Path, python: str) -> Path:
    run(python, "-m", "venv", str(folder))
    return folder / "bin"


def pip(bin_: Path, *words: str) -> None:
    run(bin_ / "python", "-m", "pip", "--quiet", *words)


# -- using ----------------------------------------------------------------------------------


def use(bin_: Path, home: Path) -> None:
    """`version`, `check`, `serve`, one hit, `status`, SIGTERM; and the hit outlives it all."""
    home.mkdir()
    config = home / "config.toml"
    config.write_bytes((TREE / "config.example.toml").read_bytes())
    beacons, admin = free_ports(2)
    environ = {
        "HOME": str(home),
        "PATH": "/usr/bin:/bin",
        "TRACKOFFLINE_LISTEN__ADDRESS": f"127.0.0.1:{beacons}",
        "TRACKOFFLINE_ADMIN__ADDRESS": f"127.0.0.1:{admin}",
        "TRACKOFFLINE_QUEUE__PATH": str(home / "hits.db"),
        # One hit fits wherever this runs; a CI disk may be nearly full.
        "TRACKOFFLINE_QUEUE__MIN_FREE_DISK": "1MiB",
    }
    command = bin_ / "trackoffline"
    for said in (
        run(command, "version", cwd=home, env=environ),
        run(bin_ / "python", "-m", "proxy", "version", cwd=home, env=environ),
    ):
        require(version() in said, f"`version` says {said!r}")
    example = run(command, "config", "example", cwd=home, env=environ)
    require(example == config.read_text(), "`config example` prints another file")
    run(command, "check", "--config", str(config), cwd=home, env=environ)
    with serving(command, config, admin, environ):
        with urllib.request.urlopen(f"http://127.0.0.1:{beacons}{HIT}", timeout=10) as answer:
            require(answer.status == 200, f"the hit got {answer.status}")
        require(accepted(command, config, environ) == 1, "status does not count the hit")
    with serving(command, config, admin, environ):
        require(accepted(command, config, environ) == 1, "the hit did not outlive a restart")


@contextmanager
def serving(command: Path, config: Path, admin: int, environ: dict[str, str]) -> Iterator[None]:
    """A daemon that is ready; SIGTERM at the end stops it with exit 0."""
    log = config.with_name("serve.log")
    with log.open("w") as out:
        daemon = subprocess.Popen(
            [command, "serve", "--config", config],
            cwd=config.parent,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + PATIENCE
        while not ready(admin):
            require(daemon.poll() is None, f"serve ended with {daemon.returncode}")
            require(time.monotonic() < deadline, f"serve is not ready after {PATIENCE} s")
            time.sleep(0.1)
        yield
        daemon.send_signal(signal.SIGTERM)
        code = daemon.wait(PATIENCE)
        require(code == 0, f"serve ended with {code} after SIGTERM")
    except BaseException:
        daemon.kill()
        daemon.wait()
        sys.stderr.write(log.read_text())
        raise


def ready(admin: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{admin}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def accepted(command: Path, config: Path, environ: dict[str, str]) -> object:
    words = (command, "status", "--json", "--config", str(config))
    return json.loads(run(*words, cwd=config.parent, env=environ))["accepted"]


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on; held together, so that they differ."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


# -- saying ---------------------------------------------------------------------------------


def run(*words: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """What the command prints; if it fails, all that it printed, and the end."""
    done = subprocess.run(
        words, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=600
    )
    if done.returncode != 0:
        sys.stderr.write(done.stdout + done.stderr)
        sys.exit(f"smoke: exit {done.returncode}: {' '.join(map(str, words))}")
    return done.stdout


def require(holds: bool, else_: str) -> None:
    if not holds:
        sys.exit(f"smoke: {else_}")


def say(line: str) -> None:
    sys.stdout.write(f"  {line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    os.umask(0o022)  # the same modes inside the wheel, whoever builds it
    main()
