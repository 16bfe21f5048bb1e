"""What must be true at the end of a schedule, judged from the journals alone (and from what callers were told)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

from orchestrator.protocol.identifiers import oldest_id
from orchestrator.protocol.messages import OutcomeStatus
from orchestrator.protocol.records import Decision, State
from orchestrator.saga import Context, decode_plain, encode_plain
from orchestrator.verdict import Found, Plan, judge, judge_stranger

if TYPE_CHECKING:
    from orchestrator.app import LedgerReader, LedgerRow, StepState
    from orchestrator.protocol.records import Begun
    from orchestrator.saga import Saga
    from orchestrator.testing.simulation.client_life import Told
    from orchestrator.testing.simulation.log_model import Entry, LogModel
    from orchestrator.testing.simulation.world import World

_FIRST = frozenset({"PREPARED", "REFUSED", "ROLLED_BACK", "DONE"})
_NEXT = {("PREPARED", "COMMITTED"), ("PREPARED", "ROLLED_BACK")}
_SETTLED = {Decision.COMMIT: {"COMMITTED", "DONE"}, Decision.ABORT: {"REFUSED", "ROLLED_BACK"}}
Finding = tuple[str, str]  # the guarantee's letter, what is wrong
Histories = Mapping[str, "list[StepState]"]  # by service: every state of every step, in the order of writing


def findings(world: World) -> Iterator[Finding]:
    """Everything that is wrong with a world at rest."""
    log = world.stores.read_log()
    readers = {name: world.stores.read_service(name) for name in world.app.by_service}
    try:
        yield from (("R", text) for text in world.stores.damages())
        histories = {name: list(world.stores.history_of(name)) for name in world.app.by_service}
        yield from _transitions(world, histories)
        yield from _atomicity(world, log, readers)
        yield from _purged(world, log, histories)
        yield from _services({name: reader for name, reader in readers.items() if name in world.worked})
        yield from _answers(world, log)
        yield from _contents(world, log, readers)
    finally:
        for reader in readers.values():
            reader.close()


def _transitions(world: World, histories: Histories) -> Iterator[Finding]:
    """M, X: every step goes the way of the ledger's table, and takes each turn once."""
    for name, history in histories.items():
        now: dict[tuple[str, str], str] = {}
        for row in history:
            key = (row.transaction, row.step)
            before = now.get(key)
            legal = row.state in _FIRST if before is None else (before, row.state) in _NEXT
            if not legal:
                yield "M", f"{name}: {row.transaction} {row.step} went from {before} to {row.state}"
            if before is None and row.state == "ROLLED_BACK":
                world.witness.tombstone()
            now[key] = row.state


def _atomicity(world: World, log: LogModel, readers: Mapping[str, LedgerReader]) -> Iterator[Finding]:
    """A, D, H: rows and decisions agree, nothing is held for nobody."""
    plans = {key: Plan(saga.name, saga.steps) for key, saga in world.sagas.items()}
    oldest = oldest_id(log.watermark_ms)
    rows: dict[str, list[Found]] = {}
    for name, reader in readers.items():
        for row in reader.states():
            rows.setdefault(row.transaction, []).append(Found(name, row))
    for txn in log.transactions:
        stored = log.stored(txn)
        plan = plans.get((stored.begun.saga, stored.begun.version))
        verdict = judge(
            txn, stored.state, plan, rows.pop(txn, []), earlier=partial(_same, stored.state), purged=txn < oldest,
            asserted={one.step for one in stored.resolved})
        yield from (("A", violation.text) for violation in verdict.violations)
        if stored.state not in (State.COMMITTED, State.ABORTED):
            yield "L", f"{txn} is {stored.state.name} at rest"
    for txn, found in rows.items():
        yield from (("H", violation.text) for violation in judge_stranger(txn, found, purged=txn < oldest))


def _same(state: State) -> State:
    return state


def _purged(world: World, log: LogModel, histories: Histories) -> Iterator[Finding]:
    """A, H: what has been purged since had ended as its transaction did; nothing was purged before it had."""
    oldest = oldest_id(log.watermark_ms)
    last: dict[str, dict[tuple[str, str], Found]] = {txn: {} for txn in log.transactions if txn < oldest}
    for name, history in histories.items():
        for row in history:
            if row.transaction < oldest:
                last.setdefault(row.transaction, {})[name, row.step] = Found(name, row)
    for txn, found in last.items():
        if txn in log.transactions:
            stored = log.stored(txn)
            saga = world.sagas.get((stored.begun.saga, stored.begun.version))
            plan = Plan(saga.name, saga.steps) if saga else None
            verdict = judge(
                txn, stored.state, plan, list(found.values()), earlier=partial(_same, stored.state), purged=False,
                asserted={one.step for one in stored.resolved})
            yield from (("A", f"before the purge: {violation.text}") for violation in verdict.violations)
        elif txn in world.decisions:
            settled = _SETTLED[world.decisions[txn].decision]
            wrong = [row for _, row in found.values() if row.state not in settled]
            yield from (("A", f"{txn} was forgotten when its step {row.step!r} was {row.state}") for row in wrong)


def _services(readers: Mapping[str, LedgerReader]) -> Iterator[Finding]:
    """C, O, P: what the services that did anything say of themselves."""
    for name, reader in readers.items():
        for text in reader.audit().violations:
            yield "C", f"{name}: {text}"


def _answers(world: World, log: LogModel) -> Iterator[Finding]:
    """K: everybody who asked under one key was told the same, and it is so."""
    told: dict[str, Told] = {}
    for answer in world.answers:
        outcome = answer.outcome
        if outcome.status is OutcomeStatus.REJECTED:
            continue
        decided = world.decisions.get(outcome.transaction)
        committed = outcome.status is OutcomeStatus.COMMITTED
        if decided is None or (decided.decision is Decision.COMMIT) is not committed:
            yield "K", f"{answer.key} was told {outcome.status.name}, decided is {decided}"
        before = told.setdefault(answer.key, answer)
        first, then = before.outcome.transaction, outcome.transaction
        # past the retention period the key begins anew; an outcome of before may be told as late as a message can be
        if first != then and first in log.transactions and then in log.transactions:
            yield "K", f"{answer.key} was told of {first}, then of {then}"


def _contents(world: World, log: LogModel, readers: Mapping[str, LedgerReader]) -> Iterator[Finding]:
    """K, R: everybody was told of what he asked for, with the votes as stored, and a re-drive asked for the same again."""
    oldest = oldest_id(log.watermark_ms)
    told: set[str] = set()
    for answer in world.answers:
        outcome = answer.outcome
        entry = log.transactions.get(outcome.transaction)
        if outcome.status is OutcomeStatus.REJECTED or entry is None:
            continue
        if not answer.cancel and entry.begun.fingerprint and entry.begun.input != answer.input:
            yield "K", f"{answer.key} was told of {outcome.transaction}, which has another input"
        if outcome.status is OutcomeStatus.COMMITTED and outcome.transaction >= oldest:
            yield from _results(world, entry, answer, readers)
            told.add(outcome.transaction)
    for transaction in told:
        if log.transactions[transaction].recoveries:
            yield from _requests(world, log.transactions[transaction].begun, readers)


def _results(world: World, entry: Entry, answer: Told, readers: Mapping[str, LedgerReader]) -> Iterator[Finding]:
    told = {result.step: decode_plain(result.result) for result in answer.outcome.results}
    for step in _saga(world, entry.begun).prepares:
        if step.name not in told and (entry.begun.transaction, step.name) in world.parked:
            continue  # it was parked: the caller did not wait for it
        stored = _row(readers[step.service], entry.begun.transaction, step.name)
        if stored is None or told.get(step.name) != stored.result:
            yield "K", f"{answer.key} was told {told.get(step.name)!r} of step {step.name!r}, the ledger has {stored}"


def _requests(world: World, begun: Begun, readers: Mapping[str, LedgerReader]) -> Iterator[Finding]:
    saga = _saga(world, begun)
    rows = {step.name: _row(readers[step.service], begun.transaction, step.name) for step in saga.steps}
    data = saga.decode_input(begun.input)
    for name, row in rows.items():
        if row is None:
            continue
        results = {other: found.result for other in saga.ancestors[name] if (found := rows[other]) is not None}
        asked = decode_plain(encode_plain(saga.by_name[name].request(Context(begun.transaction, data, results))))
        if row.request != asked:
            yield "R", f"{begun.transaction} {name} was run with {row.request!r}, but its input asks for {asked!r}"


def _saga(world: World, begun: Begun) -> Saga:
    return world.sagas[begun.saga, begun.version]


def _row(reader: LedgerReader, transaction: str, step: str) -> LedgerRow | None:
    return next((row for row in reader.rows(transaction) if row.step == step), None)
