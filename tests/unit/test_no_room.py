"""What the coordinator tells its callers when the log has no room for what is new."""

from __future__ import annotations

from orchestrator.protocol.effects import Waiter
from orchestrator.protocol.messages import OutcomeStatus, SubmitRequest
from orchestrator.protocol.records import AppendResult, AppendStatus
from orchestrator.saga import encode_plain
from unit.test_coordinator import core_of, submit

FULL = AppendResult(AppendStatus.FULL)
OTHER = Waiter("other", 2)


def test_a_submit_is_refused_at_once_and_its_key_is_free_again() -> None:
    core = core_of()
    (record,) = submit(core).records
    core.submit([(OTHER, SubmitRequest(2, "k", "sample", encode_plain({}), 0))], 1_000)
    effects = core.appended([(record, FULL)], 1_001)
    told = {waiter: (outcome.status, outcome.code) for waiter, outcome in effects.outcomes}
    assert told == {
        Waiter("client", 1): (OutcomeStatus.REJECTED, "E_DISK_FULL"),
        OTHER: (OutcomeStatus.RETRY, "E_NOT_READY")}
    assert not effects.commands
    assert core.open_count == 0
    (again,) = submit(core).records
    effects = core.appended([(again, AppendResult(AppendStatus.STORED))], 1_002)
    assert effects.commands


def test_a_cancel_of_an_unknown_key_is_refused_too() -> None:
    core = core_of()
    (record,) = core.cancel(OTHER, "k", "", 1_000).records
    effects = core.appended([(record, FULL)], 1_001)
    assert [(waiter, outcome.code) for waiter, outcome in effects.outcomes] == [(OTHER, "E_DISK_FULL")]
