"""The bank: handlers called directly, its audit and the checker's books of it against broken ones."""

from __future__ import annotations

import msgspec
import pytest

from actors.bank import NORTH, SOUTH, app, sample_transfer, transfer
from actors.bank_accounts import Accounts, Promised
from actors.refusals import RefusalCode
from actors.service import Refused
from actors.testing import ServiceBench
from loadgen.checker.bank import BankBooks, check_bank
from loadgen.checker.report import CheckReport, Invariant
from orchestrator.errors import DefiniteError
from orchestrator.protocol.records import Begun, Decision
from unit.stores_in_memory import MemoryLedger


def opening(*lines, **extra):
    return {"lines": [{"account": account, "amount_minor": amount, **extra} for account, amount in lines]}


def move(amount, account="ada"):
    return {"account": account, "amount_minor": amount}


@pytest.fixture
def bench():
    bench = ServiceBench(Accounts("a_bank"))
    bench.done("t0", "open", opening(("ada", 1_000), ("bob", 0)))
    return bench


def money(bench, account="ada"):
    found = bench.state[f"account/{account}"]
    return tuple(found[f"{what}_minor"] for what in ("balance", "held", "announced", "sent", "received"))


def test_what_leaves_is_held_at_prepare_and_gone_at_commit(bench):
    assert bench.prepare("t1", "withdraw", move(600)) == Promised(amount_minor=600)
    assert money(bench) == (1_000, 600, 0, 0, 0)
    bench.commit("t1", "withdraw")
    assert money(bench) == (400, 0, 0, 600, 0)
    assert bench.audit().violations == []


def test_what_arrives_can_be_spent_at_commit_and_no_sooner(bench):
    bench.prepare("t1", "deposit", move(600, "bob"))
    assert money(bench, "bob") == (0, 0, 600, 0, 0)
    refused = bench.prepare("t2", "withdraw", move(1, "bob"))
    assert isinstance(refused, Refused)
    assert (refused.code, refused.message) == (RefusalCode.INSUFFICIENT_FUNDS, "account bob is short by 1 minor units")
    bench.commit("t1", "deposit")
    assert money(bench, "bob") == (600, 0, 0, 0, 600)


@pytest.mark.parametrize(("operation", "request_"), [
    ("withdraw", move(600)), ("deposit", move(600)), ("open", opening(("new", 5))), ("open", opening(("ada", 5), ("ada", 6)))])
def test_a_rollback_leaves_no_trace(bench, operation, request_):
    before = bench.state.snapshot()
    bench.prepare("t1", operation, request_)
    assert bench.state.snapshot() != before
    bench.rollback("t1", operation)
    assert bench.state.snapshot() == before


def test_holds_add_up_and_cannot_be_spent_twice(bench):
    bench.prepare("t1", "withdraw", move(600))
    assert isinstance(bench.prepare("t2", "withdraw", move(401)), Refused)
    assert isinstance(bench.prepare("t3", "withdraw", move(400)), Promised)


@pytest.mark.parametrize("operation", ["withdraw", "deposit"])
def test_unknown_and_blocked_accounts_neither_pay_nor_are_paid(bench, operation):
    assert bench.prepare("t1", operation, move(1, "eve")).code == RefusalCode.UNKNOWN_ACCOUNT
    bench.prepare("t2", "open", opening(("new", 5)))
    assert bench.prepare("t3", operation, move(1, "new")).code == RefusalCode.UNKNOWN_ACCOUNT  # its opening is undecided
    bench.done("t4", "open", opening(("bob", 5), blocked=True))
    assert bench.prepare("t5", operation, move(1, "bob")).code == RefusalCode.ACCOUNT_BLOCKED


@pytest.mark.parametrize("amount", [0, -1, True, 1.5, "1"])
def test_amounts_are_whole_and_above_nothing(amount):
    with pytest.raises(DefiniteError, match="amount_minor"):
        transfer.validate_input({**sample_transfer(0), "amount_minor": amount})


@pytest.mark.parametrize(("what", "told"), [
    ("balance", "opened + received and balance + sent"), ("held", "held and prepared rows"),
    ("announced", "announced and prepared rows"), ("sent", "the ledger's rows add up to 0"),
    ("received", "the ledger's rows add up to 0"), ("opened", "the ledger's rows add up to 1000")])
def test_the_audit_sees_a_penny_too_many(bench, what, told):
    account = bench.state["account/ada"]
    bench.state["account/ada"] = account | {f"{what}_minor": account[f"{what}_minor"] + 1}
    assert any(told in text for text in bench.audit().violations)


def test_the_audit_sees_an_overdraft_and_an_account_that_is_gone(bench):
    account = bench.state["account/ada"]
    bench.state["account/ada"] = account | {"balance_minor": -1, "sent_minor": 1_001}
    assert "account ada: held of the balance: 0 is not within 0 and -1" in bench.audit().violations
    del bench.state["account/ada"]
    assert bench.audit().violations == ["account ada: named by ledger rows, absent from the accounts"]


def test_samples_meet_each_refusal_and_commit_else():
    numbers = range(16)
    odd = [n for n in numbers if "poor" in sample_transfer(n)["payer"] or sample_transfer(n)["payee"] not in {
        f"account-{m}" for m in range(4)}]
    assert odd == [3, 7, 11]
    assert [saga.name for saga, _ in app.opening_inputs()] == ["open_accounts"]


def begun(key, saga, data):
    return Begun(key, key, b"", saga, 1, msgspec.msgpack.encode(data), 0, 0, 0)


def account(opened, sent=0, received=0, held=0, announced=0):
    return {"balance_minor": opened + received - sent, "held_minor": held, "announced_minor": announced,
            "opened_minor": opened, "sent_minor": sent, "received_minor": received}


@pytest.fixture
def books():
    books = BankBooks({"t", "u", "v"})
    books.decided(begun("b", "open_accounts", {"north": [move(100, "n")], "south": [move(50, "s")]}), Decision.COMMIT)
    books.decided(begun("t", "transfer", {"payer": "n", "payee": "s", "amount_minor": 30}), Decision.COMMIT)
    books.decided(begun("u", "transfer_back", {"payer": "s", "payee": "n", "amount_minor": 7}), Decision.COMMIT)
    books.decided(begun("v", "transfer", {"payer": "n", "payee": "s", "amount_minor": 9}), Decision.ABORT)
    books.decided(begun("w", "transfer", {"payer": "n", "payee": "s", "amount_minor": 9}), Decision.ABORT)  # of another run
    return books


def states():
    return {NORTH: {"account/n": account(100, sent=30, received=7)}, SOUTH: {"account/s": account(50, sent=7, received=30)}}


def judge(books, values, open_ones=()):
    books.close(open_ones)
    report = CheckReport()
    check_bank(books, {name: MemoryLedger([], value, {}) for name, value in values.items()}, report)
    return report


def test_the_checker_is_content_with_what_the_decisions_make(books):
    assert books.amounts == {"t": 30, "u": 7, "v": 9}
    assert judge(books, states()).findings == {}


@pytest.mark.parametrize(("spoil", "invariant", "told"), [
    (lambda found: found[SOUTH].update({"account/s": account(50, sent=7)}), Invariant.CONSERVED, "minor units received"),
    (lambda found: found[NORTH].update({"account/n": account(100, sent=39, received=7)}), Invariant.CONSERVED, "units sent"),
    (lambda found: found[NORTH]["account/n"].update(balance_minor=78), Invariant.CONSERVED, "balance"),
    (lambda found: found[NORTH]["account/n"].update(held_minor=78), Invariant.NOT_OVERSOLD, "78 of it held"),
    (lambda found: found[NORTH]["account/n"].update(held_minor=5), Invariant.NO_ORPHAN, "5 held"),
    (lambda found: found[SOUTH]["account/s"].update(announced_minor=5), Invariant.NO_ORPHAN, "5 announced"),
    (lambda found: found[SOUTH].clear(), Invariant.KEPT, "the bank does not know it"),
    (lambda found: found[SOUTH].update({"account/x": account(1)}), Invariant.CONSERVED, "opened")])
def test_the_checker_sees_money_that_is_lost_made_or_kept(books, spoil, invariant, told):
    values = states()
    spoil(values)
    report = judge(books, values)
    assert told in report.findings[invariant].first.text + report.findings[invariant].worst.text


def test_what_is_open_may_be_there_or_not(books):
    values = states()
    values[NORTH]["account/n"]["held_minor"] = 5
    report = judge(books, values, [begun("w", "transfer", {"payer": "n", "payee": "s", "amount_minor": 5})])
    assert report.findings == {}
