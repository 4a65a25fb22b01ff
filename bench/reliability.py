"""The long runs behind docs/reliability.md: `python -m bench.reliability kill --runs 1000`.

Rule: the very code of `tests/reliability`, with larger counts.  In batches, each with a seed of
its own that is printed, a folder of its own and the oracle's word; exit code 1 when one fails.
`--runs 25 --seed <its seed>` replays a single one.
Non-rule: no scenario is written here.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "reliability")]

import damage  # noqa: E402 - found only now
import deaths  # noqa: E402
import disks  # noqa: E402
import ends  # noqa: E402
import hostile  # noqa: E402
import power  # noqa: E402
import soak  # noqa: E402

from proxy.points import Point  # noqa: E402

BATCH = 25
DAMAGED_BATCH = 200
FUZZED_BATCH = 20_000

Batch = Callable[[Path, int, int], Awaitable[ends.Outcome]]


async def _online(folder: Path, seed: int, runs: int) -> ends.Outcome:
    return await ends.stop(folder, seed, runs, online=True)


async def _offline(folder: Path, seed: int, runs: int) -> ends.Outcome:
    return await ends.stop(folder, seed, runs, online=False)


async def _hasty(folder: Path, seed: int, runs: int) -> ends.Outcome:
    return await ends.stop(folder, seed, runs, online=True, hasty=True)


BATCHES: dict[str, Batch] = {
    "kill": ends.kill,
    "stop": _online,
    "stop-offline": _offline,
    "stop-twice": _hasty,
}


# What happens to the disk, and so many rounds of it in a batch.
DISKS = {
    "disk-full": disks.full,
    "disk-as-if-full": disks.as_if_full,
    "disk-errors": disks.failing,
    "disk-no-sync": disks.no_sync,
    "disk-starts": disks.starting,
}


def say(words: object) -> None:
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


async def batches(do: Batch, seed: int, runs: int) -> bool:
    """So many runs in batches; whether all went well."""
    found: list[ends.Outcome] = []
    left = runs
    while left > 0:
        with tempfile.TemporaryDirectory() as folder:
            found.append(await do(Path(folder), seed + len(found), min(BATCH, left)))
        say(found[-1])
        left -= BATCH
    return _sum_up(found)


async def points(seed: int, rounds: int) -> bool:
    """Each point so many times, each time after another number of passes."""
    found: list[ends.Outcome] = []
    for turn in range(rounds):
        for point in Point:
            with tempfile.TemporaryDirectory() as folder:
                outcome = await deaths.at(Path(folder), point, seed + turn)
            found.append(outcome)
            if outcome.problems:
                say(f"{point}: {outcome}")
        with tempfile.TemporaryDirectory() as folder:
            found.append(await deaths.on_the_wire(Path(folder), seed + turn))
        say(f"seed {seed + turn}: {len(Point) + 1} deaths")
    return _sum_up(found)


async def on_disks(name: str, seed: int, rounds: int) -> bool:
    """So many rounds in batches; whether all went well."""
    found: list[disks.Outcome] = []
    left = rounds
    while left > 0:
        with tempfile.TemporaryDirectory() as folder:
            found.append(
                await DISKS[name](Path(folder), seed + len(found), min(BATCH, left)),
            )
        say(found[-1])
        left -= BATCH
    verdicts = [outcome.verdict for outcome in found]
    refused_s = sorted(one for outcome in found for one in outcome.refused_s)
    again_s = [one for outcome in found for one in outcome.again_s]
    say(
        f"\n{sum(outcome.rounds for outcome in found)} rounds: "
        f"{sum(each.acked for each in verdicts)} hits acked, "
        f"{sum(len(each.lost) for each in verdicts)} lost, "
        f"{sum(len(each.undead) for each in verdicts)} refused and stored, "
        f"{sum(len(each.reordered) for each in verdicts)} reordered, "
        f"{sum(each.extra for each in verdicts)} doubled, "
        f"{sum(len(each.unmarked) for each in verdicts)} of them unmarked; "
        f"{sum(outcome.drained_full for outcome in found)} waited on the full disk and drained; "
        f"{sum(outcome.failed for outcome in found)} doings of the disk failed"
    )
    if refused_s:
        say(
            f"{sum(outcome.refused for outcome in found)} answers 503: "
            f"95% in {refused_s[int(0.95 * (len(refused_s) - 1))] * 1000:.0f} ms, "
            f"all in {refused_s[-1] * 1000:.0f} ms"
        )
    say(f"taken again: {ends.spread(again_s)}")
    failed = [outcome.seed for outcome in found if outcome.problems]
    say(f"FAILED with seeds {failed}" if failed else "all well")
    return not failed


def _sum_up(found: list[ends.Outcome]) -> bool:
    """The figures of the table."""
    verdicts = [outcome.verdict for outcome in found]
    ready = [one for outcome in found for one in outcome.ready_s]
    ended = [one for outcome in found for one in outcome.ended_s]
    failed = [outcome.seed for outcome in found if outcome.problems]
    say(
        f"\n{sum(outcome.runs for outcome in found)} runs: "
        f"{sum(each.acked for each in verdicts)} hits acked, "
        f"{sum(len(each.lost) for each in verdicts)} lost, "
        f"{sum(len(each.reordered) for each in verdicts)} reordered, "
        f"{sum(each.extra for each in verdicts)} doubled "
        f"({sum(outcome.in_flight for outcome in found)} in flight), "
        f"{sum(len(each.unmarked) for each in verdicts)} of them unmarked"
    )
    say(f"ready: {ends.spread(ready)}")
    if ended:
        say(f"ended: {ends.spread(ended)}")
    say(f"FAILED with seeds {failed}" if failed else "all well")
    return not failed


async def damaged(seed: int, files: int) -> bool:
    """So many damaged files."""
    found: list[damage.Outcome] = []
    while sum(each.files for each in found) < files:
        left = files - sum(each.files for each in found)
        with tempfile.TemporaryDirectory() as folder:
            found.append(
                await damage.run(Path(folder), seed + len(found), min(DAMAGED_BATCH, left))
            )
        say(found[-1])
    untouched = sum(each.untouched for each in found)
    kept = untouched - sum(each.missing for each in found)
    say(
        f"\n{sum(each.files for each in found)} damaged files, "
        f"{sum(each.set_aside for each in found)} of them set aside: "
        f"{kept} of {untouched} untouched rows kept ({kept / untouched:.2%}), "
        f"{sum(each.lost for each in found)} hits reported as lost"
    )
    return _all_well([(each.seed, each.wrong) for each in found])


async def powerless(seed: int, images: int) -> bool:
    """So many images of what a disk holds after a power loss; every other run with failed syncs."""
    found: list[power.Outcome] = []
    while (left := images - sum(each.images for each in found)) > 0:
        number, count = len(found), min(power.BATCH, left)
        with tempfile.TemporaryDirectory() as folder:
            place, own = Path(folder), seed + number
            if number % 5 == 4:
                found.append(await power.salvage_(place, own, count))
            else:
                found.append(await power.run(place, own, count, faults=bool(number % 2)))
        say(found[-1])
    say(
        f"\n{sum(each.images for each in found)} images with "
        f"{sum(each.hits for each in found)} acked hits, "
        f"{sum(each.failed_syncs for each in found)} failed syncs, "
        f"{sum(each.read_back for each in found)} torn logs read back, "
        f"{sum(each.reborn for each in found)} refused hits reborn"
    )
    return _all_well([(each.seed, each.wrong) for each in found])


async def fuzzed(seed: int, requests: int) -> bool:
    """So many mutilated requests, to a new daemon for each batch."""
    found: list[hostile.Outcome] = []
    while (left := requests - sum(each.requests for each in found)) > 0:
        with tempfile.TemporaryDirectory() as folder:
            own, count = seed + len(found), min(FUZZED_BATCH, left)
            found.append(await hostile.fuzz(Path(folder), own, count))
        say(found[-1])
    say(
        f"\n{sum(each.requests for each in found)} mutilated requests: "
        f"{sum(each.stored for each in found)} answers 200, "
        f"{sum(each.refused for each in found)} refusals, "
        f"{sum(each.unanswered for each in found)} without an answer; "
        f"RSS at most {max(each.rss_mb for each in found):.0f} MB"
    )
    return _all_well([(each.seed, each.wrong) for each in found])


def _all_well(found: list[tuple[int, list[str]]]) -> bool:
    failed = [seed for seed, wrong in found if wrong]
    say(f"FAILED with seeds {failed}" if failed else "all well")
    return not failed


async def soaked(seed: int, minutes: float) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        found = await soak.soak(Path(folder), seed, minutes * 60)
    say(found)
    say("FAILED" if found.wrong else "all well")
    return not found.wrong


OTHERS = {"points": points, "power": powerless, "damage": damaged, "fuzz": fuzzed}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.reliability")
    parser.add_argument("scenario", choices=[*BATCHES, *DISKS, *OTHERS, "soak"])
    parser.add_argument("--runs", type=int, default=1000, help="of `points`: rounds of all points")
    parser.add_argument("--minutes", type=float, default=60.0, help="of `soak`")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    began = time.monotonic()
    if asked.scenario == "soak":
        doing = soaked(asked.seed, asked.minutes)
    elif asked.scenario in OTHERS:
        doing = OTHERS[asked.scenario](asked.seed, asked.runs)
    elif asked.scenario in DISKS:
        doing = on_disks(asked.scenario, asked.seed, asked.runs)
    else:
        doing = batches(BATCHES[asked.scenario], asked.seed, asked.runs)
    well = asyncio.run(doing)
    say(f"{time.monotonic() - began:.0f} s")
    sys.exit(not well)


if __name__ == "__main__":
    main()
