"""Claims about XML Data Insertion: what is read, what is refused, which bytes change."""

from __future__ import annotations

import gc
import time
from contextlib import suppress
from xml.etree import ElementTree as ET

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.core.insertion import MAX_DEPTH, Insertion, InsertionRefused, read, render

NOW = 1770000000
STAMP = b"<timestamp>1770000000</timestamp>"
DECLARATION = b"<?xml version=1.0 encoding=UTF-8?>"
# The published example: unquoted declaration, tags in a case of the client's own.
VISIT = (
    DECLARATION + b"<request><PAGEURL>https://e.example</PAGEURL><visitorid>128655</visitorid>"
    b"<ReportSuiteID>opt,req</ReportSuiteID></request>"
)
MID = b"<marketingCloudVisitorId>m</marketingCloudVisitorId>"
BASICS = b"<pageName>p</pageName><visitorID>v</visitorID><reportSuiteID>opt</reportSuiteID>"


def request(inner: bytes) -> bytes:
    return b"<request>" + inner + b"</request>"


def refusal(body: bytes) -> str:
    with pytest.raises(InsertionRefused) as caught:
        read(body)
    return str(caught.value.reason)


def stamped(body: bytes) -> bytes:
    return render(body, NOW, ())


# Reading


def test_an_unquoted_declaration_is_read_and_tag_names_ignore_case() -> None:
    """Adobe's own samples are not well-formed, and clients copy samples."""
    assert Insertion(("opt", "req"), b"vid:128655", None) == read(VISIT)


def test_the_clients_timestamp_is_read_as_it_was_sent() -> None:
    body = VISIT.replace(
        b"<visitorid>", b"<TimeStamp> 2026-02-01T10:00:00Z\n</TimeStamp><visitorid>"
    )
    assert read(body).timestamp == b"2026-02-01T10:00:00Z"


@pytest.mark.parametrize(
    "tag",
    [
        b"<timestamp></timestamp>",
        b"<timestamp/>",
        b"<timestamp> \r\n</timestamp>",
        b"<timestamp><!-- 5 --></timestamp>",
        b"<contextData><timestamp>5</timestamp></contextData>",
        b"<contextData.timestamp>5</contextData.timestamp>",
        b"<!-- <timestamp>5</timestamp> -->",
        b"<prop1><![CDATA[<timestamp>5</timestamp>]]></prop1>",
        b"<prop1>&lt;timestamp&gt;5</prop1>",
    ],
)
def test_a_blank_a_nested_and_a_quoted_timestamp_are_none(tag: bytes) -> None:
    assert read(request(BASICS + tag)).timestamp is None


@pytest.mark.parametrize(
    "ids,expected",
    [
        (b"<visitorID>v</visitorID>", b"vid:v"),
        (MID, b"mid:m"),
        (b"<fallbackVisitorID>f</fallbackVisitorID>", b"fid:f"),
        (b"<ipAddress>1.2.3.4</ipAddress><userAgent>UA 1</userAgent>", b"ip:1.2.3.4 UA 1"),
        (b"<fallbackVisitorID>f</fallbackVisitorID>" + MID, b"mid:m"),
        (b"<fallbackVisitorID>f</fallbackVisitorID><visitorID>v</visitorID>", b"vid:v"),
        (b"<visitorID> </visitorID><fallbackVisitorID>f</fallbackVisitorID>", b"fid:f"),
        (b"<visitorID>\n  v&#233;&amp;<![CDATA[<]]>\n</visitorID>", "vid:vé&<".encode()),
        (b"<visitorID/><visitorID>first</visitorID><visitorID>2</visitorID>", b"vid:first"),
    ],
)
def test_the_visitor_is_the_first_id_of_adobes_precedence(ids: bytes, expected: bytes) -> None:
    body = request(b"<pageURL>p</pageURL><reportSuiteID>opt</reportSuiteID>" + ids)
    assert read(body).visitor == expected


@pytest.mark.parametrize(
    "page",
    [
        b"<pageURL>p</pageURL>",
        b"<PAGENAME>p</PAGENAME>",
        b"<linkType>d</linkType><linkName>n</linkName>",
        b"<linkType>d</linkType><linkURL>u</linkURL>",
        b"<linkName>n</linkName>",  # the tag reference: linkType defaults to o
    ],
)
def test_a_page_or_a_link_makes_a_hit(page: bytes) -> None:
    body = request(b"<visitorID>v</visitorID><reportSuiteID>opt</reportSuiteID>" + page)
    assert read(body).suites == ("opt",)


def test_suites_keep_their_order_and_count_once() -> None:
    body = VISIT.replace(b"opt,req", b" b, a,,\n c ,a")
    assert read(body).suites == ("b", "a", "c")


def test_a_repeated_suite_tag_names_all_its_suites() -> None:
    """Which of two tags Adobe reads is not known; no suite may be overlooked."""
    assert read(request(BASICS + b"<reportsuiteid>req,opt</reportsuiteid>")).suites == (
        "opt",
        "req",
    )


@pytest.mark.parametrize(
    "name,value",
    [
        (b'"ISO-8859-1"', b"\xe9"),
        (b"windows-1252", b"\xe9"),
        (b"'latin1'", b"\xe9"),
        (b'"UTF-8"', b"\xc3\xa9"),
        (b"utf8", b"\xc3\xa9"),
        (b'"utf-16"', b"\xc3\xa9"),  # a .NET StringWriter's word, over plain bytes
    ],
)
def test_the_declared_encoding_is_obeyed(name: bytes, value: bytes) -> None:
    declaration = b"<?xml version=1.0 encoding=" + name + b"?>"
    body = declaration + VISIT.removeprefix(DECLARATION).replace(b"128655", value)
    assert read(body).visitor == "vid:é".encode()
    assert stamped(body) == body.replace(b"<request>", b"<request>" + STAMP)


@pytest.mark.parametrize("before", [b"\n  ", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n"])
def test_a_byte_order_mark_and_a_line_break_before_the_declaration_are_read(before: bytes) -> None:
    assert read(before + VISIT) == read(VISIT)
    assert stamped(before + VISIT) == before + stamped(VISIT)


def test_a_byte_order_mark_says_more_than_the_declaration() -> None:
    """Expat believes the mark, so what is written must be UTF-8 too."""
    body = b"\xef\xbb\xbf" + VISIT.replace(b"UTF-8", b"iso-8859-1")
    assert render(body.replace(b"opt", "é".encode()), None, ("é",)) == body.replace(
        b"opt,req", "é".encode()
    )


# Refusing


@pytest.mark.parametrize(
    "tags,reason",
    [
        (b"<pageName>p</pageName><visitorID>v</visitorID>", "NO account"),
        (BASICS.replace(b"opt", b" ,"), "NO account"),
        (BASICS.replace(b"visitorID", b"prop1"), "NO visitorid OR ipaddress"),
        (
            BASICS.replace(b"visitorID", b"prop1") + b"<userAgent>UA</userAgent>",
            "NO visitorid OR ipaddress",
        ),
        (  # "omitted from reporting", says the tag reference: an address needs its user agent
            BASICS.replace(b"visitorID", b"ipAddress"),
            "NO visitorid OR ipaddress",
        ),
        (
            b"<contextData>" + BASICS + b"</contextData><reportSuiteID>opt</reportSuiteID>",
            "NO visitorid OR ipaddress",
        ),
        (BASICS.replace(b"pageName", b"prop1"), "NO pagename OR pageurl"),
        (BASICS.replace(b"pageName", b"linkType"), "NO pagename OR pageurl"),
        (BASICS.replace(b"pageName", b"linkURL"), "NO pagename OR pageurl"),
        (b"", "NO account"),
    ],
)
def test_what_lacks_a_suite_a_visitor_or_a_page_gets_adobes_reason(
    tags: bytes, reason: str
) -> None:
    assert refusal(request(tags)) == reason


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"AQB=1&pageName=p&AQE=1",
        b'{"request":{}}',
        VISIT.removesuffix(b"</request>"),
        VISIT + b"<request/>",
        VISIT.replace(b"128655", b"News & Sports"),
        VISIT.replace(b"128655", b"\xe9"),  # not UTF-8
        VISIT.replace(b"128655", b"\x00"),
        VISIT.replace(b"request>", b"requests>"),
        VISIT.replace(b"<request>", b'<x:request xmlns:x="u">').replace(b"</r", b"</x:r"),
        VISIT.replace(b"<request>", b'<request xmlns="u">'),
        VISIT.replace(b"UTF-8", b"no-such-encoding"),
        VISIT.replace(b"UTF-8", b"iso-8859-12"),  # there is none
        VISIT.replace(b"UTF-8", b"unicode_escape"),
        VISIT.replace(b"UTF-8", b"cp037"),  # its ASCII bytes are other letters
        VISIT.removeprefix(DECLARATION).decode().encode("utf-16"),
        b"<x>" + VISIT.removeprefix(DECLARATION) + b"</x>",
    ],
)
def test_what_is_not_a_request_is_a_syntax_error(body: bytes) -> None:
    assert refusal(body) == "Syntax Error"


LAUGHS = b"".join(b'<!ENTITY l%d "%s">' % (n, b"&l%d;" % (n - 1) * 20) for n in range(1, 40))


@pytest.mark.parametrize("before", [b"", DECLARATION, b"\xef\xbb\xbf<!-- a --> <?pi <!-- ?>\n"])
@pytest.mark.parametrize(
    "doctype",
    [
        b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>',
        b'<!DOCTYPE request SYSTEM "http://evil.example/x.dtd">',
        b"<!DOCTYPE request>",
        b'<!DOCTYPE request [<!ENTITY l0 "ha">' + LAUGHS + b'<!ENTITY a "&l39;">]>',
    ],
)
def test_a_document_type_is_refused_at_once_and_no_entity_expands(
    before: bytes, doctype: bytes
) -> None:
    body = VISIT.removeprefix(DECLARATION).replace(b"128655", b"&a;")
    began = time.perf_counter()
    assert refusal(before + doctype + body) == "Syntax Error"
    assert time.perf_counter() - began < 1


def test_a_document_type_inside_a_value_is_just_text() -> None:
    body = request(BASICS + b"<prop1><![CDATA[<!DOCTYPE html>]]></prop1>")
    assert stamped(body) == body.replace(b"<request>", b"<request>" + STAMP)


def test_nesting_has_a_limit() -> None:
    def nested(depth: int) -> bytes:
        return request(BASICS + b"<a>" * depth + b"</a>" * depth)

    assert read(nested(MAX_DEPTH - 1)).suites == ("opt",)
    assert refusal(nested(MAX_DEPTH)) == "Syntax Error"
    assert refusal(nested(100_000)) == "Syntax Error"


def test_a_body_of_nothing_but_tags_costs_milliseconds() -> None:
    """256 KiB is what the intake lets in; the loop must not stand still for it."""
    body = request(BASICS + b"<timestamp/>" * 21_000)
    began = time.perf_counter()
    assert stamped(body).count(STAMP) == 21_000
    assert time.perf_counter() - began < 2


def test_reading_leaves_no_cycle_behind() -> None:
    gc.collect()
    gc.disable()
    try:
        read(VISIT)
        assert gc.collect() == 0
    finally:
        gc.enable()


# Rendering


def test_the_stamp_stands_right_after_the_root_and_nothing_else_changes() -> None:
    assert stamped(VISIT) == VISIT.replace(b"<request>", b"<request>" + STAMP)


@pytest.mark.parametrize(
    "root", [b"<Request>", b"<request\n>", b"<request a='>' b=\"/>\" >", b'<request xmlns:x="u">']
)
def test_the_end_of_the_roots_start_tag_is_found(root: bytes) -> None:
    end = b"</Request>" if root == b"<Request>" else b"</request>"
    for inner in (
        BASICS,
        b"\n  " + BASICS,
        b"<!--c-->" + BASICS,
        b"<?pi?>" + BASICS,
        b"&amp;" + BASICS,
    ):
        assert stamped(root + inner + end) == root + STAMP + inner + end


@pytest.mark.parametrize("timestamp", [b"1769990000", b"2026-02-01T10:00:00Z", b" yesterday "])
def test_a_timestamp_of_the_client_stays(timestamp: bytes) -> None:
    body = request(BASICS + b"<TimeStamp>" + timestamp + b"</TimeStamp>")
    assert stamped(body) == body


@pytest.mark.parametrize(
    "blank,filled",
    [
        (b"<TimeStamp></TimeStamp>", b"<TimeStamp>1770000000</TimeStamp>"),
        (b"<TimeStamp> \n </TimeStamp >", b"<TimeStamp>1770000000</TimeStamp >"),
        (b"<TimeStamp/>", b"<TimeStamp>1770000000</TimeStamp>"),
        (b"<timestamp a='/>' />", b"<timestamp a='/>' >1770000000</timestamp>"),
        (b"<timestamp a='/>'></timestamp>", b"<timestamp a='/>'>1770000000</timestamp>"),
        (b"<timestamp><!-- none --></timestamp>", STAMP),
        (b"<timestamp/><timestamp> </timestamp>", STAMP + STAMP),
    ],
)
def test_a_blank_timestamp_is_filled_so_that_there_are_never_two(
    blank: bytes, filled: bytes
) -> None:
    for before, after in ((BASICS, b""), (b"", BASICS)):
        assert stamped(request(before + blank + after)) == request(before + filled + after)


def test_a_timestamp_in_context_data_neither_stops_the_stamp_nor_is_touched() -> None:
    body = request(BASICS + b"<contextData><timestamp/><timestamp>5</timestamp></contextData>")
    assert stamped(body) == body.replace(b"<request>", b"<request>" + STAMP)


def test_a_part_of_the_suites_replaces_their_tags_text_alone() -> None:
    expected = VISIT.replace(b"opt,req", b"req")
    assert render(VISIT, None, ("req",)) == expected
    assert render(VISIT, NOW, ("req",)) == stamped(expected)
    blank = request(BASICS.replace(b"opt", b"opt,req") + b"<timestamp/>")
    assert render(blank, NOW, ("opt",)) == request(BASICS + STAMP)


@pytest.mark.parametrize(
    "suites", [(), ("opt", "req"), ("req", "opt"), ("other",), ("opt", "other")]
)
def test_all_suites_and_foreign_ones_change_nothing(suites: tuple[str, ...]) -> None:
    assert render(VISIT, None, suites) == VISIT


def test_every_tag_that_names_suites_is_narrowed() -> None:
    body = request(BASICS + b"<reportsuiteid/><REPORTSUITEID><![CDATA[req]]></REPORTSUITEID>")
    expected = BASICS + b"<reportsuiteid/><REPORTSUITEID>opt</REPORTSUITEID>"
    assert render(body, None, ("opt",)) == request(expected)


def test_a_narrowed_suite_is_escaped_and_encoded_as_the_body_is() -> None:
    body = b'<?xml version="1.0" encoding="iso-8859-1"?>' + request(
        BASICS.replace(b"opt", b"a,\xe9&lt;&amp;,&#8364;")
    )
    assert render(body, None, ("é<&", "€")) == body.replace(b"a,", b"")


def test_places_are_right_beyond_a_megabyte() -> None:
    body = request(BASICS + b"<prop1>" + b"x" * 3_000_000 + b"</prop1><timestamp> </timestamp>")
    assert stamped(body) == body.replace(b"<timestamp> </timestamp>", STAMP)


# Properties

TEXT = st.sampled_from(
    [
        b"",
        b" ",
        b"5",
        b"opt",
        b"opt,req",
        "é".encode(),
        b"&amp;",
        b"<![CDATA[<timestamp>]]>",
        b"a=>/",
    ]
) | st.text(st.characters(codec="ascii", exclude_characters="<>&", exclude_categories=["Cc"])).map(
    str.encode
)
NAMES = st.sampled_from(
    ["timestamp", "TimeStamp", "reportSuiteID", "visitorID", "pageName", "contextData", "prop1"]
).map(str.encode)
ATTRIBUTES = st.sampled_from([b"", b" ", b" a='/>'", b' b=">"', b"\n"])


def tag(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    whole = st.builds(
        lambda n, a, i: b"<" + n + a + b">" + i + b"</" + n + b">", NAMES, ATTRIBUTES, inner
    )
    return whole | st.builds(lambda n, a: b"<" + n + a + b"/>", NAMES, ATTRIBUTES)


NOISE = st.sampled_from([b"\n  ", b"<!-- <timestamp> -->", b"<?timestamp ?>", b"&#65;", b"&lt;"])
CHILDREN = st.lists(st.recursive(tag(TEXT), tag) | NOISE, max_size=6).map(b"".join)
PROLOGS = st.sampled_from([b"", DECLARATION, b"\n<?xml version='1.0'?><!-- c -->\n"])
BODIES = st.builds(
    lambda p, a, i, j: p + b"<request" + a + b">" + i + BASICS + j + b"</request>\n",
    PROLOGS,
    ATTRIBUTES,
    CHILDREN,
    CHILDREN,
)
PARTS = st.lists(st.sampled_from(["opt", "req", "non"]), unique=True).map(tuple)
Shape = list[tuple[str, str, str]]


def shape(body: bytes) -> Shape:
    """What another parser sees of the root's children: name, text, everything below."""
    well_formed = body[body.index(b"<request") :]
    root = ET.fromstring(well_formed)
    return [
        (e.tag.lower(), "".join(e.itertext()).strip(" \t\r\n"), ET.tostring(e, "unicode"))
        for e in root
    ]


@given(BODIES)
def test_without_a_stamp_and_a_part_the_body_is_the_same_bytes(body: bytes) -> None:
    assert render(body, None, read(body).suites) == body


@given(BODIES)
def test_a_stamp_is_inserted_once_or_fills_blanks_or_was_there(body: bytes) -> None:
    """Held against another parser: every other child is as it was, and all stamps agree."""
    before, after = shape(body), shape(stamped(body))
    others = [child for child in before if child[0] != "timestamp"]
    assert [child for child in after if child[0] != "timestamp"] == others
    sent = [text for name, text, _ in before if name == "timestamp"]
    got = [text for name, text, _ in after if name == "timestamp"]
    assert got == (sent if any(sent) else [str(NOW)] * max(1, len(sent)))
    if not sent:
        assert stamped(body).replace(STAMP, b"", 1) == body


@given(BODIES, PARTS)
def test_rendering_twice_is_rendering_once(body: bytes, suites: tuple[str, ...]) -> None:
    once = render(body, NOW, suites)
    assert render(once, NOW + 1, suites) == once
    assert read(once).visitor == read(body).visitor


@given(BODIES, PARTS)
def test_a_rendered_body_names_the_part_it_stands_for(body: bytes, part: tuple[str, ...]) -> None:
    named = read(body).suites
    expected = part if part and set(part) < set(named) else named
    assert read(render(body, NOW, part)).suites == expected


@given(
    st.binary()
    | st.builds(
        lambda b, c, at: b[:at] + c + b[at:], BODIES, st.binary(max_size=4), st.integers(0, 80)
    )
)
@example(b"<?xml version=1.0 encoding=punycode?><request/>")
@example(b"<request/>")
@example(b"</request>")
@example(b"\xff\xfe<\x00a\x00/\x00>\x00")
@example(b"\xfe\xff\xe5\xa4")
def test_no_bytes_raise_anything_but_a_refusal(body: bytes) -> None:
    for attempt in (read, stamped):
        with suppress(InsertionRefused):
            attempt(body)
