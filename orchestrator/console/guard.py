"""What every request passes before a page sees it, and what every answer carries."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse

from orchestrator.console.sessions import Session, Sessions

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from orchestrator.console.sessions import AccessToken

BODY_BYTES_MAX = 256 * 1024
FIELDS_MAX = 2_000
LOGIN_PATH = "/login"
OPEN_PREFIX = "/static/"
HEADERS = {
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # with none at all, browsers say "Origin: null" of our own forms
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
}

_BOUNCE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="0">
<link rel="icon" href="/static/icon.svg"><title>raytx console</title>
<p>One moment. If nothing happens, load this page again.</p></html>"""


@dataclass(frozen=True, slots=True)
class Access:
    """Who may come in.

    Args:
        token: to be shown at login; None = whoever reaches the port is let in.
        names: host names that this console is asked for by, besides addresses.
        any_address: whether every IP address will do as a host, or only loopback ones.
        over_tls: whether browsers speak TLS to it, so that cookies are for TLS only.
        cookie: its cookie's name; browsers keep one jar for all ports of a host, so each console has its own.
    """

    token: AccessToken | None = None
    names: frozenset[str] = frozenset({"localhost"})
    any_address: bool = False
    over_tls: bool = False
    cookie: str = "raytx_console"
    sessions: Sessions = field(default_factory=Sessions)

    def is_host(self, header: str) -> bool:
        """Whether a Host header names this console; a page of another site that was bound to this address names its own."""
        try:
            name = urlsplit(f"//{header}").hostname or ""
        except ValueError:
            return False
        if name.rstrip(".").lower() in self.names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.any_address or address.is_loopback

    def lets_in(self, session: Session) -> bool:
        """Whether that session may see anything but the login page."""
        return self.token is None or bool(session.who)


WRONG_HOST = 421


class Refused(Exception):  # noqa: N818 - it is no failure of the program
    """A request that no page gets to see; `remedy` says what to do."""

    def __init__(self, status: int, what: str, remedy: str) -> None:
        super().__init__(what)
        self.status, self.what, self.remedy = status, what, remedy


class Guard:
    """Host, session, login and form checks around the pages.

    Args:
        pages: the application.
        access: who may come in.
        refuse: makes the page that says why not.
        to_login: makes the redirection to the login page.
    """

    def __init__(
        self, pages: ASGIApp, access: Access, refuse: Callable[[Request, Refused], Response],
        to_login: Callable[[Request], Response],
    ) -> None:
        self._pages, self._access, self._refuse, self._to_login = pages, access, refuse, to_login

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] == "lifespan":
            await self._pages(scope, receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"the console does not speak {scope['type']}")
        request = Request(scope, receive)
        session, is_new = self._session(request)
        if is_new and self._comes_from_elsewhere(request):
            await HTMLResponse(_BOUNCE, headers={"cache-control": "no-store", **HEADERS})(scope, receive, send)
            return
        scope.setdefault("state", {}).update(session=session, form={}, form_token=self._access.sessions.form_token(session))
        keeps = is_new and self._access.is_host(request.headers.get("host", ""))
        send = self._with_headers(request, send, session if keeps else None)
        try:
            answer = await self._check(request, session)
        except Refused as refused:
            answer = self._refuse(request, refused)
        except ClientDisconnect:
            return
        await (answer or self._pages)(scope, receive, send)

    def _comes_from_elsewhere(self, request: Request) -> bool:
        """Whether a link of another site was followed: the browser then keeps a cookie back that it may well have."""
        return request.method == "GET" and request.headers.get("sec-fetch-site") == "cross-site" and self._access.is_host(
            request.headers.get("host", ""))

    def _session(self, request: Request) -> tuple[Session, bool]:
        found = self._access.sessions.read(request.cookies.get(self._access.cookie, ""))
        return (found, False) if found is not None else (self._access.sessions.issue(""), True)

    async def _check(self, request: Request, session: Session) -> Response | None:
        """None where the request may go on."""
        host = request.headers.get("host", "")
        if not self._access.is_host(host):
            raise Refused(
                WRONG_HOST, "This console is not known by that name.",
                "Use its address, or start it with --allow-host NAME if that name is really its own.")
        if request.method == "POST":
            await self._check_form(request, session, host)
        path = request.url.path
        if self._access.lets_in(session) or path == LOGIN_PATH or path.startswith(OPEN_PREFIX):
            return None
        if request.method != "GET" or "x-fragment" in request.headers:
            raise Refused(401, "You are not logged in.", "Log in, then try again.")
        return self._to_login(request)

    async def _check_form(self, request: Request, session: Session, host: str) -> None:
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            raise Refused(403, "That form was sent by another site.", "Open the console itself and act there.")
        kind = request.headers.get("content-type", "").partition(";")[0].strip()
        if kind != "application/x-www-form-urlencoded":
            raise Refused(415, "That is not a form of this console.", "Use the buttons of its pages.")
        form = _parsed(await _body(request))
        if not self._access.sessions.is_form_token(session, form.get("form_token", [""])[0]):
            raise Refused(
                403, "That form has expired, or is not from this console.",
                "Nothing was done. Go back, load the page again, and repeat it.")
        request.scope["state"]["form"] = form

    def _with_headers(self, request: Request, send: Send, new: Session | None) -> Send:
        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if not request.url.path.startswith(OPEN_PREFIX):
                    headers.setdefault("cache-control", "no-store")
                    if new is not None and not self._sets_session(headers):
                        headers.append("set-cookie", set_cookie(self._access, new))
            await send(message)

        return answer

    def _sets_session(self, headers: MutableHeaders) -> bool:
        return any(value.startswith(f"{self._access.cookie}=") for value in headers.getlist("set-cookie"))


def set_cookie(access: Access, session: Session) -> str:
    """The Set-Cookie header of a session."""
    secure = "; Secure" if access.over_tls else ""
    return f"{access.cookie}={access.sessions.cookie(session)}; Path=/; HttpOnly; SameSite=Strict{secure}"


async def _body(request: Request) -> bytes:
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > BODY_BYTES_MAX:
            raise Refused(413, "That form is too long.", "Choose fewer transactions, or write a shorter reason.")
    return body


def _parsed(body: bytes) -> dict[str, list[str]]:
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=FIELDS_MAX, errors="strict")
    except ValueError:
        raise Refused(400, "That form cannot be read.", "Go back, load the page again, and repeat it.") from None
    form: dict[str, list[str]] = {}
    for name, value in pairs:
        form.setdefault(name, []).append(value)
    return form
