"""Claims about the admin port: who may ask, what is answered, and what nobody can do to it.

Each guard's test is the attack it is there for.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from daemon import Answer, Launch, Reached, Serve, Served, hit

from proxy import fake
from proxy.fake import FakeCollector
from proxy.shell.admin import Admin

SECRET = "correct horse battery staple"
JSON = {"Content-Type": "application/json"}
CHANGES = (
    "/api/v1/forwarding/offline",
    "/api/v1/forwarding/online",
    "/api/v1/forwarding/retry",
    "/api/v1/dead/requeue",
    "/api/v1/dead/discard",
    "/api/v1/hits/requeue",
    "/api/v1/hits/discard",
    "/api/v1/hits/import",
    "/api/v1/test-hit",
    "/api/v1/reset",
    "/api/v1/login",
)
OPTIONAL = {"suites.timestamps": "optional"}


@pytest.fixture
async def guarded(serve: Serve, tmp_path: Path) -> Served:
    """A daemon that wants a token."""
    token = tmp_path / "token"
    token.write_text(f"{SECRET}\n")
    return await serve(None, {"admin.token_file": str(token)})


@pytest.fixture
async def bereaved(serve: Serve, adobe: FakeCollector) -> Served:
    """A daemon with three dead letters, of two suites and two reasons."""
    adobe.when(b"buried", fake.status(404))
    adobe.when(b"gone", fake.status(410))
    served = await serve(adobe, OPTIONAL)
    await served.hits(range(2), suite="buried", visitors=2)
    await served.hits(range(2, 3), suite="gone")
    await served.until(lambda status: status["dead"] == 3)
    return served


def problem(answer: Answer, status: int) -> str:
    """The one line of a refusal, which is always problem+json."""
    assert answer.status == status, answer
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    found = answer.json()
    assert found["status"] == status
    return str(found["detail"])


# -- what is answered ----------------------------------------------------------------------------


async def test_the_status_has_what_operators_rely_on(served: Served) -> None:
    """The design's list of fields is a contract."""
    await served.hits(range(3))

    found = await served.status()

    assert found["state"] == "capture"
    assert (found["accepted"], found["waiting"]) == (3, 3)
    assert found["oldest_waiting_seconds"] >= 0
    for name in ("delivered", "dead", "expired", "discarded", "refused", "held", "ambiguous"):
        assert found[name] == 0, name
    assert found["label"] == socket.gethostname()


async def test_an_offline_upstream_is_alive_and_ready(serve: Serve, adobe: FakeCollector) -> None:
    """An outage is what we are for; taking us out of service for it would lose hits."""
    await adobe.cut()
    served = await serve(adobe, OPTIONAL)
    await served.hits(range(1))
    await served.until(lambda status: status["state"] == "offline")

    assert (await served.ask("/healthz")).status == 200
    assert (await served.ask("/readyz")).status == 200


async def test_a_full_queue_is_alive_and_not_ready(serve: Serve) -> None:
    """Whoever balances the load must hear of it; whoever restarts must not."""
    served = await serve(None, {"queue.max_hits": 1})
    await served.hits(range(1))

    assert (await served.ask("/healthz")).status == 200
    ready = await served.ask("/readyz")
    assert ready.status == 503
    assert "max_hits" in ready.json()["reason"]


async def test_forwarding_is_held_and_let_go(serve: Serve, adobe: FakeCollector) -> None:
    served = await serve(adobe, OPTIONAL)

    held = await served.tell("/api/v1/forwarding/offline")
    assert held.json()["state"] == "held"
    await served.hits(range(2))
    assert (await served.status())["waiting"] == 2

    assert (await served.tell("/api/v1/forwarding/online")).json()["state"] != "held"
    await served.until(lambda status: status["delivered"] == 2)


@pytest.mark.parametrize("body", [{"for_seconds": 7200}, {"for": "2h"}])
async def test_a_hold_can_be_given_an_end(
    serve: Serve, adobe: FakeCollector, body: dict[str, object]
) -> None:
    """Seconds for programs, and the configuration's own words for people."""
    served = await serve(adobe, OPTIONAL)

    held = await served.tell("/api/v1/forwarding/offline", body)

    left_s = held.json()["forwarding"]["held_until_ms"] / 1000 - time.time()
    assert 7000 < left_s <= 7200


@pytest.mark.parametrize(
    "body",
    [
        '{"for_seconds": 0}',
        '{"for_seconds": -1}',
        '{"for_seconds": true}',
        '{"for_seconds": "5"}',
        '{"for_seconds": NaN}',
        '{"for_seconds": Infinity}',
        '{"for_seconds": 1e300}',
        '{"for": "soon"}',
        '{"for": 5}',
        '{"for": "2h", "for_seconds": 5}',
        '{"for_secondz": 5}',
    ],
)
async def test_a_hold_of_no_sensible_length_is_refused(served: Served, body: str) -> None:
    """A misspelt length must not become "until told otherwise"."""
    asked = await served.ask("/api/v1/forwarding/offline", "POST", JSON, body.encode())

    problem(asked, 400)
    assert (await served.status())["state"] == "capture"


async def test_retry_tries_at_once(serve: Serve, adobe: FakeCollector) -> None:
    await adobe.cut()
    served = await serve(adobe, {**OPTIONAL, "retry.first": "1h", "retry.max": "1h"})
    await served.hits(range(1))
    await served.until(lambda status: status["state"] == "offline")
    await adobe.restore()

    assert (await served.tell("/api/v1/forwarding/retry")).status == 200

    await served.until(lambda status: status["delivered"] == 1)


async def shaken(serve: Serve, adobe: FakeCollector) -> Served:
    """The link is up, and two visitors' hits wait an hour for their next try."""
    slow = {**OPTIONAL, "retry.first": "1h", "retry.max": "1h", "retry.attempts": 1000}
    served = await serve(adobe, slow)
    await served.hits(range(1), suite="fine")
    await served.until(lambda status: status["delivered"] == 1)
    # Another one is delivered while they are on their way, so that it is they who fail.
    adobe.when(b"shaky", fake.latency(0.3) | fake.status(500))
    await served.hits(range(1, 3), suite="shaky", visitors=9)
    await adobe.until(lambda: adobe.counts.requests >= 3)
    await served.hits(range(3, 4), suite="fine")
    await served.until(lambda status: status["forwarding"]["sends"].get("retry", 0) == 2)
    assert (await served.status())["forwarding"]["link"] == "online"
    adobe.heal()
    return served


@pytest.mark.parametrize("which", [{"q": "page:p2"}, {"ids": [3, 99, 3]}])
async def test_one_hit_is_tried_at_once_and_no_other(
    serve: Serve, adobe: FakeCollector, which: dict[str, Any]
) -> None:
    """Though both wait out a failure."""
    served = await shaken(serve, adobe)

    said = (await served.tell("/api/v1/forwarding/retry", which)).json()

    assert said["tried"] == {"visitors": 1, "matched": 1}
    await served.until(lambda status: status["delivered"] == 3)
    (row,) = (await served.ask("/api/v1/hits?q=is:waiting")).json()["hits"]
    assert (row["title"], row["tries"]) == ("p1", 1)
    *_, failed, due = (await served.ask(f"/api/v1/hits/{row['id']}")).json()["timeline"]
    assert failed["what"] == "1 failed try: 500 from the collection server"
    assert due["what"] == "next try"
    assert due["at_ms"] > time.time() * 1000 + 1_000_000
    everything = (await served.tell("/api/v1/forwarding/retry")).json()
    assert everything["tried"] == {"visitors": 1, "matched": None}
    await served.until(lambda status: status["delivered"] == 4)


@pytest.mark.parametrize("which", [{"q": "page:nothing"}, {"ids": [99]}, {"ids": []}])
async def test_a_retry_of_no_hit_tries_nothing(
    serve: Serve, adobe: FakeCollector, which: dict[str, Any]
) -> None:
    """A collection server that is away is not asked sooner."""
    await adobe.cut()
    served = await serve(adobe, {**OPTIONAL, "retry.first": "1h", "retry.max": "1h"})
    await served.hits(range(1))
    await served.until(lambda status: (status["forwarding"]["next_try_seconds"] or 0) > 60)

    said = (await served.tell("/api/v1/forwarding/retry", which)).json()

    assert said["tried"] == {"visitors": 0, "matched": 0}
    assert said["forwarding"]["next_try_seconds"] > 60


@pytest.mark.parametrize("body", [{"q": 1}, {"ids": ["x"]}, {"q": "", "ids": []}, {"all": True}])
async def test_a_retry_of_what_is_not_understood_is_refused(served: Served, body: object) -> None:
    problem(await served.tell("/api/v1/forwarding/retry", body), 400)


# -- dead letters ----------------------------------------------------------------------------------


async def test_dead_letters_are_paged(bereaved: Served) -> None:
    """A page says where the next one begins: behind its last id."""
    first = (await bereaved.ask("/api/v1/dead?limit=2")).json()
    rest = (await bereaved.ask(f"/api/v1/dead?after={first['letters'][-1]['id']}")).json()

    assert first["total"] == 3
    letters = [*first["letters"], *rest["letters"]]
    assert sorted(letter["suites"] for letter in letters) == ["buried", "buried", "gone"]
    assert {letter["status"] for letter in letters} == {404, 410}


async def test_a_page_of_large_dead_letters_is_as_long_as_any(
    bereaved: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read a few at a time; a short page would be taken for the last one."""
    monkeypatch.setattr("proxy.shell.rows.LETTERS_BYTES", 1)
    listed = (await bereaved.ask("/api/v1/dead?limit=2")).json()
    exported = await bereaved.ask("/api/v1/dead.ndjson")

    assert len(listed["letters"]) == 2
    assert len(exported.body.splitlines()) == 3


async def test_an_export_has_everything_to_send_the_hits_again(bereaved: Served) -> None:
    exported = await bereaved.ask("/api/v1/dead.ndjson")

    letters = [json.loads(line) for line in exported.body.splitlines()]
    assert exported.headers["Content-Type"] == "application/x-ndjson"
    assert len(letters) == 3
    assert hit(2, "gone") in [letter["target"] for letter in letters]


async def test_a_requeued_letter_is_sent_again(bereaved: Served, adobe: FakeCollector) -> None:
    adobe.heal()

    asked = await bereaved.tell("/api/v1/dead/requeue", {"all": True})

    assert asked.json() == {"requeued": 3}
    found = await bereaved.until(lambda status: status["delivered"] == 3)
    assert found["dead"] == 0
    assert found["balanced"]


async def test_only_the_letters_named_are_requeued(bereaved: Served, adobe: FakeCollector) -> None:
    letters = (await bereaved.ask("/api/v1/dead")).json()["letters"]
    adobe.heal()

    asked = await bereaved.tell("/api/v1/dead/requeue", {"ids": [letters[0]["id"], 999_999]})

    assert asked.json() == {"requeued": 1}
    await bereaved.until(lambda status: (status["delivered"], status["dead"]) == (1, 2))


async def test_requeueing_all_means_those_that_were_there(
    bereaved: Served, adobe: FakeCollector
) -> None:
    """Letters that die again at once are not requeued again and again by the same request."""
    asked = await bereaved.tell("/api/v1/dead/requeue", {"all": True})

    assert asked.json() == {"requeued": 3}
    await bereaved.until(lambda status: status["dead"] == 3)
    assert len(adobe.received) == 6


async def test_a_discard_is_counted_and_final(bereaved: Served) -> None:
    asked = await bereaved.tell("/api/v1/dead/discard", {"all": True, "expect_count": 3})

    assert asked.json() == {"discarded": 3}
    found = await bereaved.status()
    assert (found["dead"], found["discarded"], found["balanced"]) == (0, 3, True)


@pytest.mark.parametrize(
    "body, status",
    [
        ({"all": True}, 409),
        ({"all": True, "expect_count": 2}, 409),
        ({"all": True, "expect_count": 4}, 409),
        ({"all": True, "expect_count": "3"}, 400),
        ({"all": True, "expect_count": 3.5}, 400),
        ({"all": True, "expect_count": True}, 400),
        ({"ids": [], "expect_count": False}, 400),
        ({"ids": [1], "expect_count": -1}, 400),
        ({"all": True, "expect_count": None}, 400),
    ],
)
async def test_a_discard_is_never_bigger_than_the_person_thought(
    bereaved: Served, body: dict[str, object], status: int
) -> None:
    """The number of letters must be known to whoever discards all of them."""
    refused = await bereaved.tell("/api/v1/dead/discard", body)

    assert ("3" if status == 409 else "expect_count") in problem(refused, status)
    assert (await bereaved.status())["dead"] == 3


class Dying:
    """A desk whose third letter dies while the first two are being discarded."""

    def __init__(self) -> None:
        self.letters = [{"id": 1}, {"id": 2}]
        self.discarded: list[int] = []

    def dead(self) -> int:
        return len(self.letters)

    async def dead_letters(self, after: int, limit: int) -> list[dict[str, int]]:
        return [letter for letter in self.letters if letter["id"] > after][:limit]

    async def discard(self, ids: list[int] | None) -> int:
        self.letters.append({"id": 3})
        chosen = [one["id"] for one in self.letters] if ids is None else ids
        self.discarded += chosen
        return len(chosen)


async def test_a_letter_that_dies_meanwhile_is_not_discarded_with_the_others() -> None:
    desk = Dying()
    admin = Admin(desk)  # type: ignore[arg-type]  # as much of a desk as is asked for here
    host, port = await admin.start("127.0.0.1", 0, (), None)
    try:
        asked = await Reached(beacons="", admin=f"{host}:{port}").tell(
            "/api/v1/dead/discard", {"all": True, "expect_count": 2}
        )
    finally:
        await admin.close()

    assert asked.json() == {"discarded": 2}
    assert desk.discarded == [1, 2]


# -- other sites -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/api/v1/status", "/api/v1/dead.ndjson", "/healthz", "/nothing"])
async def test_a_rebound_name_reads_nothing(served: Served, path: str) -> None:
    """A public name made to point here (DNS rebinding) carries that name as its Host."""
    refused = await served.ask(path, headers={"Host": "attacker.example"})

    assert "admin.allowed_hosts" in problem(refused, 421)


async def test_a_request_without_a_host_reads_nothing(served: Served) -> None:
    host, port = served.admin.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /api/v1/status HTTP/1.0\r\n\r\n")
    said = await reader.read()
    writer.close()

    assert said.startswith(b"HTTP/1.0 421 ")


async def test_a_name_that_was_allowed_is_ours(serve: Serve) -> None:
    served = await serve(None, {"admin.allowed_hosts": ["kiosk17.shop.example"]})

    answer = await served.ask("/api/v1/status", headers={"Host": "kiosk17.shop.example:8278"})

    assert answer.status == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize(
    "path", ["/api/v1/events", "/api/v1/hits?q=page:x", "/api/v1/hits.ndjson", "/metrics"]
)
async def test_a_page_of_another_site_cannot_keep_us_busy(
    served: Served, path: str, site: str
) -> None:
    """An image's address is enough to ask; sixteen of them would hold every stream."""
    problem(await served.ask(path, headers={"Sec-Fetch-Site": site}), 403)
    assert (await served.ask("/", headers={"Sec-Fetch-Site": site})).status in (200, 404)


@pytest.mark.parametrize("path", CHANGES)
@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},  # another port of this machine is the same site
        {"Origin": "https://attacker.example"},
        {"Origin": "null"},  # a sandboxed frame
    ],
    ids=lambda headers: "-".join(headers.values()),
)
async def test_a_page_of_another_site_changes_nothing(
    served: Served, path: str, headers: Mapping[str, str]
) -> None:
    """A form of any web page can be posted to this machine."""
    refused = await served.ask(path, "POST", headers)

    problem(refused, 403)
    assert (await served.status())["state"] == "capture"


async def test_our_own_page_may_change_things(served: Served) -> None:
    origin = f"http://{served.admin}"

    by_site = await served.ask(CHANGES[0], "POST", {"Sec-Fetch-Site": "same-origin"})
    by_origin = await served.ask(CHANGES[1], "POST", {"Origin": origin})

    assert (by_site.status, by_origin.status) == (200, 200)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
async def test_what_a_form_can_post_is_no_json(served: Served, kind: str | None) -> None:
    """The content types a page may send without asking first are not ours."""
    headers = {} if kind is None else {"Content-Type": kind}

    refused = await served.ask(CHANGES[4], "POST", headers, b'{"ids": [1]}')

    problem(refused, 415)


@pytest.mark.parametrize("method", ["GET", "OPTIONS", "POST"])
async def test_no_other_origin_is_ever_told_it_may_read(served: Served, method: str) -> None:
    headers = {
        "Origin": "https://attacker.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }

    answer = await served.ask(CHANGES[0], method, headers)

    assert not [name for name in answer.headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize(
    "path", ["/api/v1/status", "/healthz", "/readyz", "/nothing", "/api/v1/dead.ndjson"]
)
async def test_every_answer_is_locked_down(served: Served, path: str) -> None:
    """Never cached, never framed, never taken for another type, no address given away."""
    headers = (await served.ask(path)).headers

    assert headers["Cache-Control"] == "no-store"
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Server"] == "trackoffline"


# -- the token -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer"},
        {"Authorization": f"Basic {SECRET}"},
        {"Authorization": SECRET},
        {"Cookie": "trackoffline=wrong"},
        {"Cookie": "trackoffline="},
        {"Authorization": "Bearer \u00ff"},
    ],
    ids=lambda headers: "-".join(headers.values()).encode("ascii", "replace").decode(),
)
async def test_without_the_token_nothing_is_told(
    guarded: Served, headers: Mapping[str, str]
) -> None:
    for path in ("/api/v1/status", "/api/v1/dead", "/api/v1/dead.ndjson", "/nothing"):
        refused = await guarded.ask(path, headers=headers)
        problem(refused, 401)
        assert refused.headers["WWW-Authenticate"].startswith("Bearer")


async def test_without_the_token_nothing_is_changed(guarded: Served) -> None:
    for path in CHANGES[:-1]:
        problem(await guarded.tell(path, {}), 401)


async def test_with_the_token_everything_is_open(guarded: Served) -> None:
    answer = await guarded.ask("/api/v1/status", headers={"Authorization": f"bearer {SECRET}"})

    assert answer.status == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_health_needs_no_token_and_tells_nothing_else(guarded: Served, path: str) -> None:
    """A load balancer has no token; what it hears helps nobody else."""
    answer = await guarded.ask(path)

    assert answer.status == 200
    assert set(answer.json()) <= {"alive", "ready", "reason"}


async def test_a_browser_logs_in_for_a_cookie_no_script_reads(guarded: Served) -> None:
    answer = await guarded.tell("/api/v1/login", {"token": SECRET})

    assert answer.status == 200
    cookie, *attributes = [part.strip() for part in answer.headers["Set-Cookie"].split(";")]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(attributes)
    assert (await guarded.ask("/api/v1/status", headers={"Cookie": cookie})).status == 200


async def test_the_cookie_is_not_the_token(guarded: Served) -> None:
    """Cookies know no ports: whatever else runs on this host receives it too."""
    answer = await guarded.tell("/api/v1/login", {"token": SECRET})

    value = answer.headers["Set-Cookie"].split(";")[0].partition("=")[2]
    bearer = await guarded.ask("/api/v1/status", headers={"Authorization": f"Bearer {value}"})
    assert SECRET not in answer.headers["Set-Cookie"]
    problem(bearer, 401)


@pytest.mark.parametrize(
    "body", ['{"token": "wrong"}', '{"token": ""}', '{"token": null}', "{}", r'{"token": "\ud800"}']
)
async def test_a_wrong_token_gets_no_cookie(guarded: Served, body: str) -> None:
    refused = await guarded.ask("/api/v1/login", "POST", JSON, body.encode())

    problem(refused, 401)
    assert "Set-Cookie" not in refused.headers


async def test_where_no_token_is_asked_for_there_is_no_log_in(served: Served) -> None:
    refused = await served.tell("/api/v1/login", {"token": ""})

    assert "admin.token_file" in problem(refused, 409)


# -- nonsense --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[1]",
        b"null",
        b"\xff\xfe\xfd",
        b"[" * 20_000,
        b"{}",
        b'{"ids": 1}',
        b'{"ids": ["1"]}',
        b'{"ids": [true]}',
        b'{"ids": [1.5]}',
        b'{"ids": [9223372036854775808]}',
        b'{"ids": [-1]}',
        b'{"all": 1}',
        b'{"all": "true"}',
        b'{"ids": [1], "all": true}',
        b"9" * 5_000,
    ],
    ids=lambda body: body[:24].decode("latin-1"),
)
@pytest.mark.parametrize("path", ["/api/v1/dead/requeue", "/api/v1/dead/discard"])
async def test_a_body_of_nonsense_is_a_bad_request(served: Served, path: str, body: bytes) -> None:
    problem(await served.ask(path, "POST", JSON, body), 400)


async def test_a_charset_nobody_knows_is_no_fault_of_ours(served: Served) -> None:
    kind = {"Content-Type": "application/json; charset=nonsense"}

    answer = await served.ask(CHANGES[1], "POST", kind, b"{}")

    assert answer.status == 200


@pytest.mark.parametrize(
    "query",
    ["after=-1", "after=x", "limit=0", "limit=-1", "after=%C2%B2", "after=9223372036854775808"],
)
async def test_a_page_of_nonsense_is_a_bad_request(served: Served, query: str) -> None:
    problem(await served.ask(f"/api/v1/dead?{query}"), 400)


async def test_a_large_body_is_refused(served: Served) -> None:
    body = json.dumps({"ids": list(range(20_000))}).encode()
    assert len(body) > 64 * 1024

    problem(await served.ask("/api/v1/dead/requeue", "POST", JSON, body), 413)


@pytest.mark.parametrize(
    "method, path, status", [("GET", "/nothing", 404), ("POST", "/api/v1/status", 405)]
)
async def test_what_does_not_exist_is_a_problem_too(
    served: Served, method: str, path: str, status: int
) -> None:
    problem(await served.ask(path, method), status)


class Broken:
    """A desk with a bug."""

    async def status(self) -> dict[str, object]:
        raise RuntimeError("a bug")

    async def export(self, after: int, _limit: int) -> list[dict[str, object]]:
        if after:
            raise RuntimeError("a bug")
        return [{"id": 1}]


async def test_a_fault_of_ours_is_logged_and_tells_the_client_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    admin = Admin(Broken())  # type: ignore[arg-type]  # as much of a desk as is asked for here
    host, port = await admin.start("127.0.0.1", 0, (), None)
    try:
        answer = await Reached(beacons="", admin=f"{host}:{port}").ask("/api/v1/status")
    finally:
        await admin.close()

    assert "a bug" not in problem(answer, 500)
    assert [(line.levelname, line.message) for line in caplog.records] == [
        ("ERROR", "an admin request failed")
    ]


async def test_an_export_that_breaks_off_is_never_taken_for_a_whole_one() -> None:
    """Whoever discards after an export must know that it was all of it."""
    admin = Admin(Broken())  # type: ignore[arg-type]  # as above
    host, port = await admin.start("127.0.0.1", 0, (), None)
    try:
        with pytest.raises((aiohttp.ClientError, ConnectionError)):
            await Reached(beacons="", admin=f"{host}:{port}").ask("/api/v1/dead.ndjson")
    finally:
        await admin.close()


async def test_a_body_that_never_comes_is_not_waited_for() -> None:
    admin = Admin(Broken(), body_s=0.05)  # type: ignore[arg-type]  # it is never asked
    host, port = await admin.start("127.0.0.1", 0, (), None)
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(
            b"POST /api/v1/forwarding/offline HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{"
        )
        said = await reader.readline()
    finally:
        writer.close()
        await admin.close()

    assert said.startswith(b"HTTP/1.1 408 ")


async def test_a_stop_does_not_wait_for_an_idle_client(served: Served) -> None:
    """A browser keeps its connection open for as long as it likes."""
    host, port = served.admin.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")

    async with asyncio.timeout(5):
        await served.stop()

    writer.close()


# -- two ports -------------------------------------------------------------------------------------


async def test_no_admin_route_answers_on_the_beacon_port(process: Launch) -> None:
    """Whoever may send hits may not for that reason read or change anything."""
    daemon = process()
    await daemon.start()
    routes = Admin(Broken()).routes()  # type: ignore[arg-type]  # only their table is wanted
    assert len(routes) > 8

    for route in routes:
        answer = await daemon.send(route.path, route.method)
        assert answer.status in (404, 405), (route, answer)
        assert b"{" not in answer.body, route


async def test_no_beacon_is_taken_on_the_admin_port(served: Served) -> None:
    problem(await served.ask(hit(1)), 404)

    assert (await served.status())["accepted"] == 0


async def test_without_an_address_there_is_no_admin_port(serve: Serve) -> None:
    served = await serve(None, {"admin.address": ""})

    assert served.admin == ""
    await served.hits(range(1))


async def test_a_port_in_use_is_an_error_of_the_system(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ExceptionGroup) as raised:
            await serve(None, {"admin.address": address})

    assert raised.group_contains(OSError)
