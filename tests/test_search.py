"""Claims about looking for hits: what a filter means, where it is wrong, what it may skip."""

from __future__ import annotations

import json
import sys
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from test_edge import cookie, entries

from proxy.core import wire
from proxy.core.decode import decode
from proxy.core.edge.decode import decode as decode_edge
from proxy.core.findings import findings
from proxy.core.hit import ReportSuite, Request, Suites, Timestamps
from proxy.core.search import (
    FIELDS,
    LONGEST,
    MOST_TERMS,
    STATES,
    Fault,
    Plan,
    Query,
    View,
    matches,
    may_match,
    needs_decoding,
    needs_findings,
    parse,
    plan,
)

NOW = 1_770_000_000_000.0  # 2026-02-02T02:40:00Z
MINUTE = 60_000.0
SUITES = Suites({"req": ReportSuite(Timestamps.REQUIRED)})
QUERY = (
    "AQB=1&mid=48210000000000000000000000000000000009&fid=7F2A-1&pageName=Shop%20%3E%20Checkout"
    "&g=https%3A%2F%2Fshop.example%2Fcheckout&v0=spring&v12=Boots%20for+rain&c5=express&l1=a%2Cb"
    "&events=scCheckout%2Cevent10%3D2&products=Shoes%3BHiking%20boot&hp=N"
    "&c.&a.&AppID=App%201.0&.a&cart.&size=3&.cart&.c&ts=1770000000&AQE=1"
)


def view(query: str = QUERY, suite: str = "examplersid,req", **more: object) -> View:
    request = Request("GET", f"/b/ss/{suite}/1/JS-2.27.0/s1?{query}".encode())
    decoded = decode(request)
    found = findings(decoded, request, SUITES, received_ms=NOW, at_ms=NOW)
    said = {"state": "waiting", "received_ms": NOW, "now_ms": NOW, "id": 17, **more}
    return View(decoded=decoded, findings=found, **said)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "boots",
        "BOOTS rain",
        '"Boots for rain"',
        "Boots*rain",
        "*",
        "suite:examplersid",
        "suite:REQ",
        'suite:"req"',
        "page:checkout",
        'page:"Shop > Checkout"',
        "page:shop*",
        "page:*check*",
        "page:s*>*out",
        "url:shop.example",
        "url:https://shop.example/checkout",
        "evar12:boots",
        "eVar12:BOOTS",
        "v12:boots",
        "prop5:express",
        "c5:express",
        "list1:a",
        "campaign:spring",
        "v0:spring",
        "event:sccheckout",
        "event:event10",
        "event:event*",
        "product:hiking",
        "product:shoes",
        "ctx.cart.size:3",
        "ctx.a.appid:app",
        "visitor:4821",
        "mid:4821",
        "fid:7F2A",
        "version:JS-2",
        "type:page",
        "type:link|page",
        "!type:link",
        "ts:sent",
        "!ts:late",
        "state:waiting",
        "is:waiting",
        "is:waiting|dead",
        "has:products",
        "has:events",
        "has:context",
        "has:note",
        "has:ts",
        "rule:n1",
        "rule:N1|W4",
        "severity:note",
        "id:17",
        "after:2026-02-02",
        "after:2026-02-02T02:40Z",
        "after:1770000000",
        "after:1770000000000",
        "before:2026-02-02T02:41",
        "!before:2026-02-02T02:40",
        "newer:10m",
        "!older:10m",
        "!nothing",
        '!"boots"',
        '!page:"shop > checkout"',
        "!event:event1",
        "!visitor:99999",
        "is:waiting page:checkout evar12:boots !has:finding newer:1h",
    ],
)
def test_a_filter_finds_what_it_means(text: str) -> None:
    assert matches(parse(text), view())


@pytest.mark.parametrize(
    "text",
    [
        "sandals",
        "boots sandals",
        "!boots",
        '"boots for rain"',
        '"Boots"',
        "rain*",
        "*boo",
        "a*b*c*d",
        "suite:other",
        "page:boots",
        'page:"Shop"',
        "page:checkout*",
        "page:shop*shop",
        "page:shop*hop*checkout",
        "page:*checkout*checkout",
        "evar1:boots",
        "evar13:boots",
        "event:event1",
        "ctx.size:3",
        "ctx.cart.size:4",
        "type:link",
        "state:delivered",
        "is:dead|delivered",
        "is:late",
        "has:finding",
        "has:lists rule:W1",
        "severity:lost",
        "id:1",
        "after:2026-02-02T02:41",
        "before:2026-02-02T02:40:00",
        "older:1s",
        "newer:0s !after:2026-02-02",
        "reason:404",
        "!is:waiting",
    ],
)
def test_a_filter_does_not_find_what_it_does_not_mean(text: str) -> None:
    assert not matches(parse(text), view())


def test_waiting_is_all_that_has_not_left_and_a_state_is_one() -> None:
    held = view(state="held")
    assert matches(parse("is:waiting"), held)
    assert matches(parse("is:held"), held)
    assert not matches(parse("state:waiting"), held)


def test_a_finding_is_more_than_a_note() -> None:
    noted, wrong = view("mid=1&pageName=p&hp=N", "req"), view("pageName=p", "req")
    assert not matches(parse("has:finding"), noted)
    assert matches(parse("has:note rule:N1 severity:note"), noted)
    assert matches(parse("has:finding rule:W1 severity:wrong"), wrong)


def test_a_page_without_a_name_is_found_by_its_url() -> None:
    nameless = view("g=https%3A%2F%2Fshop.example%2Fa")
    assert matches(parse("page:shop.example"), nameless)
    assert not matches(parse("page:shop.example"), view())


def test_late_is_measured_to_delivery_or_to_now() -> None:
    assert matches(parse("is:late ts:late"), view(now_ms=NOW + MINUTE + 1))
    assert not matches(parse("is:late"), view(now_ms=NOW + MINUTE))
    delivered = view(now_ms=NOW + 60 * MINUTE, delivered_ms=NOW + MINUTE)
    assert not matches(parse("is:late"), delivered)


def test_why_a_hit_died_can_be_asked_for() -> None:
    dead = view(state="dead", reason="404 from example.data.adobedc.net", ambiguous=True)
    assert matches(parse("reason:404 has:reason is:dead is:ambiguous"), dead)


def test_a_quoted_text_is_taken_as_it_stands() -> None:
    query = parse(r'page:"a*b \"c\" \\ d"')
    assert matches(query, view("pageName=" + quote('a*b "c" \\ d')))
    assert not matches(query, view("pageName=" + quote('aXb "c" \\ d')))


@pytest.mark.parametrize(
    "text, column, word",
    [
        ("pgae:x", 1, "pgae"),
        ("page:a  foo:b", 9, "foo"),
        ("!foo:b", 2, "foo"),
        ("http://x", 1, "quotes"),
        ("page:", 6, "page:"),
        ("a !", 4, "!"),
        ("ctx.:x", 1, "ctx."),
        ('page:"open', 6, "closed"),
        ('"a\\"', 1, "closed"),
        ('"a"b', 4, "space"),
        ("type:pages", 6, "pages"),
        ("type:page|", 6, "page"),
        ("rule:W9", 6, "W9"),
        ("is:gone", 4, "gone"),
        ("has:x", 5, "hierarchy"),
        ("after:yesterday", 7, "yesterday"),
        ("after:2026-02-30", 7, "2026-02-30"),
        ("newer:10", 7, "10m"),
        ("newer:1.5h", 7, "1.5h"),
        ("id:x", 4, "numbers"),
        ("x " * (MOST_TERMS + 1), 2 * MOST_TERMS + 1, "50"),
        ("x" * (LONGEST + 1), LONGEST + 1, "1000"),
    ],
)
def test_a_fault_says_its_column_and_what_would_do(text: str, column: int, word: str) -> None:
    with pytest.raises(Fault) as fault:
        parse(text)
    assert fault.value.column == column
    assert word in fault.value.message


WORDS = st.sampled_from(
    [
        *(f"{field}:" for field in FIELDS),
        *("evar12:", "ctx.a.b:", "page:", "prop1:", "url:", "!", '"', "\\", "*", "|", " "),
        *("\t", "\u2028", "\u212a", "\u0130", "4821", "shop", "page", "10m", "2026-02-02", "W4"),
        *STATES,
    ]
)
FILTERS = st.one_of(st.text(max_size=60), st.lists(WORDS, max_size=8).map("".join))


def read_or_fault(text: str) -> Query | Fault:
    try:
        return parse(text)
    except Fault as fault:
        return fault


@given(FILTERS)
def test_any_text_is_a_filter_or_a_fault_within_it(text: str) -> None:
    read = read_or_fault(text)
    if isinstance(read, Fault):
        assert 1 <= read.column <= len(text) + 1
        assert read.message
        return
    query = read
    for state in STATES:
        assert matches(query, view(state=state)) in (True, False)
    matches(query, View("waiting", NOW, NOW))


@given(FILTERS, st.sampled_from(STATES), st.floats(NOW - 1e9, NOW + 1e9))
def test_what_is_left_out_beforehand_does_not_match(text: str, state: str, received: float) -> None:
    try:
        query = parse(text)
    except Fault:
        return
    beforehand = plan(query, NOW)
    if not matches(query, view(state=state, received_ms=received)):
        return
    assert beforehand.states is None or state in beforehand.states
    assert beforehand.covers(received)


VALUE = st.text(st.sampled_from("abckixyzK1239 .*\u212a\u0130\xe9%+&="), min_size=1, max_size=12)


def escaped(text: str, how: int) -> str:
    """The text as clients write it: the usual way, every byte, or lower-case hex."""
    usual = quote(text, safe="")
    every = "".join(f"%{byte:02X}" for byte in text.encode())
    return (usual, every, every.lower(), usual.replace("%20", "+"))[how]


@given(value=VALUE, word=VALUE, how=st.integers(0, 3), where=st.sampled_from(["v1", "c.a", "mid"]))
@example(value="xyzK", word="xyzk", how=0, where="v1")
def test_bytes_that_cannot_match_do_not_match(value: str, word: str, how: int, where: str) -> None:
    """A hit is passed over without being read only when reading it would not have found it."""
    request = Request("GET", f"/b/ss/rs/1/X/s1?{where}={escaped(value, how)}&ts=1".encode())
    content = wire.message(request)
    for filter_ in (word, f'"{word}"', f"evar1:{word}", f"visitor:{word}", f"ctx.a:{word}", "rs"):
        try:
            query = parse(filter_)
        except Fault:
            continue
        if matches(query, View("waiting", NOW, NOW, decode(request))):
            assert may_match(plan(query, NOW), content)


@pytest.mark.parametrize(
    "content",
    [
        b"<request><pageName>ab<x/>cd</pageName></request>",
        b"<request><pageName>ab<!-- -->cd</pageName></request>",
        b"<request><pageName>&#97;bcd</pageName></request>",
    ],
)
def test_an_xml_hit_is_never_passed_over(content: bytes) -> None:
    request = Request("POST", b"/b/ss//6", (), content)
    query = parse("page:abcd")
    assert matches(query, View("waiting", NOW, NOW, decode(request)))
    assert may_match(plan(query, NOW), wire.message(request))


def test_an_encoding_with_sequences_of_its_own_is_not_passed_over() -> None:
    request = Request("GET", b"/b/ss/rs/1/X/s1?ce=ISO-2022-JP&pageName=ab%1B%28Bcd")
    assert may_match(plan(parse("page:abcd"), NOW), wire.message(request))


def test_no_other_letter_becomes_one_that_is_looked_for_in_bytes() -> None:
    """Only the Kelvin sign and the dotted I are ASCII in lower case: k and i are no literals."""
    found = {
        char
        for code in range(128, sys.maxunicode + 1)
        for char in chr(code).lower()
        if char < "\x80"
    }
    assert found == {"k", "i"}
    literals = plan(parse("abkcheckout page:Skiing"), NOW).literals
    assert literals == (b"chec", b"out") or all(b"k" not in one for one in literals)


def test_most_hits_are_passed_over_without_being_read() -> None:
    """Else there would be no point in it."""
    content = wire.message(Request("GET", f"/b/ss/rs/1/X/s1?{QUERY}".encode()))
    assert not may_match(plan(parse("sandals"), NOW), content)
    assert may_match(plan(parse("boots"), NOW), content)
    assert not may_match(plan(parse("page:checkout evar12:sandals"), NOW), content)


def test_a_plan_is_as_narrow_as_its_filter() -> None:
    later = NOW + 100 * MINUTE
    narrow = plan(parse("state:dead is:dead|held newer:10m before:2026-02-03 reason:abc"), later)
    assert narrow == Plan(frozenset({"dead"}), later - 10 * MINUTE, 1_770_076_800_000.0, ())
    assert plan(Query(), NOW) == Plan(None, None, None, ())
    assert plan(parse("!is:waiting"), NOW).states == frozenset({"delivered", "dead"})
    alive = frozenset(STATES) - {"dead"}
    assert plan(parse("is:late|dead !state:dead"), NOW).states == alive
    assert plan(parse("after:2026-02-02 !before:2026-02-03"), NOW).from_ms == 1_770_076_800_000.0
    assert plan(parse('!boots type:page has:products "Spring Sale"'), NOW).literals == (
        b"spr",
        b"sale",
    )


def test_what_a_filter_needs_is_known_beforehand() -> None:
    assert not needs_decoding(parse("is:dead newer:10m id:1 reason:404 !is:late"))
    assert needs_decoding(parse("is:dead boots"))
    assert needs_findings(parse("rule:W4"))
    assert needs_findings(parse("!has:finding"))
    assert not needs_findings(parse("has:products page:x ts:late"))


def test_the_ends_of_a_pattern_do_not_share_a_letter() -> None:
    pattern = parse("evar1:aba*bab").terms[0].pattern
    assert not pattern.matches("abab")
    assert pattern.matches("ababab")


def test_many_wildcards_take_one_pass() -> None:
    """A pattern is looked for piece by piece, each behind the one before."""
    pattern = parse("evar1:" + "a*" * 400 + "b").terms[0].pattern
    assert pattern.matches("a" * 100_000 + "b")
    assert not pattern.matches("a" * 399 + "b")


@pytest.mark.parametrize(
    "text, event",
    [
        ("mid:12345678901234567890123456789012345678", b'{"xdm":{}}'),
        ("visitor:45678", b'{"xdm":{}}'),
        ("12345678901234567890", b'{"xdm":{}}'),
        ("page:checkout", b'{"xdm":{"web":{"webPageDetails":{"name":"\\u0063heckout"}}}}'),
        ("url:https://shop", b'{"xdm":{"web":{"webPageDetails":{"URL":"https:\\/\\/shop"}}}}'),
        ("event:scAdd", b'{"xdm":{"commerce":{"productListAdds":{"value":1}}}}'),
        (
            "event:event9",
            b'{"xdm":{"_experience":{"analytics":{"event1to100":{"event9":{"id":1}}}}}}',
        ),
        ("ctx.cart.size:3", b'{"data":{"__adobe":{"analytics":{"contextData":{"cart.size":3}}}}}'),
        ("evar7:boots", b'{"data":{"__adobe":{"analytics":{"v7":"boots"}}}}'),
        ("prop3:x list1:y", b'{"data":{"__adobe":{"analytics":{"c3":"x","l1":"y"}}}}'),
        ("product:S1 has:products", b'{"xdm":{"productListItems":[{"SKU":"S1"}]}}'),
        ("type:exit link:out", b'{"data":{"__adobe":{"analytics":{"pe":"e","pev2":"out"}}}}'),
        ("suite:abc version:v1 ts:sent", b'{"xdm":{"timestamp":"2026-02-02T02:40:00Z"}}'),
        ("2.50", b'{"data":{"sum":2.50}}'),
    ],
)
def test_an_event_of_the_web_sdk_is_found_by_its_human_names(text: str, event: bytes) -> None:
    """Also where its bytes have other ones: an identity cookie, an escape, an event's XDM path."""
    known = json.dumps(entries(cookie())).encode()
    body = b'{"meta":%s,"events":[%s]}' % (known, event)
    request = Request("POST", b"/ee/v1/interact?configId=abc", (), body)
    query = parse(text)
    seen = View("waiting", NOW, NOW, decode_edge(request))
    assert matches(query, seen)
    assert may_match(plan(query, NOW), wire.message(request))
