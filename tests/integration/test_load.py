"""`raytx load` and `raytx demo` as a user runs them: processes of their own, on real Ray."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

from loadgen.history import read_history
from loadgen.workload import Told

COMMAND = [sys.executable, "-m", "loadgen.cli"]
HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"


def raytx(*arguments, timeout_s=150):
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=timeout_s, check=False)


def write_trace(path, orders=120):
    lines = [HEADER]
    for number in range(orders):
        invoice, customer, minute = 540_000 + number, 12_400 + number % 7, number % 60
        for sku, price in (("22423", "12.75"), ("85099b", "1.95"), ("85099B", "1.65")):
            lines.append(f"{invoice},{sku},,2,2011-01-05 09:{minute:02d}:00,{price},{customer},France\n")
        if number % 10 == 9:
            lines.append(f"C{invoice},22423,,-1,2011-01-05 10:00:00,12.75,{customer},France\n")
    path.write_text("".join(lines))


def test_a_trace_with_returns_is_replayed_twice_over_on_one_directory(tmp_path):
    trace, data = tmp_path / "trace.csv", tmp_path / "data"
    write_trace(trace)
    for run in (1, 2):
        ended = raytx("load", "--trace", trace, "--orders", 200, "--returns", "--data", data, "--shards", 2, "--json")
        assert ended.returncode == 0, ended.stderr
        plain = json.loads(ended.stdout)
        assert (plain["orders"], plain["lines"], plain["units"]) == (200, 600, 1_200)
        assert (plain["committed"], plain["aborted"], plain["unknown"]) == (200, 0, 0)
        assert plain["amount_minor"] == 200 * 2 * (1_275 + 195 + 165)
        assert (plain["returns"]["placed"], plain["returns"]["committed"]) == (20, 20)
        assert plain["rows"]["skipped"] == {"credit_note": 12}
        assert plain["wrong_outcomes"] == []
        audit = plain["audit"]
        assert (audit["ok"], audit["committed"], audit["open"]) == (True, 200 * run, 0)
        assert (audit["units_sold"], audit["units_returned"], audit["units_on_hand"]) == (1_200 * run, 20 * run, 20 * run)
        assert audit["captured_minor"] == run * plain["amount_minor"]
        assert {"client", "orchestrator", "log", "inventory", "total"} <= plain["cpu_us_per_order"].keys()


def test_short_stock_and_faults_abort_orders_and_the_audit_is_ok(tmp_path):
    ended = raytx(
        "load", "--orders", 400, "--lines", "1-3", "--seed", 3, "--stock-share", "0.5", "--concurrency", 64, "--fault",
        "payment.decline=0.05", "--fault", "shipping.lose_reply=0.01", "--data", tmp_path / "data", "--watch", "--history",
        tmp_path / "history.jsonl", "--json")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    plain = json.loads(ended.stdout)
    counts = plain["history"]["counts"]
    assert counts["reads"] > 0
    assert counts["versions_read"] > 0
    assert counts["refusals_compared"] > 0
    history = read_history([tmp_path / "history.jsonl"])
    told = Counter(one.told for one in history.operations if one.saga == "place_order")
    assert (told[Told.COMMITTED], told[Told.ABORTED]) == (plain["committed"], plain["aborted"])
    assert (len(history.operations), len(history.reads), history.killed) == (counts["operations"], counts["reads"], [])
    assert plain["committed"] + plain["aborted"] == 400
    assert plain["aborted_by_code"]["OUT_OF_STOCK"] > 0
    assert plain["aborted_by_code"]["SIMULATED_DECLINE"] > 0
    assert plain["audit"]["committed"] == plain["committed"]


def test_a_broken_trace_places_nothing(tmp_path):
    trace, data = tmp_path / "trace.csv", tmp_path / "data"
    trace.write_text(HEADER + "540000,22423,,two,2011-01-05 09:00:00,12.75,12400,France\n")
    ended = raytx("load", "--trace", trace, "--data", data, "--json")
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert "row 1" in ended.stderr
    assert "column Quantity" in ended.stderr
    assert not data.exists()


def test_the_demo_kills_an_orchestrator_and_passes_its_audit(tmp_path):
    ended = raytx("demo", "--data", tmp_path / "data")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for text in ("kill -9", "after the kill", "audit ok", "OUT_OF_STOCK", "no caller was told a wrong outcome"):
        assert text in " ".join(ended.stdout.split())
    assert "raylet" not in ended.stdout  # Ray's own reports of the death go to stderr: stdout is for the result
