"""What to do about a dead letter: the next step for each way in which a hit dies.

Rule: said in the words of the settings and verbs there are; nothing is done.
Non-rule: knows no hit, only the reason and the status it died of.
Source: the reasons of `stamp`, `verdict` and the drain; docs/design/0006.
"""

from __future__ import annotations


def next_step(reason: str, status: int | None) -> str:
    """One line for a person."""
    if "carries ts" in reason:
        return (
            "Adobe would drop it: change the suite's timestamp mode at Adobe and under"
            " [suites.known], then requeue; or discard"
        )
    if "too old" in reason:
        return (
            'requeue once the suite has when_late = "send" (they count at the time of'
            " delivery), or takes timestamps at Adobe and here (they get the time at which they"
            " were received); or discard"
        )
    if "no hit" in reason:
        return "export them for a look, then discard"
    if "may have been taken" in reason:
        return (
            "its reply was lost: requeue if it is better counted twice than not at all; or discard"
        )
    if " attempts: " in reason:
        return "what failed may have passed: requeue"
    if "from the Edge Network" in reason:
        return _of_an_event(status)
    match status:
        case 404 | 410:
            return "check the report suite id and upstream.server, then requeue"
        case 401 | 403 | 407:
            return "check who may send to upstream.server, then requeue"
        case 413 | 414 | 431:
            return "too large for the collection server: export, then discard"
    return "look at one of them, then requeue or discard"


def _of_an_event(status: int | None) -> str:
    match status:
        case 401 | 403:
            return "check edge.token_file and who may send to edge.server, then requeue"
        case 404 | 410:
            return "check edge.server and edge.base_path, then requeue"
        case 413:
            return "too large for the Edge Network: export, then discard"
        case 500:
            return "Adobe says that a 500 is not to be sent again: requeue once the cause is known"
    return "correct what it says, the datastream or the event, then requeue; or discard"


def cause(reason: str) -> str:
    """What it died of, in one word of a few."""
    if "carries ts" in reason or "too old" in reason:
        return "timestamps"
    if "no hit" in reason:
        return "unreadable"
    if "may have been taken" in reason:
        return "ambiguous"
    return "attempts" if " attempts: " in reason else "refused"
