"""What clients were told against what the log decided: K, D and X of every key, whatever the unknowns allow."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from loadgen.checker.logged import Logged, Transactions
from loadgen.checker.report import CheckReport, Invariant
from loadgen.history import Call, History, Operation
from loadgen.workload import Told
from orchestrator.errors import ErrorCode


class Claims(msgspec.Struct):
    """All that was told of one key.

    Attributes:
        calls: how often it was asked for.
        submits: how often it was submitted or cancelled, which may bind it.
        rejections: how often such a request was told to have begun nothing.
        conflicts: how often the key was told to be bound to another input.
        transaction, told: the first outcome.
        asked: what the first submit was about, in integers.
    """

    calls: int = 0
    submits: int = 0
    rejections: int = 0
    conflicts: int = 0
    transaction: str = ""
    told: Told = Told.UNKNOWN
    asked: dict[str, int] = msgspec.field(default_factory=dict)


def check_told(history: History, found: Transactions, report: CheckReport) -> dict[str, Claims]:
    """Judge every key of a history.

    Args:
        history: what clients asked and were told.
        found: the log's transactions.
        report: told of what was acknowledged and is not so (K), told two ways (D), run twice (X).

    Returns:
        The claims by key, for the checks of amounts.
    """
    claims: dict[str, Claims] = {}
    for operation in history.operations:
        _gather(claims.setdefault(operation.key, Claims()), operation, report)
    whole = not history.killed
    for key, claim in claims.items():
        _judge(key, claim, found.by_key.get(key), report, whole=whole)
        report.counts["duplicates"] += claim.calls > 1
    _count(history.operations, report)
    if not whole:
        names = ", ".join(sorted(set(history.killed)))
        report.left_out.append(f"refusals before anything was begun: {names} was killed, and may have asked more than it noted")
    return claims


def _gather(claim: Claims, operation: Operation, report: CheckReport) -> None:
    claim.calls += 1
    if operation.call is not Call.LOOKUP:
        claim.submits += 1
        claim.rejections += operation.told is Told.REJECTED
        claim.conflicts += operation.code == ErrorCode.KEY_CONFLICT
    if operation.call is Call.SUBMIT and operation.asked and not claim.asked and operation.code != ErrorCode.KEY_CONFLICT:
        claim.asked = operation.asked
    if operation.told not in (Told.COMMITTED, Told.ABORTED):
        return
    if claim.told is Told.UNKNOWN:
        claim.told, claim.transaction = operation.told, operation.transaction
        return
    if operation.told is not claim.told:
        text = f"one client was told {claim.told.name}, another {operation.told.name} ({operation.process})"
        report.add(Invariant.DECIDED, operation.key, text)
    if operation.transaction != claim.transaction:
        text = f"one client was told transaction {claim.transaction}, another {operation.transaction}"
        report.add(Invariant.EXACTLY_ONCE, operation.key, text)


def _judge(key: str, claim: Claims, logged: Logged | None, report: CheckReport, *, whole: bool) -> None:
    if claim.told is Told.UNKNOWN:
        _judge_untold(key, claim, logged, report, whole=whole)
        return
    if logged is None:
        report.add(Invariant.KEPT, key, f"told {claim.told.name} ({claim.transaction}), the log does not know the key")
        return
    if claim.transaction != logged.transaction:
        text = f"told {claim.told.name} of {claim.transaction}, the log has bound the key to {logged.transaction}"
        report.add(Invariant.KEPT, key, text)
    if not (logged.committed if claim.told is Told.COMMITTED else logged.aborted):
        report.add(Invariant.KEPT, key, f"told {claim.told.name}, the log says {logged}")


def _judge_untold(key: str, claim: Claims, logged: Logged | None, report: CheckReport, *, whole: bool) -> None:
    if claim.conflicts and logged is None:
        report.add(Invariant.KEPT, key, "told that the key is bound to another input, the log does not know it")
    refused = claim.submits and claim.rejections == claim.submits
    if refused:
        report.counts["keys_refused"] += 1
        if logged is not None and whole and not claim.conflicts:
            report.add(Invariant.KEPT, key, f"told that nothing was begun, the log says {logged}")
        return
    state = "absent" if logged is None else "committed" if logged.committed else "aborted" if logged.aborted else "open"
    report.counts[f"unknown_{state}"] += 1


def _count(operations: Iterable[Operation], report: CheckReport) -> None:
    names = {
        Told.COMMITTED: "told_committed", Told.ABORTED: "told_aborted", Told.REJECTED: "told_rejected",
        Told.UNKNOWN: "told_unknown"}
    for operation in operations:
        report.counts["operations"] += 1
        report.counts[names[operation.told]] += 1
