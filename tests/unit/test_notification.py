"""Notification's handler, called directly on a state, and its audit against broken books."""

import pytest

from actors.notification import Notification, Sent
from actors.testing import ServiceBench
from orchestrator.errors import DefiniteError


def send(order, **extra):
    return {
        "order_id": order, "tracking": "T1", "amount_minor": 1_205, "currency": "GBP", "email": "ada@example.org", **extra}


@pytest.fixture
def bench():
    return ServiceBench(Notification())


def test_an_email_always_and_an_sms_where_there_is_a_phone(bench):
    assert bench.perform("t1", "send", send("o1")) == Sent(channels=["email"])
    assert bench.perform("t2", "send", send("o2", phone="+44 20 7946 0000")) == Sent(channels=["email", "sms"])
    assert list(bench.state) == ["outbox/o1/email", "outbox/o2/email", "outbox/o2/sms"]
    assert bench.state["outbox/o1/email"] == [
        "ada@example.org", "Order o1 is confirmed: 12.05 GBP, tracking number T1"]


def test_an_order_gets_each_message_once_whoever_asks(bench):
    bench.perform("t1", "send", send("o1"))
    before = bench.state["outbox/o1/email"]
    assert bench.perform("t2", "send", send("o1", email="eve@example.org", phone="123")) == Sent(channels=["sms"])
    assert bench.state["outbox/o1/email"] == before
    assert bench.audit().totals == {"messages": 2}
    assert bench.audit().violations == []


@pytest.mark.parametrize("extra", [{"email": "no address"}, {"email": ""}, {"phone": "call me"}, {"amount_minor": 1.5}])
def test_a_request_that_cannot_be_sent_is_invalid(bench, extra):
    with pytest.raises(DefiniteError, match=f"E_INVALID_INPUT: {next(iter(extra))}"):
        bench.perform("t1", "send", send("o1", **extra))


def test_the_audit_finds_a_message_too_many_and_one_too_few(bench):
    bench.perform("t1", "send", send("o1"))
    bench.perform("t2", "send", send("o2"))
    bench.state["outbox/o3/email"] = ["eve@example.org", "hello"]
    assert bench.audit().violations == [
        "notification: messages in the outbox: the state says 3, the ledger's rows add up to 2"]
    assert bench.audit(purged=True).violations == []
    del bench.state["outbox/o3/email"]
    del bench.state["outbox/o1/email"]
    assert bench.audit(purged=True).violations == [
        "notification: messages in the outbox: the state says 1, the ledger's rows add up to 2"]
