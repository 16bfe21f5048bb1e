"""Every invariant against runs that are known to be bad: a checker that cannot fail proves nothing.

The good run is the shop's real code over real databases; what is bad is done to a copy of its stores, or to its history.
"""

from __future__ import annotations

import copy

import msgspec
import pytest

from loadgen.checker.report import CheckReport, Invariant
from loadgen.workload import Told
from orchestrator.log.reader import StoredRecord
from orchestrator.protocol.records import Begun, Decided, Decision, Ended, Parked, Resolved
from unit.good_run import good_run

STRANGER = "f" * 32


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return good_run(tmp_path_factory.mktemp("run") / "data")


@pytest.fixture
def run(made):
    return copy.deepcopy(made)


def rival_decision(run):
    decided = Decided(run.id_of["k-1"], Decision.ABORT, 0)
    run.log.stored.insert(run.log.of(Ended, run.id_of["k-1"]), StoredRecord(99, 0, decided))


def resolved(run, key, step, decision):
    """An operator's word on a step, before the transaction's end."""
    record = Resolved(run.id_of[key], step, decision, "ann", "by hand", 0)
    run.log.stored.insert(run.log.of(Ended, run.id_of[key]), StoredRecord(99, 0, record))


def falling_epoch(run):
    run.log.given.update(dict.fromkeys(range(256), 7))
    run.begin_again("k-0", 7)
    run.begin_again("k-0", 6)


def other_partition(run):
    run.log.replace(Begun, run.id_of["k-0"], key="k-1")


def copied(run, service, key, other):
    run.values(service)[other] = copy.deepcopy(run.values(service)[key])


def bought_by_a_stranger(run):
    run.spoil_row("payment", "k-0", "authorize", request={
        "order_id": "o-0", "account": "nobody", "amount_minor": 300, "currency": "GBP", "card_fingerprint": "0" * 32})


TOLD = {
    "COMMITTED, aborted": ("K", "the log says ABORTED", lambda run: run.lie("k-3", Told.COMMITTED)),
    "ABORTED, committed": ("K", "the log says COMMITTED", lambda run: run.lie("k-0", Told.ABORTED)),
    "COMMITTED, unknown": ("K", "does not know the key", lambda run: run.ask("lost", Told.COMMITTED, STRANGER)),
    "ABORTED, unknown": ("K", "does not know the key", lambda run: run.ask("lost", Told.ABORTED, STRANGER)),
    "COMMITTED, decision lost": ("K", "the log says PREPARING", lambda run: run.log.forget(run.id_of["k-0"])),
    "another transaction": ("K", "has bound the key to", lambda run: setattr(run.operation("k-0"), "transaction", STRANGER)),
    "refused, begun": ("K", "told that nothing was begun", lambda run: run.lie("k-3", Told.REJECTED)),
    "a conflict that is not": ("K", "another input", lambda run: run.ask("free", Told.REJECTED, code="E_KEY_CONFLICT")),
    "another amount": ("K", "amount that was logged", lambda run: run.operation("k-0").asked.update(amount_minor=299)),
    "two outcomes": ("D", "told COMMITTED, another ABORTED", lambda run: run.ask("k-0", Told.ABORTED, run.id_of["k-0"])),
    "two transactions": ("X", "told transaction", lambda run: run.ask("k-0", Told.COMMITTED, STRANGER)),
}
LOG = {
    "a rival decision": ("D", "decides ABORT, it was decided COMMIT before", rival_decision),
    "ended before its decision": ("M", "ends before a decision", lambda run: run.log.drop(Decided, run.id_of["k-3"])),
    "never begun": ("M", "was never begun", lambda run: run.log.drop(Begun, run.id_of["k-3"])),
    "begun twice": ("M", "was begun before", lambda run: run.log.stored.append(run.log.stored[0])),
    "decided after its end": ("M", "has ended before", lambda run: run.log.append(
        Decided(run.id_of["k-0"], Decision.COMMIT, 0))),
    "resolved against its decision": ("M", "asserts ABORT, its transaction is COMMITTING", lambda run: resolved(
        run, "k-0", "reserve", Decision.ABORT)),
    "resolved after its end": ("M", "has ended before", lambda run: run.log.append(
        Resolved(run.id_of["k-0"], "reserve", Decision.COMMIT, "ann", "by hand", 0))),
    "acknowledged after its end": ("M", "has ended before", lambda run: run.log.append(
        Parked(run.id_of["k-0"], "reserve", "", "", 0))),
    "ended twice": ("M", "has ended before", lambda run: run.log.append(Ended(run.id_of["k-0"], 0))),
    "a key bound twice": ("X", "is bound to", lambda run: run.begin_again("k-0", 1, rename=False)),
    "an epoch that falls": ("F", "after one in epoch 7", falling_epoch),
    "an epoch never given out": ("F", "never gave out", lambda run: run.begin_again("k-0", 9)),
    "a partition of another key": ("F", "its key of", other_partition),
    "a service that heard more": ("F", "it heard epoch 9", lambda run: run.ledger("payment").heard.update({3: 9})),
}
ROWS = {
    "torn": ("A", "is ROLLED_BACK: the log says COMMITTED", lambda run: run.spoil_row(
        "payment", "k-0", "authorize", state="ROLLED_BACK")),
    "an effect of nothing decided": ("A", "is COMMITTED: the log says PREPARING", lambda run: run.log.forget(run.id_of["k-0"])),
    "an effect of an abort": ("K", "is COMMITTED: the log says ABORTED", lambda run: run.spoil_row(
        "inventory", "k-4", "reserve", state="COMMITTED")),
    "an effect before its decision": ("M", "1 ms before the decision", lambda run: run.spoil_row(
        "inventory", "k-0", "reserve", finished_ms=run.record_ms(Decided, "k-0") - 1)),
    "a hold before its begin": ("M", "1 ms before its transaction was begun", lambda run: run.spoil_row(
        "inventory", "k-0", "reserve", prepared_ms=run.record_ms(Begun, "k-0") - 1)),
    "finished, yet not": ("M", "finished at 0 ms", lambda run: run.spoil_row("inventory", "k-0", "reserve", finished_ms=0)),
    "a row that stands twice": ("X", "stands twice", lambda run: run.ledger("inventory").all_rows.insert(
        1, run.ledger("inventory").all_rows[0])),
    "a row of nobody's": ("K", "has no such transaction", lambda run: run.spoil_row(
        "inventory", "k-0", "reserve", transaction=STRANGER)),
    "held for ever": ("H", "has ended COMMITTED", lambda run: run.spoil_row(
        "inventory", "k-0", "reserve", state="PREPARED", finished_ms=0)),
    "less than nothing then": ("O", "available at", lambda run: run.spoil_row(
        "inventory", "k-4", "reserve", request={"order_id": "o-4", "lines": [["85123A", 50]]})),
    "refused though there was enough": ("O", "for having seen 9 available", lambda run: run.spoil_row(
        "inventory", "k-3", "reserve", message="85123A is short by 41 (ordered 50, available 9)")),
    "refused though there was money": ("O", "for having seen 299 available", lambda run: run.spoil_row(
        "payment", "k-4", "authorize", message="account c-2 is short by 1 GBP minor units")),
}
STOCK = {
    "out of nothing": ("C", "available + held + sold", lambda run: run.add_units(on_hand=1)),
    "sold beyond the decisions": ("C", "units sold, by the decisions", lambda run: run.add_units(on_hand=-1, sold=1)),
    "received beyond them": ("C", "units received, by the decisions", lambda run: run.add_units(on_hand=1, received=1)),
    "returned beyond them": ("C", "units returned, by the decisions", lambda run: run.add_units(on_hand=1, returned=1)),
    "a SKU lost": ("C", "inventory does not know it", lambda run: run.values("inventory").pop("sku/85123A")),
    "less than nothing": ("O", "5 on hand, 50 held", lambda run: run.add_units(reserved=50)),
    "held for nobody": ("H", "units held is 1", lambda run: run.add_units(reserved=1)),
    "an order still reserved": ("H", "its stock is held",
        lambda run: run.values("inventory").update({"order/o-0": "RESERVED"})),
    "an order without goods": ("A", "inventory has no record", lambda run: run.values("inventory").pop("order/o-0")),
    "goods of an abort": ("K", "its stock is sold", lambda run: copied(run, "inventory", "order/o-0", "order/o-3")),
    "sold twice to one": ("X", "units sold is 4",
        lambda run: run.values("inventory")["order/o-0"]["sold"].update({"85123A": 4})),
    "given back twice": ("X", "given back is 2",
        lambda run: run.values("inventory")["order/o-1"]["claimed"].update({"85123A": 2})),
    "a parcel of an abort": ("K", "a parcel was sent", lambda run: copied(run, "shipping", "shipment/o-0", "shipment/o-3")),
    "no parcel": ("A", "no parcel was sent", lambda run: run.values("shipping").pop("shipment/o-0")),
    "a parcel kept back": ("H", "kept back", lambda run: run.values("shipping")["shipment/o-0"].update(phase="CREATED")),
    "sent twice": ("X", "units sent is 4", lambda run: run.values("shipping")["shipment/o-0"].update(units=4)),
    "no message": ("A", "was not told", lambda run: run.values("notification").pop("outbox/o-0/email")),
    "a message of an abort": ("K", "told by email", lambda run: run.values("notification").update({"outbox/o-3/email": []})),
    "an SMS to nobody": ("X", "an SMS was sent", lambda run: run.values("notification").update({"outbox/o-0/sms": []})),
}
MONEY = {
    "out of nothing": ("C", "credits less debits", lambda run: run.add_money(balance=1)),
    "captured beyond the decisions": ("C", "captured, by the decisions", lambda run: run.add_money(balance=-5, captured=5)),
    "deposited beyond them": ("C", "deposited, by the decisions", lambda run: run.add_money(balance=5, deposited=5)),
    "refunded beyond them": ("C", "refunded, by the decisions", lambda run: run.add_money(balance=5, refunded=5)),
    "in floats": ("C", "is a float", lambda run: run.add_money(balance=0.0)),
    "an account lost": ("C", "payment does not know it", lambda run: run.values("payment").pop("account/c-1")),
    "less than nothing": ("O", "999999 held", lambda run: run.add_money(held=999_999)),
    "held for nobody": ("H", "money held is 1", lambda run: run.add_money(held=1)),
    "a payment still held": ("H", "its money is held", lambda run: run.values("payment")["payment/o-0"].update(phase="HELD")),
    "a wrong capture": ("P", "captured is 301", lambda run: run.values("payment")["payment/o-0"].update(amount_minor=301)),
    "a capture of an abort": ("P", "are captured, but no order",
        lambda run: copied(run, "payment", "payment/o-0", "payment/o-3")),
    "a refund nobody decided": ("P", "captured less refunded", lambda run: run.values("payment")["payment/o-0"].update(
        claimed_minor=10)),
    "another one's": ("P", "c-2 has paid for c-1", lambda run: run.values("payment")["payment/o-0"].update(account="c-2")),
    "an order without payment": ("A", "payment has no record", lambda run: run.values("payment").pop("payment/o-0")),
}
REPLAY = {
    "another value": ("R", "its ledger makes it", lambda run: run.values("shipping")["shipment/o-0"].update(tracking="T0")),
    "a value too many": ("R", "explains nothing of the kind",
        lambda run: copied(run, "shipping", "shipment/o-0", "shipment/o-9")),
    "a value too few": ("R", "has it no more", lambda run: run.values("shipping").pop("shipment/o-0")),
    "a row that nothing lets in": ("R", "cannot have let step 'authorize' begin", bought_by_a_stranger),
    "available stock": ("R", "available in the state, by its ledger", lambda run: run.add_units(reserved=1)),
}
TABLES = {"told": TOLD, "log": LOG, "rows": ROWS, "stock": STOCK, "money": MONEY, "replay": REPLAY}
BAD = {f"{table}: {name}": bad for table, rows in TABLES.items() for name, bad in rows.items()}


@pytest.fixture
def found(monkeypatch):
    """All violations that are found, by letter and text."""
    told = []
    add = CheckReport.add
    monkeypatch.setattr(CheckReport, "add", lambda self, invariant, about, text, **more: (
        told.append((invariant.value, text)), add(self, invariant, about, text, **more)))
    return told


@pytest.mark.parametrize("name", BAD)
def test_a_bad_run_is_bad(run, found, name):
    letter, told, spoil = BAD[name]
    spoil(run)
    report = run.check()
    assert any(one == letter and told in text for one, text in found), found
    assert not report.ok
    assert letter in {invariant.value for invariant in report.findings}


@pytest.mark.parametrize("name", [name for name in BAD if not name.startswith("told: ")])
def test_what_is_bad_of_an_earlier_run_is_found_after_a_later_one(run, found, name):
    letter, told, spoil = BAD[name]
    spoil(run)
    run.history.operations.clear()
    run.ask("of the later run", Told.REJECTED, code="E_OVERLOADED")
    run.check()
    assert any(one == letter and told in text for one, text in found), found


@pytest.mark.parametrize("name", [name for name in TOLD if "amount" not in name])
def test_what_was_told_of_a_key_is_held_against_an_earlier_run_that_had_bound_it(run, found, name):
    letter, told, spoil = TOLD[name]
    run.log.stored = [msgspec.structs.replace(one, at_ms=1_000 + one.sequence) for one in run.log.stored]
    spoil(run)
    run.check()
    assert any(one == letter and told in text for one, text in found), found


BEHIND = {
    "told": ("K", "told ABORTED, the log says COMMITTED", lambda run: run.lie("k-2", Told.ABORTED)),
    "lost": ("K", "the log says PREPARING", lambda run: run.log.forget(run.id_of["k-2"])),
    "duplicated": ("X", "is bound to", lambda run: run.begin_again("k-2", 1, rename=False)),
    "never begun": ("M", "was never begun", lambda run: run.log.drop(Begun, run.id_of["k-2"])),
    "torn": ("A", "is ROLLED_BACK: the log says COMMITTED", lambda run: run.spoil_row(
        "payment", "k-2", "authorize", state="ROLLED_BACK")),
    "another amount": ("K", "amount that was logged", lambda run: run.operation("k-2").asked.update(amount_minor=299)),
}


@pytest.mark.parametrize("name", BEHIND)
def test_what_a_shard_began_whose_clock_is_behind_is_judged_as_any_other(run, found, name):
    run.begin_long_ago("k-2")
    assert run.check().ok
    letter, told, spoil = BEHIND[name]
    spoil(run)
    run.check()
    assert any(one == letter and told in text for one, text in found), found


def test_what_an_operator_resolved_may_be_acknowledged_after_the_end(run):
    resolved(run, "k-0", "reserve", Decision.COMMIT)
    run.log.append(Parked(run.id_of["k-0"], "reserve", "", "", 0))
    assert run.check().ok


def test_each_invariant_has_a_bad_run():
    elsewhere = {"L", "N", "B", "I", "G"}  # in test_checker, test_checker_bounds and test_checker_reads
    assert {letter for letter, _, _ in BAD.values()} | elsewhere == {invariant.value for invariant in Invariant}
