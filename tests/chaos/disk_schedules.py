# ruff: noqa: T201 - a command prints
"""Random lives of the real stores on simulated disks, for as long as asked: crashes, power losses, failed and full disks.

    python tests/chaos/disk_schedules.py --seconds 60 [--seed 1]

Each schedule is one seed: a story over the log or a service's store, and up to six failures at points that are drawn. Prints
one JSON object; exit 0 if nothing acknowledged was lost. A seed that fails is printed with the command that repeats it.
"""

from __future__ import annotations

import argparse
import errno
import itertools
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from chaos.disk_story import Lives, LostError, State, Story, log_story, states_of, store_story
from unit.disk_bench import TEMPLATE

if TYPE_CHECKING:
    from collections.abc import Sequence

STORIES = 8  # of each kind; how they go when nothing fails is found once
STEPS = 20
STRIKES_MAX = 6
POINTS = 400  # among so many writes, syncs and changes of names they are drawn
STRIKES = ("power loss", "kill", "sync", "write", "sync_directory", "full")


def stories() -> list[tuple[Story, list[State]]]:
    """What there is to tell, and how it goes when nothing fails.

    They have no ballast, so that a full disk is an error like the others; what a ballast does is `unit/test_disk_full.py`.
    """
    found = [make(seed, STEPS, 0) for seed in range(STORIES) for make in (log_story, store_story)]
    return [(story, states_of(story)) for story in found]


class Schedule:
    """One seed: a story, and failures at points that are drawn."""

    def __init__(self, seed: int, told: Sequence[tuple[Story, list[State]]]) -> None:
        self._draw = random.Random(f"disk schedule {seed}")
        story, states = self._draw.choice(told)
        self._path = story.path
        self.disk = TEMPLATE.fork(seed)
        self.disk.on_point = self._point
        self._points = sorted(self._draw.randrange(POINTS) for _ in range(self._draw.randrange(1, STRIKES_MAX + 1)))
        self._passed = 0
        self.lives = Lives(story, states, self.disk)

    def run(self) -> Counter[str]:
        """Go through it; what struck.

        Raises:
            LostError: something acknowledged was lost.
        """
        self.lives.run()
        return Counter(self.disk.crashes)

    def _point(self, _path: str, _operation: str) -> None:
        self._passed += 1
        if self._points and self._passed >= self._points[0]:
            self._points.pop(0)
            self._strike(self._draw.choice(STRIKES))

    def _strike(self, what: str) -> None:
        if what == "power loss":
            self.disk.power_loss()
        elif what == "kill":
            self.disk.process_kill(self._path)
        elif what == "full":
            self.disk.capacity = self.disk.used + self._draw.randrange(64_000)
        else:
            self.disk.fail(what, errno.EIO, times=self._draw.choice((1, 1, 2)))  # type: ignore[arg-type]


def run_many(seconds: float, first: int) -> tuple[int, Counter[str], str]:
    """Schedules until the time is up; how many, what struck, and the first failure."""
    told = stories()
    struck: Counter[str] = Counter()
    end_s = time.monotonic() + seconds
    for seed in itertools.count(first):
        if time.monotonic() > end_s:
            return seed - first, struck, ""
        schedule = Schedule(seed, told)
        try:
            struck += schedule.run()
        except (LostError, AssertionError) as error:
            return seed - first + 1, struck, f"seed {seed}: {error}"
    raise AssertionError


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1, help="of the first schedule; the next one is one more")
    given = parser.parse_args()
    print(f"first seed {given.seed}", flush=True)
    count, struck, failure = run_many(given.seconds, given.seed)
    rate = round(count / given.seconds, 1)
    print(json.dumps({"schedules": count, "per_second": rate, "struck": struck, "first_failure": failure}))
    if failure:
        seed = failure.removeprefix("seed ").partition(":")[0]
        print(f"again: python tests/chaos/disk_schedules.py --seconds 1 --seed {seed}", file=sys.stderr)
    return 1 if failure else 0


if __name__ == "__main__":
    sys.exit(main())
