"""The API as a document: every route, what it takes and what it answers (OpenAPI 3.1).

Rule: one table; a test holds it against the routes there are and against real answers.  Fields
that are named here stay; others may appear.
Non-rule: checks nothing while the daemon runs.
Source: OpenAPI 3.1; RFC 9457; docs/design/0011.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

Schema: TypeAlias = dict[str, Any]

JSON = "application/json"
PROBLEM = "application/problem+json"
NDJSON = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A part of the query."""

    name: str
    schema: Schema
    meaning: str


@dataclass(frozen=True, slots=True)
class Operation:
    """One route.  `body` and `answer` are schemas; `kind` is the answer's media type."""

    method: str
    path: str
    summary: str
    answer: Schema | None = None
    query: tuple[Parameter, ...] = ()
    body: Schema | None = None
    body_kind: str = JSON
    kind: str = JSON
    problems: tuple[int, ...] = field(default=())


# -- words of JSON Schema ----------------------------------------------------------------------

TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
FLAG: Schema = {"type": "boolean"}
MS: Schema = {"type": "integer", "description": "Unix time in milliseconds"}


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _optional(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _list(of: Schema) -> Schema:
    return {"type": "array", "items": of}


def _choice(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _map(to: Schema) -> Schema:
    return {"type": "object", "additionalProperties": to}


def _some_of(**properties: Schema) -> Schema:
    """An object whose members may all be left out, and that takes no other."""
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _one_of(*names: str, **properties: Schema) -> Schema:
    """The same, and it says exactly one of the members that are named."""
    return _some_of(**properties) | {"oneOf": [{"required": [name]} for name in names]}


STATES = _choice("waiting", "sending", "held", "delivered", "dead")
SEVERITY = _choice("lost", "wrong", "note")
IDS = _list({"type": "integer", "minimum": 0, "maximum": 2**63 - 1})

_ROW: dict[str, Schema] = {
    "id": COUNT,
    "state": STATES,
    "received_ms": MS,
    "delivered_ms": _optional(MS),
    "kind": _choice("page", "link", "exit", "download", "media", "other"),
    "title": TEXT,
    "events": _list(TEXT),
    "suites": _list(TEXT),
    "visitor": _optional(_object(kind=TEXT, value=TEXT)),
    "findings": _list(_object(rule=TEXT, severity=SEVERITY)),
    "reason": _optional(TEXT),
    "status": _optional(WHOLE),
    "tries": COUNT,
    "ambiguous": FLAG,
    "bytes": COUNT,
}
_LABEL: Schema = {"type": "string", "description": "what [variables] calls it, if anything"}
_FIELD = _object(key=TEXT, name=TEXT, value=TEXT)
_FIELD["properties"]["label"] = _LABEL
_EVENT = _object(name=TEXT, value=TEXT, serial=TEXT)
_EVENT["properties"]["label"] = _LABEL
_CHANGE = _object(
    group=TEXT, key=TEXT, name=TEXT, place=COUNT, before=_optional(TEXT), after=_optional(TEXT)
)
_CHANGE["properties"]["label"] = _LABEL
_REQUEST = _object(method=TEXT, target=TEXT, headers=_list(_list(TEXT)), body=TEXT)
_DECODED = _object(
    protocol=TEXT,
    kind=TEXT,
    title=TEXT,
    version=TEXT,
    ts=_optional(TEXT),
    identities=_list(_object(kind=TEXT, value=TEXT, used=FLAG)),
    events=_list(_EVENT),
    products=_list(
        _object(
            category=TEXT,
            name=TEXT,
            quantity=TEXT,
            price=TEXT,
            events=_list(_EVENT),
            evars=_list(_FIELD),
            raw=TEXT,
        )
    ),
    groups=_list(_object(id=TEXT, title=TEXT, fields=_list(_FIELD))),
)

_TRIED = _object(
    visitors=COUNT | {"description": "who waited out a failure and go now"},
    matched=_optional(COUNT | {"description": "the waiting hits that were meant"}),
)
# What one road to a collection server is doing.
_FORWARDING = {
    "link": TEXT,
    "since_ms": MS,
    "next_try_seconds": _optional(NUMBER),
    "last_failure": _optional(TEXT),
    "last_delivery_ms": _optional(MS),
    "in_flight": COUNT,
    "window": WHOLE,
    "hits_per_second_allowed": _optional(NUMBER),
    "sends": _map(COUNT),
    "held_until_ms": _optional(NUMBER),
}
SCHEMAS: dict[str, Schema] = {
    "Row": _object(**_ROW),
    "Hit": _object(
        **{
            **_ROW,
            "findings": _list(_object(rule=TEXT, severity=SEVERITY, text=TEXT, key=TEXT, doc=TEXT)),
            "decoded": _DECODED,
            "timeline": _list(_object(at_ms=_optional(MS), what=TEXT)),
            "request": _REQUEST,
            "ts_sent": _optional(WHOLE),
        }
    ),
    "Compared": _object(
        id=COUNT, other=_optional(_ref("Row")), changes=_list(_CHANGE), complete=FLAG
    ),
    "Hits": _object(
        hits=_list(_ref("Row")),
        cursor=_optional(TEXT),
        complete=FLAG,
        searched_to_ms=_optional(MS),
    ),
    "Counts": _object(
        total=COUNT,
        waiting=COUNT,
        sending=COUNT,
        held=COUNT,
        delivered=COUNT,
        dead=COUNT,
        cursor=_optional(TEXT),
        complete=FLAG,
    ),
    "Suites": _object(
        suites=_list(
            _object(
                suite=TEXT,
                protocol=_choice("analytics", "edge"),
                timestamps=_choice("required", "optional", "not-allowed", "unknown"),
                listed=FLAG,
                waiting=COUNT,
                oldest_ms=_optional(MS),
                received_24h=COUNT,
                delivered_24h=COUNT,
                dead=COUNT,
                findings=_map(COUNT),
            )
        ),
        complete=FLAG,
    ),
    "Groups": _object(
        groups=_list(
            _object(
                reason=TEXT,
                status=_optional(WHOLE),
                hits=COUNT,
                suites=_list(TEXT),
                first_ms=MS,
                last_ms=MS,
                next_step=TEXT,
            )
        ),
        complete=FLAG,
    ),
    "Status": _object(
        state=_choice("capture", "online", "offline", "held", "refusing"),
        accepted=COUNT,
        waiting=COUNT,
        delivered=COUNT,
        dead=COUNT,
        expired=COUNT,
        discarded=COUNT,
        held=COUNT,
        ambiguous=COUNT,
        waiting_bytes=COUNT,
        refused=COUNT,
        refused_by_reason=_map(COUNT),
        lost=COUNT,
        repeated=COUNT,
        oldest_waiting_seconds=NUMBER,
        delivered_per_second=NUMBER,
        empty_in_seconds=_optional(NUMBER),
        clock_skew_seconds=_optional(NUMBER),
        balanced=FLAG,
        unserved=COUNT,
        refusing=_optional(TEXT),
        held_suites=_map(_object(hits=COUNT, reason=TEXT)),
        version=TEXT,
        label=TEXT,
        pid=COUNT,
        uptime_seconds=NUMBER,
        queue_path=TEXT,
        queue_file_bytes=COUNT,
        queue_log_bytes=COUNT,
        free_disk_bytes=COUNT,
        upstream=_optional(TEXT),
        forwarding=_optional(_object(**_FORWARDING)),
        edge=_optional(_object(upstream=TEXT, **_FORWARDING)),
    ),
    "Letters": _object(
        letters=_list(
            _object(
                id=COUNT,
                reason=TEXT,
                status=_optional(WHOLE),
                tries=COUNT,
                suites=TEXT,
                received_ms=MS,
                died_ms=MS,
                ambiguous=FLAG,
            )
        ),
        total=COUNT,
    ),
    "Series": _object(
        step_s=COUNT,
        points=_list(
            _object(
                at_ms=MS,
                oldest_s=COUNT,
                waiting=COUNT,
                received=COUNT,
                delivered=COUNT,
                dead=COUNT,
            )
        ),
    ),
    "Health": _object(
        checks=_list(
            _object(
                name=TEXT, state=_choice("ok", "warn", "bad"), text=TEXT, action=_optional(TEXT)
            )
        )
    ),
    "Settings": _object(
        source=TEXT,
        values=_map(_map(_object(value={}, **{"from": _choice("file", "env", "default")}))),
    ),
    "Rules": _object(
        rules=_list(_object(id=TEXT, severity=SEVERITY, title=TEXT, why=TEXT, doc=TEXT))
    ),
    "Imported": _object(
        imported=COUNT, refused=COUNT, faults=_list(_object(line=COUNT, detail=TEXT))
    ),
    "Problem": _object(type=TEXT, title=TEXT, status=WHOLE, detail=TEXT)
    | {"description": "RFC 9457; a faulty filter has its `column`, from 1, too"},
}

# -- the table ---------------------------------------------------------------------------------

Q = Parameter("q", TEXT, "a filter, as `suite:x is:dead rule:W4`; left out: everything")
CURSOR = Parameter("cursor", {"type": "string", "pattern": "^[0-9]{1,18}$"}, "of the last answer")
LIMIT = Parameter(
    "limit",
    {"type": "integer", "minimum": 1, "maximum": 10**18 - 1},
    "how many at most; 500 are the most",
)
UNREDACTED = Parameter("unredacted", _choice("1"), "with the headers that tell who somebody is")
TRUE: Schema = {"const": True}
SUITE = r"^[A-Za-z0-9_-](?:\.?[A-Za-z0-9_-]){0,49}$"
FOR = "^(?:[1-9][0-9]{0,5}[sm]|[1-9][0-9]{0,3}h|[1-9][0-9]{0,2}d)$"
AFTER: Schema = {"type": "integer", "minimum": 0, "maximum": 10**18 - 1}
CHOSEN = _one_of("ids", "q", "all", ids=IDS, q=TEXT, all=TRUE)
DISCARDED = _one_of("ids", "q", "all", ids=IDS, q=TEXT, all=TRUE, expect_count=COUNT)
LETTERS = _one_of("ids", "all", ids=IDS, all=TRUE)
LETTERS_DISCARDED = _one_of("ids", "all", ids=IDS, all=TRUE, expect_count=COUNT)
NOTHING = _some_of()
API = "/api/v1"

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "GET", "/healthz", "Alive: the loop and the queue's writer answer", _object(alive=FLAG)
    ),
    Operation(
        "GET",
        "/readyz",
        "Ready: a hit that came now would be kept",
        _object(ready=FLAG, reason=_optional(TEXT)),
    ),
    Operation("GET", "/metrics", "Metrics for Prometheus", TEXT, kind="text/plain"),
    Operation(
        "POST",
        f"{API}/login",
        "A cookie for the token",
        _object(ok=FLAG),
        body=_some_of(token=TEXT),
        problems=(401, 409),
    ),
    Operation("GET", f"{API}/openapi.json", "This document", {"type": "object"}),
    Operation("GET", f"{API}/status", "State and counts", _ref("Status")),
    Operation("GET", f"{API}/health", "What is well and what is not", _ref("Health")),
    Operation("GET", f"{API}/config", "The settings in effect, and who set them", _ref("Settings")),
    Operation("GET", f"{API}/rules", "The rules that hits are held against", _ref("Rules")),
    Operation(
        "GET",
        f"{API}/series",
        "The chart of the last day",
        _ref("Series"),
        (Parameter("window", {"type": "string", "pattern": "^[0-9]{1,9}[smhd]$"}, "as 24h"),),
        problems=(400,),
    ),
    Operation(
        "GET",
        f"{API}/events",
        "What changes, as server-sent events",
        TEXT,
        kind="text/event-stream",
        problems=(503,),
    ),
    Operation(
        "POST",
        f"{API}/forwarding/offline",
        "Send nothing, for so long or until told otherwise",
        _ref("Status"),
        body={
            **_some_of(
                for_seconds={"type": "number", "exclusiveMinimum": 0, "maximum": 316_224_000},
                **{"for": {"type": "string", "pattern": FOR}},
            ),
            "maxProperties": 1,
        },
        problems=(400,),
    ),
    Operation("POST", f"{API}/forwarding/online", "Send again", _ref("Status"), body=NOTHING),
    Operation(
        "POST",
        f"{API}/forwarding/retry",
        "Try at once: everything, or the visitors of some waiting hits; a pause that the server"
        " asked for ends for everything only",
        {"allOf": [_ref("Status"), _object(tried=_TRIED)]},
        body={**_some_of(ids=IDS, q=TEXT), "maxProperties": 1},
        problems=(400,),
    ),
    Operation(
        "GET",
        f"{API}/hits",
        "Hits, newest first; with `complete` false, go on with `cursor`",
        _ref("Hits"),
        (Q, CURSOR, LIMIT),
        problems=(400,),
    ),
    Operation(
        "GET",
        f"{API}/hits/{{id}}",
        "Everything about one hit",
        _ref("Hit"),
        (UNREDACTED,),
        problems=(400, 404),
    ),
    Operation(
        "GET",
        f"{API}/hits/{{id}}/raw",
        "The request as text",
        TEXT,
        (UNREDACTED,),
        kind="text/plain",
        problems=(400, 404),
    ),
    Operation(
        "GET",
        f"{API}/hits/{{id}}/curl",
        "The request as a command",
        TEXT,
        (UNREDACTED,),
        kind="text/plain",
        problems=(400, 404),
    ),
    Operation(
        "GET",
        f"{API}/hits/{{id}}/compare",
        "What it says otherwise than the hit before it of the same visitor, or than another one",
        _ref("Compared"),
        (Parameter("with", AFTER, "the id of the other hit"),),
        problems=(400, 404),
    ),
    Operation(
        "GET",
        f"{API}/hits.ndjson",
        "Hits, one a line, to be imported",
        TEXT,
        (Q, UNREDACTED),
        kind=NDJSON,
        problems=(400,),
    ),
    Operation(
        "GET",
        f"{API}/hits.csv",
        "Hits for a spreadsheet",
        TEXT,
        (Q,),
        kind="text/csv",
        problems=(400,),
    ),
    Operation(
        "GET",
        f"{API}/hits.har",
        "Hits as an archive of requests",
        {"type": "object"},
        (Q, UNREDACTED),
        problems=(400,),
    ),
    Operation(
        "GET",
        f"{API}/hits/wait",
        "Hits, as soon as there are so many, or when the time is up",
        _object(hits=_list(_ref("Row")), met=FLAG),
        (
            Q,
            Parameter("count", {"type": "integer", "minimum": 1}, "how many"),
            Parameter("timeout", {"type": "number", "minimum": 0, "maximum": 300}, "seconds"),
        ),
        problems=(400, 503),
    ),
    Operation(
        "POST",
        f"{API}/hits/requeue",
        "Dead letters wait again",
        _object(requeued=COUNT),
        body=CHOSEN,
        problems=(400,),
    ),
    Operation(
        "POST",
        f"{API}/hits/discard",
        "Give dead letters up; not by id, their number must be known",
        _object(discarded=COUNT),
        body=DISCARDED,
        problems=(400, 409),
    ),
    Operation(
        "POST",
        f"{API}/hits/import",
        "Store hits, a JSON object a line: `target` at least, as exported; they leave in the order"
        " of the lines, and an export has the newest first",
        _ref("Imported"),
        body=TEXT,
        body_kind=NDJSON,
        problems=(408, 413, 415, 503),
    ),
    Operation(
        "GET",
        f"{API}/counts",
        "How many hits, by state",
        _ref("Counts"),
        (Q, CURSOR),
        problems=(400,),
    ),
    Operation("GET", f"{API}/suites", "Report suites in numbers", _ref("Suites")),
    Operation(
        "POST",
        f"{API}/test-hit",
        "Store a test hit",
        _ref("Row"),
        body=_some_of(suite={"type": "string", "pattern": SUITE}),
        problems=(400,),
    ),
    Operation(
        "POST",
        f"{API}/reset",
        "Give every hit up; in capture mode only",
        _object(discarded=COUNT),
        body=NOTHING,
        problems=(409,),
    ),
    Operation(
        "GET",
        f"{API}/dead",
        "Dead letters, oldest first",
        _ref("Letters"),
        (Parameter("after", AFTER, "the last id of the page before"), LIMIT),
        problems=(400,),
    ),
    Operation("GET", f"{API}/dead/groups", "Dead letters by reason", _ref("Groups")),
    Operation("GET", f"{API}/dead.ndjson", "Dead letters, one a line", TEXT, kind=NDJSON),
    Operation(
        "POST",
        f"{API}/dead/requeue",
        "Dead letters wait again",
        _object(requeued=COUNT),
        body=LETTERS,
        problems=(400,),
    ),
    Operation(
        "POST",
        f"{API}/dead/discard",
        "Give dead letters up",
        _object(discarded=COUNT),
        body=LETTERS_DISCARDED,
        problems=(400, 409),
    ),
)
EVERYWHERE = (401, 403, 421, 500, 503)
OF_A_BODY = (400, 408, 413, 415)


def document(version: str) -> dict[str, Any]:
    """The whole of it."""
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "trackoffline",
            "version": version,
            "description": "Named fields stay; unknown ones may appear. Errors are problem+json.",
        },
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "cookie": {"type": "apiKey", "in": "cookie", "name": "trackoffline"},
            },
        },
        # Without admin.token_file nothing is asked for.
        "security": [{}, {"token": []}, {"cookie": []}],
    }


def _described(operation: Operation) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": one.name, "in": "query", "schema": one.schema, "description": one.meaning}
        for one in operation.query
    ]
    if "{id}" in operation.path:
        parameters.insert(0, {"name": "id", "in": "path", "required": True, "schema": COUNT})
    of_a_body = OF_A_BODY if operation.body is not None else ()
    failing = sorted({*operation.problems, *of_a_body, *EVERYWHERE})
    described: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": _id(operation),
        "responses": {
            "200": {
                "description": operation.summary,
                "content": {operation.kind: {"schema": operation.answer}},
            },
            **{
                str(status): {
                    "description": "a problem",
                    "content": {PROBLEM: {"schema": _ref("Problem")}},
                }
                for status in failing
            },
        },
    }
    if parameters:
        described["parameters"] = parameters
    if operation.body is not None:
        described["requestBody"] = {
            "content": {operation.body_kind: {"schema": operation.body}},
            "required": "oneOf" in operation.body,  # an empty body is an empty object
        }
    return described


def _id(operation: Operation) -> str:
    words = operation.path.removeprefix(API).replace("{id}", "one")
    for mark in "/.-":
        words = words.replace(mark, " ")
    return "-".join([operation.method.lower(), *words.split()])
