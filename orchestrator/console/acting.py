"""The pages that act: which act on what, a reason, a confirmation, and then what came of it."""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from starlette.responses import RedirectResponse

from orchestrator.console.filters import filters_of
from orchestrator.console.guard import Refused, set_cookie
from orchestrator.console.sessions import WHO_DEFAULT, checked_who
from orchestrator.errors import DefiniteError, ErrorCode, IndefiniteError, RaytxError
from orchestrator.protocol.identifiers import is_id

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from orchestrator.console.site import Site

TRANSACTIONS_MAX = 500  # at a time
REASON_LENGTH_MAX = 500
NAME_LENGTH_MAX = 128
RESULTS_MAX = 100
_STATES = {"retry": "open", "cancel": "preparing"}  # those that a filter without a state means
_BULK = tuple(_STATES)
_TARGETED = ("pause", "resume")
ACTS = (*_BULK, "resolve", *_TARGETED)


class Wish(NamedTuple):
    """An act as it was asked for, before anybody confirmed it."""

    act: str
    transactions: tuple[str, ...] = ()
    step: str = ""
    saga: str = ""
    service: str = ""

    @property
    def target(self) -> str:
        """What it is about, for a heading."""
        if self.act == "resolve":
            return f"step {self.step} of {self.transactions[0]}"
        if self.act in _TARGETED:
            return f"saga {self.saga}" if self.saga else f"service {self.service}"
        return self.transactions[0] if len(self.transactions) == 1 else f"{len(self.transactions)} transactions"

    def arguments(self, who: str, reason: str) -> dict[str, Any]:
        """What the operator is given."""
        signed = {"who": who, "reason": reason}
        if self.act == "resolve":
            return {"transaction": self.transactions[0], "step": self.step, **signed}
        if self.act in _TARGETED:
            return {"saga": self.saga or None, "service": self.service or None, **signed}
        return {"transactions": list(self.transactions), **signed}


class Result(NamedTuple):
    """What came of an act; `error` is empty where it was carried out, `definite` says whether a failed one was not done."""

    wish: Wish
    who: str
    reason: str
    value: Any
    error: str = ""
    code: str = ""
    definite: bool = True


class Acting:
    """Asks, acts, tells."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._results: OrderedDict[int, Result] = OrderedDict()
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def ask(self, request: Request) -> Response:
        """The confirmation page: nothing has been done yet."""
        query = request.query_params
        act, ids = query.get("act", ""), query.getlist("id")
        more = False
        if act in _BULK and not ids and query.get("matching"):
            filters = filters_of(query)
            filters = filters if filters.state else filters._replace(state=_STATES[act])
            found = self._site.records.find(filters.query(limit=TRANSACTIONS_MAX + 1))
            more, ids = len(found) > TRANSACTIONS_MAX, [one.transaction for one in found[:TRANSACTIONS_MAX]]
        wish = _wish(act, ids, query.get("step", ""), query.get("saga", ""), query.get("service", ""))
        return self._confirm(request, wish, more=more)

    def act(self, request: Request) -> Response:
        """Carry it out, then go to a page that says what came of it: loading that again does nothing again."""
        form: dict[str, list[str]] = request.state.form
        wish = _wish(_only(form, "act"), form.get("id", []), _only(form, "step"), _only(form, "saga"), _only(form, "service"))
        reason = " ".join(_only(form, "reason").split())
        if not reason or len(reason) > REASON_LENGTH_MAX or not reason.isprintable():
            return self._confirm(
                request, wish, status=400, reason=reason,
                problem=f"Write a reason of 1 to {REASON_LENGTH_MAX} printable characters: it is recorded with the act.")
        result = self._carried_out(wish, request.state.session.who or WHO_DEFAULT, reason)
        with self._lock:
            number = next(self._numbers)
            self._results[number] = result
            while len(self._results) > RESULTS_MAX:
                self._results.popitem(last=False)
        return RedirectResponse(f"/acts/results/{number}", 303)

    def result(self, request: Request) -> Response:
        """What came of an act."""
        text = request.path_params["number"]
        with self._lock:
            found = self._results.get(int(text)) if text.isdecimal() and len(text) < NAME_LENGTH_MAX else None
        if found is None:
            raise Refused(404, "That result is not kept any more.", "The list of acts has every act.")
        return self._site.render(request, "result.html", 409 if found.error else 200, result=found, acted=_acted(found.value))

    def login_page(self, request: Request, problem: str = "", status: int = 200) -> Response:
        """Ask for a name, and for the token where there is one."""
        return self._site.render(
            request, "login.html", status, problem=problem, next=_local(request.query_params.get("next", "/")))

    def login(self, request: Request) -> Response:
        """Begin a session; the one before is ended."""
        form, access = request.state.form, self._site.access
        try:
            who = checked_who(_only(form, "who"))
        except DefiniteError as error:
            return self.login_page(request, error.message, 400)
        if access.token is not None and not request.state.session.who and not access.token.matches(_only(form, "token")):
            return self.login_page(request, "That is not the token. It was printed when the console first started.", 403)
        access.sessions.revoke(request.state.session)
        answer = RedirectResponse(_local(_only(form, "next")), 303)
        answer.headers.append("set-cookie", set_cookie(access, access.sessions.issue(who)))
        return answer

    def logout(self, request: Request) -> Response:
        """End the session."""
        access = self._site.access
        access.sessions.revoke(request.state.session)
        answer = RedirectResponse("/login" if access.token is not None else "/", 303)
        answer.headers.append("set-cookie", set_cookie(access, access.sessions.issue("")))
        return answer

    def _confirm(
        self, request: Request, wish: Wish, *, status: int = 200, reason: str = "", problem: str = "", more: bool = False,
    ) -> Response:
        return self._site.render(
            request, "confirm.html", status, wish=wish, reason=reason, problem=problem, more=more,
            known=self._site.records.briefs(wish.transactions), reason_max=REASON_LENGTH_MAX,
            transactions_max=TRANSACTIONS_MAX)

    def _carried_out(self, wish: Wish, who: str, reason: str) -> Result:
        try:
            value = self._site.link.ask(wish.act, wish.arguments(who, reason))
        except RaytxError as error:
            return Result(wish, who, reason, None, error.message, error.code, not isinstance(error, IndefiniteError))
        return Result(wish, who, reason, value)


def _acted(value: Any) -> list[dict[str, Any]]:
    """What became of each transaction; nothing where the act was on a saga or a service."""
    found = value if isinstance(value, list) else [value]
    return [one for one in found if isinstance(one, dict)]


def _wish(act: str, ids: list[str], step: str, saga: str, service: str) -> Wish:
    if act not in ACTS:
        raise _bad(f"act: choose among {', '.join(ACTS)}")
    if act in _TARGETED:
        if bool(saga) == bool(service):
            raise _bad(f"{act}: name either a saga or a service")
        return Wish(act, saga=_short("saga", saga), service=_short("service", service))
    transactions = tuple(dict.fromkeys(ids))
    if not transactions:
        raise _bad(f"{act}: no transaction was chosen")
    if len(transactions) > TRANSACTIONS_MAX or (act == "resolve" and len(transactions) > 1):
        raise _bad(f"{act}: at most {1 if act == 'resolve' else TRANSACTIONS_MAX} at a time")
    if not all(map(is_id, transactions)):
        raise _bad("id: a transaction's id has 32 hexadecimal digits")
    if act == "resolve" and not step:
        raise _bad("resolve: name the step")
    return Wish(act, transactions, step=_short("step", step))


def _short(name: str, text: str) -> str:
    if len(text) > NAME_LENGTH_MAX or not text.isprintable():
        raise _bad(f"{name}: at most {NAME_LENGTH_MAX} printable characters")
    return text


def _bad(message: str) -> DefiniteError:
    return DefiniteError(ErrorCode.INVALID_INPUT, message)


def _only(form: dict[str, list[str]], name: str) -> str:
    return form.get(name, [""])[0]


def _local(target: str) -> str:
    """Only a path of this console may be gone to after a login."""
    fits = target.startswith("/") and not target.startswith(("//", "/\\", "/login")) and target.isprintable()
    return quote(target, safe="/?=&%+:.,-_~") if fits else "/"
