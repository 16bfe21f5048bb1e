"""A travel agency, to try what orders lack: three parallel steps, asynchronous parts, NotYet, parking, reversed rollback.

Its services look at themselves: what they were asked in a wrong order or told twice shows in their audits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from actors.service import NotYet, Refused, Service, State
from orchestrator.app import App, LedgerRow, ServiceAudit
from orchestrator.protocol.retry import RetryPolicy
from orchestrator.saga import Context, RollbackOrder, Saga, Step

SEATS, ROOMS, CARS = 40, 4, 40
IMPATIENT = RetryPolicy(attempt_timeout_ms=300, backoff_ms_max=400, attempts_max=2)  # parks after the second attempt


class Trip(BaseModel):
    """Who goes, and how many."""

    traveller: str
    people: int


class Booking(BaseModel):
    """What every step is asked for; `trip` is the transaction, since one traveller may go twice."""

    trip: str
    people: int


class Booked(BaseModel):
    """What every step answers."""

    number: int


class Board(BaseModel):
    """Breakfast in a room that is booked."""

    trip: str
    room: int


class Letter(BaseModel):
    """What is written to the traveller."""

    trip: str
    seat: int
    room: int


class _Bookings(Service):
    """Takes at prepare what is left; `held`, `sold` and `taken` must add up."""

    name = ""
    capacity = 0

    def _take(self, state: State, request: Booking) -> Booked | Refused:
        taken = state.get("taken", 0) + request.people
        state["taken"] = taken
        state["last"] = request.trip  # a refusal drops all of this
        if taken > self.capacity:
            return Refused("FULL", f"{taken - self.capacity} too many")
        state[f"held/{request.trip}"] = request.people
        return Booked(number=taken)

    def _sell(self, state: State, request: Booking) -> None:
        state["sold"] = state.get("sold", 0) + state[f"held/{request.trip}"]
        del state[f"held/{request.trip}"]

    def _release(self, state: State, request: Booking) -> None:
        state["taken"] -= state[f"held/{request.trip}"]
        del state[f"held/{request.trip}"]

    def audit(self, state: Mapping[str, Any], rows: Iterable[LedgerRow], *, purged: bool = False) -> ServiceAudit:
        held = sum(value for key, value in state.items() if key.startswith("held/"))
        found = []
        if state.get("taken", 0) != held + state.get("sold", 0):
            found.append(f"taken {state.get('taken', 0)} is not held {held} and sold {state.get('sold', 0)}")
        if state.get("taken", 0) > self.capacity:
            found.append(f"{state['taken']} of {self.capacity} are taken")
        rows = list(rows)
        sold = sum(row.request["people"] for row in rows if row.state == "COMMITTED" and "people" in row.request)
        if sold > state.get("sold", 0) or (sold < state.get("sold", 0) and not purged):
            found.append(f"sold {state.get('sold', 0)}, the committed rows say {sold}")
        found += [f"refused with {row.code!r}, which is no answer of this service" for row in rows
                  if row.state == "REFUSED" and row.code not in {"FULL", "SIMULATED_DECLINE"}]
        found += [text for key, text in state.items() if key.startswith("wrong/")]
        return ServiceAudit({}, found)


class Flights(_Bookings):
    """One passenger list: while somebody's seats are held, the next one is asked to come again."""

    name = "flights"
    capacity = SEATS

    def prepare_fly(self, state: State, request: Booking) -> Booked | Refused | NotYet:
        if any(key.startswith("held/") for key in state):
            return NotYet("the list is being written")
        return self._take(state, request)

    def commit_fly(self, state: State, request: Booking, result: Booked) -> None:
        self._sell(state, request)

    def rollback_fly(self, state: State, request: Booking, result: Booked) -> None:
        self._release(state, request)


class Hotels(_Bookings):
    """Rooms, and breakfast in them: a room must not be given up before its breakfast."""

    name = "hotels"
    capacity = ROOMS

    def prepare_stay(self, state: State, request: Booking) -> Booked | Refused | NotYet:
        return self._take(state, request)

    def commit_stay(self, state: State, request: Booking, result: Booked) -> None:
        self._sell(state, request)

    def rollback_stay(self, state: State, request: Booking, result: Booked) -> None:
        if state.get(f"board/{request.trip}") is not None:
            state[f"wrong/{request.trip}"] = f"the room of {request.trip} was given up before the breakfast in it"
        self._release(state, request)

    def prepare_board(self, state: State, request: Board) -> Booked | Refused | NotYet:
        state[f"board/{request.trip}"] = request.room
        return Booked(number=request.room)

    def commit_board(self, state: State, request: Board, result: Booked) -> None:
        del state[f"board/{request.trip}"]

    def rollback_board(self, state: State, request: Board, result: Booked) -> None:
        del state[f"board/{request.trip}"]


class Cars(_Bookings):
    """The rental company is asked first, which takes time."""

    name = "cars"
    capacity = CARS

    async def ask_rent(self, request: Booking) -> int:
        await asyncio.sleep(0.01)
        return len(request.trip)

    def prepare_rent(self, state: State, request: Booking, answer: int) -> Booked | Refused | NotYet:
        return self._take(state, request)

    def commit_rent(self, state: State, request: Booking, result: Booked) -> None:
        self._sell(state, request)

    def rollback_rent(self, state: State, request: Booking, result: Booked) -> None:
        self._release(state, request)


class Letters(Service):
    """Writes to the traveller once all is booked."""

    name = "letters"

    async def ask_write(self, request: Letter) -> str:
        await asyncio.sleep(0.01)
        return "sir or madam"

    def perform_write(self, state: State, request: Letter, answer: str) -> Booked | Refused | NotYet:
        state[f"letter/{request.trip}"] = state.get(f"letter/{request.trip}", 0) + 1
        return Booked(number=request.seat)

    def audit(self, state: Mapping[str, Any], rows: Iterable[LedgerRow], *, purged: bool = False) -> ServiceAudit:
        found = [f"{key}: written {count} times" for key, count in state.items() if count != 1]
        found += [f"{row.transaction}: written of nothing" for row in rows if not (row.request["seat"] and row.request["room"])]
        return ServiceAudit({}, found)


def _booking(context: Context) -> Any:
    return {"trip": context.transaction, "people": context.input.people}


def _board(context: Context) -> Any:
    return {"trip": context.transaction, "room": context.results["stay"]["number"]}


def _letter(context: Context) -> Any:
    return {"trip": context.transaction, "seat": (context.results["fly"] or {}).get("number", 0),
            "room": (context.results["board"] or {}).get("number", 0)}


def _example(number: int) -> dict[str, Any]:
    return {"traveller": f"traveller-{number}", "people": 1 + number % 3}


trip = Saga(
    name="trip", input=Trip, rollback_order=RollbackOrder.REVERSED, example=_example, deadline_ms=8_000,
    steps=[
        Step(name="fly", service="flights", request=_booking, compensation="give up", finish_retry=IMPATIENT),
        Step(name="stay", service="hotels", request=_booking, compensation="give up"),
        Step(name="rent", service="cars", request=_booking, compensation="give up", finish_retry=IMPATIENT),
        Step(name="board", service="hotels", request=_board, after=("stay", "rent"), compensation="give up"),
        Step(name="write", service="letters", request=_letter, after=("fly", "board"), after_commit=True,
             finish_retry=IMPATIENT),
    ])

app = App(services=[Flights(), Hotels(), Cars(), Letters()], sagas=[trip])
