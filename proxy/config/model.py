"""The settings: one frozen model a section, each key with its default and its meaning.

Rule: a key stands here only when something implements it; its description is what the
README's table says; defaults are written as an operator would write them.
Non-rule: what two settings mean together is `checks`; files and environment are `load`.
Source: what AppMeasurement's `trackOffline`, `offlineLimit` and `offlineThrottleDelay` let
one set, for a queue that outlives a process. Released keys are never renamed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeAlias, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.fields import FieldInfo

from proxy.config import values
from proxy.config.values import Address, Server
from proxy.core.hit import Timestamps, WhenLate

KeyPath: TypeAlias = tuple[str, ...]
ANY_SUITE = "<rsid>"
ANY_VARIABLE = "<name>"


class Unlisted(StrEnum):
    """What becomes of hits of a suite that is not under `[suites.known]`."""

    ACCEPT = "accept"
    REFUSE = "refuse"


class WhenFull(StrEnum):
    """What becomes of a new hit when the queue is at a limit."""

    REFUSE = "refuse"
    DROP_OLDEST = "drop-oldest"


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """`auto` is console on a terminal and JSON elsewhere."""

    AUTO = "auto"
    CONSOLE = "console"
    JSON = "json"


Flag = Annotated[bool, BeforeValidator(values.flag)]
Where = Annotated[Address, BeforeValidator(values.address)]
MaybeWhere = Annotated[Address | None, BeforeValidator(values.optional(values.address))]
MaybeFile = Annotated[Path | None, BeforeValidator(values.optional(values.file_path))]
Hosts = Annotated[tuple[str, ...], BeforeValidator(values.hosts)]
Mode = Annotated[Timestamps, BeforeValidator(values.choice(Timestamps))]
Rules = Annotated[tuple[str, ...], BeforeValidator(values.rules)]
Seconds = Annotated[float, BeforeValidator(values.duration)]
Bytes = Annotated[int, BeforeValidator(values.size)]


def _setting(default: object, meaning: str) -> Any:
    # Any: a default is spelled as in the file ("30s") and parsed by the field's validator.
    return Field(default=default, description=meaning)


class Section(BaseModel):
    """What all sections share: an unknown key is an error, nothing changes once loaded."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Listen(Section):
    """Where clients send beacons: their tracking server."""

    address: Where = _setting(
        "127.0.0.1:8277",
        'Where beacons are taken; "0.0.0.0:8277" serves other devices too.',
    )
    tls_address: MaybeWhere = _setting(
        "", "The same over TLS, for clients that insist on https; needs `tls_cert` and `tls_key`."
    )
    tls_cert: MaybeFile = _setting("", "PEM file of the certificate, with its chain.")
    tls_key: MaybeFile = _setting("", "PEM file of its private key, without a passphrase.")
    max_request: Annotated[
        int,
        BeforeValidator(
            values.within(
                values.size,
                "8KiB",
                "16MiB",
                "below it ordinary hits are refused, above it a few strangers fill the memory",
            )
        ),
    ] = _setting("256KiB", "Largest request taken, head or body; a larger one is answered 413/414.")
    allowed_hosts: Hosts = _setting(
        [],
        "Further host names a beacon may be addressed to, as from a hosts file; a name that is "
        "neither listed nor this machine's own is refused with 421.",
    )


class Upstream(Section):
    """The collection server. Without this section nothing is ever sent: capture only."""

    server: Annotated[Server, BeforeValidator(values.server)] = Field(
        description="Your collection server, as `https://host`; every hit goes there."
    )
    timeout: Annotated[
        float,
        BeforeValidator(
            values.within(
                values.duration, "10ms", "1h", "a visitor's next hit waits for the answer"
            )
        ),
    ] = _setting("30s", "How long one hit may take from connecting to the end of the answer.")
    allow_plaintext: Flag = _setting(
        False, "Lets `server` be `http://` beyond this machine; anyone on the way can read hits."
    )
    tls_ca_file: MaybeFile = _setting(
        "", "PEM file of the authorities to trust instead of the system's own."
    )


class Edge(Section):
    """The Edge Network, for the Web SDK and the Edge mobile SDK. Without this section `/ee/` is
    nowhere.
    """

    server: Annotated[Server, BeforeValidator(values.server)] = Field(
        description="The Edge Network's server, as `https://host`; every event goes there."
    )
    base_path: Annotated[str, BeforeValidator(values.base_path)] = _setting(
        "ee", "What comes before `v1/interact` in a path: `edgeBasePath` of the Web SDK."
    )
    datastreams: Annotated[tuple[str, ...], BeforeValidator(values.datastreams)] = _setting(
        [], "The datastream ids you know."
    )
    unlisted: Annotated[Unlisted, BeforeValidator(values.choice(Unlisted))] = _setting(
        "accept", "Events of datastreams not listed: `accept`, or `refuse` with 400."
    )
    silence: Rules = _setting([], 'Rules of findings not to speak of for events, as `["E9"]`.')
    token_file: MaybeFile = _setting(
        "",
        "File with the access token to send events with, if the datastream wants one; it is read "
        "anew when it changes. A client's own is never stored.",
    )
    timeout: Annotated[
        float,
        BeforeValidator(
            values.within(
                values.duration, "10ms", "1h", "a visitor's next event waits for the answer"
            )
        ),
    ] = _setting("30s", "How long one event may take from connecting to the end of the answer.")
    allow_plaintext: Flag = _setting(
        False, "Lets `server` be `http://` beyond this machine; anyone on the way can read events."
    )
    tls_ca_file: MaybeFile = _setting(
        "", "PEM file of the authorities to trust instead of the system's own."
    )


class KnownSuite(Section):
    """What you know of one report suite; the table's name is its id."""

    timestamps: Mode = _setting(
        "unknown",
        "The suite's timestamp mode at Adobe: `required`, `optional`, `not-allowed`, `unknown`.",
    )
    when_late: Annotated[WhenLate, BeforeValidator(values.choice(WhenLate))] = _setting(
        "hold",
        "A late hit without `ts` of a `not-allowed` or `unknown` suite: `hold` keeps it (as a dead "
        "letter, or waiting), `send` counts it at the time of delivery.",
    )
    silence: Rules = _setting(
        [],
        'Rules of findings not to speak of for this suite, as `["N1"]`; a hit of several suites is '
        "silent where all of them are.",
    )


class Suites(Section):
    """Report suites, and what is assumed of those not listed."""

    timestamps: Mode = _setting(
        "unknown",
        "Timestamp mode of suites not listed below; late hits of an `unknown` suite are held.",
    )
    unlisted: Annotated[Unlisted, BeforeValidator(values.choice(Unlisted))] = _setting(
        "accept", "Hits of suites not listed below: `accept`, or `refuse` with 403."
    )
    silence: Rules = _setting([], "Rules of findings not to speak of for suites not listed below.")
    known: dict[Annotated[str, AfterValidator(values.suite_id)], KnownSuite] = Field(
        default_factory=dict, description="One table a report suite."
    )


class Queue(Section):
    """Where hits wait, and the limits at which that ends."""

    path: Annotated[Path, BeforeValidator(values.queue_file)] = _setting(
        "hits.db", "The queue file; a relative path is below the state directory."
    )
    max_hits: Annotated[
        int, BeforeValidator(values.at_least(values.whole, 1, "with none, every hit is refused"))
    ] = _setting(1_000_000, "Most hits that may wait.")
    max_bytes: Bytes = _setting("2GiB", "Most bytes that may wait.")
    max_age: Seconds = _setting(
        "0s", 'A hit that waited longer expires, counted and never sent; "0s" is never.'
    )
    min_free_disk: Bytes = _setting(
        "200MiB", "With less free disk than this the queue counts as full."
    )
    when_full: Annotated[WhenFull, BeforeValidator(values.choice(WhenFull))] = _setting(
        "refuse",
        "At a limit: `refuse` new hits with 503, so that clients keep them, or `drop-oldest`.",
    )
    keep_delivered: Seconds = _setting(
        "24h", 'How long delivered hits stay to be looked at; "0s" deletes them at once.'
    )


class Retry(Section):
    """What a failed send costs."""

    first: Annotated[
        float,
        BeforeValidator(
            values.within(
                values.duration, "1ms", "1h", "without a pause an outage becomes a flood of tries"
            )
        ),
    ] = _setting("1s", "The first pause; each further one is longer.")
    max: Annotated[
        float,
        BeforeValidator(
            values.within(
                values.duration, "1ms", "24h", "the end of an outage is noticed that much later"
            )
        ),
    ] = _setting("15s", "The longest pause of a hit; a down link is probed twice as often.")
    attempts: Annotated[
        int,
        BeforeValidator(
            values.within(values.whole, 1, 1000, "a hit's visitor waits behind every attempt")
        ),
    ] = _setting(
        5, "Attempts for one hit, counted only while the link is up; then it is a dead letter."
    )


class Drain(Section):
    """How fast a backlog leaves."""

    rate: Annotated[
        float,
        BeforeValidator(
            values.within(values.rate, 0, 1_000_000, "0 is already as fast as Adobe takes them")
        ),
    ] = _setting(0, "Hits a second after an outage; 0 is as fast as Adobe takes them.")
    concurrency: Annotated[
        int,
        BeforeValidator(
            values.within(
                values.whole,
                1,
                1024,
                "each is an open connection, of which a process may usually have 1024",
            )
        ),
    ] = _setting(64, "Most requests in flight; never two of one visitor.")


class Admin(Section):
    """The page, the API and the metrics."""

    address: MaybeWhere = _setting(
        "127.0.0.1:8278", 'Where page, API and metrics are served; "" turns them off.'
    )
    allowed_hosts: Hosts = _setting(
        [], "Further host names the page may be asked for by, as behind a reverse proxy."
    )
    token_file: MaybeFile = _setting(
        "", "File with the token that opens the page; needed when `address` is not loopback."
    )
    label: Annotated[str, BeforeValidator(values.label)] = _setting(
        "",
        "What this daemon is called in the page, the status and the metrics; "
        '"" is the name of the host.',
    )


class Log(Section):
    """What is written to standard error."""

    level: Annotated[LogLevel, BeforeValidator(values.choice(LogLevel))] = _setting(
        "info", "Least severe message written: `debug`, `info`, `warning` or `error`."
    )
    format: Annotated[LogFormat, BeforeValidator(values.choice(LogFormat))] = _setting(
        "auto", "`console`, `json`, or `auto`: console on a terminal, JSON elsewhere."
    )


class Config(Section):
    """Everything that can be set; `upstream` is None for capture only, `edge` for none of it."""

    listen: Listen = Listen()
    upstream: Upstream | None = None
    edge: Edge | None = None
    suites: Suites = Suites()
    queue: Queue = Queue()
    retry: Retry = Retry()
    drain: Drain = Drain()
    admin: Admin = Admin()
    log: Log = Log()
    variables: dict[
        Annotated[str, AfterValidator(values.variable)],
        Annotated[str, BeforeValidator(values.label)],
    ] = Field(
        default_factory=dict,
        description="What you call a variable or an event, as `eVar12`, `event3` or "
        '`"ctx.cart.size"`; shown beside Adobe\'s name.',
    )


@functools.cache
def settings() -> dict[KeyPath, FieldInfo]:
    """Every key there is, in the order of the sections.

    A suite's id stands as `<rsid>`, a variable's name as `<name>`.
    """
    return dict(_fields(Config, ()))


def pattern(path: KeyPath) -> KeyPath:
    """A path with what a person names, a suite or a variable, replaced by its placeholder."""
    if path[:2] == ("suites", "known") and len(path) > 2:
        return (*path[:2], ANY_SUITE, *path[3:])
    if path[:1] == ("variables",) and len(path) == 2:
        return (*path[:1], ANY_VARIABLE)
    return path


def names_below(path: KeyPath) -> list[str]:
    """The keys and tables that may stand directly in the table at `path`."""
    table = pattern(path)
    below = (key[len(table)] for key in settings() if key[: len(table)] == table != key)
    return list(dict.fromkeys(below))


def _fields(model: type[BaseModel], path: KeyPath) -> Iterator[tuple[KeyPath, FieldInfo]]:
    for name, field in model.model_fields.items():
        table = _table(field)
        is_map = get_origin(field.annotation) is dict
        if table is None:
            yield (*path, name, *([ANY_VARIABLE] if is_map else [])), field
        elif is_map:
            yield from _fields(table, (*path, name, ANY_SUITE))
        else:
            yield from _fields(table, (*path, name))


def _table(field: FieldInfo) -> type[Section] | None:
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, Section):
            return kind
    return None
