"""What one answer of the Edge Network means for the event: one table.

    200 with JSON                                     Delivered
    202, 204, 207                                     Delivered: 207 is partly processed, and
                                                      must not be sent again
    200, 202, 207 with an HTML page, 200 without JSON LinkDown: it was not Edge who spoke
    any other 2xx                                     Retry, charged, ambiguous
    3xx                                               Retry, charged: Edge redirects nobody
    401, with a token of ours                         Retry, not charged: the token, not the hit
    407, 511                                          LinkDown: a proxy or a captive portal
    408                                               Retry, charged
    429                                               Retry, not charged: push-back
    503 with Retry-After                              Retry, not charged: push-back
    502, 503, 504, 507                                Retry, charged
    500, any other 5xx, any other 4xx                 Refused
    any other number                                  Retry, charged
    no answer                                         as for Analytics

Rule: what Adobe says must not be retried is not: "500 errors must not be retried, except for
502 and 503", and 4xx except 429.  A token that Edge does not take is no fault of the events
that wait; they go when a person has put a better one in its file.
Non-rule: whether a charged failure counts is the link's decision, how often is the policy's.
Source: Adobe, "Troubleshooting" (fatal and non-fatal errors, general guidance); the Edge mobile
SDK for 408 and 507; RFC 9110 section 10.2.3.
"""

from __future__ import annotations

from proxy.core.edge.read import DECODER
from proxy.core.hit import Failure, Reply
from proxy.core.verdict import (
    DOCUMENT,
    Delivered,
    LinkDown,
    Refused,
    Retry,
    Verdict,
    line,
    retry_after,
    without_answer,
)

DONE = frozenset({202, 204, 207})
LATER = frozenset({408, 429, 502, 503, 504, 507})


def judge(reply: Reply | Failure, *, wall_now: float, has_token: bool = False) -> Verdict:
    """Look one answer up in the table above; `has_token`: we added one of our own."""
    if isinstance(reply, Failure):
        return without_answer(reply)
    status = reply.status
    words = f"{status} from the Edge Network"
    if 200 <= status < 300:
        return _of_success(reply, words)
    if status == 401 and has_token:
        return Retry(f"{words}: the token in edge.token_file is not taken", charge=False)
    if status == 407:
        return LinkDown("407: a proxy on the way wants authentication", answered=True)
    if status == 511:
        return LinkDown("captive portal: 511, the network wants a login", answered=True)
    if status in LATER:
        after_s = retry_after(reply.header(b"retry-after"), wall_now)
        pushed_back = status == 429 or (status == 503 and after_s is not None)
        return Retry(words, after_s, charge=not pushed_back)
    if 400 <= status < 600:
        return Refused(_with_title(words, reply))
    return Retry(f"{words}: neither taken nor refused")


def _of_success(reply: Reply, words: str) -> Verdict:
    content_type = (reply.header(b"content-type") or b"").partition(b";")[0].strip().lower()
    if b"html" in content_type or DOCUMENT.match(reply.body) is not None:
        return LinkDown("captive portal: an HTML page instead of Edge's answer", answered=True)
    if reply.status in DONE:
        return Delivered(reply.status)
    if reply.status != 200:
        return Retry(f"{words}: no such success", ambiguous=True)
    # In a stream of fragments, which the mobile SDK asks for, a NUL may stand before each.
    if b"json" in content_type or reply.body.lstrip(b"\0 \t\r\n")[:1] == b"{":
        return Delivered(200)
    shown = line(content_type) or "no content type"
    return LinkDown(f"200, but no answer of Edge's: {shown}", answered=True)


def _with_title(words: str, reply: Reply) -> str:
    """With what the problem details say, for the person who finds the dead letter."""
    try:
        found = DECODER.decode(reply.body.decode("utf-8"))
    except (ValueError, RecursionError):
        return words
    title = found.get("title") if isinstance(found, dict) else None
    return f"{words}: {line(title)}" if isinstance(title, str) and title else words
