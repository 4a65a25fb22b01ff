"""Claims about the Edge Network as a protocol: what is taken, answered, dated and believed."""

from __future__ import annotations

import base64
import json
import re
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core import headers, wire
from proxy.core.answer import Answer
from proxy.core.decode import Event, Kind
from proxy.core.edge import Edge, read, stamp, verdict
from proxy.core.edge.answer import Relayed
from proxy.core.edge.decode import decode
from proxy.core.edge.read import Call, Endpoint
from proxy.core.hit import Failure, Fault, Headers, Hit, Received, Reply, Request
from proxy.core.reception import Pass, Refuse, Take
from proxy.core.stamp import Send
from proxy.core.verdict import Delivered, LinkDown, Refused, Retry
from proxy.errors import NotABeacon

EDGE = Edge()
UUID = "0f8821e5-ed1a-4301-b445-5f336fb50ee8"
AT_MS = 1_770_000_000_000  # 2026-02-02T02:40:00Z
ECID = "12345678901234567890123456789012345678"
TEXT: Headers = ((b"Content-Type", b"text/plain; charset=UTF-8"),)
JSON: Headers = ((b"Content-Type", b"application/json"),)
INTERACT, COLLECT = Endpoint(Call.INTERACT, "v1"), Endpoint(Call.COLLECT, "v1")


def cookie(ecid: str = ECID, more: bytes = b"") -> str:
    """An identity cookie's value, as Edge writes it: the ECID first, dates behind it."""
    return base64.urlsafe_b64encode(b"\x0a\x26" + ecid.encode() + more).decode()


def entries(value: str) -> dict[str, Any]:
    return {"state": {"entries": [{"key": "kndctr_ORG_AdobeOrg_identity", "value": value}]}}


KNOWN = {
    "meta": entries(cookie()),
    "events": [{"xdm": {"timestamp": "2026-02-02T02:40:00.000Z", "eventType": "view"}}],
}
NOBODY = {"events": KNOWN["events"]}


def post(
    body: object,
    path: str = "/ee/v1/interact",
    query: str = f"configId=abc&requestId={UUID}",
    sent: Headers = TEXT,
) -> Request:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Request("POST", f"{path}?{query}".encode(), sent, data)


def taken(request: Request, edge: Edge = EDGE) -> Take:
    todo = edge.receive(request, "127.0.0.1")
    assert isinstance(todo, Take), todo
    return todo


def refused(request: Request, edge: Edge = EDGE) -> tuple[int, str, str]:
    """Status, number and tally of a refusal; it is a problem detail."""
    todo = edge.receive(request, "127.0.0.1")
    assert isinstance(todo, Refuse), todo
    assert header(todo.answer, b"Content-Type") == b"application/problem+json"
    said = json.loads(todo.answer.body)
    assert said["status"] == todo.answer.status
    assert set(said) == {"type", "status", "title", "detail", "report"}
    return todo.answer.status, said["type"].rpartition("EXEG-")[2], todo.tally


def header(given: Answer, name: bytes) -> bytes | None:
    return headers.first(given.headers, name.lower())


def hit(request: Request) -> Hit:
    return Hit(1, -1, Received(1, 0), request)


# --- what is taken ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path, call, version",
    [
        ("/ee/v1/interact", Call.INTERACT, "v1"),
        ("/ee/or2/v1/interact", Call.INTERACT, "v1"),
        ("/ee/va6/v2/interact", Call.INTERACT, "v2"),
        ("/ee/v1/collect", Call.COLLECT, "v1"),
        ("/ee/jpn3/v2/collect", Call.COLLECT, "v2"),
        ("/ee/va/v1/downloaded", Call.DOWNLOADED, "v1"),
        ("/ee/or2/va/v1/downloaded", Call.DOWNLOADED, "v1"),
        ("/ee/va/v1/sessionStart", Call.SESSION, "v1"),
        ("/ee/va/v1/ping", Call.SESSION, "v1"),
        ("/ee/v1/privacy/set-consent", Call.SESSION, "v1"),
        ("/ee/or2/v1/identity/acquire", Call.SESSION, "v1"),
    ],
)
def test_every_endpoint_is_known_with_a_location_hint_and_without(
    path: str, call: Call, version: str
) -> None:
    assert read.endpoint(path.encode(), "ee") == Endpoint(call, version)
    other = path.replace("/ee/", "/our-own.path/").encode()
    assert read.endpoint(other, "our-own.path") == Endpoint(call, version)


@pytest.mark.parametrize(
    "path",
    [
        "/ee/v1/other",
        "/ee/v3/interact",
        "/ee/a/b/v1/interact",
        "/ee//v1/interact",
        "/ee/v1/collect/",
    ],
)
def test_what_is_no_endpoint_is_not_here(path: str) -> None:
    assert refused(post(KNOWN, path)) == (404, "about:blank", "refused.edge.not-here")


def test_an_event_of_somebody_known_is_stored_as_it_came() -> None:
    """Byte for byte, and answered with nothing a page could act on."""
    request = post(KNOWN, "/ee/or2/v1/interact")
    todo = taken(request)
    assert wire.unpack(todo.content) == request
    assert todo.answer.status == 200
    said = json.loads(todo.answer.body)
    assert said["handle"] == []
    assert re.fullmatch(rf"{UUID}-[0-9a-f]{{16}}", said["requestId"])
    assert todo.relay is not None
    assert todo.rows[0].lane < 0


@pytest.mark.parametrize(
    "path, query, status, body",
    [
        ("/ee/v1/collect", "configId=abc", 204, None),
        (
            "/ee/v2/collect",
            "datastreamId=abc&requestId=r1",
            202,
            r'{"requestId":"r1-[0-9a-f]{16}"}',
        ),
        ("/ee/v2/collect", "datastreamId=abc&silent=true", 204, None),
        (
            "/ee/va/v1/downloaded",
            "configId=abc",
            200,
            r'{"requestId":"[0-9a-f]{16}","handle":\[\]}',
        ),
    ],
)
def test_a_stored_event_is_answered_as_edge_answers_it(
    path: str, query: str, status: int, body: str | None
) -> None:
    todo = taken(post(NOBODY, path, query))
    assert todo.answer.status == status
    assert re.fullmatch(body or "", todo.answer.body.decode())
    assert todo.relay is None


def test_the_page_may_read_every_answer() -> None:
    """It sends with credentials: the origin is named, not `*`."""
    origin: Headers = (*TEXT, (b"Origin", b"https://shop.example"))
    todo = taken(post(KNOWN, sent=origin))
    passed = EDGE.receive(post(NOBODY, sent=origin), "")
    bad = EDGE.receive(post(b"{", sent=origin), "")
    assert isinstance(passed, Pass)
    assert isinstance(bad, Refuse)
    for one in (todo.answer, todo.otherwise, passed.otherwise, bad.answer):
        assert header(one, b"Access-Control-Allow-Origin") == b"https://shop.example"
        assert header(one, b"Access-Control-Allow-Credentials") == b"true"


def test_an_interact_of_nobody_is_passed_through_and_never_stored() -> None:
    """Edge would draw a new identity for each when it is sent later."""
    todo = EDGE.receive(post(NOBODY), "")
    assert isinstance(todo, Pass)
    assert todo.otherwise.status == 503
    assert header(todo.otherwise, b"Retry-After") == b"30"
    assert header(todo.otherwise, b"Content-Type") == b"application/problem+json"


@pytest.mark.parametrize(
    "path",
    ["/ee/v1/privacy/set-consent", "/ee/v1/identity/acquire", "/ee/va/v1/sessionStart"],
)
def test_consent_identity_and_running_media_are_passed_through_and_never_stored(path: str) -> None:
    todo = EDGE.receive(post(KNOWN, path), "")
    assert isinstance(todo, Pass)
    assert todo.otherwise.status == 503


@pytest.mark.parametrize(
    "body",
    [
        {"xdm": {"identityMap": {"ECID": [{"id": ECID}]}}, "events": [{"xdm": {}}]},
        {"events": [{"xdm": {"identityMap": {"ECID": [{"id": ECID}]}}}]},
        {"events": [{"xdm": {"identityMap": {"FPID": [{"id": "79bf8e83"}]}}}]},
        {"identityMap": {"ECID": [{"id": ECID}]}, "events": [{}]},
    ],
)
def test_whoever_edge_knows_again_may_be_stored(body: object) -> None:
    assert isinstance(EDGE.receive(post(body), ""), Take)


def test_a_first_party_cookie_is_an_identity_too() -> None:
    sent: Headers = (*TEXT, (b"Cookie", f"a=b; kndctr_ORG_AdobeOrg_identity={cookie()}".encode()))
    todo = taken(post(NOBODY, sent=sent))
    assert todo.rows == taken(post(KNOWN)).rows


def test_an_identity_of_the_shop_alone_is_not_one_edge_knows_a_device_by() -> None:
    body = {"events": [{"xdm": {"identityMap": {"CRM": [{"id": "7", "primary": True}]}}}]}
    assert isinstance(EDGE.receive(post(body), ""), Pass)
    assert isinstance(EDGE.receive(post(body, "/ee/v1/collect"), ""), Take)


def test_a_visitor_keeps_its_lane_when_its_cookie_is_written_anew() -> None:
    """Edge changes the dates within it, and the client logs in and out."""
    login = {"CRM": [{"id": "7", "primary": True}]}
    ecid = {"ECID": [{"id": ECID}]}
    bodies: list[Any] = [
        {**KNOWN, "meta": entries(cookie(more=b"\xf0\x01\x07"))},
        {**KNOWN, "xdm": {"identityMap": login}},
        {"xdm": {"identityMap": ecid}, "events": [{"xdm": {"identityMap": login}}]},
        {"events": [{"xdm": {"identityMap": {"ECID": [{"id": ECID}], **login}}}]},
    ]
    lanes = {taken(post(body)).rows[0].lane for body in [KNOWN, *bodies]}
    assert len(lanes) == 1
    other = taken(post({**KNOWN, "meta": entries(cookie("9" * 38))})).rows[0].lane
    stream = taken(post(KNOWN, query="configId=other")).rows[0].lane
    assert len({*lanes, other, stream}) == 3


def test_a_token_is_never_stored() -> None:
    """With one of ours the event waits without it; with none it is passed through with its own."""
    sent: Headers = (*JSON, (b"Authorization", b"Bearer SECRET"))
    for path in ("/ee/v1/interact", "/ee/v2/collect"):
        todo = EDGE.receive(post(KNOWN, path, sent=sent), "")
        assert isinstance(todo, Pass)
        assert (b"Authorization", b"Bearer SECRET") in todo.request.headers
        kept = taken(post(KNOWN, path, sent=sent), Edge(has_token=True))
        assert b"SECRET" not in kept.content


def test_a_resent_request_is_a_copy_only_if_its_number_was_drawn() -> None:
    """The Web SDK draws one for each request, and keeps it when it tries again."""
    assert taken(post(KNOWN)).copy == taken(post(KNOWN)).copy == EDGE.copy_key(post(KNOWN))
    assert taken(post(KNOWN)).copy is not None
    other = post(KNOWN, query=f"configId=abc&requestId={UUID.replace('0', '1')}")
    assert taken(other).copy != taken(post(KNOWN)).copy
    assert taken(post(KNOWN, query="configId=abc&requestId=1")).copy is None
    assert taken(post(KNOWN, query="configId=abc")).copy is None


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_, expected",
    [
        (post(b"{"), (400, "0101-400", "refused.edge.malformed")),
        (post(b""), (400, "0101-400", "refused.edge.malformed")),
        (post(b"[]"), (400, "0101-400", "refused.edge.malformed")),
        (post(b'{"events":[{"a":NaN}]}'), (400, "0101-400", "refused.edge.malformed")),
        (post(b'{"a":' * 13_000 + b"1"), (400, "0101-400", "refused.edge.malformed")),
        (post(b'\xff{"events":[{}]}'), (400, "0101-400", "refused.edge.malformed")),
        (post({"meta": {}}), (400, "0103-400", "refused.edge.no-events")),
        (post({"events": []}), (400, "0103-400", "refused.edge.no-events")),
        (post({"events": [1]}), (400, "0103-400", "refused.edge.no-events")),
        (post(KNOWN, "/ee/v2/interact"), (400, "0103-400", "refused.edge.no-events")),
        (post(KNOWN, query="requestId=1"), (400, "0002-400", "refused.edge.malformed")),
        (post(b" " * 65_537), (413, "0112-413", "refused.edge.too-large")),
        (
            post(KNOWN, sent=((b"Content-Type", b"image/gif"),)),
            (415, "0111-415", "refused.edge.type"),
        ),
        (
            post(KNOWN, sent=((b"Content-Type", b"application/x-jackson-smile"),)),
            (415, "0111-415", "refused.edge.type"),
        ),
        (
            post(KNOWN, sent=(*JSON, (b"Content-Encoding", b"gzip"))),
            (415, "0111-415", "refused.edge.type"),
        ),
        (post(KNOWN)._replace(method="GET"), (405, "about:blank", "refused.edge.method")),
    ],
    ids=lambda value: None if isinstance(value, Request) else value[1],
)
def test_bad_input_gets_the_number_of_adobes_own_page(
    request_: Request, expected: tuple[int, str, str]
) -> None:
    assert refused(request_) == expected


def test_64_kilobytes_are_taken() -> None:
    filler = "y" * (65_536 - len(json.dumps({**KNOWN, "x": ""})))
    request = post({**KNOWN, "x": filler})
    assert len(request.body) == 65_536
    assert isinstance(EDGE.receive(request, ""), Take)


def test_what_a_time_would_make_too_large_is_refused_when_it_comes() -> None:
    """Edge would refuse it when it is sent, long after its client was told that all is well."""

    def sized(size: int, event: dict[str, Any]) -> Request:
        body = {**KNOWN, "events": [event], "x": ""}
        return post({**body, "x": "y" * (size - len(json.dumps(body)))}, "/ee/v1/collect")

    put_in = len('"timestamp":"2026-02-02T02:40:00.000Z"')
    for size, is_taken in ((65_536 - put_in, True), (65_537 - put_in, False)):
        request = sized(size, {"xdm": {}})
        assert len(request.body) == size
        got = EDGE.receive(request, "")
        assert isinstance(got, Take) is is_taken
        if is_taken:
            opened = EDGE.open(hit(request))
            assert len(opened.render(AT_MS).body) == 65_536
        else:
            assert refused(request) == (413, "0112-413", "refused.edge.too-large")
    many = post(b'{"events":[' + b"{}," * 2_000 + b"{}]}", "/ee/v1/collect")
    assert len(many.body) < 7_000
    assert refused(many) == (413, "0112-413", "refused.edge.too-large")


def test_a_body_too_deep_to_be_dated_stops_no_drain() -> None:
    """Python counts how deep it is in all: what was read when it came may be too deep later."""

    def deeper(levels: int) -> Send | RecursionError:
        try:
            return opened.decide(0) if levels == 0 else deeper(levels - 1)
        except RecursionError as error:
            return error

    body = b'{"events":[{"xdm":{"a":' + b"[" * 800 + b"]" * 800 + b"}}]}"
    opened = EDGE.open(hit(post(body, "/ee/v1/collect")))
    assert opened.decide(0) == Send(stamped=True)
    assert deeper(150) == Send(stamped=False)


def test_a_second_datastream_does_not_slip_past_the_list() -> None:
    """Which of two Edge takes is not known; so a request with two is refused."""
    edge = Edge(datastreams=frozenset({"abc"}), refuse_unlisted=True)
    for query in (
        "configId=other&datastreamId=abc",
        "datastreamId=abc&configId=other",
        "configId=abc&configId=other",
        "configId=abc&config%49d=other",
    ):
        for path in ("/ee/v1/interact", "/ee/v2/collect", "/ee/v1/identity/acquire"):
            got = refused(post(KNOWN, path, query=query), edge)
            assert got == (400, "0003-400", "refused.edge.malformed")
    twice = post(KNOWN, query="configId=abc&datastreamId=abc&configId=")
    assert isinstance(edge.receive(twice, ""), Take)


def test_a_datastream_that_is_not_listed_is_refused() -> None:
    """Nothing of it is passed through either."""
    edge = Edge(datastreams=frozenset({"abc"}), refuse_unlisted=True)
    assert isinstance(edge.receive(post(KNOWN), ""), Take)
    for path in ("/ee/v1/interact", "/ee/v1/collect", "/ee/v1/privacy/set-consent"):
        got = refused(post(KNOWN, path, query="configId=other"), edge)
        assert got == (400, "0003-400", "refused.edge.unlisted")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "events",
                    "event",
                    "xdm",
                    "meta",
                    "state",
                    "entries",
                    "identityMap",
                    "ECID",
                    "id",
                    "key",
                    "value",
                    "timestamp",
                    "primary",
                    "",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(anything, st.sampled_from(["/ee/v1/interact", "/ee/v2/interact", "/ee/v1/collect"]))
def test_no_body_is_too_strange_to_be_answered(body: object, path: str) -> None:
    """And what is taken can be opened, dated and sent."""
    todo = EDGE.receive(post(body, path), "")
    if isinstance(todo, Take):
        opened = EDGE.open(hit(wire.unpack(todo.content)))
        decision = opened.decide(3600)
        rendered = opened.render(AT_MS if decision.stamped else None)
        json.loads(rendered.body)


# --- the event's own time --------------------------------------------------------------------


@pytest.mark.parametrize(
    "body, expected",
    [
        (b'{"events":[{"xdm":{}}]}', b'{"events":[{"xdm":{"timestamp":@}}]}'),
        (b'{"events":[{"xdm":{"a":1}}]}', b'{"events":[{"xdm":{"timestamp":@,"a":1}}]}'),
        (b'{"events":[{}]}', b'{"events":[{"xdm":{"timestamp":@}}]}'),
        (b'{"events":[{"d":1}]}', b'{"events":[{"xdm":{"timestamp":@},"d":1}]}'),
        (b'{"events":[{"xdm":{"timestamp":""}}]}', b'{"events":[{"xdm":{"timestamp":@}}]}'),
        (
            b'{"events":[{"xdm":{"timestamp" : null }}]}',
            b'{"events":[{"xdm":{"timestamp" : @ }}]}',
        ),
        (
            b' {"events" : [ {"xdm" : { "\xc3\xa9":"\\u00e9\\/" } } ,{"xdm":{"timestamp":"t"}}]}',
            (
                b' {"events" : [ {"xdm" : {"timestamp":@, "\xc3\xa9":"\\u00e9\\/" } } '
                b',{"xdm":{"timestamp":"t"}}]}'
            ),
        ),
        # Of two members of one name readers take the last.
        (
            b'{"events":[{"xdm":{"a":"{"},"xdm":{}}]}',
            b'{"events":[{"xdm":{"a":"{"},"xdm":{"timestamp":@}}]}',
        ),
        (b'{"xdm":{},"events":[{"xdm":[]}]}', b'{"xdm":{},"events":[{"xdm":[]}]}'),
    ],
)
def test_the_time_of_receipt_is_put_in_where_there_is_none(body: bytes, expected: bytes) -> None:
    """Every other byte stays, odd spaces and escapes included."""
    wanted = expected.replace(b"@", b'"2026-02-02T02:40:00.123Z"')
    assert stamp.dated(body, INTERACT, AT_MS + 123) == wanted
    assert stamp.dated(wanted, INTERACT, AT_MS) == wanted, "dated twice is dated once"


def test_an_event_with_a_time_of_its_own_is_sent_byte_for_byte() -> None:
    request = post(KNOWN)
    opened = EDGE.open(hit(request))
    assert opened.decide(10**9) == Send(stamped=False)
    assert opened.render(None) == request


def test_the_single_event_of_the_second_version_is_dated() -> None:
    body = b'{"event":{"xdm":{}},"events":[{"xdm":{}}]}'
    got = stamp.dated(body, Endpoint(Call.INTERACT, "v2"), AT_MS)
    assert got.startswith(b'{"event":{"xdm":{"timestamp":"2026')
    assert got.endswith(b',"events":[{"xdm":{}}]}')


def test_a_downloaded_media_session_has_times_of_its_own() -> None:
    opened = EDGE.open(hit(post(NOBODY | {"events": [{"xdm": {}}]}, "/ee/va/v1/downloaded")))
    assert opened.decide(0) == Send(stamped=False)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
xdms = st.dictionaries(st.sampled_from(["a", "timestamp", "xdm", "événement"]), values, max_size=3)
bodies = st.fixed_dictionaries(
    {"events": st.lists(st.fixed_dictionaries({}, optional={"xdm": xdms, "data": values}))},
    optional={"meta": values, "xdm": values},
)


@given(bodies, st.sampled_from([None, 1]), st.booleans())
def test_dating_changes_nothing_but_the_time(
    body: dict[str, Any], indent: int | None, escaped: bool
) -> None:
    """Against what a JSON library makes of the body before and after."""
    data = json.dumps(body, indent=indent, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
    try:
        data.decode()
    except UnicodeDecodeError:
        return
    dated = stamp.dated(data, COLLECT, AT_MS)
    assert stamp.size(data, COLLECT, json.loads(data)["events"]) == len(dated)
    got = json.loads(dated)
    for event in body["events"]:
        xdm = event.setdefault("xdm", {})
        if xdm.get("timestamp") in (None, ""):
            xdm["timestamp"] = "2026-02-02T02:40:00.000Z"
    assert got == body


# --- what an answer means --------------------------------------------------------------------


PROBLEM: Headers = ((b"content-type", b"application/problem+json"),)
OF_JSON: Headers = ((b"content-type", b"application/json;charset=utf-8"),)
HTML: Headers = ((b"content-type", b"text/html"),)


@pytest.mark.parametrize(
    "reply, expected",
    [
        (Reply(200, OF_JSON, b'{"requestId":"r","handle":[]}'), Delivered(200)),
        (Reply(200, (), b'\0{"handle":[]}\0'), Delivered(200)),
        (Reply(204), Delivered(204)),
        (Reply(202, OF_JSON, b'{"requestId":"r"}'), Delivered(202)),
        (Reply(207, OF_JSON, b'{"handle":[],"errors":[]}'), Delivered(207)),
        (
            Reply(429, ((b"retry-after", b"7"),)),
            Retry("429 from the Edge Network", 7.0, charge=False),
        ),
        (
            Reply(503, ((b"retry-after", b"7"),)),
            Retry("503 from the Edge Network", 7.0, charge=False),
        ),
        (Reply(503), Retry("503 from the Edge Network")),
        (Reply(502), Retry("502 from the Edge Network")),
        (Reply(504), Retry("504 from the Edge Network")),
        (Reply(500), Refused("500 from the Edge Network")),
        (
            Reply(400, PROBLEM, b'{"title":"Invalid datastream ID"}'),
            Refused("400 from the Edge Network: Invalid datastream ID"),
        ),
        (Reply(401), Refused("401 from the Edge Network")),
        (Reply(404, HTML, b"<html>"), Refused("404 from the Edge Network")),
    ],
)
def test_each_answer_means_what_adobes_page_says(reply: Reply, expected: object) -> None:
    """500 is never sent again, 207 is done, and of 4xx only 429 is tried again."""
    assert verdict.judge(reply, wall_now=0) == expected


@pytest.mark.parametrize("status", [200, 202, 207])
def test_a_page_for_people_is_not_edge(status: int) -> None:
    for reply in (Reply(status, HTML, b"log in"), Reply(status, (), b" <!doctype html><p>log in")):
        assert isinstance(verdict.judge(reply, wall_now=0), LinkDown)
    assert isinstance(verdict.judge(Reply(200, (), b"GIF89a"), wall_now=0), LinkDown)


def test_a_token_of_ours_that_is_not_taken_is_no_fault_of_the_event() -> None:
    judged = verdict.judge(Reply(401), wall_now=0, has_token=True)
    assert isinstance(judged, Retry)
    assert not judged.charge


@pytest.mark.parametrize("fault", list(Fault))
def test_only_what_surely_was_not_sent_is_not_ambiguous(fault: Fault) -> None:
    judged = verdict.judge(Failure(fault), wall_now=0)
    if fault in {Fault.DNS, Fault.CONNECT, Fault.TLS, Fault.CONNECT_TIMEOUT}:
        assert isinstance(judged, LinkDown)
    else:
        assert isinstance(judged, Retry)
        assert judged.ambiguous


# --- what is passed on -----------------------------------------------------------------------


def test_edges_reply_is_passed_on_with_what_the_page_needs_of_it() -> None:
    reply = Reply(
        200,
        (
            *OF_JSON,
            (b"x-adobe-edge", b"OR2;6"),
            (b"set-cookie", b"kndctr_ORG_AdobeOrg_identity=x; Path=/"),
            (b"set-cookie", b"other=y"),
            (b"connection", b"keep-alive"),
            (b"access-control-allow-origin", b"*"),
        ),
        b'{"requestId":"r","handle":[{"type":"state:store"}]}',
    )
    got = Relayed(b"https://shop.example")(reply)
    assert got is not None
    assert (got.status, got.body) == (200, reply.body)
    assert header(got, b"X-Adobe-Edge") == b"OR2;6"
    assert header(got, b"Access-Control-Allow-Origin") == b"https://shop.example"
    named = [name.lower() for name, _ in got.headers]
    assert named.count(b"set-cookie") == named.count(b"access-control-allow-origin") == 1
    assert b"connection" not in named


def test_a_captive_portal_is_not_passed_on() -> None:
    assert Relayed(None)(Reply(200, HTML, b"<html>log in</html>")) is None
    assert Relayed(None)(Reply(299, OF_JSON, b"{}")) is None
    error = Relayed(None)(Reply(422, PROBLEM, b"{}"))
    assert error is not None
    assert error.status == 422


def test_a_damaged_row_is_never_sent() -> None:
    for request in (Request("", b"", body=b"x"), post(b"{"), post(KNOWN, "/b/ss/x/1")):
        with pytest.raises(NotABeacon):
            EDGE.open(hit(request))


# --- what people see -------------------------------------------------------------------------


def test_what_adobe_maps_to_a_variable_has_its_name() -> None:
    """Everything else its path; the order is that of the event."""
    xdm = {
        "timestamp": "2026-02-02T02:40:00.000Z",
        "web": {
            "webPageDetails": {"name": "Checkout", "URL": "https://shop.example/"},
            "webInteraction": {"type": "exit", "name": "Partner", "URL": "https://p.example/"},
        },
        "_experience": {
            "analytics": {
                "customDimensions": {"eVars": {"eVar7": "seven"}, "props": {"prop3": "three"}},
                "event1to100": {"event9": {"value": 2.5}},
            }
        },
        "environment": {"viewportWidth": 800, "ok": True},
    }
    said = decode(post({"meta": entries(cookie()), "events": [{"xdm": xdm}]}))
    named = {field.name: field.value for group in said.groups for field in group.fields}
    assert (said.protocol, said.kind, said.title) == ("edge", Kind.EXIT, "Partner")
    assert (said.suites, said.ts) == (("abc",), "2026-02-02T02:40:00.000Z")
    assert (named["pageName"], named["eVar7"], named["prop3"]) == ("Checkout", "seven", "three")
    assert named["xdm.environment.viewportWidth"] == "800"
    assert named["xdm.environment.ok"] == "true"
    assert said.events == (Event("event9", "2.5", ""),)
    assert [(one.kind, one.value) for one in said.identities] == [("mid", ECID)]


def of_data(**analytics: object) -> Request:
    return post({"events": [{"data": {"__adobe": {"analytics": analytics}}}]})


def test_the_data_object_has_adobes_names_long_and_short() -> None:
    """As the page on the data object maps them; what it does not map keeps its path."""
    long = of_data(eVar7="x", prop3="y", list1="z", linkType="d", linkName="L", pageName="P")
    short = of_data(v7="x", c3="y", l1="z", pe="lnk_d", pev2="L", pageName="P")
    for request in (long, short):
        said = decode(request)
        named = {field.name: field.value for group in said.groups for field in group.fields}
        assert (named["eVar7"], named["prop3"], named["list1"]) == ("x", "y", "z")
        assert (said.kind, said.title) == (Kind.DOWNLOAD, "L")
    said = decode(of_data(events="event1=2.5:S,scAdd", products="c;p;1;2", vid="7", v251="no"))
    assert said.events == (Event("event1", "2.5", "S"), Event("scAdd", "", ""))
    assert [(one.category, one.name, one.price) for one in said.products] == [("c", "p", "2")]
    (group,) = [group for group in said.groups if group.id == "context"]
    assert [field.name for field in group.fields] == [
        "data.__adobe.analytics.vid",
        "data.__adobe.analytics.v251",
    ]


def test_events_and_products_of_xdm_have_adobes_names() -> None:
    xdm = {
        "commerce": {"productListAdds": {"value": 1, "id": "S"}, "purchases": {"value": 2}},
        "productListItems": [
            {"SKU": "S1", "name": "ignored", "quantity": 2, "priceTotal": 9.50},
            {"name": "N2", "productCategories": [{"categoryID": "C"}]},
        ],
    }
    said = decode(post({"events": [{"xdm": xdm}]}))
    assert said.events == (Event("scAdd", "1", "S"), Event("purchase", "2", ""))
    assert [(one.category, one.name, one.quantity, one.price) for one in said.products] == [
        ("", "S1", "2", "9.5"),
        ("C", "N2", "", ""),
    ]


def test_of_both_objects_that_of_data_counts() -> None:
    """As Adobe's page says; and its events overwrite all of XDM's."""
    xdm = {
        "web": {"webPageDetails": {"name": "of xdm", "URL": "https://shop.example/"}},
        "commerce": {"purchases": {"value": 1}},
    }
    data = {"__adobe": {"analytics": {"pageName": "of data", "events": "event1"}}}
    said = decode(post({"events": [{"xdm": xdm, "data": data}, {"xdm": {"eventType": "later"}}]}))
    assert said.title == "of data"
    assert said.events == (Event("event1", "", ""),)


def test_a_number_is_shown_as_it_was_written() -> None:
    """Neither rounded nor in other digits: it may be somebody's order."""
    body = b'{"events":[{"data":{"order":9007199254740993,"sum":2.50,"big":1e3}}]}'
    (group,) = decode(post(body)).groups
    assert [field.value for field in group.fields] == ["9007199254740993", "2.50", "1e3"]


def test_a_beacon_is_read_as_a_beacon() -> None:
    said = decode(Request("GET", b"/b/ss/opt/1/x/s1?AQB=1&pageName=Home&AQE=1"))
    assert (said.protocol, said.title) == ("analytics", "Home")


@given(anything, st.sampled_from(["/ee/v1/interact", "/ee/v2/interact", "/ee/va/v1/downloaded"]))
def test_nothing_is_too_strange_to_be_shown(body: object, path: str) -> None:
    half = b'{"events":[{"\\ud800":"\\ud800"}],"identityMap":{"\\ud800":[{"id":"\\ud800"}]}}'
    assert decode(post(half)).groups[0].fields[0].value == "?"
    said = decode(post(body, path))
    for group in said.groups:
        for field in group.fields:
            json.dumps([field.key, field.value]).encode()
            f"{field.name}{field.value}".encode()


def test_a_long_name_of_many_members_is_not_written_out_for_each() -> None:
    """64 KB may say little about a lot; shown, it must not become hundreds of megabytes."""
    body = {"events": [{"k" * 30_000: {str(number): 1 for number in range(4_000)}}]}
    tracemalloc.start()
    said = decode(post(body))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(len(group.fields) for group in said.groups) == 4_000
    assert most < 20_000_000
