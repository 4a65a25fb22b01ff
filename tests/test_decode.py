"""Claims about what a hit is shown as: Adobe's names, and the visitor that the queue goes by."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core import beacon
from proxy.core.decode import (
    GROUPS,
    MOST,
    Decoded,
    Event,
    Field,
    Identity,
    Kind,
    decode,
)
from proxy.core.hit import Request
from proxy.errors import TrackofflineError

PATH = b"/b/ss/rs1/1/JS-2.27.0/s1"


def get(query: str | bytes, *headers: tuple[bytes, bytes], path: bytes = PATH) -> Request:
    raw = query.encode() if isinstance(query, str) else query
    return Request("GET", path + b"?" + raw, headers)


def shown(query: str | bytes) -> Decoded:
    return decode(get(query))


def group(decoded: Decoded, id_: str) -> dict[str, str]:
    """Names and values of one group; empty when it is not there."""
    return {
        field.name: field.value
        for group in decoded.groups
        if group.id == id_
        for field in group.fields
    }


def everything(decoded: Decoded) -> list[Field]:
    return [field for group in decoded.groups for field in group.fields]


@pytest.mark.parametrize(
    "query, id_, name, value",
    [
        ("pageName=Home%20page", "page", "pageName", "Home page"),
        ("gn=Home", "page", "pageName", "Home"),
        ("sv=shop.example", "page", "server", "shop.example"),
        ("v0=spring", "page", "campaign", "spring"),
        ("v12=boots+and+tents", "evars", "eVar12", "boots and tents"),
        ("v250=last", "evars", "eVar250", "last"),
        ("c75=last", "props", "prop75", "last"),
        ("l3=a%2Cb", "lists", "list3", "a,b"),
        ("h5=a%7Cb", "hierarchy", "hier5", "a|b"),
        ("c=24", "technical", "color depth", "24"),
        ("mcorgid=AB%40AdobeOrg", "technical", "organization ID", "AB@AdobeOrg"),
        ("ts=1770000000", "technical", "timestamp", "1770000000"),
        ("hp=N", "retired", "homepage", "N"),
        ("pev1=https%3A%2F%2Fa.example", "link", "linkURL", "https://a.example"),
        ("xact=77", "page", "transactionID", "77"),
    ],
)
def test_a_parameter_has_adobes_name_and_its_group(
    query: str, id_: str, name: str, value: str
) -> None:
    assert group(shown(query), id_) == {name: value}


@pytest.mark.parametrize(
    "name", ["pagename", "V12", "v251", "v01", "v", "c76", "l4", "h6", "event1", "made-up", "%7612"]
)
def test_a_name_adobe_does_not_know_is_other(name: str) -> None:
    """Adobe's names are case-sensitive: `pagename` is not the page."""
    decoded = shown(f"{name}=x")
    expected = {"v": ["technical"]}.get(name, ["other"])
    assert [group.id for group in decoded.groups] == expected
    assert everything(decoded)[0].key == name


def test_the_campaign_is_no_evar() -> None:
    decoded = shown("v0=spring&v1=x")
    assert group(decoded, "evars") == {"eVar1": "x"}
    assert "eVar0" not in {field.name for field in everything(decoded)}


def test_levels_are_flattened_into_names() -> None:
    decoded = shown(
        "c.&a.&AppID=App%201.0&activitymap.&page=P&link=L&.activitymap&media.&name=Film&.media"
        "&.a&cart.&size=3&.cart&action=buy&.c&h.&architecture=x86&.h&cid.&crm.&id=7&.crm&.cid"
    )
    assert group(decoded, "context") == {"a.AppID": "App 1.0", "cart.size": "3", "action": "buy"}
    assert group(decoded, "activity") == {"a.activitymap.page": "P", "a.activitymap.link": "L"}
    assert group(decoded, "media") == {"a.media.name": "Film"}
    assert group(decoded, "hints") == {"architecture": "x86"}
    assert group(decoded, "technical") == {"cid.crm.id": "7"}


def test_names_with_their_levels_written_out_are_the_same() -> None:
    assert group(shown("c.a.AppID=X"), "context") == group(shown("c.&a.&AppID=X&.a&.c"), "context")


def test_context_data_is_no_parameter() -> None:
    """`c.&ts=…` is context data of that name, `c` the colour depth, `c1` a prop."""
    decoded = shown("c.&ts=yesterday&vid=7&pageName=no&x.&ts=1&.x&.c&pageName=p&c=24&c1=z")
    assert group(decoded, "context") == {
        "ts": "yesterday",
        "vid": "7",
        "pageName": "no",
        "x.ts": "1",
    }
    assert decoded.ts is None
    assert decoded.title == "p"
    assert [identity.kind for identity in decoded.identities] == ["ip"]


@pytest.mark.parametrize(
    "query, said",
    [
        ("c.&x=1", ("c.", "never closed")),
        (".c&x=1", (".c", "closes nothing")),
        ("c.&a.&x=1&.c", ("a.", "never closed")),
        ("a.&x=1&.a&.a", (".a", "closes nothing")),
    ],
)
def test_a_level_that_does_not_match_is_said(query: str, said: tuple[str, str]) -> None:
    others = [(f.key, f.name) for f in everything(shown(query)) if not f.value]
    assert others == [said]


def test_a_level_closed_with_its_outer_one_is_closed() -> None:
    decoded = shown("c.&a.&x=1&.c&.a&v1=y")
    names = [(f.key, f.name) for f in everything(decoded) if not f.value]
    assert names == [("a.", "never closed"), (".a", "closes nothing")]
    assert group(decoded, "evars") == {"eVar1": "y"}


def test_doubled_separators_and_empty_openers_are_taken_as_clients_send_them() -> None:
    decoded = shown("AQB=1&&c.=&x=1&.c=&v1=a")
    assert group(decoded, "context") == {"x": "1"}
    assert group(decoded, "evars") == {"eVar1": "a"}
    assert group(decoded, "other") == {}


@pytest.mark.parametrize(
    "text, event",
    [
        ("purchase", Event("purchase", "", "")),
        ("event1=2.5", Event("event1", "2.5", "")),
        ("event1:ABC=1", Event("event1", "", "ABC=1")),
        ("event1=2.5:ABC", Event("event1", "2.5", "ABC")),
    ],
)
def test_an_event_has_a_value_and_a_serial(text: str, event: Event) -> None:
    from urllib.parse import quote  # noqa: PLC0415 - for this test alone

    assert shown(f"events={quote(text)}").events == (event,)
    assert shown(f"ev=,{quote(text)},").events == (event,)


def test_products_are_a_table() -> None:
    """The example of Adobe's page "products", and a product of a name only."""
    text = (
        "Example category;Example product;1;3.50;event1=4.99|event2=5.99:X"
        ";eVar1=Merchandising 1|eVar2=2,;Other"
    )
    from urllib.parse import quote  # noqa: PLC0415 - for this test alone

    first, second = shown(f"products={quote(text)}").products
    assert (first.category, first.name) == ("Example category", "Example product")
    assert (first.quantity, first.price) == ("1", "3.50")
    assert first.events == (Event("event1", "4.99", ""), Event("event2", "5.99", "X"))
    assert first.evars == (
        Field("eVar1", "eVar1", "Merchandising 1"),
        Field("eVar2", "eVar2", "2"),
    )
    assert (second.category, second.name, second.quantity) == ("", "Other", "")
    assert shown(f"pl={quote(text)}").products == (first, second)


def test_a_product_of_too_many_fields_keeps_them_in_its_raw_text() -> None:
    (product,) = shown("products=a;b;1;2;event1;eVar1=x;seven;eight").products
    assert product.raw == "a;b;1;2;event1;eVar1=x;seven;eight"
    assert product.evars == (Field("eVar1", "eVar1", "x"),)


@pytest.mark.parametrize(
    "query, kind, title",
    [
        ("pageName=Home&g=http%3A%2F%2Fa", Kind.PAGE, "Home"),
        ("g=http%3A%2F%2Fa%3F&-g=rest", Kind.PAGE, "http://a?rest"),
        ("pageName=Home&pe=lnk_o&pev2=Help", Kind.LINK, "Help"),
        ("pageName=Home&pe=lnk_e&pev1=http%3A%2F%2Fb", Kind.EXIT, "http://b"),
        ("pe=lnk_d&pev1=http%3A%2F%2Fb&pev2=PDF", Kind.DOWNLOAD, "PDF"),
        ("pe=lnk_x&pev2=odd", Kind.LINK, "odd"),
        ("pageName=Home&pe=m_s&pev3=x", Kind.MEDIA, "Home"),
        ("pageName=Home&pe=ms_c", Kind.MEDIA, "Home"),
        ("pageName=Home&pe=tnt&tnt=1", Kind.OTHER, "Home"),
        ("", Kind.PAGE, PATH.decode()),
    ],
)
def test_the_title_is_what_an_analyst_calls_the_hit(query: str, kind: Kind, title: str) -> None:
    decoded = shown(query)
    assert (decoded.kind, decoded.title) == (kind, title)


def test_groups_stand_in_one_order_and_are_there_when_they_hold_something() -> None:
    decoded = shown("zz=1&hp=1&ts=1&h.&x=1&.h&oid=1&ms_a=1&c.&x=1&.c&h1=1&l1=1&c1=1&v1=1&pe=o&g=1")
    assert [group.id for group in decoded.groups] == list(GROUPS)
    assert [group.title for group in decoded.groups] == list(GROUPS.values())
    assert shown("").groups == ()


def test_values_are_read_in_the_encoding_that_is_sent() -> None:
    latin = shown(b"ce=ISO-8859-1&pageName=caf%E9")
    assert latin.title == "caf\xe9"
    late = shown(b"pageName=%93%FA%96%7B&ce=Shift_JIS")
    assert late.title == "\u65e5\u672c"
    assert shown(b"pageName=caf%C3%A9").title == "caf\xe9"


@pytest.mark.parametrize("charset", ["", "UTF-8", "base64", "unicode_escape", "rot13", "idna", "x"])
def test_what_is_no_text_is_shown_as_replaced(charset: str) -> None:
    """Python's codecs that are no encodings of a page are never tried."""
    assert shown(f"ce={charset}&pageName=a%FFb%zz").title == "a\ufffdb%zz"


def test_a_form_post_is_read_from_its_body() -> None:
    request = Request("POST", PATH, (), b"AQB=1&pageName=Long&v1=x&mid=7&AQE=1")
    decoded = decode(request)
    assert decoded.title == "Long"
    assert group(decoded, "evars") == {"eVar1": "x"}
    assert decoded.identities[0] == Identity("mid", "7", used=True)


def test_of_url_and_body_the_body_is_the_one_that_counts() -> None:
    request = Request("POST", PATH + b"?pageName=url&v1=url&ce=x", (), b"pageName=body&ce=latin1")
    decoded = decode(request)
    assert decoded.title == "body"
    pages = [f.value for f in everything(decoded) if f.name == "pageName"]
    assert pages == ["url", "body"], "and both are shown"


def test_the_path_says_version_and_suites() -> None:
    decoded = decode(get("", path=b"/b/ss/rs1,rs2/1/JS-2.27.0/s1"))
    assert decoded.suites == ("rs1", "rs2")
    assert decoded.version == "JS-2.27.0"
    assert decode(get("", path=b"/b/ss/rs1/1")).version == ""
    assert decode(get("", path=b"/b/ss//1")).suites == ()
    assert decode(get("pageName=x", path=b"/somewhere/else")).title == "x"


XML = """<?xml version=1.0 encoding=UTF-8?><request>
<visitorID>v7</visitorID><marketingCloudVisitorId>m7</marketingCloudVisitorId>
<pageName>Home &amp; garden</pageName><eVar12>boots</eVar12><PROP1>p</PROP1><list1>a,b</list1>
<events>event1=2,purchase</events><products>;Tent;1;9.90</products>
<contextData><my><a>red</a></my><flat.b>blue</flat.b></contextData><contextData.c>d</contextData.c>
<userAgentClientHints><bitness>64</bitness></userAgentClientHints>
<timestamp>1770000000</timestamp><reportSuiteID>rs1,rs2</reportSuiteID><madeUp>x</madeUp>
</request>"""


def test_an_xml_insertion_is_shown_as_a_hit_like_any_other() -> None:
    decoded = decode(Request("POST", b"/b/ss//6", (), XML.encode()))
    assert decoded.suites == ("rs1", "rs2")
    assert (decoded.kind, decoded.title, decoded.ts) == (
        Kind.PAGE,
        "Home & garden",
        "1770000000",
    )
    assert decoded.identities == (
        Identity("vid", "v7", used=True),
        Identity("mid", "m7", used=False),
    )
    assert decoded.events == (Event("event1", "2", ""), Event("purchase", "", ""))
    assert decoded.products[0].name == "Tent"
    assert group(decoded, "evars") == {"eVar12": "boots"}
    assert group(decoded, "props") == {"prop1": "p"}
    assert group(decoded, "context") == {"my.a": "red", "flat.b": "blue", "c": "d"}
    assert group(decoded, "hints") == {"bitness": "64"}
    assert group(decoded, "other") == {"madeUp": "x"}
    assert "PROP1" in {field.key for field in everything(decoded)}, "as it was sent"


def test_an_xml_link_is_a_link() -> None:
    body = XML.replace("<madeUp>x</madeUp>", "<linkName>Help</linkName>").encode()
    decoded = decode(Request("POST", b"/b/ss//6", (), body))
    assert (decoded.kind, decoded.title) == (Kind.LINK, "Help")


def test_xml_that_is_none_is_shown_as_it_stands() -> None:
    decoded = decode(Request("POST", b"/b/ss//6", (), b"<request><a>&nope;</a></request>"))
    assert group(decoded, "other") == {"not readable as XML": "<request><a>&nope;</a></request>"}
    assert len([one for one in decoded.identities if one.used]) == 1


# -- what the queue goes by -----------------------------------------------------------------

NAMES = st.sampled_from(
    [b"vid", b"aid", b"mid", b"fid", b"ts", b"ce", b"c.", b".c", b"a.", b".a", b"x", b"c.=", b"."]
)
VALUES = st.sampled_from([b"", b"=", b"=7", b"=8-9", b"=%41", b"=a+b", b"==", b"=%FF"])
QUERIES = st.lists(st.tuples(NAMES, VALUES)).map(lambda pairs: b"&".join(a + b for a, b in pairs))
COOKIES = st.sampled_from(
    [
        b"s_vi=[CS]v1|2B2AF1AA05079532-40000110400027BD[CE]",
        b"s_ecid=MCMID%7C123; s_vi=x",
        b"AMCV_A%40AdobeOrg=1|MCMID|456|x",
        b"s_fid=7",
    ]
)
HEADERS = st.lists(
    st.one_of(
        COOKIES.map(lambda value: (b"Cookie", value)),
        st.just((b"User-Agent", b"UA1")),
        st.just((b"X-Forwarded-For", b"203.0.113.7")),
    ),
    max_size=3,
).map(tuple)


@given(query=QUERIES, body=QUERIES, headers=HEADERS, peer=st.sampled_from(["", "192.0.2.1"]))
def test_the_visitor_that_wins_is_the_one_the_lane_goes_by(
    query: bytes, body: bytes, headers: tuple[tuple[bytes, bytes], ...], peer: str
) -> None:
    request = Request("POST", PATH + b"?" + query, headers, body)
    said = beacon.read(request, peer)
    decoded = decode(request, peer)
    used = [identity for identity in decoded.identities if identity.used]
    assert used == [decoded.identities[0]]
    kind, _, value = said.visitor.partition(b":")
    assert used[0].kind == kind.decode()
    assert used[0].value == decode(get(b"v1=" + value)).groups[0].fields[0].value or b"&" in value
    assert decoded.suites == said.suites
    assert (decoded.ts is None) == (said.ts is None)
    kinds = [identity.kind for identity in decoded.identities]
    order = ["vid", "aid", "mid", "fid", "ip"]
    assert kinds == [one for one in order if one in kinds], "in Adobe's order, each once"


def test_behind_a_thousand_parameters_the_visitor_is_the_lanes_too() -> None:
    query = b"c.&x=1&.c&" + b"v1=x&" * (2 * MOST) + b"mid=7&ts=1770000000"
    said, decoded = beacon.read(get(query)), decode(get(query))
    assert said.visitor == b"mid:7"
    assert decoded.identities[0] == Identity("mid", "7", used=True)
    assert decoded.ts == "1770000000"


@given(
    tags=st.lists(
        st.sampled_from(["visitorId", "marketingCloudVisitorId", "fallbackVisitorId", "userAgent"]),
        unique=True,
    )
)
def test_the_visitor_of_an_insertion_is_the_one_the_lane_goes_by(tags: list[str]) -> None:
    given_tags = "".join(f"<{tag}>{tag[0]}</{tag}>" for tag in tags)
    body = (
        f"<request>{given_tags}<ipAddress>192.0.2.1</ipAddress>"
        "<userAgent>UA</userAgent><pageName>p</pageName><reportSuiteId>rs</reportSuiteId></request>"
    )
    request = Request("POST", b"/b/ss//6", (), body.encode())
    kind, _, value = beacon.read(request).visitor.decode().partition(":")
    (used,) = (identity for identity in decode(request).identities if identity.used)
    assert (used.kind, used.value) == (kind, value)


# -- hostile hits ---------------------------------------------------------------------------


@given(
    target=st.binary(max_size=200),
    body=st.binary(max_size=200),
    path=st.sampled_from([PATH, b"/b/ss//6", b"/b/ss/%2C,/1", b"", b"/b/ss/a/4/REDIR/"]),
    cookie=st.binary(max_size=40),
)
def test_no_bytes_at_all_raise(target: bytes, body: bytes, path: bytes, cookie: bytes) -> None:
    decode(Request("POST", path + b"?" + target, ((b"Cookie", cookie),), body))
    decode(Request("POST", path + target, (), b"<request>" + body + b"</request>"))


@given(
    st.sampled_from(["big5", "euc-jp", "iso-2022-jp", "gb18030", "windows-1252", "koi8-u"]),
    st.binary(),
)
def test_no_bytes_raise_in_any_encoding(charset: str, value: bytes) -> None:
    from urllib.parse import quote_from_bytes  # noqa: PLC0415 - for this test alone

    shown(f"ce={charset}&pageName={quote_from_bytes(value)}")


def weight(value: object) -> int:
    """How much a person would have to look at: characters, and fields that hold some."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, tuple):
        return len(value) + sum(weight(one) for one in value)
    if is_dataclass(value):
        return sum(weight(getattr(value, field.name)) for field in fields(value))
    return 0


WORST = {
    "openers": b"c.&",
    "openers with names": b"long-level-name.&a=1&",
    "closers": b".c&",
    "opened and closed": b"c.&.c&",
    "names": b"a=1&",
    "separators": b"&",
    "escapes": b"%41%",
    "events": b"events=" + b"e,",
    "cookies": b"AMCV_=",
}


@pytest.mark.parametrize("piece", WORST.values(), ids=WORST)
@pytest.mark.parametrize("where", ["query", "body", "events", "products", "one product", "xml"])
def test_a_hostile_hit_is_shown_in_proportion_to_its_size(piece: bytes, where: str) -> None:
    """What is made of 250 KB is no more than a small multiple of it, however it is nested."""
    data = piece * (250_000 // len(piece))
    request = {
        "query": Request("GET", PATH + b"?" + data),
        "body": Request("POST", PATH, (), data),
        "events": Request("GET", PATH + b"?events=" + data.replace(b"&", b",")),
        "products": Request("GET", PATH + b"?products=" + data.replace(b"&", b",")),
        "one product": Request("GET", PATH + b"?products=;;;;" + data.replace(b"&", b"|")),
        "xml": Request("POST", b"/b/ss//6", (), b"<request>" + b"<a.b>x</a.b>" * 20_000),
    }[where]
    decoded = decode(request)
    assert weight(decoded) < 10 * 250_000
    assert len(everything(decoded)) <= 2 * MOST + 10


def test_xml_below_a_long_name_is_shown_in_proportion_to_its_size() -> None:
    name = b"n" * 60_000
    inner = b"<a>x</a>" * 15_000
    body = b"<request><" + name + b">" + inner + b"</" + name + b"></request>"
    assert weight(decode(Request("POST", b"/b/ss//6", (), body))) < 10 * len(body)


def test_what_is_too_many_to_show_is_counted() -> None:
    decoded = shown("&".join(["v1=x"] * (MOST + 1000)))
    assert group(decoded, "other") == {"not shown": "1000 more parameters"}
    decoded = shown("c.&" + "&".join(["v1=x"] * (MOST + 1000)) + "&.c")
    assert group(decoded, "other") == {"not shown": "1002 more parameters"}, "and not: unclosed"
    decoded = shown("events=" + "%2C".join(["event1"] * (MOST + 7)))
    assert len(decoded.events) == MOST
    assert group(decoded, "other") == {"not shown": "7 more events"}


@given(st.lists(st.sampled_from(["c.", ".c", "a.", ".a", "x=1", "v1=2", ""])))
def test_nothing_that_was_sent_is_left_out(pieces: list[str]) -> None:
    """Every value stands somewhere, whatever the levels around it do."""
    decoded = shown("&".join(pieces))
    assert len([f for f in everything(decoded) if f.value]) == sum("=" in one for one in pieces)


def test_a_refused_insertion_is_of_our_own_kind() -> None:
    """What `decode` catches is no wider than what `beacon` raises."""
    with pytest.raises(TrackofflineError):
        beacon.read(Request("POST", b"/b/ss//6", (), b"<request>"))
