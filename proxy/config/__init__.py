"""The configuration: `load` it, ask it, show it. See `model` for the settings.

The core never imports this; it is handed plain values (`suites`).
"""

from proxy.config.checks import admin_token, names, suites, token_in, warnings
from proxy.config.load import find, load, queue_path
from proxy.config.model import Config, Edge, LogFormat, LogLevel, Unlisted, Upstream, WhenFull
from proxy.config.schema import schema
from proxy.config.show import Setting, as_json, effective, table
from proxy.config.values import Address, Server

__all__ = [
    "Address",
    "Config",
    "Edge",
    "LogFormat",
    "LogLevel",
    "Server",
    "Setting",
    "Unlisted",
    "Upstream",
    "WhenFull",
    "admin_token",
    "as_json",
    "effective",
    "find",
    "load",
    "names",
    "queue_path",
    "schema",
    "suites",
    "table",
    "token_in",
    "warnings",
]
