"""From file and environment to a `Config`, or every fault at once.

Rule: nothing is ignored and nothing defaulted in silence: a missing file, an unknown key,
a misspelt variable and a bad value are all faults.
Non-rule: what is loaded never changes; a new configuration is a new start.
Source: the XDG base directories; systemd's `STATE_DIRECTORY`. pydantic-settings is not
used: it takes a missing file for all defaults, drops a misspelt section of the
environment, meets `TRACKOFFLINE_LISTEN=x` with a traceback, and knows no line of a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from proxy.config.faults import validate
from proxy.config.model import Config
from proxy.config.sources import Sources, gather, in_order
from proxy.errors import ConfigError


def find(environ: Mapping[str, str], cwd: Path, explicit: Path | None = None) -> Path | None:
    """The configuration file to use; None when there is none, so that defaults hold."""
    if explicit is not None:
        return explicit
    if environ.get("TRACKOFFLINE_CONFIG"):
        return Path(environ["TRACKOFFLINE_CONFIG"])
    personal = _xdg(environ, "XDG_CONFIG_HOME", ".config")
    candidates = [
        cwd / "config.toml",
        *([personal / "trackoffline/config.toml"] if personal else []),
        Path("/etc/trackoffline/config.toml"),
    ]
    return next((path for path in candidates if _is_there(path)), None)


def load(path: Path | None, environ: Mapping[str, str]) -> Config:
    """The configuration of a file and the environment; `ConfigError` has every fault."""
    return load_with_sources(path, environ)[0]


def load_with_sources(path: Path | None, environ: Mapping[str, str]) -> tuple[Config, Sources]:
    """As `load`, with who set what, for those who show it."""
    gathered, problems = gather(path, environ)
    config, faults = validate(gathered)
    if problems or faults:
        raise in_order([*problems, *faults])
    return config, gathered


def queue_path(config: Config, environ: Mapping[str, str]) -> Path:
    """The queue file: `queue.path`, below the state directory when it is relative.

    The state directory is `$STATE_DIRECTORY` (systemd sets it), else
    `$XDG_STATE_HOME/trackoffline`, else `~/.local/state/trackoffline`.
    """
    if config.queue.path.is_absolute():
        return config.queue.path
    given = environ.get("STATE_DIRECTORY", "").split(":")[0]  # systemd joins several by ":"
    if given:
        return Path(given) / config.queue.path
    state = _xdg(environ, "XDG_STATE_HOME", ".local/state")
    if state is None:
        reason = "queue.path is relative, and neither STATE_DIRECTORY nor HOME is set"
        raise ConfigError([f"{reason}; give the whole path"])
    return state / "trackoffline" / config.queue.path


def _xdg(environ: Mapping[str, str], variable: str, fallback: str) -> Path | None:
    # The specification: a relative path in one of its variables is to be ignored.
    given = environ.get(variable, "")
    if given.startswith("/"):
        return Path(given)
    home = environ.get("HOME", "")
    return Path(home) / fallback if home.startswith("/") else None


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # perhaps there, and not for us: reading it will say so, a default would not
    return True
