"""Letting a deployment come to rest before it is stopped: nothing new is begun, what is open ends.

The shards refuse new transactions under a lease that is renewed at every look. So a shard that died meanwhile is told
again, and a drain whose program was killed ends by itself: the deployment admits transactions again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING

import msgspec
import ray
from ray.exceptions import RayError

from orchestrator.deployment import DataDirectory
from orchestrator.errors import IndefiniteError
from orchestrator.log.finding import LEFT_MAX, TransactionQuery, how_many
from orchestrator.log.reader import LogReader
from orchestrator.transport import shard_actor

if TYPE_CHECKING:
    from orchestrator.cluster import Deployment
    from orchestrator.log.finding import TransactionSummary

LEASE_MS = 30_000
ANSWER_S_MAX = 3.0
POLL_S = 0.1


class DrainReport(msgspec.Struct, frozen=True):
    """What a drain has left; it goes on at the next start on the same data directory.

    Attributes:
        complete: whether everything ended that does not need an operator.
        left: transactions that are open and not parked when the time is over, newest first.
        parked: open ones that wait for an operator: nobody waited for them.
        seconds: how long it took.
    """

    complete: bool
    left: list[TransactionSummary]
    parked: list[TransactionSummary]
    seconds: float


def drain(
    deployment: Deployment, timeout_s: float, progress: Callable[[str], None] = lambda _: None,
) -> DrainReport:
    """Have nothing new begun, and wait until nothing is open but what is parked.

    What is submitted meanwhile is refused with E_DRAINING, unless it repeats what was accepted before. It stays so for
    some seconds after this returns: stop the deployment, or call `resume`. Where it raises, transactions are admitted again.

    Args:
        deployment: started or attached to.
        timeout_s: how long to wait.
        progress: told how many are open, whenever that changes.

    Raises:
        DefiniteError: E_STORE_REFUSED: the log cannot be read.
    """
    try:
        return _wait(deployment, timeout_s, progress)
    except BaseException:
        resume(deployment)
        raise


def resume(deployment: Deployment) -> None:
    """Admit transactions again at once, where a drained deployment is not stopped after all."""
    _renew(deployment, 0)


def _wait(deployment: Deployment, timeout_s: float, progress: Callable[[str], None]) -> DrainReport:
    began_s = time.monotonic()
    pause = threading.Event()  # never set: nobody tells when a transaction of another program ends
    log_path = DataDirectory(deployment.data_dir).log_path
    told = -1
    while True:
        held = _renew(deployment, LEASE_MS)
        with closing(LogReader(log_path)) as log:
            left = log.find(TransactionQuery(state="open", parked=False, limit=LEFT_MAX))
            parked = log.find(TransactionQuery(state="open", parked=True, limit=LEFT_MAX))
            at_rest = not left and held == log.open_count()  # else one is on its way into the log, or out of it
        seconds = time.monotonic() - began_s
        if at_rest or seconds >= timeout_s:
            return DrainReport(at_rest, left, parked, round(seconds, 2))
        if len(left) != told:
            told = len(left)
            aside = f" ({how_many(parked, LEFT_MAX)} parked are left)" if parked else ""
            progress(f"waiting for {how_many(left, LEFT_MAX)} open transactions{aside}")
        pause.wait(POLL_S)


def _renew(deployment: Deployment, lease_ms: int) -> int | None:
    """Tell every shard; how many transactions they hold open, None where one does not say."""
    try:
        shards = [deployment.actor(shard_actor(index)) for index in range(deployment.settings.shards)]
        asked = [shard.drain.remote(lease_ms) for shard in shards]
        ready, missing = ray.wait(asked, num_returns=len(asked), timeout=ANSWER_S_MAX)
        counts = [msgspec.msgpack.decode(answer) for answer in ray.get(ready)]
    except (IndefiniteError, RayError):  # it is dying, or not there yet: asked again at the next look
        return None
    return None if missing or None in counts else sum(counts)
