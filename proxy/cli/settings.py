"""The configuration as a verb needs it: which file, what it says, where the queue lies.

Rule: every verb finds the same file the daemon finds, in the order `config.find` knows.
Non-rule: checks nothing; a `ConfigError` has every fault.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.cli.options import Options, detail

if TYPE_CHECKING:
    from proxy.config import Config


@dataclass(frozen=True, slots=True)
class Settings:
    """`file` is None when there is none and the defaults hold."""

    file: Path | None
    config: Config
    queue_file: Path

    @property
    def source(self) -> str:
        return "defaults" if self.file is None else str(self.file)


def find(options: Options) -> Path | None:
    """The configuration file in effect."""
    from proxy import config  # noqa: PLC0415 - pydantic costs 0.1 s that `--help` need not pay

    return config.find(os.environ, Path.cwd(), options.config)


def read(options: Options) -> Settings:
    """The configuration in effect."""
    from proxy import config  # noqa: PLC0415 - as above

    file = find(options)
    detail(options, f"configuration: {file or 'none found, the defaults hold'}")
    loaded = config.load(file, os.environ)
    # SQLite's URIs want the whole path, and the working directory may be left.
    return Settings(file, loaded, config.queue_path(loaded, os.environ).absolute())


def loud(settings: Settings) -> Settings:
    """The same, with everything in the log."""
    log = settings.config.log.model_copy(update={"level": "debug"})
    return replace(settings, config=settings.config.model_copy(update={"log": log}))


def without_upstream(settings: Settings) -> Settings:
    """The same, but nothing is sent."""
    nowhere = {"upstream": None, "edge": None}
    return replace(settings, config=settings.config.model_copy(update=nowhere))
