"""Whatever the disk does, what a store has acknowledged is there: every point of a script crashed, every write failed."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from chaos.disk_story import Lives, LostError, log_story, states_of, store_story
from orchestrator import database as database_module
from orchestrator import rescue as rescue_module
from unit.disk_bench import TEMPLATE

if TYPE_CHECKING:
    from chaos.disk_story import State, Story
    from orchestrator.testing.disk.storage import SimulatedDisk

STEPS = 7
STORIES = {"log": log_story(1, STEPS), "service": store_story(1, STEPS)}
STATES = {name: states_of(story) for name, story in STORIES.items()}


@pytest.fixture(params=list(STORIES))
def told(request: pytest.FixtureRequest) -> tuple[Story, list[State]]:
    return STORIES[request.param], STATES[request.param]


def points_of(story: Story, states: list[State]) -> list[tuple[str, str]]:
    """Every write, sync and change of a name in a run that is not disturbed."""
    disk = TEMPLATE.fork("count")
    seen: list[tuple[str, str]] = []
    disk.on_point = lambda path, operation: seen.append((path, operation))
    Lives(story, states, disk).run()
    return seen


def crash_at(disk: SimulatedDisk, story: Story, *points: int, power: bool) -> None:
    """Crash at each of these points, counted from the one before."""
    left = list(points)
    passed = 0

    def on_point(_path: str, _operation: str) -> None:
        nonlocal passed
        if left and passed == left[0]:
            left.pop(0)
            passed = 0
            disk.power_loss() if power else disk.process_kill(story.path)
        else:
            passed += 1

    disk.on_point = on_point


@pytest.mark.parametrize("power", [True, False], ids=["power loss", "kill"])
def test_a_crash_at_any_point_loses_nothing(told: tuple[Story, list[State]], power: bool) -> None:
    story, states = told
    points = points_of(story, states)
    assert len(points) > 80
    assert {operation for _, operation in points} >= {"write", "sync", "create", "remove"}
    assert (str(story.path), "sync") in points  # the write-ahead log is folded into the database on the way
    for point in range(len(points)):
        disk = TEMPLATE.fork(point)
        crash_at(disk, story, point, point % 23, power=power)  # and again in or soon after the recovery
        Lives(story, states, disk).run()
        assert sum(disk.crashes.values()) >= 2


@pytest.mark.parametrize("applied", [True, False], ids=["applied", "not applied"])
@pytest.mark.parametrize("operation", ["sync", "write"])
def test_a_failed_write_or_sync_and_a_power_loss_soon_after_lose_nothing(
    told: tuple[Story, list[State]], operation: str, applied: bool, occurred,
) -> None:
    story, states = told
    count = sum(found == operation for _, found in points_of(story, states))
    struck = 0
    for number in range(0, count, 1 if operation == "sync" else 5):
        struck += fail_once(TEMPLATE.fork(number), story, states, operation, number, applied=applied)
    assert struck > 8
    occurred("57")


def fail_once(
    disk: SimulatedDisk, story: Story, states: list[State], operation: str, number: int, *, applied: bool,
) -> int:
    """One failure, then power is lost when the successor has acknowledged its first step; whether it struck."""
    lives = Lives(story, states, disk)
    disk.fail(operation, errno.EIO, after=number, applied=applied)  # type: ignore[arg-type]
    name = f"{operation}_EIO"
    lost = False

    def lose_power_once() -> None:
        nonlocal lost
        if disk.crashes.get(name) and not lost and lives.lives > 1:
            lost = True
            disk.power_loss()

    lives.after_step = lose_power_once
    lives.run()
    return disk.crashes.get(name, 0)


@pytest.mark.parametrize("pragma", ["PRAGMA synchronous = OFF", "PRAGMA synchronous = NORMAL"])
def test_a_store_that_does_not_sync_is_caught(
    told: tuple[Story, list[State]], monkeypatch: pytest.MonkeyPatch, pragma: str,
) -> None:
    story, states = told
    monkeypatch.setattr(database_module, "_PRAGMAS", (pragma,))

    def lose_power_often() -> None:
        for point in range(0, 200, 5):
            disk = TEMPLATE.fork(point)
            crash_at(disk, story, point, power=True)
            Lives(story, states, disk).run()

    with pytest.raises(LostError, match=r"acknowledged|older copy"):
        lose_power_often()


def test_a_successor_that_goes_on_in_the_failed_file_is_caught(
    told: tuple[Story, list[State]], monkeypatch: pytest.MonkeyPatch,
) -> None:
    story, states = told
    monkeypatch.setattr(rescue_module, "has_failed", lambda _files, _path: False)

    def fail_every_sync() -> None:
        for number in range(20):
            fail_once(TEMPLATE.fork(number), story, states, "sync", number, applied=False)

    with pytest.raises(LostError):
        fail_every_sync()


def test_a_commit_that_is_only_in_memory_is_caught(told: tuple[Story, list[State]]) -> None:
    """The checker itself: a store found with less, with more, or with something else than was acknowledged."""
    story, states = told
    lives = Lives(story, states, TEMPLATE.fork(0))
    lives._reach = 5
    assert [lives._found(states[done], 4) for done in (4, 5)] == [4, 5]
    for wrong in (states[3], states[6], {**states[4], "meta": []}):
        with pytest.raises(LostError):
            lives._found(wrong, 4)
