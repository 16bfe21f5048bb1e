from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from loadgen.baskets import Line
from loadgen.trace import Skipped, read_trace
from orchestrator.errors import DefiniteError

HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country"
GOOD = "536365,85123A,WHITE HOLDER,6,2010-12-01 08:26:00,2.55,17850,United Kingdom"


def write(tmp_path: Path, *rows: str, header: str = HEADER) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    return path


def row(*, invoice="536365", sku="85123A", text="", quantity="6", date="2010-12-01 08:26:00", price="2.55",
        customer="17850", country="United Kingdom") -> str:
    return f"{invoice},{sku},{text},{quantity},{date},{price},{customer},{country}"


def test_lines_of_one_invoice_are_one_order_even_apart(tmp_path):
    trace = read_trace(write(tmp_path, GOOD, row(invoice="536366", sku="22423"), row(sku="71053", quantity="1", price="3.39")))
    assert len(trace.baskets) == 2
    assert trace.baskets.invoice(0) == "536365"
    assert trace.baskets.lines(0) == [Line("85123A", 6, 255), Line("71053", 1, 339)]
    assert (trace.baskets.customer(0), trace.baskets.country(0)) == ("17850", "United Kingdom")
    demand = trace.baskets.demand(2)
    assert (demand.lines, demand.units, demand.amount_minor) == (3, 13, 6 * 255 + 6 * 255 + 339)


def test_codes_are_folded_to_upper_case_and_a_sku_on_several_lines_is_summed(tmp_path):
    trace = read_trace(write(tmp_path, row(sku="85123a", price="2.55"), row(sku="85123A", price="1.10")))
    assert [line.sku for line in trace.baskets.lines(0)] == ["85123A", "85123A"]
    demand = trace.baskets.demand(1)
    assert demand.units_by_sku == {"85123A": 12}
    assert demand.minor_by_customer == {"17850": 6 * 255 + 6 * 110}


@pytest.mark.parametrize(("odd", "reason"), [
    ({"invoice": "C536379", "quantity": "-1"}, Skipped.CREDIT_NOTE),
    ({"invoice": "A563185"}, Skipped.OTHER_INVOICE),
    ({"quantity": "-10"}, Skipped.QUANTITY_NOT_POSITIVE),
    ({"quantity": "0"}, Skipped.QUANTITY_NOT_POSITIVE),
    ({"price": "0.00"}, Skipped.PRICE_NOT_POSITIVE),
    ({"price": "-5.00"}, Skipped.PRICE_NOT_POSITIVE),
    ({"price": "0.001"}, Skipped.PRICE_NOT_POSITIVE),
    ({"sku": "POST"}, Skipped.NOT_A_PRODUCT),
    ({"sku": "gift_0001_20"}, Skipped.NOT_A_PRODUCT),
    ({"sku": "85123ABC"}, Skipped.NOT_A_PRODUCT),
    ({"customer": ""}, Skipped.NO_CUSTOMER),
])
def test_a_row_that_is_no_order_line_is_counted_by_reason(tmp_path, odd, reason):
    trace = read_trace(write(tmp_path, GOOD, row(**odd)))
    assert trace.rows == 2
    assert trace.skipped == {reason: 1}
    assert trace.baskets.demand(1).lines == 1


@pytest.mark.parametrize(("broken", "column"), [
    ({"quantity": "six"}, "Quantity"), ({"quantity": ""}, "Quantity"), ({"quantity": "1.5"}, "Quantity"),
    ({"quantity": "10000001"}, "Quantity"), ({"price": "NaN"}, "UnitPrice"), ({"price": "1e5"}, "UnitPrice"),
    ({"price": ""}, "UnitPrice"), ({"customer": "Smith"}, "CustomerID"), ({"date": "yesterday"}, "InvoiceDate"),
    ({"invoice": ""}, "InvoiceNo"), ({"text": "a,b"}, "count"), ({"text": '"a"b'}, "unknown"),
])
def test_a_broken_row_is_refused_by_number_and_column(tmp_path, broken, column):
    path = write(tmp_path, GOOD, GOOD, row(**broken), GOOD)
    with pytest.raises(DefiniteError, match=rf"row 3 \(line 4 of the file\), column {column}") as caught:
        read_trace(path)
    assert caught.value.code == "E_TRACE_ROW"


def test_skip_bad_counts_broken_rows_and_tells_the_first(tmp_path):
    trace = read_trace(write(tmp_path, GOOD, row(quantity="six"), row(sku="22423")), skip_bad=True)
    assert trace.skipped == {Skipped.BAD_ROW: 1}
    assert trace.bad == ["row 2 (line 3 of the file), column Quantity: 'six' is not a whole number"]
    assert trace.baskets.demand(1).lines == 2


def test_skip_bad_goes_on_after_a_row_that_is_not_csv(tmp_path):
    trace = read_trace(write(tmp_path, GOOD, row(text='"a"b'), row(sku="22423")), skip_bad=True)
    assert trace.skipped == {Skipped.BAD_ROW: 1}
    assert trace.baskets.demand(1).lines == 2


def test_two_customers_on_one_invoice_are_a_broken_row(tmp_path):
    with pytest.raises(DefiniteError, match=r"row 2 .* column CustomerID"):
        read_trace(write(tmp_path, GOOD, row(customer="13047")))


def test_xz_and_plain_read_the_same(tmp_path):
    plain = write(tmp_path, GOOD, row(sku="22423"))
    packed = tmp_path / "trace.csv.xz"
    packed.write_bytes(lzma.compress(plain.read_bytes()))
    assert read_trace(packed).baskets.lines(0) == read_trace(plain).baskets.lines(0)


def test_a_truncated_archive_is_refused(tmp_path):
    packed = tmp_path / "trace.csv.xz"
    packed.write_bytes(lzma.compress(write(tmp_path, *[GOOD] * 500).read_bytes())[:-40])
    with pytest.raises(DefiniteError, match="cannot be read"):
        read_trace(packed)


def test_header_may_be_reordered_and_needs_the_columns(tmp_path):
    header = "CustomerID,Quantity,UnitPrice,StockCode,InvoiceNo"
    trace = read_trace(write(tmp_path, "17850.0,6,2.55,85123A,536365", header=header))
    assert trace.baskets.lines(0) == [Line("85123A", 6, 255)]
    assert trace.baskets.customer(0) == "17850"
    with pytest.raises(DefiniteError, match="no column UnitPrice"):
        read_trace(write(tmp_path, header="CustomerID,Quantity,StockCode,InvoiceNo"))


def test_missing_and_empty_files_are_refused(tmp_path):
    with pytest.raises(DefiniteError, match="there is no file"):
        read_trace(tmp_path / "absent.csv")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(DefiniteError, match="is empty"):
        read_trace(tmp_path / "empty.csv")


def test_prices_are_rounded_half_to_even_pence_without_floats(tmp_path):
    trace = read_trace(write(tmp_path, row(price="0.025"), row(price="0.035"), row(price="649.5"), row(price="1.005")))
    assert [line.unit_price_minor for line in trace.baskets.lines(0)] == [2, 4, 64_950, 100]


def test_credit_notes_keep_their_place_and_leave_out_what_cannot_come_back(tmp_path):
    trace = read_trace(write(
        tmp_path, GOOD, row(invoice="C536379", quantity="-2"), row(invoice="C536379", sku="POST", quantity="-1"),
        row(invoice="536370")))
    (note,) = trace.credit_notes
    assert (note.invoice, note.customer, note.after) == ("C536379", "17850", 1)
    assert note.lines == [Line("85123A", 2, 255)]
    assert trace.skipped == {Skipped.CREDIT_NOTE: 2}
