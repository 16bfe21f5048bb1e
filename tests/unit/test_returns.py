from __future__ import annotations

from loadgen.baskets import Baskets, Line
from loadgen.returns import Return, match_returns
from loadgen.trace import CreditNote

MUG = Line("22423", 4, 1_275)


def baskets(*orders: tuple[str, list[Line]]) -> Baskets:
    made = Baskets()
    for number, (customer, lines) in enumerate(orders):
        made.add(str(536_365 + number), customer, "France", lines)
    return made


def note(after: int, *lines: Line, customer: str = "17850", invoice: str = "C1") -> CreditNote:
    return CreditNote(invoice, customer, after, list(lines))


def back(quantity: int) -> Line:
    return MUG._replace(quantity=quantity)


def test_the_latest_earlier_sale_that_fits_is_taken():
    found = match_returns(baskets(("17850", [MUG]), ("17850", [MUG]), ("17850", [MUG])), [note(2, back(3))])
    assert found.matched == [Return("C1", 2, 1, (back(3),))]
    assert found.unmatched_lines == 0


def test_no_more_comes_back_than_was_sold():
    sold = baskets(("17850", [MUG]), ("17850", [MUG]))
    found = match_returns(sold, [note(2, back(3)), note(2, back(3), invoice="C2"), note(2, back(3), invoice="C3")])
    assert [(item.note, item.order) for item in found.matched] == [("C1", 1), ("C2", 0)]
    assert found.unmatched_lines == 1


def test_customer_price_and_quantity_must_fit():
    sold = baskets(("17850", [MUG]))
    other = [note(1, back(1), customer="13047"), note(1, MUG._replace(unit_price_minor=1_200)), note(1, back(5))]
    found = match_returns(sold, other)
    assert (list(found.matched), found.unmatched_lines) == ([], 3)


def test_a_later_sale_does_not_count():
    found = match_returns(baskets(("13047", [MUG]), ("17850", [MUG])), [note(1, back(1))])
    assert found.unmatched_lines == 1


def test_one_note_over_two_orders_is_one_return_each():
    tray = Line("23407", 2, 995)
    sold = baskets(("17850", [MUG]), ("17850", [tray, tray]))
    found = match_returns(sold, [note(2, back(1), tray, tray)])
    assert found.matched == [Return("C1", 2, 0, (back(1),)), Return("C1", 2, 1, (tray, tray))]
