"""A process dies anywhere in a purge that has much to forget: what is found is what stood before, or what stands after."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from actors.store import Retention, Store
from chaos.disk_story import HOUR_MS, NOW, Lives, State, Story, often_folded, states_of
from orchestrator.log.reader import LogReader
from orchestrator.log.store import LogStore
from orchestrator.protocol.identifiers import make_id
from orchestrator.protocol.records import AppendRequest, Decision, Ended, EpochRecord, TakeRequest
from orchestrator.testing.disk.storage import SimulatedDisk
from unit.disk_bench import BALLAST, LOG, TEMPLATE, VAULT, ended, open_store, put
from unit.log_bench import begun, decided

TRANSACTIONS = 12
LATER_MS = NOW + 100 * HOUR_MS


def open_late(disk: SimulatedDisk) -> LogStore:
    """The log, by whose clock much time passes between any two calls: the watermark rises as far as it may."""
    clock = itertools.count(0, 1_000 * HOUR_MS).__next__
    return LogStore(LOG, "run", 2 * HOUR_MS, clock=clock, files=disk.files, ballast_bytes=BALLAST)


def fill_log(store: LogStore) -> None:
    store.take(TakeRequest(1, 0, "first", [7], 1, "run"), NOW)
    records = []
    for number in range(1, TRANSACTIONS + 1):
        txn = make_id(NOW, 7, 1, number)
        records += [begun(txn, f"key {txn}"), decided(txn, Decision.COMMIT, ""), Ended(txn, NOW)]
    store.append([AppendRequest(1, 0, "first", 1, [EpochRecord(1, record) for record in records])], NOW)


def purge_rows(store: Store) -> None:
    store.begin()
    store.retain(Retention(LATER_MS))
    store.write({}, {}, {}, {})
    store.commit({}, {})


def log_is_sound(disk: SimulatedDisk) -> list[str]:
    reader = LogReader(LOG, disk.files)
    try:
        return reader.verify()
    finally:
        reader.close()


STORIES = {
    "log": Story(LOG, lambda disk: often_folded(open_late(disk)), [
        fill_log, *[lambda store: store.purge(LATER_MS, 5)] * 4], log_is_sound),
    "service": Story(VAULT, lambda disk: often_folded(open_store(disk)), [
        lambda store: put(store, [ended(number) for number in range(1, TRANSACTIONS + 1)], {}), purge_rows], lambda _: []),
}
FORGETS = {"log": "transactions", "service": "ledger"}


@pytest.mark.parametrize("power", [True, False], ids=["power loss", "kill"])
@pytest.mark.parametrize("kind", list(STORIES))
def test_old_or_new_never_neither(kind: str, power: bool, occurred: Callable[..., None]) -> None:
    story, states = STORIES[kind], states_of(STORIES[kind])
    counts = [len(state[FORGETS[kind]]) for state in states]
    assert counts[1] == TRANSACTIONS
    assert counts[-1] == 0  # the purge does forget
    deaths = 0
    while dies(story, states, deaths, power=power):
        deaths += 1
    assert deaths > 5
    occurred("63")


def dies(story: Story, states: list[State], point: int, *, power: bool) -> bool:
    """Die at the n-th point of the purge, from 0; whether there was such a point."""
    disk = TEMPLATE.fork(point)
    lives = Lives(story, states, disk)
    left = point

    def die(_path: str, _operation: str) -> None:
        nonlocal left
        if lives.done >= 1:  # within the purge
            left -= 1
            if left == -1:
                disk.power_loss() if power else disk.process_kill(story.path)

    disk.on_point = die
    lives.run()
    return left < 0
