"""`install-service`: the units and a first configuration, where systemd looks for them.

Rule: units are replaced, as an upgrade wants it; a configuration that is there is left alone.
What the service could not run is refused before anything is written.
Non-rule: starts nothing and asks systemd nothing; the command that does is printed.
Source: systemd.unit(5) for the folder, systemd.exec(5) for what ProtectHome= and PrivateTmp= hide.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from proxy.cli.exits import Exit, Stop
from proxy.cli.files import shipped
from proxy.cli.options import Options, Verb, note

UNITS = ("trackoffline.service", "trackoffline.socket", "trackoffline-tls.socket")
PROGRAM = "/opt/trackoffline/bin/trackoffline"  # as it stands in the unit
HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - not used, named
STATE = "/var/lib/trackoffline/hits.db"
ENABLE = "systemctl daemon-reload && systemctl enable --now trackoffline.socket trackoffline"


@click.command("install-service", cls=Verb)
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=Path("/"),
    help="Write below this folder, as for an image.",
)
@click.pass_obj
def install_service(options: Options, root: Path) -> None:
    """Put systemd units and a first configuration in place.

    Starts nothing; the command that does is printed.
    """
    program = _program()
    try:
        for name in UNITS:
            unit = shipped(f"deploy/{name}").read_text(encoding="utf-8")
            _write(root / "etc/systemd/system" / name, unit.replace(PROGRAM, str(program)))
        config = root / "etc/trackoffline/config.toml"
        if config.exists():
            click.echo(f"{config} is left as it is")
        else:
            _write(config, first_configuration())
    except PermissionError as error:
        raise Stop(Exit.TOKEN, f"{error.filename}: permission denied; run it as root") from error
    except OSError as error:
        raise Stop(Exit.FAULT, f"{error.filename}: {(error.strerror or '').lower()}") from error
    note(options, f"Next: look at {config}, then\n  {ENABLE}")


def first_configuration() -> str:
    """The example, with the queue where the service keeps it, so that every user finds it."""
    example = shipped("config.example.toml").read_text(encoding="utf-8")
    return example.replace('path = "hits.db"', f'path = "{STATE}"')


def _program() -> Path:
    """What the unit runs: this very installation."""
    program = Path(sys.executable).parent / "trackoffline"
    if not program.is_file():
        raise Stop(Exit.FAULT, f"there is no {program}: install the wheel, then use its command")
    real = program.resolve()
    for folder in HIDDEN:
        if real.is_relative_to(folder) or program.is_relative_to(folder):
            raise Stop(
                Exit.FAULT,
                f"{program} is below {folder}, which the service does not see: install it in an "
                "environment below /opt",
            )
    return program


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o644)
    click.echo(str(path))
