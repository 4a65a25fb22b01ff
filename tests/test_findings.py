"""Claims about what is wrong with a hit.

Each rule has a hit that breaks it, and one that barely does not.
"""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.decode import decode
from proxy.core.findings import (
    DOCS,
    EDGE_API,
    MOST,
    PLATFORM,
    RULES,
    Finding,
    Severity,
    findings,
    unix_ms,
)
from proxy.core.hit import ReportSuite, Request, Suites, Timestamps, WhenLate

NOW = 1_770_000_000_000  # 2026-02-02T02:40:00Z
DAY = 86_400_000
SUITES = Suites(
    {
        "opt": ReportSuite(Timestamps.OPTIONAL),
        "req": ReportSuite(Timestamps.REQUIRED),
        "non": ReportSuite(Timestamps.NOT_ALLOWED),
        "now": ReportSuite(Timestamps.NOT_ALLOWED, WhenLate.SEND),
    }
)
GOOD = "pageName=p&mid=1"


def found(
    query: str,
    suite: str = "opt",
    late_s: float = 0,
    suites: Suites = SUITES,
    body: bytes = b"",
) -> tuple[Finding, ...]:
    request = Request("GET", f"/b/ss/{suite}/1/X/s1?{query}".encode(), (), body)
    return findings(
        decode(request),
        request,
        suites,
        received_ms=NOW,
        at_ms=NOW + late_s * 1000,
    )


def rules(query: str, suite: str = "opt", late_s: float = 0) -> list[str]:
    return [one.rule for one in found(query, suite, late_s)]


def test_a_good_hit_has_no_findings() -> None:
    query = f"AQB=1&ndh=1&{GOOD}&v1=x&c.&a=1&.c&products=a;b;1;2;event1=1;eVar1=x&AQE=1"
    assert found(query) == ()


# (rule, what breaks it, what barely does not), each as (query, suite, seconds late).
CASES: list[tuple[str, tuple[str, str, float], tuple[str, str, float]]] = [
    ("L1", (f"AQB=1&{GOOD}", "opt", 0), (f"AQB=1&{GOOD}&AQE=1", "opt", 0)),
    ("L1", (f"AQB=1&{GOOD}&c.&xAQE=1&.c", "opt", 0), (GOOD, "opt", 0)),
    ("L2", (f"{GOOD}&ts=1770000000", "non", 0), (f"{GOOD}&ts=1770000000", "opt", 0)),
    ("L2", (f"{GOOD}&ts=1770000000", "opt,non", 0), (f"{GOOD}&c.&ts=1&.c", "non", 0)),
    ("L3", (GOOD, "req", 0), (f"{GOOD}&ts=1770000000", "req", 0)),
    ("L4", (f"{GOOD}&ts=1770000000123", "opt", 0), (f"{GOOD}&ts=1770000000", "opt", 0)),
    ("L4", (f"{GOOD}&ts=2026-02-02", "opt", 0), (f"{GOOD}&ts=2026-02-02T02:40", "opt", 0)),
    ("L4", (f"{GOOD}&ts=2025-02-29T02:40Z", "opt", 0), (f"{GOOD}&ts=20260202T0240Z", "opt", 0)),
    ("L5", (GOOD, "", 0), (GOOD, "r", 0)),
    ("W1", ("pageName=p", "opt", 0), ("pageName=p&fid=1", "opt", 0)),
    ("W2", ("pageName=p&vid=a1&ts=1770000000", "opt", 0), ("pageName=p&vid=a1", "non", 0)),
    ("W2", ("pageName=p&vid=a1", "req", 0), ("pageName=p&mid=1", "req", 0)),
    ("W3", ("pageName=p&vid=NULL", "non", 0), ("pageName=p&vid=NULLS", "non", 0)),
    ("W3", ("pageName=p&vid=0", "non", 0), ("pageName=p&vid=00", "non", 0)),
    ("W3", (f"pageName=p&vid={'a' * 101}", "non", 0), (f"pageName=p&vid={'a' * 100}", "non", 0)),
    ("W3", ("pageName=p&vid=a-b", "non", 0), ("pageName=p&vid=ab", "non", 0)),
    ("W4", (f"mid=1&pageName={'a' * 101}", "opt", 0), (f"mid=1&pageName={'a' * 100}", "opt", 0)),
    ("W4", (f"{GOOD}&ch={'a' * 101}", "opt", 0), (f"{GOOD}&ch={'a' * 100}", "opt", 0)),
    ("W4", (f"{GOOD}&sv={'a' * 101}", "opt", 0), (f"{GOOD}&sv={'a' * 100}", "opt", 0)),
    ("W4", (f"{GOOD}&c75={'a' * 101}", "opt", 0), (f"{GOOD}&c75={'a' * 100}", "opt", 0)),
    ("W4", (f"{GOOD}&v250={'a' * 256}", "opt", 0), (f"{GOOD}&v250={'a' * 255}", "opt", 0)),
    ("W4", (f"{GOOD}&v0={'a' * 256}", "opt", 0), (f"{GOOD}&v0={'a' * 255}", "opt", 0)),
    ("W4", (f"{GOOD}&r={'a' * 256}", "opt", 0), (f"{GOOD}&r={'a' * 255}", "opt", 0)),
    ("W4", (f"{GOOD}&xact={'a' * 101}", "opt", 0), (f"{GOOD}&xact={'a' * 100}", "opt", 0)),
    (
        "W4",
        (f"{GOOD}&purchaseID={'a' * 21}", "opt", 0),
        (f"{GOOD}&purchaseID={'a' * 20}", "opt", 0),
    ),
    ("W4", (f"{GOOD}&c1={'%C3%A9' * 51}", "opt", 0), (f"{GOOD}&c1={'%C3%A9' * 50}", "opt", 0)),
    ("W4", (f"{GOOD}&l1={'a' * 256}", "opt", 0), (f"{GOOD}&l1={'a' * 255},{'b' * 255}", "opt", 0)),
    (
        "W4",
        (f"{GOOD}&products=;{'a' * 101}", "opt", 0),
        (f"{GOOD}&products=;{'a' * 100}", "opt", 0),
    ),
    (
        "W4",
        (f"{GOOD}&products={'a' * 101};b", "opt", 0),
        (f"{GOOD}&products={'a' * 100};b", "opt", 0),
    ),
    (
        "W4",
        (f"{GOOD}&products=;b;;;;eVar1={'a' * 256}", "opt", 0),
        (f"{GOOD}&products=;b;;;;eVar1={'a' * 255}", "opt", 0),
    ),
    (
        "W4",
        (f"{GOOD}&products={',;b' * 21_846}", "opt", 0),
        (f"{GOOD}&products={',;b' * 21_845}", "opt", 0),
    ),
    (
        "W4",
        (f"{GOOD}&c.&a={'a' * 32_768}&.c", "opt", 0),
        (f"{GOOD}&c.&a={'a' * 32_767}&.c", "opt", 0),
    ),
    ("W5", (f"{GOOD}&ts=1770000061", "opt", 0), (f"{GOOD}&ts=1770000060", "opt", 0)),
    (
        "W5",
        (f"{GOOD}&ts={1_770_000_000 - 92 * 86_400 - 1}", "opt", 0),
        (f"{GOOD}&ts={1_770_000_000 - 92 * 86_400}", "opt", 0),
    ),
    ("W5", (f"{GOOD}&ts=2026-02-02T16:42", "opt", 0), (f"{GOOD}&ts=2026-02-02T16:41", "opt", 0)),
    ("W6", (GOOD, "non", 61), (GOOD, "non", 60)),
    ("W6", (GOOD, "now", 61), (GOOD, "opt", 61)),
    ("W7", (f"{GOOD}&pagename=p", "opt", 0), (f"{GOOD}&pagenam=p", "opt", 0)),
    ("W7", (f"{GOOD}&EVENTS=event1", "opt", 0), (f"{GOOD}&events=event1", "opt", 0)),
    ("W7", (f"{GOOD}&v1=a&v1=a", "opt", 0), (f"{GOOD}&v1=a&v2=a", "opt", 0)),
    ("W7", (f"{GOOD}&c.&A=1&a=1&.c", "opt", 0), (f"{GOOD}&c.&a=1&.c&a=1", "opt", 0)),
    ("W7", (f"{GOOD}&c.&x=1", "opt", 0), (f"{GOOD}&c.&x=1&.c", "opt", 0)),
    ("W7", (f"{GOOD}&x=1&.c", "opt", 0), (f"{GOOD}&c.x=1", "opt", 0)),
    (
        "W7",
        (f"{GOOD}&products=1;2;3;4;5;6;7", "opt", 0),
        (f"{GOOD}&products=1;2;3;4;5;6", "opt", 0),
    ),
    ("N1", (f"{GOOD}&pev3=x", "opt", 0), (f"{GOOD}&pev2=x", "opt", 0)),
    ("N1", (f"{GOOD}&h1=x", "opt", 0), (f"{GOOD}&c.&h1=x&.c", "opt", 0)),
    ("N2", (f"{GOOD}&aid=2", "opt", 0), (f"{GOOD}&sdid=2", "opt", 0)),
    ("N2", ("mid=1&g=http://a", "opt", 0), ("mid=1&pe=lnk_o", "opt", 0)),
    ("N2", (f"{GOOD}&pccr=true", "opt", 0), (f"{GOOD}&c.&pccr=true&.c", "opt", 0)),
    ("N2", (f"{GOOD}&vidn=1", "opt", 0), (f"{GOOD}&vidm=1", "opt", 0)),
    ("N2", (GOOD, "nobody-described-it", 0), (GOOD, "non", 0)),
]


@pytest.mark.parametrize("rule, wrong, right", CASES)
def test_a_rule_finds_what_breaks_it_and_nothing_that_barely_does_not(
    rule: str, wrong: tuple[str, str, float], right: tuple[str, str, float]
) -> None:
    assert rules(*wrong).count(rule) == 1
    assert rule not in rules(*right)


def test_every_rule_for_beacons_has_a_case() -> None:
    """Those for events are in another file."""
    known = {rule.id for rule in RULES if not rule.id.startswith("E")}
    assert {rule for rule, _, _ in CASES} == known


def test_every_rule_names_a_page_of_adobes() -> None:
    assert len({rule.id for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule.doc.startswith((DOCS, PLATFORM, EDGE_API))
        assert rule.why.endswith(".")


def test_a_cut_is_shown_where_it_is() -> None:
    query = f"{GOOD}&c5=shipping-method={'x' * 84}0123456789"
    (one,) = found(query)
    kept, _, rest = one.text.partition("|cut here|")
    assert one.text.startswith("prop5 is 110 bytes; Adobe keeps 100: ")
    assert kept.endswith("xxxxx")
    assert rest == '0123456789"'
    assert (one.key, one.severity) == ("c5", Severity.WRONG)
    assert one.doc == f"{DOCS}implementation/vars/page-vars/prop"


def test_a_character_is_not_cut_in_half() -> None:
    """At 100 bytes the fiftieth e with an accent is half over: it goes whole."""
    (one,) = found(f"{GOOD}&c1=a{'%C3%A9' * 50}")
    assert "\ufffd" not in one.text
    assert one.text.endswith('|cut here|\xe9"')


def test_milliseconds_are_called_what_they_are() -> None:
    (one,) = found(f"{GOOD}&ts=1770000000123")
    assert "milliseconds" in one.text


def test_a_suite_is_named_where_its_setting_matters() -> None:
    texts = [one.text for one in found(f"{GOOD}&ts=1770000000", "opt,non,new")]
    assert sum("non" in text for text in texts) == 1
    assert any("[suites.known.new] timestamps" in text for text in texts)


def test_what_was_sent_in_a_body_is_judged_like_the_rest() -> None:
    assert [one.rule for one in found("", body=b"AQB=1&pageName=p&mid=1")] == ["L1"]


def test_a_rule_is_silent_where_a_person_said_so() -> None:
    """Of a hit to several suites, where they all are; of those not listed, together."""
    opt = ReportSuite(Timestamps.OPTIONAL, silence=frozenset({"W1"}))
    quiet = Suites({**SUITES.known, "opt": opt}, ReportSuite(silence=frozenset({"N2", "W1"})))

    def said(suite: str) -> list[str]:
        return [one.rule for one in found("pageName=p", suite, suites=quiet)]

    assert said("opt") == []
    assert said("req") == ["W1", "L3"]
    assert said("opt,req") == ["W1", "L3"]
    assert said("elsewhere") == []
    assert said("elsewhere,opt") == ["N2"]


def test_the_worst_comes_first() -> None:
    severities = [one.severity for one in found("AQB=1&pagename=p&hp=1", "req")]
    assert severities == sorted(severities, key=list(Severity).index)
    assert severities[0] is Severity.LOST
    assert severities[-1] is Severity.NOTE


# -- times ----------------------------------------------------------------------------------


@given(
    st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2286, 1, 1)),  # noqa: DTZ001
    st.integers(-14 * 60, 14 * 60),
)
def test_a_time_means_what_it_says_in_every_form_adobe_lists(when: datetime, zone: int) -> None:
    when = when.replace(microsecond=0)
    at = when.replace(tzinfo=UTC).timestamp() * 1000
    assert unix_ms(str(int(at / 1000))) == (at, at)
    for text in (f"{when:%Y-%m-%dT%H:%M:%SZ}", f"{when:%Y%m%dT%H%M%SZ}"):
        text = f"{when.year:04}{text[text.index('-') if '-' in text else 4 :]}"  # noqa: PLW2901
        assert unix_ms(text) == (at, at)
        assert unix_ms(text.replace("Z", ".25Z")) == (at, at), "fractions are ignored"
        sign, (hours, minutes) = "-" if zone < 0 else "+", divmod(abs(zone), 60)
        shifted = at - zone * 60_000
        for colon in (":", ""):
            zoned = text.replace("Z", f"{sign}{hours:02}{colon}{minutes:02}")
            assert unix_ms(zoned) == (shifted, shifted)
        earliest, latest = unix_ms(text[:-1]) or (0, 0)
        assert earliest < at < latest, "without a zone nobody but Adobe knows"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "17700000000",
        "-1",
        "1e9",
        "1770000000.5",
        "2026-02-02 02:40:00",
        "2026-W06-1T02:40",
        "2026-033T02:40",
        "2026-02-02T24:00",
        "2026-13-02T02:40",
        "2026-02-02T02:60",
        "2026-0202T02:40",
        "2026-02-02T0240",
        "2026-02-02T02:40+1",
        "\u0661770000000",
    ],
)
def test_what_adobe_does_not_list_is_no_time(text: str) -> None:
    assert unix_ms(text) is None


# -- hostile hits ---------------------------------------------------------------------------


@given(st.binary(max_size=300), st.sampled_from(["opt", "req", "non", "x", ""]))
def test_no_hit_raises(query: bytes, suite: str) -> None:
    request = Request("POST", f"/b/ss/{suite}/1/X/s1?".encode() + query, (), query)
    findings(decode(request), request, SUITES, received_ms=NOW, at_ms=NOW)
    xml = Request("POST", b"/b/ss//6", (), b"<request>" + query + b"</request>")
    findings(decode(xml), xml, SUITES, received_ms=NOW, at_ms=NOW)


@pytest.mark.parametrize(
    "piece",
    [
        "v1=a&",
        "c.&",
        ".c&",
        "pagename=1&",
        "l1=,,,,&",
        "products=;;;;;;;,&",
        "hp=1&",
        f";{'a' * 101},",
    ],
)
def test_findings_of_a_hostile_hit_are_few_words(piece: str) -> None:
    """A person reads them: what repeats is counted or cut, and never longer than the hit."""
    one = ("products=" if piece[0] == ";" else "") + piece * (250_000 // len(piece))
    assert len(found(one)) <= MOST
    assert sum(len(finding.text) for finding in found(one)) < 25_000
