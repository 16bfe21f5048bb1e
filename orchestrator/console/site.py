"""The console as a web application: its pages, how they are rendered, and what is said when one cannot be."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from orchestrator.console import pages
from orchestrator.console.acting import Acting
from orchestrator.console.figures import UNKNOWN
from orchestrator.console.guard import WRONG_HOST, Guard, Refused
from orchestrator.console.needs import Memory
from orchestrator.console.sessions import WHO_DEFAULT
from orchestrator.errors import CATALOGUE, DefiniteError, ErrorCode, RaytxError
from orchestrator.logs import redact
from orchestrator.rendering import iso

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.types import ASGIApp

    from orchestrator.console.guard import Access
    from orchestrator.console.link import DeploymentLink
    from orchestrator.console.records import Records

_STATUS_OF = {ErrorCode.UNKNOWN: 404, ErrorCode.UNREACHABLE: 503, ErrorCode.STORE_REFUSED: 503, ErrorCode.PENDING: 504}
_SECOND_MS, _MINUTE_MS, _HOUR_MS, _DAY_MS = 1_000, 60_000, 3_600_000, 86_400_000


def build_site(records: Records, link: DeploymentLink, access: Access) -> ASGIApp:
    """The whole console.

    Args:
        records: what the data directory says.
        link: to the deployment.
        access: who may come in.
    """
    site = Site(records, link, access)
    acting = Acting(site)
    routes = [
        *(Route(path, _page(site, handler)) for path, handler in pages.ROUTES.items()),
        Route("/acts/new", acting.ask), Route("/acts", acting.act, methods=["POST"]),
        Route("/acts", _page(site, pages.acts)), Route("/acts/results/{number}", acting.result),
        Route("/login", acting.login_page), Route("/login", acting.login, methods=["POST"]),
        Route("/logout", acting.logout, methods=["POST"]),
        Mount("/static", StaticFiles(packages=[("orchestrator.console", "static")])),
    ]
    handlers: dict[Any, Any] = {RaytxError: site.told, Refused: site.refused, HTTPException: site.no_page, 500: site.broken}
    return Guard(Starlette(routes=routes, exception_handlers=handlers), access, site.refused, to_login)


class Site:
    """What every page needs: where things are read from, and how a page is rendered."""

    def __init__(self, records: Records, link: DeploymentLink, access: Access) -> None:
        self.records, self.link, self.access, self.memory = records, link, access, Memory()
        self._templates = Environment(
            loader=PackageLoader("orchestrator.console"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
            lstrip_blocks=True, auto_reload=False)
        self._templates.globals["unknown"] = UNKNOWN
        self._templates.filters.update(
            iso=iso, ago=ago, span=span, pretty=_pretty, clock=_clock, redact=redact, ticked=ticked,
            number=lambda value: f"{value:,}")

    def render(self, request: Request, template: str, status_code: int = 200, **context: Any) -> Response:
        """A page; for a request of the page's own script only the part of it that changes."""
        values = {
            "path": request.url.path, "who": request.state.session.who or WHO_DEFAULT,
            "logged_in": bool(request.state.session.who), "asks_token": self.access.token is not None,
            "form_token": request.state.form_token, "data": str(self.records.directory.path),
            "standing": self.link.standing, "outdated": self.records.outdated,
            "let_in": self.access.lets_in(request.state.session), "now_ms": self.now_ms(),
            "layout": "fragment.html" if "x-fragment" in request.headers else "base.html", **context}
        return HTMLResponse(self._templates.get_template(template).render(values), status_code)

    def now_ms(self) -> int:
        """Unix ms."""
        return time.time_ns() // 1_000_000

    def problem(self, request: Request, status: int, what: str, remedy: str, code: str = "") -> Response:
        """A page that says what is wrong and what to do."""
        return self.render(request, "problem.html", status, status=status, what=what, remedy=remedy, code=code)

    def refused(self, request: Request, refused: Exception) -> Response:
        """For the guard, and for pages that refuse by themselves."""
        assert isinstance(refused, Refused)
        stranger = {"let_in": False} if refused.status == WRONG_HOST else {}  # perhaps a page of somebody else reads this
        return self.render(
            request, "problem.html", refused.status, status=refused.status, what=refused.what, remedy=refused.remedy, code="",
            **stranger)

    def told(self, request: Request, error: Exception) -> Response:
        """An error of raytx's own."""
        assert isinstance(error, RaytxError)
        entry = CATALOGUE.get(error.code)  # type: ignore[call-overload]  # a code that is not ours is in no catalogue
        status = _STATUS_OF.get(error.code, 400 if isinstance(error, DefiniteError) else 503)  # type: ignore[call-overload]
        return self.problem(request, status, redact(error.message), f"{entry.remedy}." if entry else "", error.code)

    def no_page(self, request: Request, error: Exception) -> Response:
        """No such address, or not for that method."""
        assert isinstance(error, HTTPException)
        what = {404: "There is no such page.", 405: "That cannot be done with this address."}.get(
            error.status_code, str(error.detail))
        answer = self.problem(request, error.status_code, what, "Begin at the overview.")
        answer.headers.update(error.headers or {})
        return answer

    def broken(self, request: Request, _: Exception) -> Response:
        """A bug; the traceback is on the console's stderr."""
        return self.problem(
            request, 500, "This page could not be made: a mistake in the console.",
            "The transactions are not touched by it. Its terminal shows what happened; please report that.")


def to_login(request: Request) -> Response:
    """Ask for the token, and come back after it."""
    here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse(f"/login?next={quote(here, safe='')}", 303)


def span(duration_ms: float) -> str:
    """A duration as a person says it: 12 ms, 3.4 s, 5 min, 2 h, 3 d; negative where clocks differ."""
    if duration_ms < 0:
        return f"-{span(-duration_ms)}"
    if duration_ms < _SECOND_MS:
        return f"{duration_ms:.0f} ms"
    if duration_ms < _MINUTE_MS:
        return f"{duration_ms / _SECOND_MS:.1f} s"
    for unit_ms, name, until_ms in ((_MINUTE_MS, "min", _HOUR_MS), (_HOUR_MS, "h", 2 * _DAY_MS)):
        if duration_ms < until_ms:
            return f"{duration_ms // unit_ms:.0f} {name}"
    return f"{duration_ms // _DAY_MS:.0f} d"


def ago(at_ms: int, now: int) -> str:
    """How long ago that was."""
    past_ms = max(now - at_ms, 0)
    return "just now" if past_ms < _SECOND_MS else f"{span(past_ms // _SECOND_MS * _SECOND_MS).replace('.0 s', ' s')} ago"


def ticked(text: str) -> Markup:
    """A sentence, its first letter a capital; what stands between backticks is code."""
    parts = [escape(part) for part in f"{text[:1].upper()}{text[1:]}".split("`")]
    return Markup("").join(Markup("<code>{}</code>").format(part) if index % 2 else part for index, part in enumerate(parts))


def _clock(at_ms: int) -> str:
    """Day and time to the second, UTC."""
    return iso(at_ms)[:19].replace("T", " ")


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def _page(site: Site, handler: Callable[[Site, Request], Response]) -> Callable[[Request], Response]:
    def endpoint(request: Request) -> Response:
        return handler(site, request)

    return endpoint
