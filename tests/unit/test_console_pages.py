from __future__ import annotations

import html
import re

import pytest

from orchestrator.console.guard import Access
from orchestrator.deployment import DataDirectory
from orchestrator.errors import DefiniteError, IndefiniteError
from orchestrator.protocol.messages import ActKind
from orchestrator.protocol.records import Act
from unit.console_site import BEGAN_MS, HOSTILE, ConsoleSite, status_of, transaction_id, usual_records, write_log


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    found = DataDirectory(tmp_path_factory.mktemp("console") / "data")
    write_log(found, usual_records())
    return found


@pytest.fixture
def site(directory):
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


def rows(answer):
    assert answer.status_code == 200, answer.text
    return re.findall(r'<th scope="row"><a class="id" href="/transactions/([0-9a-f]{32})">', answer.text)


@pytest.mark.parametrize(("query", "expected"), [
    ("", [3, 2, 1, 0]), ("state=aborted", [0]), ("state=OPEN", [3, 2]), ("parked=yes", [2]), ("parked=no", [3, 1, 0]),
    ("saga=open_books", [3, 2, 1, 0]), ("saga=other", []), ("code=OUT_OF_STOCK", [0]), ("code=E_VIOLATION", [2]),
    ("service=inventory", [0]), ("key=order-1", [1]), ("key=tok_key_2", [2]), ("since=2025-11-22T18:42:00", [3, 2]),
    ("until=2025-11-22T18:40:59", [0]), (f"after={transaction_id(2)}", [1, 0]), ("limit=1", [3]),
    ("state=open&parked=no&key=&code=", [3])])
def test_filters(site, query, expected):
    assert rows(site.browser().get(f"/transactions?{query}")) == [transaction_id(number) for number in expected]


@pytest.mark.parametrize(("query", "field"), [
    ("state=lost", "state"), ("parked=maybe", "parked"), ("limit=0", "limit"), ("limit=201", "limit"), ("limit=-1", "limit"),
    ("limit=1e2", "limit"), ("after=x", "after"), ("since=yesterday", "from"), ("until=1y", "to"), (f"key={'x' * 300}", "key")])
def test_a_wrong_filter_is_named(site, query, field):
    answer = site.browser().get(f"/transactions?{query}")
    assert answer.status_code == 400
    assert f"<h1>{field}" in answer.text
    assert "E_INVALID_INPUT" in answer.text


def test_pages_go_on_from_the_last_id_and_keep_the_filter(site):
    browser, path, found = site.browser(), "/transactions?limit=1&saga=open_books", []
    while path:
        answer = browser.get(path)
        found += rows(answer)
        following = re.search(r'rel="next" href="([^"]+)"', answer.text)
        path = html.unescape(following[1]) if following else ""
    assert found == [transaction_id(number) for number in (3, 2, 1, 0)]


def timeless(text):
    return re.sub(r"just now|\d+ (s|min|h|d) ago|\d+[a-z]+\d*[a-z]*", "", text)


@pytest.mark.parametrize(
    "path", ["/", "/transactions", f"/transactions/{transaction_id(2)}", "/parked", "/services", "/shards"])
def test_a_fragment_is_a_part_of_its_page(site, path):
    site.link.attach(status_of("log", "log"), status_of("shard-0", "orchestrator", state="recovering"))
    browser = site.browser()
    tie, end, fragment = timeless(browser.get(path, headers={"x-fragment": "live"}).text.strip()).partition("</span>")
    page = timeless(browser.get(path).text)
    assert tie.startswith('<span class="tie tie-attached"')
    assert tie + end in page
    assert len(fragment.strip()) > 100
    assert fragment.strip() in page


def test_a_fragment_is_the_part_that_changes(site):
    fragment = site.browser().get("/transactions", headers={"x-fragment": "live"})
    assert rows(fragment) == [transaction_id(number) for number in (3, 2, 1, 0)]
    assert "<html" not in fragment.text
    assert "<form" not in fragment.text


def test_one_transaction_shows_its_time_and_what_can_be_done(site):
    text = site.browser().get(f"/transactions/{transaction_id(2)}").text
    assert text.count('class="lane"') == 1 + len(re.findall(r'id="step-\d', text))
    assert 'class="bar bar-decide"' in text
    assert f"/acts/new?act=resolve&amp;id={transaction_id(2)}&amp;step=receive" in text
    assert "act=cancel" not in text
    assert "act=cancel" in site.browser().get(f"/transactions/{transaction_id(3)}").text
    ended = site.browser().get(f"/transactions/{transaction_id(1)}").text
    assert "/acts/new" not in ended
    assert "data-live" not in ended


@pytest.mark.parametrize(("path", "status", "told"), [
    ("/transactions/nonsense", 400, "E_INVALID_INPUT"), (f"/transactions/{'0' * 32}", 404, "E_UNKNOWN"),
    ("/nowhere", 404, "There is no such page."), ("/static/../site.py", 404, ""), ("/static/nothing.css", 404, "no such page"),
    ("/acts/new", 400, "act: "), ("/acts/new?act=explode", 400, "act: "), ("/acts/new?act=retry", 400, "no transaction"),
    ("/acts/new?act=retry&id=x", 400, "id: "), ("/acts/new?act=pause", 400, "saga or a service"),
    (f"/acts/new?act=resolve&id={transaction_id(2)}", 400, "step"), ("/acts/new?act=retry&matching=yes&state=x", 400, "state"),
    (f"/acts/new?act=pause&saga={'x' * 200}", 400, "saga: "), ("/acts/results/1", 404, "not kept"),
    ("/acts/results/x", 404, "not kept")])
def test_what_cannot_be_shown_says_why(site, path, status, told):
    answer = site.browser().get(path)
    assert answer.status_code == status
    assert told in answer.text
    assert "</html>" in answer.text


def test_without_the_app_there_are_lists_all_the_same(directory):
    site = ConsoleSite(directory, Access(), app="no.such.module:app")
    assert rows(site.browser().get("/transactions?saga=open_books"))
    assert site.browser().get("/services").status_code == 200
    answer = site.browser().get(f"/transactions/{transaction_id(0)}")
    assert (answer.status_code, "no.such.module:app" in answer.text) == (400, True)


def test_a_lost_log_is_said_and_a_bug_too(site, tmp_path):
    answer = ConsoleSite(DataDirectory(tmp_path), Access()).browser().get("/transactions")
    assert (answer.status_code, "E_STORE_REFUSED" in answer.text) == (503, True)
    site.link.latest = lambda: 1 / 0
    answer = site.browser(raises=False).get("/services")
    assert (answer.status_code, "a mistake in the console" in answer.text) == (500, True)


def send(site, path, reason="mended", **changes):
    browser = site.browser()
    page = browser.get(path).text
    form = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page)) | {"reason": reason} | changes
    form["id"] = re.findall(r'name="id" value="([^"]*)"', page)
    return browser, browser.post("/acts", data=form)


def acted(number, done="done", **more):
    return {"transaction": transaction_id(number), "saga": "s", "state": "preparing", "done": done, "code": "", "message": "",
            **more}


def test_an_act_on_all_that_fit_is_on_what_was_shown(site):
    site.link.attach()
    site.link.answers["retry"] = [acted(3), acted(2, "refused", code="E_TOO_LATE", message="<b>")]
    browser, answer = send(site, "/acts/new?act=retry&matching=yes&saga=open_books")
    assert site.link.asked == [
        ("retry", {"transactions": [transaction_id(3), transaction_id(2)], "who": "console", "reason": "mended"})]
    for _ in range(2):  # loading it again does nothing again
        told = browser.get(answer.headers["location"])
        assert told.status_code == 200
        assert "1 of 2" in told.text
        assert "&lt;b&gt;" in told.text
    assert len(site.link.asked) == 1


@pytest.mark.parametrize(("path", "act", "arguments"), [
    (f"/acts/new?act=cancel&id={transaction_id(3)}", "cancel", {"transactions": [transaction_id(3)]}),
    (f"/acts/new?act=resolve&id={transaction_id(2)}&step=receive", "resolve",
     {"transaction": transaction_id(2), "step": "receive"}),
    ("/acts/new?act=pause&service=payment", "pause", {"saga": None, "service": "payment"}),
    ("/acts/new?act=resume&saga=place_order", "resume", {"saga": "place_order", "service": None})])
def test_every_act_reaches_the_operator(site, path, act, arguments):
    site.link.attach()
    site.link.answers |= {"resolve": acted(2), "cancel": [acted(3)], "pause": True, "resume": False}
    browser, answer = send(site, path, "  by\n hand ")
    assert site.link.asked == [(act, arguments | {"who": "console", "reason": "by hand"})]
    assert browser.get(answer.headers["location"]).status_code == 200


@pytest.mark.parametrize("reason", ["", " \n", "x" * 501, "\x1b[2J", "\u202egnp.exe"])
def test_without_a_reason_nothing_is_done(site, reason):
    site.link.attach()
    _, answer = send(site, f"/acts/new?act=cancel&id={transaction_id(3)}", reason)
    assert answer.status_code == 400
    assert "Write a reason" in answer.text
    assert site.link.asked == []


@pytest.mark.parametrize(("error", "told"), [
    (DefiniteError("E_UNREACHABLE", "nothing was done: down"), "Nothing was done."),
    (IndefiniteError("E_PENDING", "too slow"), "It may have been done")])
def test_an_act_that_failed_says_whether_it_may_have_been_done(site, error, told):
    site.link.answers["cancel"] = error
    browser, answer = send(site, f"/acts/new?act=cancel&id={transaction_id(3)}")
    answer = browser.get(answer.headers["location"])
    assert answer.status_code == 409
    assert told in answer.text


def test_acts_and_pauses_are_listed(tmp_path):
    directory = DataDirectory(tmp_path / "data")
    paused = Act("", ActKind.PAUSE, "ann", f"token=secret1 {HOSTILE}", BEGAN_MS, "", "open_books")
    write_log(directory, usual_records(), paused)
    text = ConsoleSite(directory, Access()).browser().get("/acts").text
    assert "Saga open_books" in text
    assert "secret1" not in text
    assert "<script>alert" not in text
    assert re.search(r'data-label="Who">ann</td><td data-label="What">pause</td>', text)
