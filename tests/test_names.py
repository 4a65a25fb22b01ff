"""Claims about a site's own names: they stand beside Adobe's everywhere, and change nothing."""

from __future__ import annotations

import pytest

from proxy.core import names
from proxy.core.decode import decode
from proxy.core.hit import Request

HIT = Request(
    "GET",
    b"/b/ss/a/1/x/s1?AQB=1&pageName=Home&v12=boots&c12=x&events=event3&products=Shoes;Boot;1;9;event3=2;"
    b"eVar12=brown&c.&cart.&size=3&.cart&eVar12=none&.c&AQE=1",
)
NAMES = {"evar12": "Search term", "event3": "Form submit", "ctx.cart.size": "Basket size"}


def test_a_field_an_event_and_a_product_have_their_label() -> None:
    said = names.as_json(decode(HIT), NAMES)

    fields = {(g["id"], f["name"]): f.get("label") for g in said["groups"] for f in g["fields"]}
    assert {at: label for at, label in fields.items() if label} == {
        ("evars", "eVar12"): "Search term",
        ("context", "cart.size"): "Basket size",
    }
    assert said["events"][0]["label"] == "Form submit"
    (product,) = said["products"]
    assert product["events"][0]["label"] == "Form submit"
    assert product["evars"][0]["label"] == "Search term"


def test_without_names_nothing_is_added() -> None:
    assert "label" not in str(names.as_json(decode(HIT), {}))


@pytest.mark.parametrize(
    "written, meant",
    [
        ("eVar12", "eVar12"),
        ("EVAR12", "eVar12"),
        ("prop75", "prop75"),
        ("Event1000", "event1000"),
        ("scadd", "scAdd"),
        ("campaign", "campaign"),
        ("ctx.Cart.Size", "ctx.Cart.Size"),
        ("eVar251", None),
        ("event1001", None),
        ("event0", None),
        ("ctx.", None),
        ("", None),
        ("search term", None),
    ],
)
def test_a_variable_is_known_in_any_case(written: str, meant: str | None) -> None:
    assert names.spelled(written) == meant
