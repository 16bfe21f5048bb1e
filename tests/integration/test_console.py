"""The console as an operator uses it on a bad day: a real deployment, the real command, a real browser."""

from __future__ import annotations

import time
from contextlib import closing

import pytest

from integration.console_browser import CHROMIUM, DESK, PHONE, WAIT_MS, opened_page, running_console
from orchestrator import Settings, connect
from orchestrator.audit import audit
from orchestrator.deployment import DataDirectory
from orchestrator.log.finding import TransactionQuery
from orchestrator.log.reader import LogReader

pytest.importorskip("playwright.sync_api", reason="the console's test in a browser needs playwright")
APP = "integration.console_app:app"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt-get install chromium)")


def found(data, **query):
    with closing(LogReader(DataDirectory(data).log_path)) as log:
        return log.find(TransactionQuery(**query))


def wait_until(true):
    end_s = time.monotonic() + WAIT_MS / 1_000
    while not true():
        assert time.monotonic() < end_s
        time.sleep(0.05)


def confirm(page, reason):
    """Give the reason, confirm, and read what came of it."""
    page.get_by_label("Reason").fill(reason)
    page.locator("form.act button").click()
    page.wait_for_url("**/acts/results/*")
    return page.locator("main").inner_text()


def narrow_pages_do_not_scroll_sideways(page, paths):
    page.set_viewport_size(PHONE)
    for path in paths:
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], path
        assert "tok_canary" not in page.content()
    page.set_viewport_size(DESK)


def test_list_filter_open_retry_and_resolve(head, tmp_path):
    data = tmp_path / "data"
    client = connect(data, app=APP, settings=Settings())
    letters = {
        to: client.submit("send_letter", {"letter": f"to-{to}", "to": to}).outcome(60).transaction for to in ("ann", "nobody")}
    wait_until(lambda: len(found(data, parked=True)) == len(letters))
    with running_console(data) as url, opened_page(url) as page:
        page.goto("/")
        page.get_by_text("1 parked at office: NO_SUCH_ADDRESSEE").wait_for()
        page.locator(".tie-attached").wait_for()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"

        page.goto("/transactions")
        page.get_by_label("Key").fill("to-nobody")
        page.get_by_role("button", name="Filter").click()
        assert page.locator("tbody tr").count() == 1
        page.get_by_role("link", name=letters["nobody"]).click()
        assert page.locator(".lane").count() == 3
        page.get_by_text("office.write").click()
        assert "[redacted]" in page.locator("#step-1").inner_text()
        narrow_pages_do_not_scroll_sideways(page, [
            "/", "/transactions", f"/transactions/{letters['nobody']}", "/parked", "/services", "/shards", "/acts", "/login",
            f"/acts/new?act=retry&id={letters['ann']}"])

        page.goto("/login?next=/parked")
        page.get_by_label("Name").fill("ann")
        page.get_by_role("button", name="Use this name").click()
        page.get_by_label(f"Choose {letters['nobody']}, step post").check()
        page.get_by_role("button", name="Retry…").click()
        assert "as ann" in confirm(page, "somebody may have moved in")
        client.submit("open_office", {"office": "main"}).outcome(60)
        page.goto(f"/acts/new?act=retry&id={letters['ann']}")  # if it was not taken up by itself just now
        confirm(page, "the office is open again")
        page.goto(f"/transactions/{letters['ann']}")
        page.locator(".lead .state-committed").wait_for()
        wait_until(lambda: found(data, key="to-ann")[0].ended_ms)

        page.goto(f"/transactions/{letters['nobody']}")
        page.get_by_role("link", name="Resolve post…").click()
        assert "as ann" in confirm(page, "posted by hand")
        page.goto("/acts")
        acts = [row.split("\t") for row in page.locator("tbody tr").all_inner_texts()]
        assert [act[1:3] for act in acts if letters["nobody"] in act[3]] == [["ann", "resolve"], ["ann", "retry"]]

        client.close()
        page.goto("/")
        page.locator(".tie-down").wait_for()
        page.get_by_role("link", name="Transactions", exact=True).click()
        assert page.locator("tbody tr").count() == 3
        with connect(data):
            page.goto("/")
            page.locator(".tie-attached").wait_for()
    assert audit(data, client.deployment.app).ok
