"""What an operator does to transactions, sagas and services; each act is on the record before it is done."""

from __future__ import annotations

import time
from contextlib import closing
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgspec
import ray
from ray.exceptions import RayError

from orchestrator.deployment import DataDirectory
from orchestrator.errors import DefiniteError, ErrorCode, IndefiniteError
from orchestrator.log.finding import TransactionQuery
from orchestrator.log.reader import LogReader
from orchestrator.operate.selection import Selected, Selection, select
from orchestrator.outcome import OutcomeKind
from orchestrator.protocol.desk import check_act
from orchestrator.protocol.messages import ActKind
from orchestrator.protocol.records import Act, Pauses
from orchestrator.transport import LOG_ACTOR, shard_actor

if TYPE_CHECKING:

    from orchestrator.client import Client
    from orchestrator.log.acts import StoredAct
    from orchestrator.outcome import Handle

ANSWER_S_MAX = 30.0
AGAIN_S = 0.1


class Done(StrEnum):
    """What became of an act on one transaction."""

    DONE = "done"
    REFUSED = "refused"  # definite: nothing was done
    UNKNOWN = "unknown"  # it was not answered in time: do the same again, that is harmless
    DRY_RUN = "dry_run"  # it would be acted on


class Acted(msgspec.Struct, frozen=True):
    """One transaction that was acted on, and what came of it; `state` is that of before."""

    transaction: str
    saga: str
    state: str
    done: Done
    code: str = ""
    message: str = ""


class Operator:
    """Acts on a deployment; thread-safe, blocks until it is answered.

    Args:
        client: of the deployment; stays the caller's to close.
        timeout_s: how long to wait for all answers of one act.
    """

    def __init__(self, client: Client, timeout_s: float = ANSWER_S_MAX) -> None:
        self._client, self._timeout_s = client, timeout_s
        self._log_path = DataDirectory(client.deployment.data_dir).log_path

    def select(self, selection: Selection) -> list[Selected]:
        """The transactions that a selection stands for, those of a query the newest first.

        Raises:
            DefiniteError: E_INVALID_INPUT, naming the field.
        """
        with closing(LogReader(self._log_path)) as log:
            return select(log, selection)

    def retry(self, selection: Selection, *, who: str, reason: str = "", dry_run: bool = False) -> list[Acted]:
        """Try at once what waits or is parked; a query without a state means open transactions.

        Args:
            selection: a query (its limit holds), or ids.
            who: acts.
            reason: why.
            dry_run: only tell what would be acted on.

        Raises:
            DefiniteError: E_INVALID_INPUT, naming the field; nothing was done.
        """
        return self._act(ActKind.RETRY, _within(selection, "open"), who, reason, dry_run=dry_run)

    def cancel(self, selection: Selection, *, who: str, reason: str = "", dry_run: bool = False) -> list[Acted]:
        """Ask to abort; the first durable decision wins. A query without a state means undecided transactions.

        Args:
            selection: a query (its limit holds), or ids.
            who: acts.
            reason: why.
            dry_run: only tell what would be acted on.

        Raises:
            DefiniteError: E_INVALID_INPUT, naming the field; nothing was done.
        """
        return self._act(ActKind.CANCEL, _within(selection, "preparing"), who, reason, dry_run=dry_run)

    def resolve(self, transaction: str, step: str, *, who: str, reason: str) -> Acted:
        """Assert that a parked step of a decided transaction has come to what the decision requires.

        Args:
            transaction: its id.
            step: name of the step.
            who: asserts it.
            reason: on what grounds.

        Raises:
            DefiniteError: E_INVALID_INPUT, naming the field; nothing was done.
        """
        if not reason.strip():
            raise DefiniteError(ErrorCode.INVALID_INPUT, "reason: say on what grounds the step is resolved")
        (selected,) = self.select([transaction])
        handle = self._client.act(ActKind.RESOLVE, transaction, who=who, reason=reason, step=step)
        return self._told(ActKind.RESOLVE, selected, handle, self._timeout_s)

    def pause(self, *, saga: str | None = None, service: str | None = None, who: str, reason: str) -> bool:
        """Keep new transactions of a saga, or those that need a service, out until it is resumed; open ones go on.

        To a paused service nothing is prepared or performed; commits and rollbacks go on.

        Args:
            saga: either its name,
            service: or that of a service.
            who: pauses it.
            reason: why.

        Returns:
            Whether it was not paused before. It is durable, and every shard that serves obeys it.

        Raises:
            DefiniteError: E_INVALID_INPUT, naming the field; nothing was done.
            IndefiniteError: E_UNREACHABLE: the log or a shard did not answer; do the same again.
        """
        return self._change_pause(ActKind.PAUSE, saga, service, who, reason)

    def resume(self, *, saga: str | None = None, service: str | None = None, who: str, reason: str = "") -> bool:
        """End a pause; returns whether there was one. Arguments and errors are those of `pause`."""
        return self._change_pause(ActKind.RESUME, saga, service, who, reason)

    def pauses(self) -> Pauses:
        """What is paused, by whom and why."""
        with closing(LogReader(self._log_path)) as log:
            return log.pauses()

    def acts(self, transaction: str | None = None, limit: int = 100) -> list[StoredAct]:
        """What operators did, the newest first; on one transaction, or ("") pauses and resumptions alone."""
        with closing(LogReader(self._log_path)) as log:
            return log.acts(transaction, limit)

    def _act(self, kind: ActKind, selection: Selection, who: str, reason: str, *, dry_run: bool) -> list[Acted]:
        if (problem := check_act(who, reason)) is not None:
            raise DefiniteError(ErrorCode.INVALID_INPUT, problem)
        selected = self.select(selection)
        if dry_run:
            return [_as(one, Done.DRY_RUN) for one in selected]
        handles = [self._client.act(kind, one.transaction, who=who, reason=reason) for one in selected]
        until_s = time.monotonic() + self._timeout_s
        return [
            self._told(kind, one, handle, max(until_s - time.monotonic(), 0.001))
            for one, handle in zip(selected, handles, strict=True)]

    def _told(self, kind: ActKind, selected: Selected, handle: Handle, timeout_s: float) -> Acted:
        try:
            outcome = handle.outcome(timeout_s)
        except DefiniteError as error:
            return _as(selected, Done.REFUSED, error.code, error.message)
        except IndefiniteError as error:
            self._client.abandon(handle)  # whoever is told that it is unknown may want something else by tomorrow
            return _as(selected, Done.UNKNOWN, error.code, error.message)
        if outcome.status is OutcomeKind.OPEN:
            return _as(selected, Done.DONE, "", outcome.message)
        if kind is ActKind.CANCEL and outcome.status is OutcomeKind.ABORTED:
            return _as(selected, Done.DONE, outcome.code, outcome.message)
        return _as(selected, Done.REFUSED, ErrorCode.TOO_LATE, f"it is decided: {outcome.status}")

    def _change_pause(self, kind: ActKind, saga: str | None, service: str | None, who: str, reason: str) -> bool:
        self._check_pause(kind, saga, service, who, reason)
        act = Act("", kind, who, reason, time.time_ns() // 1_000_000, "", saga or "", service or "")
        changed = bool(msgspec.msgpack.decode(self._ask(LOG_ACTOR, "pause", msgspec.msgpack.encode(act))))
        for index in range(self._client.deployment.settings.shards):
            self._have_learned(shard_actor(index))
        return changed

    def _have_learned(self, shard: str) -> None:
        """A shard looks up what is paused; one that is being started anew does so by itself, and is waited for."""
        until_s = time.monotonic() + self._timeout_s
        while True:
            try:
                self._ask(shard, "learn", b"")
            except IndefiniteError:
                if time.monotonic() > until_s:
                    raise
                time.sleep(AGAIN_S)  # nobody is told when an actor is reachable again
            else:
                return

    def _check_pause(self, kind: ActKind, saga: str | None, service: str | None, who: str, reason: str) -> None:
        app = self._client.deployment.app
        known = [one.name for one in app.sagas] if saga else list(app.by_service)
        problem = check_act(who, reason)
        if (saga is None) == (service is None):
            problem = "name either a saga or a service"
        elif kind is ActKind.PAUSE and (saga or service) not in known:
            what = "saga" if saga else "service"
            problem = f"{what}: no {saga or service!r} in the deployed app, which has {', '.join(known)}"
        elif kind is ActKind.PAUSE and not reason.strip():
            problem = "reason: say why it is paused"
        if problem is not None:
            raise DefiniteError(ErrorCode.INVALID_INPUT, problem)

    def _ask(self, actor: str, method: str, payload: bytes) -> bytes:
        """One call through Ray, which every actor answers.

        Raises:
            IndefiniteError: E_UNREACHABLE: it may have been done.
        """
        try:
            bound = getattr(self._client.deployment.actor(actor), method)
            return bytes(ray.get(bound.remote(payload), timeout=self._timeout_s))
        except (RayError, TimeoutError) as error:
            raise IndefiniteError(
                ErrorCode.UNREACHABLE, f"{actor} did not answer ({type(error).__name__}): do the same again") from None


def _within(selection: Selection, state: str) -> Selection:
    """A query that says nothing of the state means those that can be acted on."""
    if isinstance(selection, TransactionQuery) and selection.state is None:
        return msgspec.structs.replace(selection, state=state)
    return selection


def _as(selected: Selected, done: Done, code: Any = "", message: str = "") -> Acted:
    return Acted(selected.transaction, selected.saga, selected.state, done, str(code), message)
