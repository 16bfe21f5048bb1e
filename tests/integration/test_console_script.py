"""The console's pages in a real browser over a deployment that the test plays: what only a browser does."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from integration.console_browser import CHROMIUM, WAIT_MS, opened_page
from orchestrator.console.guard import Access
from orchestrator.console.link import Standing, Tie
from orchestrator.deployment import DataDirectory
from unit.console_site import ConsoleSite, status_of, transaction_id, usual_records, write_log

pytest.importorskip("playwright.sync_api", reason="the console's test in a browser needs playwright")
uvicorn = pytest.importorskip("uvicorn")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt-get install chromium)")


@pytest.fixture
def site(tmp_path):
    directory = DataDirectory(tmp_path / "data")
    write_log(directory, usual_records())
    return ConsoleSite(directory, Access())


@pytest.fixture
def address(site):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(site.application, log_level="error", lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        server.should_exit = True
        thread.join()


def well(site, **more):
    site.link.attach(
        status_of("log", "log"), status_of("service-payment", **more), status_of("shard-0", "orchestrator"),
        at_ms=time.time_ns() // 1_000_000)


def is_fragment(request):
    return "x-fragment" in request.headers


def test_pages_change_by_themselves_and_leave_a_person_alone(site, address):
    well(site)
    with opened_page(address) as page:
        fetched = []
        page.on("request", lambda request: fetched.append(request.url) if is_fragment(request) else None)
        page.clock.install()
        page.goto("/")
        page.get_by_role("link", name="Open", exact=True).focus()
        well(site, state="unreachable")
        page.clock.fast_forward(5_000)
        page.get_by_text("service-payment does not answer").wait_for()
        site.link.standing = Standing(Tie.LOST, 1, "no answer")
        page.clock.fast_forward(5_000)
        page.locator(".tie-lost").wait_for()
        assert page.evaluate("document.activeElement.getAttribute('href')") == "/transactions?state=open"
        page.get_by_role("button", name="Pause updates").click()
        seen = len(fetched)
        page.clock.fast_forward(60_000)
        page.goto("/parked")
        page.get_by_label(f"Choose {transaction_id(2)}, step receive").check()
        page.clock.fast_forward(60_000)
        assert len(fetched) == seen
        page.get_by_label(f"Choose {transaction_id(2)}, step receive").uncheck()
        with page.expect_request(is_fragment):
            page.clock.fast_forward(5_000)


def test_a_link_from_another_site_keeps_the_session(site, address):
    with opened_page(address) as page:
        page.goto("/login?next=/acts")
        page.get_by_label("Name").fill("ann")
        page.get_by_role("button", name="Use this name").click()
        page.wait_for_url("**/acts")
        page.goto("about:blank")
        page.set_content(f'<a href="{address}parked">from elsewhere</a>')
        page.get_by_text("from elsewhere").click()
        page.get_by_role("heading", name="Parked").wait_for(timeout=WAIT_MS)
        assert page.locator(".who a").inner_text() == "ann"


def test_it_works_without_its_script(site, address):
    site.link.attach()
    site.link.answers["resolve"] = {
        "transaction": transaction_id(2), "saga": "s", "state": "aborting", "done": "done", "code": "", "message": ""}
    with opened_page(address, java_script_enabled=False) as page:
        page.goto("/parked")
        assert not page.locator("#pause").is_visible()
        page.get_by_role("link", name="Resolve…").click()
        page.get_by_label("Reason").fill("by hand")
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_url("**/acts/results/1")
        assert site.link.asked[0][1]["reason"] == "by hand"
