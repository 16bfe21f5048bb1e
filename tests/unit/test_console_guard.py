"""Who gets in, and what a request must bring."""

from __future__ import annotations

import pytest

from orchestrator.console.guard import BODY_BYTES_MAX, FIELDS_MAX, HEADERS, Access
from orchestrator.console.sessions import SESSION_S, AccessToken, Session, Sessions, checked_who
from orchestrator.deployment import DataDirectory
from orchestrator.errors import DefiniteError
from unit.console_site import ConsoleSite, form_token, transaction_id, usual_records, write_log

NEW_ACT = f"/acts/new?act=retry&id={transaction_id(2)}"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    found = DataDirectory(tmp_path_factory.mktemp("console") / "data")
    write_log(found, usual_records())
    return found


@pytest.fixture
def site(directory):
    found = ConsoleSite(directory, Access())
    found.link.attach()
    found.link.answers["retry"] = []
    return found


@pytest.fixture
def guarded(directory, tmp_path):
    return ConsoleSite(directory, Access(token=AccessToken(tmp_path / "token"), any_address=True))


def act_form(browser, **changes):
    form = {"form_token": form_token(browser.get(NEW_ACT).text), "act": "retry", "id": transaction_id(2), "reason": "mended"}
    return {name: value for name, value in (form | changes).items() if value is not None}


# ---- names and headers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", [
    "evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8300", "192.0.2.7", "", "[::1", "a@localhost.evil"])
def test_a_name_that_is_not_its_own_is_refused(site, host):
    answer = site.browser().get("/", headers={"host": host})
    assert answer.status_code == 421
    assert transaction_id(0) not in answer.text
    assert str(site.directory.path) not in answer.text  # a page of somebody else may read this
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8300", "127.0.0.1:1", "127.8.8.8", "[::1]:8300"])
def test_loopback_names_are_its_own(site, host):
    assert site.browser(host).get("/login").status_code == 200


def test_on_another_address_any_address_and_given_names_will_do():
    access = Access(any_address=True, names=frozenset({"shop.example"}))
    assert access.is_host("192.0.2.7:8300")
    assert access.is_host("shop.example:8300")
    assert not access.is_host("evil.example")


@pytest.mark.parametrize("path", ["/", "/static/console.css", "/login", "/nowhere", "/acts/results/7"])
def test_every_answer_carries_the_policy(site, path):
    headers = site.browser().get(path).headers
    assert {name: headers[name] for name in HEADERS} == HEADERS
    assert headers["content-security-policy"].startswith("default-src 'self';")
    assert ("set-cookie" in headers) is not path.startswith("/static")
    assert path.startswith("/static") or headers["cache-control"] == "no-store"


def test_the_cookie_cannot_be_read_by_scripts_nor_sent_by_other_sites(site, directory):
    assert site.browser().get("/").headers["set-cookie"].endswith("; Path=/; HttpOnly; SameSite=Strict")
    over_tls = ConsoleSite(directory, Access(over_tls=True))
    assert over_tls.browser().get("/").headers["set-cookie"].endswith("; SameSite=Strict; Secure")


def test_a_link_from_another_site_does_not_end_a_session(site):
    answer = site.browser().get("/", headers={"sec-fetch-site": "cross-site"})
    assert "set-cookie" not in answer.headers
    assert 'http-equiv="refresh"' in answer.text
    assert transaction_id(0) not in answer.text


@pytest.mark.parametrize(("method", "path"), [
    ("POST", "/"), ("PUT", "/acts"), ("DELETE", f"/transactions/{transaction_id(0)}"), ("POST", "/transactions"),
    ("GET", "/logout"), ("TRACE", "/"), ("OPTIONS", "/acts/new")])
def test_methods_that_an_address_does_not_have(site, method, path):
    assert site.browser().request(method, path).status_code in {403, 405, 415}


# ---- forms ------------------------------------------------------------------------------------------------------------


def test_an_act_with_its_form_token_is_carried_out(site):
    browser = site.browser()
    answer = browser.post("/acts", data=act_form(browser))
    assert (answer.status_code, answer.headers["location"]) == (303, "/acts/results/1")
    assert site.link.asked == [
        ("retry", {"transactions": [transaction_id(2)], "who": "console", "reason": "mended"})]


@pytest.mark.parametrize(("form", "headers", "status"), [
    ({"form_token": None}, {}, 403),
    ({"form_token": "0" * 64}, {}, 403),
    ({"form_token": "é"}, {}, 403),
    ({}, {"origin": "https://evil.example"}, 403),
    ({}, {"origin": "null"}, 403),
    ({}, {"content-type": "text/plain"}, 415),
    ({}, {"content-type": "multipart/form-data; boundary=x"}, 415),
    ({}, {"content-type": "application/json"}, 415),
    ({"reason": "x" * BODY_BYTES_MAX}, {}, 413),
    ({"id": ["0" * 32] * (FIELDS_MAX + 1)}, {}, 400),
    ({"reason": b"%ff"}, {}, 400),
])
def test_a_forged_or_broken_form_does_nothing(site, form, headers, status):
    browser = site.browser()
    changed = act_form(browser, **form)
    if form.get("reason") == b"%ff":
        answer = browser.post(
            "/acts", content=b"form_token=" + changed["form_token"].encode() + b"&reason=%ff",
            headers={"content-type": "application/x-www-form-urlencoded"})
    else:
        answer = browser.post("/acts", data=changed, headers=headers)
    assert answer.status_code == status
    assert site.link.asked == []


def test_a_form_token_of_another_session_is_worth_nothing(site):
    stolen = act_form(site.browser())
    assert site.browser().post("/acts", data=stolen).status_code == 403
    browser = site.browser()
    browser.get("/")
    assert browser.post("/acts", data=stolen).status_code == 403
    assert site.link.asked == []


# ---- login ------------------------------------------------------------------------------------------------------------


def log_in(site, who="ann", token=None, back="/parked"):
    browser = site.browser()
    form = {"form_token": form_token(browser.get("/login").text), "who": who, "next": back,
            "token": site.access.token.text if token is None else token}
    return browser, browser.post("/login", data=form)


@pytest.mark.parametrize("path", [
    "/", "/transactions", f"/transactions/{transaction_id(0)}", "/parked", "/services", "/shards", "/acts", NEW_ACT,
    "/acts/results/1", "/nowhere"])
def test_without_the_token_nothing_is_seen(guarded, path):
    answer = guarded.browser().get(path)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/login?next=%2F")
    fragment = guarded.browser().get(path, headers={"x-fragment": "live"})
    assert fragment.status_code == 401
    for text in (answer.text, fragment.text, guarded.browser().get("/login").text):
        assert transaction_id(0) not in text
        assert str(guarded.directory.path) not in text


def test_without_the_token_nothing_is_done(guarded):
    browser = guarded.browser()
    token = form_token(browser.get("/login").text)
    answer = browser.post("/acts", data={"form_token": token, "act": "retry", "id": transaction_id(2), "reason": "mine"})
    assert answer.status_code == 401
    assert guarded.link.asked == []


def test_the_token_lets_in_and_the_name_goes_with_every_act(guarded):
    guarded.link.attach()
    guarded.link.answers["retry"] = []
    browser, answer = log_in(guarded)
    assert (answer.status_code, answer.headers["location"]) == (303, "/parked")
    assert browser.get("/parked").status_code == 200
    browser.post("/acts", data=act_form(browser))
    assert guarded.link.asked[0][1]["who"] == "ann"
    cookie = browser.cookies[guarded.access.cookie]
    browser.post("/logout", data={"form_token": form_token(browser.get("/login").text)})
    assert browser.get("/parked").status_code == 303
    assert guarded.browser().get("/parked", headers={"cookie": f"{guarded.access.cookie}={cookie}"}).status_code == 303


@pytest.mark.parametrize(("who", "token", "status"), [
    ("ann", "wrong", 403), ("ann", "", 403), ("", None, 400), ("a" * 65, None, 400), ("a\nb", None, 400)])
def test_a_wrong_login(guarded, who, token, status):
    browser, answer = log_in(guarded, who, token)
    assert answer.status_code == status
    assert browser.get("/parked").status_code == 303


@pytest.mark.parametrize("back", [
    "https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)", "/login"])
def test_a_login_leads_nowhere_else(guarded, back):
    assert log_in(guarded, back=back)[1].headers["location"] == "/"


def test_cookies_are_signed_end_and_can_be_revoked():
    now_s = [1_000.0]
    sessions = Sessions(lambda: now_s[0])
    session = sessions.issue("ann")
    cookie = sessions.cookie(session)
    assert sessions.read(cookie) == session
    assert Sessions(lambda: now_s[0]).read(cookie) is None
    forged = sessions.cookie(Session("x", "bob", 1e12)).partition(".")[0]
    for text in ("", ".", "x", cookie[:-1], f"{forged}.{cookie.partition('.')[2]}", "é.é", cookie.upper()):
        assert sessions.read(text) is None
    now_s[0] += SESSION_S
    assert sessions.read(cookie) is None
    other = sessions.issue("ann")
    sessions.revoke(other)
    assert sessions.read(sessions.cookie(other)) is None


def test_the_token_is_private_and_stays(tmp_path):
    path = tmp_path / "token"
    first = AccessToken(path)
    assert first.made
    assert path.stat().st_mode & 0o777 == 0o600
    again = AccessToken(path)
    assert not again.made
    assert again.matches(f" {first.text}\n")
    assert not again.matches(first.text[:-1])
    assert not again.matches("")
    assert not AccessToken(path, renew=True).matches(first.text)


@pytest.mark.parametrize("damage", [lambda path: path.chmod(0o640), lambda path: path.write_text("short"),
                                    lambda path: path.write_bytes(b"\xff" * 50)])
def test_a_token_that_is_none_is_refused(tmp_path, damage):
    path = tmp_path / "token"
    AccessToken(path)
    damage(path)
    with pytest.raises(DefiniteError, match=r"token"):
        AccessToken(path)


def test_names_of_people():
    assert checked_who("  Ann Özil ") == "Ann Özil"
    with pytest.raises(DefiniteError, match="name: "):
        checked_who("\x1b[31m")
