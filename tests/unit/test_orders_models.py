"""What the sagas' inputs refuse, and that every request builder makes what its service takes."""

import msgspec
import pytest

from actors.inventory import ReceiveRequest, ReserveRequest, RestockRequest
from actors.notification import SendRequest
from actors.orders import app, card_fingerprint, open_books, place_order, return_items
from actors.payment import AuthorizeRequest, DepositRequest, RefundRequest
from actors.refusals import REFUSALS, RefusalCode
from actors.shipping import CreateRequest
from orchestrator.errors import DefiniteError
from orchestrator.saga import Context, decode_plain, encode_plain

TOKEN = "tok_visa_4242"
ADDRESS = {"name": "Ada", "street": "1 High Street", "city": "York", "country": "United Kingdom"}


def line(sku="A", quantity=2, unit_price_minor=150):
    return {"sku": sku, "quantity": quantity, "unit_price_minor": unit_price_minor}


def order(**changes):
    return {
        "order_id": "o1", "customer": "ada", "lines": [line(), line("B", 1, 99)], "amount_minor": 399, "currency": "GBP",
        "card_token": TOKEN, "address": ADDRESS, "email": "ada@example.org", **changes}


def returned(**changes):
    return {
        "return_id": "r1", "order_id": "o1", "customer": "ada", "lines": [line(quantity=1)], "amount_minor": 150, **changes}


def refused(saga, data, match):
    with pytest.raises(DefiniteError, match=match) as raised:
        saga.encode_input(data)
    assert raised.value.code == "E_INVALID_INPUT"
    return str(raised.value)


def test_an_order_survives_the_wire():
    payload = place_order.encode_input(order())
    assert encode_plain(place_order.decode_input(payload)) == payload
    assert place_order.business_key(place_order.decode_input(payload)) == "o1"


def test_one_sku_may_stand_on_several_lines_at_several_prices():
    place_order.validate_input(order(lines=[line(), line(unit_price_minor=1)], amount_minor=302))


@pytest.mark.parametrize("quantity", [0, -1, True, 2.0, 1.5, float("nan"), float("inf"), "2", None, 10_000_001, 2**70])
def test_a_quantity_is_a_positive_whole_number(quantity):
    refused(place_order, order(lines=[line(quantity=quantity)]), r"lines\.0\.quantity")


@pytest.mark.parametrize("price", [-1, False, 1.5, 150.0, float("nan"), "150", None, 10**13 + 1])
def test_a_price_is_whole_minor_units(price):
    refused(place_order, order(lines=[line(unit_price_minor=price)]), r"lines\.0\.unit_price_minor")


@pytest.mark.parametrize("amount", [399.0, 3.99, float("nan"), float("-inf"), True, "399", -399, None])
def test_an_amount_is_whole_minor_units(amount):
    refused(place_order, order(amount_minor=amount), "amount_minor")


@pytest.mark.parametrize("amount", [398, 400, 0])
def test_the_amount_is_what_the_lines_add_up_to(amount):
    refused(place_order, order(amount_minor=amount), f"amount_minor is {amount}, but the lines add up to 399")
    refused(return_items, returned(amount_minor=amount), f"amount_minor is {amount}, but the lines add up to 150")


def test_an_order_has_1_to_10000_lines():
    refused(place_order, order(lines=[], amount_minor=0), "lines")
    refused(place_order, order(lines=[line()] * 10_001, amount_minor=3_000_300), "lines: .*10000 items.*10001")
    place_order.encode_input(order(lines=[line()] * 10_000, amount_minor=3_000_000))


@pytest.mark.parametrize(("field", "value"), [
    ("order_id", ""), ("order_id", "x" * 65), ("order_id", "a b"), ("order_id", "a\x00"), ("order_id", 7),
    ("customer", ""), ("currency", "gbp"), ("currency", "POUND"), ("email", "nobody"), ("phone", "x"),
    ("address", {}), ("address", {**ADDRESS, "city": ""}), ("address", {**ADDRESS, "name": "x" * 201}),
    ("address", {**ADDRESS, "planet": "Mars"}), ("discount", 5), ("lines", "A"), ("lines", None), ("lines", [None]),
])
def test_a_field_out_of_shape_is_named(field, value):
    refused(place_order, order(**{field: value}), field)


@pytest.mark.parametrize("token", [
    "", "tok_", "4111111111111111", "tok_4111111111111111", "tok_x4111111111111", "card_1", "tok_a-b", "tok_" + "x" * 61,
    "tok_a\n", 7, None,
])
def test_a_card_is_a_token_and_what_was_sent_is_not_echoed(token):
    message = refused(place_order, order(card_token=token), "card_token")
    if isinstance(token, str) and len(token) > 4:
        assert token not in message


def test_a_card_number_is_told_to_send_a_token():
    refused(place_order, order(card_token="tok_4111111111111111"), "send the processor's token.*never a card number")


def test_the_token_does_not_show_in_a_repr():
    assert TOKEN not in repr(place_order.validate_input(order()))


@pytest.mark.parametrize("data", [None, [], "order", 7, {}])
def test_an_input_that_is_no_order(data):
    refused(place_order, data, "place_order")


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x81", msgspec.msgpack.encode([1, 2])])
def test_bytes_that_are_no_order(payload):
    with pytest.raises(DefiniteError, match="E_INVALID_INPUT"):
        place_order.decode_input(payload)


@pytest.mark.parametrize("data", [{}, {"stock": [], "accounts": []}])
def test_opening_books_need_a_line(data):
    refused(open_books, data, "give at least one line of stock or accounts")


def test_opening_books_take_one_kind_alone_and_no_negative_amounts():
    open_books.encode_input({"stock": [{"sku": "A", "quantity": 0}]})
    open_books.encode_input({"accounts": [{"account": "ada", "amount_minor": 0}]})
    refused(open_books, {"stock": [{"sku": "A", "quantity": -1}]}, r"stock\.0\.quantity")
    refused(open_books, {"accounts": [{"account": "ada", "amount_minor": -1}]}, r"accounts\.0\.amount_minor")
    refused(open_books, {"stock": [{"sku": "A", "quantity": 1}] * 10_001}, "stock")


RESULTS = {
    "reserve": {"warehouse": "main", "allocation": [["A", 2], ["B", 1]]},
    "authorize": {"authorization": "A1", "amount_minor": 399, "currency": "GBP"},
    "ship": {"tracking": "T1", "units": 3},
}


@pytest.mark.parametrize(("saga", "data", "step", "model"), [
    (place_order, order(), "reserve", ReserveRequest),
    (place_order, order(), "authorize", AuthorizeRequest),
    (place_order, order(), "ship", CreateRequest),
    (place_order, order(phone="+44 20"), "notify", SendRequest),
    (return_items, returned(), "refund", RefundRequest),
    (return_items, returned(), "restock", RestockRequest),
    (open_books, {"stock": [{"sku": "A", "quantity": 1}]}, "receive", ReceiveRequest),
    (open_books, {"stock": [{"sku": "A", "quantity": 1}]}, "deposit", DepositRequest),
    (open_books, {"accounts": [{"account": "ada", "amount_minor": 1}]}, "deposit", DepositRequest),
])
def test_a_builder_makes_what_its_service_takes_the_same_each_time(saga, data, step, model):
    build = saga.by_name[step].request
    payloads = [
        encode_plain(build(Context("0" * 32, saga.decode_input(saga.encode_input(data)), RESULTS))) for _ in range(2)]
    assert payloads[0] == payloads[1]
    model.model_validate(decode_plain(payloads[0]))
    assert TOKEN.encode() not in payloads[0]


def test_payment_is_given_the_digest_of_the_token():
    context = Context("0" * 32, place_order.validate_input(order()), {})
    request = place_order.by_name["authorize"].request(context)
    assert request["card_fingerprint"] == card_fingerprint(TOKEN) != card_fingerprint("tok_other")


def test_the_app_ships_four_services_and_three_sagas():
    assert [service.name for service in app.services] == ["inventory", "payment", "shipping", "notification"]
    assert [saga.name for saga in app.sagas] == ["place_order", "return_items", "open_books"]
    assert place_order.layers == (("reserve", "authorize"), ("ship",), ("notify",))


def test_every_refusal_has_its_meaning():
    assert set(REFUSALS) == set(RefusalCode)
