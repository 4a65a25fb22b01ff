"""A queue that is written to in all the ways there are, for a disk that is watched.

Run as a process of its own: `writing.py FOLDER SEED STEPS LAST`, where LAST says how it ends:
`close` in order, `kill` without a word, and `open` does nothing but open and close.  It tells
what it was told in a file of the same folder, a line each, so that the log of the disk has
both in one order:
`a NUMBER ID` accepted, `r NUMBER` refused; `D ID` about to be delivered, `d ID` it is;
`B ID` and `b ID` likewise for a dead letter, `Q ID` for one that may be waiting again.
With DISK_FAULT some of its syncs and writes fail.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from pathlib import Path
from random import Random

from shim import Faults, Op

from proxy.core.hit import Hit, NewHit, Received, Request
from proxy.core.limits import Limits
from proxy.core.wire import pack
from proxy.errors import QueueError
from proxy.shell.clock import SystemClock
from proxy.shell.queue import Queue

LIMITS = Limits(min_free_disk=0, keep_delivered_s=0.05)


def content(number: int) -> bytes:
    """A stored hit that can be told from every other; some span overflow pages."""
    size = 30_000 if number % 20 == 0 else 100 + number * 37 % 3_000
    # (bytes that cannot be compressed)
    body = Random(number).randbytes(size)
    return pack(Request("POST", b"/b/ss/examplersid/1/%08d?AQB=1" % number, body=body))


class Writing:
    def __init__(self, folder: Path, random: Random) -> None:
        self.path = folder / "hits.db"
        self.random = random
        self.faults = Faults(Path(os.environ["DISK_FAULT"])) if "DISK_FAULT" in os.environ else None
        self.number = 0
        self._told = os.open(folder / "told", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def say(self, what: str, *numbers: int) -> None:
        os.write(self._told, f"{what} {' '.join(map(str, numbers))}\n".encode())

    async def add(self, queue: Queue) -> None:
        count = self.random.choice((1, 1, 1, 2, 5))
        numbers = range(self.number + 1, self.number + count + 1)
        self.number += count
        at = Received(queue.boots.current, queue.clock.ms())
        hits = [NewHit(number % 7, at, content(number)) for number in numbers]
        try:
            ids = await queue.add(hits)
        except QueueError:
            for number in numbers:
                self.say("r", number)
        else:
            for number, id_ in zip(numbers, ids, strict=True):
                self.say("a", number, id_)

    async def deliver(self, queue: Queue) -> None:
        for hit in await self._some(queue):
            self.say("D", hit.id)
            queue.begin(hit.id)
            await queue.delivered(hit, 200, 1)
            self.say("d", hit.id)

    async def bury(self, queue: Queue) -> None:
        for hit in (await self._some(queue))[:1]:
            self.say("B", hit.id)
            await queue.bury(hit, "refused", 404, 1)
            self.say("b", hit.id)

    async def requeue(self, queue: Queue) -> None:
        letters = [letter.hit.id for letter in await queue.dead_letters()]
        for letter in letters[:1]:
            self.say("Q", letter)
            await queue.requeue([letter])

    async def doubt(self, queue: Queue) -> None:
        for hit in (await self._some(queue))[:1]:
            await queue.doubt(hit)

    async def _some(self, queue: Queue) -> list[Hit]:
        rows = (await queue.page(0))[: self.random.choice((1, 3, 10))]
        return [hit for hit in await queue.fetch([id_ for id_, _ in rows]) if hit.request.method]

    async def tidy(self, queue: Queue) -> None:
        queue.tally("repeated")
        await queue.tidy()

    async def session(self, steps: int, *, kill: bool = False) -> None:
        """Open, so many steps of several clients at once, and end."""
        queue = await Queue.open(self.path, LIMITS, SystemClock())
        doing = [self.add] * 8 + [self.deliver] * 3 + [self.bury, self.requeue, self.tidy]
        doing += [self.doubt]
        async with asyncio.TaskGroup() as loops:
            loops.create_task(queue.run())
            for _ in range(steps):
                self._fault()
                together = self.random.choice((1, 1, 3))
                steps_ = [self.random.choice(doing) for _ in range(together)]
                if len({self.deliver, self.bury}.intersection(steps_)) > 1:
                    steps_ = steps_[:1]  # two outcomes of one hit would be a fault of ours
                await asyncio.gather(
                    *(step(queue) for step in dict.fromkeys(steps_)), return_exceptions=True
                )
            if kill:
                os._exit(0)
            if self.faults:
                self.faults.heal()
            await queue.close()

    def _fault(self) -> None:
        if self.faults is None:
            return
        self.faults.heal()
        if self.random.random() < 0.3:
            self.faults.arm(
                self.random.choice((Op.SYNC, Op.WRITE, Op.SYNC | Op.WRITE | Op.TRUNCATE)),
                self.random.choice((errno.EIO, errno.EIO, errno.ENOSPC)),
                skip=self.random.choice((0, 0, 1, 2, 5, 10)),
                count=self.random.choice((1, 1, 2, -1)),
                halves=self.random.random() < 0.2,
                suffix=self.random.choice(("-wal", ".db")),
            )


async def main(folder: Path, seed: int, steps: int, last: str) -> None:
    writing = Writing(folder, Random(seed))
    if last == "open":
        await (await Queue.open(writing.path, LIMITS, SystemClock())).close()
        return
    await writing.session(steps // 2)
    await writing.session(steps // 2, kill=last == "kill")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
