"""Payment's handlers, called directly on a state, and its audit against broken books."""

import pytest

from actors.payment import Authorized, Payment
from actors.refusals import RefusalCode
from actors.service import NotYet, Refused
from actors.testing import ServiceBench
from orchestrator.errors import DefiniteError

CARD = "0" * 32


def deposit(*lines, **extra):
    return {"lines": [{"account": account, "amount_minor": amount, **extra} for account, amount in lines]}


def authorize(order, amount, account="ada", **extra):
    return {"order_id": order, "account": account, "amount_minor": amount, "card_fingerprint": CARD, **extra}


def refund(order, back, amount, account="ada", **extra):
    return {"order_id": order, "return_id": back, "account": account, "amount_minor": amount, **extra}


@pytest.fixture
def bench():
    bench = ServiceBench(Payment())
    bench.done("t0", "deposit", deposit(("ada", 1_000), ("bob", 0)))
    return bench


def money(bench, account="ada"):
    found = bench.state[f"account/{account}"]
    return found["balance_minor"], found["held_minor"], found["captured_minor"], found["refunded_minor"]


def test_a_hold_at_prepare_a_capture_at_commit(bench):
    result = bench.prepare("t1", "authorize", authorize("o1", 600))
    assert isinstance(result, Authorized)
    assert (result.amount_minor, result.currency) == (600, "GBP")
    assert money(bench) == (1_000, 600, 0, 0)
    bench.commit("t1", "authorize")
    assert money(bench) == (400, 0, 600, 0)
    assert bench.state["payment/o1"]["phase"] == "CAPTURED"


def test_a_void_leaves_no_trace(bench):
    before = bench.state.snapshot()
    bench.prepare("t1", "authorize", authorize("o1", 600))
    bench.rollback("t1", "authorize")
    assert bench.state.snapshot() == before


def test_the_authorization_code_follows_from_the_order(bench):
    first = bench.prepare("t1", "authorize", authorize("o1", 1))
    bench.rollback("t1", "authorize")
    assert bench.prepare("t2", "authorize", authorize("o1", 1)) == first


def test_money_on_hold_cannot_be_spent_twice(bench):
    bench.prepare("t1", "authorize", authorize("o1", 600))
    refused = bench.prepare("t2", "authorize", authorize("o2", 401))
    assert refused == Refused(RefusalCode.INSUFFICIENT_FUNDS, "account ada is short by 1 GBP minor units")
    assert isinstance(bench.prepare("t3", "authorize", authorize("o3", 400)), Authorized)


@pytest.mark.parametrize(("request_", "code"), [
    (authorize("o1", 1, account="nobody"), RefusalCode.UNKNOWN_ACCOUNT),
    (authorize("o1", 1, account="bob"), RefusalCode.INSUFFICIENT_FUNDS),
    (authorize("o1", 1, currency="EUR"), RefusalCode.CURRENCY_MISMATCH),
])
def test_refusals_of_an_authorization_change_nothing(bench, request_, code):
    before = bench.state.snapshot()
    assert bench.prepare("t1", "authorize", request_).code == code
    assert bench.state.snapshot() == before


def test_a_blocked_account_does_not_pay_until_it_is_unblocked(bench):
    bench.done("t1", "deposit", deposit(("ada", 0), blocked=True))
    bench.done("t2", "deposit", deposit(("ada", 5)))
    assert bench.prepare("t3", "authorize", authorize("o1", 1)).code == RefusalCode.ACCOUNT_BLOCKED
    bench.done("t4", "deposit", deposit(("ada", 0), blocked=False))
    assert isinstance(bench.prepare("t5", "authorize", authorize("o1", 1)), Authorized)


def test_one_payment_an_order(bench):
    bench.done("t1", "authorize", authorize("o1", 1))
    assert bench.prepare("t2", "authorize", authorize("o1", 1)).code == RefusalCode.DUPLICATE_PAYMENT


@pytest.mark.parametrize("amount", [-1, True, 1.0, 9.99, float("nan"), "5", None, 10**13 + 1])
def test_money_is_whole_minor_units(bench, amount, occurred):
    with pytest.raises(DefiniteError, match="E_INVALID_INPUT: amount_minor"):
        bench.prepare("t1", "authorize", authorize("o1", amount))
    occurred("49")


@pytest.mark.parametrize("currency", ["gbp", "GB", "GBPX", "", 826])
def test_a_currency_is_three_capitals(bench, currency):
    with pytest.raises(DefiniteError, match="currency"):
        bench.prepare("t1", "authorize", authorize("o1", 1, currency=currency))


def test_a_card_token_is_no_part_of_the_request(bench):
    with pytest.raises(DefiniteError, match="card_token"):
        bench.prepare("t1", "authorize", authorize("o1", 1, card_token="tok_x"))
    with pytest.raises(DefiniteError, match="card_fingerprint") as raised:
        bench.prepare("t1", "authorize", {**authorize("o1", 1), "card_fingerprint": "tok_secret"})
    assert "tok_secret" not in str(raised.value)


def test_a_deposit_gives_at_commit_and_opens_the_account(bench):
    bench.prepare("t1", "deposit", deposit(("eve", 70), ("eve", 30)))
    assert bench.prepare("t2", "authorize", authorize("o1", 1, account="eve")).code == RefusalCode.UNKNOWN_ACCOUNT
    bench.commit("t1", "deposit")
    assert money(bench, "eve") == (100, 0, 0, 0)
    assert bench.audit().violations == []


def test_a_deposit_that_rolls_back_leaves_no_account_unless_another_opens_it(bench):
    before = bench.state.snapshot()
    bench.prepare("t1", "deposit", deposit(("eve", 70)))
    bench.prepare("t2", "deposit", deposit(("eve", 70)))
    bench.rollback("t1", "deposit")
    assert "account/eve" in bench.state
    bench.rollback("t2", "deposit")
    assert bench.state.snapshot() == before


def test_two_deposits_cannot_open_an_account_in_two_currencies(bench):
    bench.prepare("t1", "deposit", deposit(("eve", 70)))
    assert bench.prepare("t2", "deposit", deposit(("eve", 70), currency="EUR")).code == RefusalCode.CURRENCY_MISMATCH
    mixed = {"lines": [{"account": "fay", "amount_minor": 1, "currency": c} for c in ("GBP", "EUR")]}
    assert bench.prepare("t3", "deposit", mixed).code == RefusalCode.CURRENCY_MISMATCH
    assert "account/fay" not in bench.state


def test_a_refund_gives_at_commit(bench):
    bench.done("t1", "authorize", authorize("o1", 600))
    bench.prepare("t2", "refund", refund("o1", "r1", 250))
    assert money(bench) == (400, 0, 600, 0)
    bench.commit("t2", "refund")
    assert money(bench) == (650, 0, 600, 250)
    assert bench.audit().totals == {
        "captured_minor": 600, "refunded_minor": 250, "held_minor": 0, "balance_minor": 650, "deposited_minor": 1_000,
        "accounts": 2}


def test_a_refund_waits_for_the_capture(bench):
    bench.prepare("t1", "authorize", authorize("o1", 600))
    assert isinstance(bench.prepare("t2", "refund", refund("o1", "r1", 1)), NotYet)
    bench.commit("t1", "authorize")
    assert bench.prepare("t2", "refund", refund("o1", "r1", 1)).amount_minor == 1


def test_no_more_is_refunded_than_was_captured_also_with_refunds_in_flight(bench):
    bench.done("t1", "authorize", authorize("o1", 600))
    bench.prepare("t2", "refund", refund("o1", "r1", 500))
    assert bench.prepare("t3", "refund", refund("o1", "r2", 101)) == Refused(
        RefusalCode.REFUND_EXCEEDS, "order o1: refund of 101, 100 GBP minor units are left")
    bench.rollback("t2", "refund")
    bench.done("t4", "refund", refund("o1", "r1", 600))
    assert bench.prepare("t5", "refund", refund("o1", "r1", 0)).code == RefusalCode.DUPLICATE_RETURN


@pytest.mark.parametrize(("request_", "code"), [
    (refund("o9", "r1", 1), RefusalCode.UNKNOWN_PAYMENT),
    (refund("o1", "r1", 1, account="bob"), RefusalCode.UNKNOWN_PAYMENT),
    (refund("o1", "r1", 1, currency="EUR"), RefusalCode.CURRENCY_MISMATCH),
])
def test_a_refund_needs_its_payment(bench, request_, code):
    bench.done("t1", "authorize", authorize("o1", 600))
    assert bench.prepare("t2", "refund", request_).code == code


@pytest.fixture
def books(bench):
    """Every kind of row: captured, held, refunded, refunding, a deposit under way, refused, voided."""
    bench.done("t1", "authorize", authorize("o1", 300))
    bench.prepare("t2", "authorize", authorize("o2", 200))
    bench.done("t3", "refund", refund("o1", "r1", 100))
    bench.prepare("t4", "refund", refund("o1", "r2", 50))
    bench.prepare("t5", "deposit", deposit(("ada", 10)))
    bench.prepare("t6", "authorize", authorize("o6", 9_999))
    bench.prepare("t7", "authorize", authorize("o7", 1))
    bench.rollback("t7", "authorize")
    assert bench.audit().violations == []
    return bench


@pytest.mark.parametrize(("change", "found"), [
    ({"balance_minor": 801}, "deposited + refunded and balance + captured: 1100 is not 1101"),
    ({"held_minor": 199}, "held and prepared rows: 199 is not 200"),
    ({"held_minor": 199}, "held and its payments on hold: 199 is not 200"),
    ({"held_minor": 801}, "held of the balance: 801 is not within 0 and 800"),
    ({"held_minor": -1}, "held of the balance"),
    ({"captured_minor": 600, "balance_minor": 500}, "captured and its payments captured: 600 is not 300"),
    ({"captured_minor": 600, "balance_minor": 500}, "captured: the state says 600, the ledger's rows add up to 300"),
    ({"refunded_minor": 200, "balance_minor": 900}, "claimed back and refunded + refunding: 150 is not 250"),
    ({"refunded_minor": 200, "balance_minor": 900}, "refunded: the state says 200"),
    ({"deposited_minor": 2_000, "balance_minor": 1_800}, "deposited: the state says 2000"),
    ({"deposits_open": 0}, "open deposits and prepared rows: 0 is not 1"),
])
def test_the_audit_finds_a_broken_account(books, change, found):
    assert money(books) == (800, 200, 300, 100)
    books.state["account/ada"] = {**books.state["account/ada"], **change}
    assert any(f"account ada: {found}" in text for text in books.audit().violations)


def test_the_audit_finds_an_order_captured_twice(books):
    """Two rows, one record of the payment: what a second capture of the same order leaves behind."""
    books.rows["t8", "authorize"] = books.rows["t1", "authorize"]
    account = books.state["account/ada"]
    books.state["account/ada"] = {**account, "balance_minor": 500, "captured_minor": 600}
    assert "account ada: captured and its payments captured: 600 is not 300" in books.audit().violations


def test_the_audit_finds_a_claim_beyond_the_payment(books):
    books.state["payment/o1"] = {**books.state["payment/o1"], "claimed_minor": 301}
    assert "payment/o1: amount claimed back: 301 is not within 0 and 300" in books.audit().violations


def test_the_audit_finds_an_account_that_vanished(books):
    del books.state["account/ada"]
    assert "account ada: named by payments or ledger rows, absent from the accounts" in books.audit().violations


@pytest.mark.parametrize("row", [("t1", "authorize"), ("t3", "refund"), ("t0", "deposit")])
def test_the_audit_finds_a_lost_row_unless_rows_were_purged(books, row):
    del books.rows[row]
    assert any("the ledger's rows add up to" in text for text in books.audit().violations)
    assert books.audit(purged=True).violations == []
