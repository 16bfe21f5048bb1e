from __future__ import annotations

import pytest

from orchestrator.console.guard import Access
from orchestrator.deployment import DataDirectory
from unit.console_site import ConsoleSite, status_of, transaction_id, usual_records, write_log


@pytest.fixture
def site(tmp_path):
    directory = DataDirectory(tmp_path / "data")
    write_log(directory, usual_records())
    return ConsoleSite(directory, Access())


PAGES = ["/", "/transactions", f"/transactions/{transaction_id(2)}", "/parked", "/services", "/shards", "/acts", "/login",
         f"/acts/new?act=retry&id={transaction_id(2)}", f"/acts/new?act=resolve&id={transaction_id(2)}&step=receive",
         "/acts/new?act=pause&saga=place_order", "/acts/new?act=cancel&state=open&matching=yes"]


@pytest.mark.parametrize("path", PAGES)
def test_every_page_is_there_with_the_deployment_down_and_up(site, path):
    browser = site.browser()
    for _ in range(2):
        answer = browser.get(path)
        assert answer.status_code == 200, answer.text
        assert answer.text.rstrip().endswith("</html>")
        site.link.attach(status_of("log", "log"), status_of("service-payment"), status_of("shard-0", "orchestrator"))


@pytest.mark.parametrize("path", [*PAGES, f"/transactions/{transaction_id(0)}", f"/transactions/{transaction_id(3)}"])
def test_what_users_wrote_is_text_and_never_a_secret(site, path):
    text = site.browser().get(path).text
    assert "<script>alert" not in text
    assert "<img" not in text
    assert "tok_" not in text
    assert "secret1" not in text
    assert 'style="' not in text
    assert " onclick" not in text


def test_hostile_text_is_shown_escaped(site):
    assert "&lt;script&gt;alert(" in site.browser().get(f"/transactions/{transaction_id(0)}").text
    assert "[redacted]" in site.browser().get("/parked").text
