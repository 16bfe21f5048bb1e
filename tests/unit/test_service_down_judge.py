"""The judge of the experiment with a stopped service accepts a good run and names what is wrong with each bad one."""

from __future__ import annotations

from typing import Any

import pytest

from chaos.service_down import Moment, judge, main


def report(**more: Any) -> dict[str, Any]:
    return {
        "opened_after_s": 5.2, "closed_after_s": 1.0, "refused_by_code": {"E_UNAVAILABLE": 900, "E_OVERLOADED": 3},
        "refused_while_open": {"E_UNAVAILABLE": 900}, "told": {"COMMITTED": 1_500, "REJECTED": 903},
        "committed_share_at_the_end": 0.99, "open": 0, "audit_ok": True} | more


def test_a_good_run_is_accepted() -> None:
    assert judge(report()) == []


@pytest.mark.parametrize(("bad", "named"), [
    ({"opened_after_s": None}, "opened after None"),
    ({"opened_after_s": 8.1}, "opened after 8.1"),
    ({"closed_after_s": None}, "closed after None"),
    ({"closed_after_s": 5.1}, "closed after 5.1"),
    ({"refused_by_code": {}}, "nothing was refused"),
    ({"refused_while_open": {"E_UNAVAILABLE": 9, "E_OVERLOADED": 1}}, "refused with E_OVERLOADED while"),
    ({"told": {"UNKNOWN": 2}}, "2 admitted orders have no outcome"),
    ({"committed_share_at_the_end": 0.89}, "0.89"),
    ({"open": 1}, "1 are open"),
    ({"audit_ok": False}, "audit failed"),
])
def test_a_bad_run_is_not(bad: dict[str, Any], named: str) -> None:
    (wrong,) = judge(report(**bad))
    assert named in wrong


def test_the_exit_code_follows_the_judge(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], act=lambda *_: report(wrong=[])) == 0
    assert main(["--seconds", "1"], act=lambda *_: report(wrong=["x"])) == 1
    assert '"opened_after_s": 5.2' in capsys.readouterr().out


def test_a_moment_is_one_line() -> None:
    moment = Moment(7.0, ["half_open"], ["bad: payment is down"], 12, {"committed": 3}, {"E_UNAVAILABLE": 57})
    assert "half_open  open   12  committed 3 E_UNAVAILABLE 57" in str(moment)
    assert str(moment).endswith("bad: payment is down")
