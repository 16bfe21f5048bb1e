"""One transaction's timeline from fakes of the real ports: order, redaction, what is missing."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import msgspec
import pytest
from pydantic import BaseModel
from rich.console import Console

from orchestrator.app import App, LedgerReader, LedgerRow, ServiceAudit, StepState
from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.log.reader import StoredRecord
from orchestrator.protocol.identifiers import make_id
from orchestrator.protocol.records import Begun, Decided, Decision, Ended, Parked, Record, State, StoredTransaction
from orchestrator.saga import Saga, Step
from orchestrator.timeline import Timeline, join_timeline, timeline

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

BEGAN_MS = 1_700_000_000_000
ID = make_id(BEGAN_MS, 3, 1, 1)
TOKEN = "tok_visa_canary"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class Purchase(BaseModel):
    card_token: str


class Shop:
    """A participant whose database cannot be read."""

    def __init__(self, name: str, operations: Mapping[str, bool]) -> None:
        self.name = name
        self._operations = operations

    def operations(self) -> Mapping[str, bool]:
        return self._operations

    def actor_class(self) -> type:
        raise NotImplementedError

    def create(self, path: Path) -> str:
        raise NotImplementedError

    def reader(self, path: Path) -> LedgerReader:
        raise DefiniteError(ErrorCode.STORE_REFUSED, f"{path.name}: it is missing")


class MemoryLedger:
    def __init__(self, *stored: LedgerRow) -> None:
        self._stored = stored

    def rows(self, transaction: str | None = None) -> Iterator[LedgerRow]:
        return (row for row in self._stored if transaction in (None, row.transaction))

    def states(self) -> Iterator[StepState]:
        return (StepState(row.transaction, row.step, row.operation, row.state) for row in self._stored)

    def audit(self) -> ServiceAudit:
        return ServiceAudit({}, [])

    def close(self) -> None:
        pass


class MemoryLog:
    def __init__(self, state: State, *records: tuple[int, Record], parked: list[Parked] | None = None) -> None:
        self._records = [StoredRecord(number, at_ms, record) for number, (at_ms, record) in enumerate(records, 1)]
        self._state, self._parked = state, parked or []

    def stored(self, transaction: str) -> StoredTransaction | None:
        begun = next((r.record for r in self._records if isinstance(r.record, Begun)), None)
        decided = next((r.record for r in self._records if isinstance(r.record, Decided)), None)
        if begun is None or begun.transaction != transaction:
            return None
        return StoredTransaction(begun, self._state, decided, parked=self._parked)

    def history(self, transaction: str) -> list[StoredRecord]:
        return [one for one in self._records if one.record.transaction == transaction]


BUY = Saga(name="buy", input=Purchase, steps=[
    Step(name="hold", service="stock", request=dict, compensation="release"),
    Step(name="charge", service="bank", request=dict, compensation="void"),
    Step(name="tell", service="mail", request=dict, after_commit=True)])
APP = App(services=[Shop("stock", {"hold": True}), Shop("bank", {"charge": True}), Shop("mail", {"tell": False})], sagas=[BUY])
BEGUN = Begun(
    ID, "key-1", b"", "buy", 1, msgspec.msgpack.encode({"card_token": TOKEN, "order_id": "o-1"}), BEGAN_MS,
    BEGAN_MS + 30_000, 30_000, "o-1")


def row(step: str, state: str, prepared_ms: int, finished_ms: int, **changes: object) -> LedgerRow:
    plain = LedgerRow(
        ID, step, step, state, {"card_token": TOKEN}, {"ok": True}, "", "", 2, BEGAN_MS + prepared_ms, BEGAN_MS + finished_ms)
    return msgspec.structs.replace(plain, **changes)


def committed() -> Timeline:
    log = MemoryLog(
        State.COMMITTED, (BEGAN_MS, BEGUN), (BEGAN_MS + 5, Decided(ID, Decision.COMMIT, BEGAN_MS + 5)),
        (BEGAN_MS + 9, Ended(ID, BEGAN_MS + 9)))
    ledgers = {
        "stock": MemoryLedger(row("hold", "COMMITTED", 2, 7)), "bank": MemoryLedger(row("charge", "COMMITTED", 3, 6)),
        "mail": MemoryLedger(row("tell", "DONE", 8, 8))}
    return join_timeline(APP, log, ledgers, ID)


def test_events_of_log_and_ledgers_stand_in_the_order_of_time() -> None:
    told = [(event.source, event.what) for event in committed().events]
    assert told == [
        ("log", "begun: buy version 1"), ("stock", "hold: PREPARED"), ("bank", "charge: PREPARED"), ("log", "decided COMMIT"),
        ("bank", "charge: COMMITTED"), ("stock", "hold: COMMITTED"), ("mail", "tell: DONE"), ("log", "ended")]


def test_what_happened_in_one_millisecond_stands_in_the_protocols_order() -> None:
    log = MemoryLog(
        State.COMMITTED, (BEGAN_MS, BEGUN), (BEGAN_MS, Decided(ID, Decision.COMMIT, BEGAN_MS)), (BEGAN_MS, Ended(ID, BEGAN_MS)))
    told = join_timeline(APP, log, {"stock": MemoryLedger(row("hold", "COMMITTED", 0, 0))}, ID).events
    assert [event.what for event in told] == [
        "begun: buy version 1", "hold: PREPARED", "decided COMMIT", "hold: COMMITTED", "ended"]


def test_state_steps_and_attempts() -> None:
    view = committed()
    assert (view.state, view.decision, view.key, view.business_key) == ("COMMITTED", "COMMIT", "key-1", "o-1")
    assert [(one.step, one.service, one.state, one.attempts) for one in view.steps] == [
        ("hold", "stock", "COMMITTED", 2), ("charge", "bank", "COMMITTED", 2), ("tell", "mail", "DONE", 2)]


@pytest.mark.parametrize(("flags", "told"), [("01", TRACE), ("00", f"{TRACE}  (not sampled)")])
def test_the_trace_that_it_belongs_to_is_told(flags: str, told: str) -> None:
    begun = msgspec.structs.replace(BEGUN, traceparent=f"00-{TRACE}-00f067aa0ba902b7-{flags}")
    view = join_timeline(APP, MemoryLog(State.PREPARING, (BEGAN_MS, begun)), {}, ID)
    assert f"trace {told}\n" in rendered(view).replace(" \n", "\n")
    assert (view.to_json()["trace_id"], view.to_json()["sampled"]) == (TRACE, flags == "01")
    assert "trace" not in rendered(committed())
    assert committed().trace_id == ""


def test_secrets_are_redacted_in_json_and_on_the_terminal() -> None:
    view = committed()
    text = json.dumps(view.to_json()) + rendered(view)
    assert TOKEN not in text
    assert view.input["order_id"] == "o-1"
    assert view.input["card_token"] == "[redacted]"


def test_an_abort_says_where_and_why_with_its_tombstone() -> None:
    refusal = "stock holds 2, asked for 3"
    log = MemoryLog(
        State.ABORTED, (BEGAN_MS, BEGUN),
        (BEGAN_MS + 4, Decided(ID, Decision.ABORT, BEGAN_MS + 4, "OUT_OF_STOCK", refusal, "stock", "hold", 1)))
    ledgers = {
        "stock": MemoryLedger(row("hold", "REFUSED", 3, 3, code="OUT_OF_STOCK", message=refusal)),
        "bank": MemoryLedger(row("charge", "ROLLED_BACK", 6, 6, request=None, result=None))}
    view = join_timeline(APP, log, ledgers, ID)
    assert [event.what for event in view.events] == [
        "begun: buy version 1", "hold: REFUSED", "decided ABORT", "charge: ROLLED_BACK (no prepare had come)"]
    assert (view.code, view.service, view.step) == ("OUT_OF_STOCK", "stock", "hold")
    assert view.steps[2].state == ""  # never performed
    assert "OUT_OF_STOCK at stock, step hold" in " ".join(rendered(view).split())


def test_parked_steps_are_shown() -> None:
    parked = Parked(ID, "tell", "E_SERVICE_ERROR", f"mail said no to {TOKEN}", BEGAN_MS + 8)
    log = MemoryLog(State.COMMITTING, (BEGAN_MS, BEGUN), (BEGAN_MS + 8, parked), parked=[parked])
    view = join_timeline(APP, log, {}, ID)
    assert view.to_json()["parked"] == [
        {"step": "tell", "code": "E_SERVICE_ERROR", "message": "mail said no to [redacted]", "at_ms": BEGAN_MS + 8}]
    assert "parked: step tell" in rendered(view)


def test_json_times_are_utc() -> None:
    assert committed().to_json()["events"][0]["time"] == "2023-11-14T22:13:20.000Z"


def test_bytes_and_undecodable_input_do_not_break_the_view() -> None:
    begun = msgspec.structs.replace(BEGUN, input=b"\xc1\xc1")
    ledgers = {"stock": MemoryLedger(row("hold", "REFUSED", 1, 1, request=b"\xc1"))}
    view = join_timeline(APP, MemoryLog(State.PREPARING, (BEGAN_MS, begun)), ledgers, ID)
    assert view.input == "2 bytes that are not msgpack"
    json.dumps(view.to_json())


def test_a_step_that_the_definition_does_not_have_is_shown() -> None:
    ledgers = {"stock": MemoryLedger(row("wrap", "PREPARED", 1, 0))}
    view = join_timeline(APP, MemoryLog(State.PREPARING, (BEGAN_MS, BEGUN)), ledgers, ID)
    assert [one.step for one in view.steps] == ["hold", "charge", "tell", "wrap"]


def test_an_unknown_transaction() -> None:
    with pytest.raises(DefiniteError, match="retention period") as caught:
        join_timeline(APP, MemoryLog(State.PREPARING), {}, ID)
    assert caught.value.code == ErrorCode.UNKNOWN


def test_a_transaction_that_only_a_ledger_knows_sends_to_the_audit() -> None:
    with pytest.raises(DefiniteError, match="ledgers of stock do: run `raytx audit`") as caught:
        join_timeline(APP, MemoryLog(State.PREPARING), {"stock": MemoryLedger(row("hold", "PREPARED", 1, 0))}, ID)
    assert caught.value.code == ErrorCode.UNKNOWN


@pytest.mark.parametrize("text", ["", "xyz", ID.upper() + "Z", ID[:-1], f"{ID}\n"])
def test_a_malformed_id(text: str, tmp_path: Path) -> None:
    with pytest.raises(DefiniteError) as caught:
        timeline(tmp_path, APP, text)
    assert caught.value.code == ErrorCode.INVALID_INPUT


def rendered(view: Timeline) -> str:
    sheet = io.StringIO()
    Console(file=sheet, width=200).print(view.render())
    return sheet.getvalue()
