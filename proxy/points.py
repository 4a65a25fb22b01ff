"""Named instants at which a sudden death must cost nothing, and a way to die at one.

    TRACKOFFLINE_CRASH_AT=commit.after:3 trackoffline serve     dies as it passes there thrice

Rule: every transition of a hit and of the daemon has its point; a test kills a daemon at each.
Without the variable, set before the start, `reached` is a function that does nothing.
Non-rule: no fault but SIGKILL; what a disk or a network does wrong is not played here.
Source: the crash points of rsyslog's disk queue tests; docs/reliability.md.
"""

from __future__ import annotations

import os
import signal
from enum import StrEnum

VARIABLE = "TRACKOFFLINE_CRASH_AT"


class Point(StrEnum):
    """Where: what is happening, and how far it has come."""

    START_LOCKED = "start.locked"  # the file is ours, and not yet open
    MIGRATE_BEFORE = "migrate.before"
    MIGRATE_INSIDE = "migrate.inside"
    MIGRATE_AFTER = "migrate.after"
    START_PREPARED = "start.prepared"  # the schema and this boot's row are there
    START_DOUBTED = "start.doubted"  # what was in flight is marked, and not yet forgotten
    START_CLEARED = "start.cleared"
    START_REMEMBERED = "start.remembered"
    START_LISTENING = "start.listening"
    ACCEPT_BEFORE = "accept.before"  # a hit is read, and not yet given to the queue
    COMMIT_BEGUN = "commit.begun"
    COMMIT_BEFORE = "commit.before"  # all is written but the commit
    COMMIT_AFTER = "commit.after"  # on disk, and not yet known to the event loop
    COMMIT_ADOPTED = "commit.adopted"  # known, and nobody told
    ACCEPT_AFTER = "accept.after"  # the queue has it, and no answer is written
    ACCEPT_ANSWERED = "accept.answered"
    SEND_BEFORE = "send.before"  # taken from its lane, and not marked as in flight
    SEND_MARKED = "send.marked"  # marked, and nothing written
    SEND_ANSWERED = "send.answered"  # the collection server has answered
    VERDICT = "verdict"  # judged, and nothing recorded
    RECORDED = "recorded"  # recorded, and its lane waits yet
    LANDED_BEFORE = "landed.before"  # recorded on disk, and still marked as in flight
    DELIVER_INSIDE = "deliver.inside"
    DOUBT_INSIDE = "doubt.inside"
    BURY_INSIDE = "bury.inside"  # no longer waiting, and not yet a dead letter
    HOLD_INSIDE = "hold.inside"
    RELEASE_INSIDE = "release.inside"
    REQUEUE_INSIDE = "requeue.inside"  # waiting again, and a dead letter too
    DISCARD_INSIDE = "discard.inside"
    DROP_INSIDE = "drop.inside"  # removed by a limit, and not yet counted
    PURGE_INSIDE = "purge.inside"  # its content is gone, its row in `delivered` is not
    SHRINK_INSIDE = "shrink.inside"
    CHECKPOINT_BEFORE = "checkpoint.before"
    CHECKPOINT_AFTER = "checkpoint.after"
    SETTING_INSIDE = "setting.inside"
    OFFLINE_STORED = "offline.stored"  # a person's wish is on disk, and not yet obeyed
    STOP_ASKED = "stop.asked"
    STOP_INTAKE_CLOSED = "stop.intake-closed"
    STOP_DRAINED = "stop.drained"
    STOP_WRITER_ENDED = "stop.writer-ended"
    STOP_READER_CLOSED = "stop.reader-closed"
    STOP_CLOSED = "stop.closed"


def _nothing(_: Point) -> None:
    """What passing a point does in production."""


class _Death:
    """Ends this process without a word when the point is passed for the n-th time."""

    def __init__(self, wish: str) -> None:
        name, _, passes = wish.partition(":")
        self._point = Point(name)
        self._left = int(passes or 1)

    def __call__(self, point: Point) -> None:
        if point is self._point:
            self._left -= 1
            if self._left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)


reached = _Death(os.environ[VARIABLE]) if VARIABLE in os.environ else _nothing
