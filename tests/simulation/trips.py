"""An app of the tests' own: a trip of three parallel bookings, one of them asked of somebody outside, paid when all hold.

Small services with plain arithmetic, so that a schedule costs little; every amount is conserved, and `audit` says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from actors.service import Refused, Service, State
from orchestrator.app import App, LedgerRow, ServiceAudit
from orchestrator.saga import Context, RollbackOrder, Saga, Step

PLACES = 40


class Trip(BaseModel):
    """A trip for some people."""

    name: str
    people: int


class Booking(BaseModel):
    """What each of the services is asked for."""

    trip: str
    people: int


class Booked(BaseModel):
    """What it answers."""

    price: int


class Bill(BaseModel):
    """What the trip costs."""

    trip: str
    prices: list[int]


class Note(BaseModel):
    """What the traveller is told."""

    trip: str
    paid: int


class Nothing(BaseModel):
    """No result."""


class Places(Service):
    """Books places of a fixed number: free, held and taken always add up."""

    price = 1

    def prepare_book(self, state: State, request: Booking) -> Booked | Refused:
        """Hold places."""
        free = state.get("free", PLACES)
        if free < request.people:
            return Refused("FULL", "not enough places")
        state["free"] = free - request.people
        state["held"] = state.get("held", 0) + request.people
        return Booked(price=self.price * request.people)

    def commit_book(self, state: State, request: Booking, result: Booked) -> None:
        """Take them."""
        state["held"] -= request.people
        state["taken"] = state.get("taken", 0) + request.people

    def rollback_book(self, state: State, request: Booking, result: Booked) -> None:
        """Free them."""
        state["held"] -= request.people
        state["free"] += request.people

    def audit(self, state: Mapping[str, Any], rows: Iterable[LedgerRow], *, purged: bool = False) -> ServiceAudit:
        """Nothing is lost, nothing is made, and what is held or taken is what the ledger says."""
        free, held, taken = state.get("free", PLACES), state.get("held", 0), state.get("taken", 0)
        wrong = [] if free + held + taken == PLACES and min(free, held, taken) >= 0 else [f"{free} + {held} + {taken} places"]
        sums = {"PREPARED": 0, "COMMITTED": 0}
        for row in rows:
            if row.state in sums:
                sums[row.state] += row.request["people"]
        if held != sums["PREPARED"] or not (sums["COMMITTED"] <= taken if purged else sums["COMMITTED"] == taken):
            wrong.append(f"{held} held and {taken} taken, the ledger says {sums}")
        return ServiceAudit({"taken": taken}, wrong)


class Flights(Places):
    """Places in the air."""

    name = "flights"


class Hotels(Places):
    """Beds; somebody outside is asked for the price first."""

    name = "hotels"

    async def ask_book(self, request: Booking) -> int:
        """The price, after a while."""
        await asyncio.sleep(0.2)
        return 3 * request.people

    def prepare_book(self, state: State, request: Booking, answer: int) -> Booked | Refused:  # type: ignore[override]
        """Hold beds at the price that was asked for."""
        held = super().prepare_book(state, request)
        return held if isinstance(held, Refused) else Booked(price=answer)


class Cars(Places):
    """Seats."""

    name = "cars"
    price = 2


class Purse(Service):
    """Pays bills out of a purse."""

    name = "purse"

    def prepare_pay(self, state: State, request: Bill) -> Booked | Refused:
        """Hold the money."""
        due, money = sum(request.prices), state.get("money", 1_000)
        if money < due:
            return Refused("BROKE", "not enough money")
        state["money"] = money - due
        return Booked(price=due)

    def commit_pay(self, state: State, request: Bill, result: Booked) -> None:
        """It is spent."""
        state["spent"] = state.get("spent", 0) + result.price

    def rollback_pay(self, state: State, request: Bill, result: Booked) -> None:
        """It is back."""
        state["money"] += result.price

    def perform_tell(self, state: State, request: Note) -> Nothing:
        """Tell the traveller, once."""
        state["told"] = state.get("told", 0) + 1
        return Nothing()

    def audit(self, state: Mapping[str, Any], rows: Iterable[LedgerRow], *, purged: bool = False) -> ServiceAudit:
        """Money is where the ledger says."""
        held = spent = told = 0
        for row in rows:
            if row.operation == "tell":
                told += row.state == "DONE"
            else:
                held += row.result["price"] if row.state == "PREPARED" else 0
                spent += row.result["price"] if row.state == "COMMITTED" else 0
        wrong = []
        if state.get("money", 1_000) + held + state.get("spent", 0) != 1_000:
            wrong.append(f"money {state.get('money')} + held {held} + spent {state.get('spent', 0)} is not 1,000")
        if not purged and (spent, told) != (state.get("spent", 0), state.get("told", 0)):
            wrong.append(f"spent {spent}, told {told} times by the ledger, {dict(state)} by the state")
        return ServiceAudit({"spent": spent}, wrong)


def _booking(context: Context) -> Any:
    return {"trip": context.input.name, "people": context.input.people}


def _bill(context: Context) -> Any:
    return {"trip": context.input.name, "prices": [context.results[n]["price"] for n in ("flight", "hotel", "car")]}


def _note(context: Context) -> Any:
    return {"trip": context.input.name, "paid": context.results["pay"]["price"]}


def _steps() -> list[Step]:
    return [
        Step(name="flight", service="flights", operation="book", request=_booking, compensation="give back"),
        Step(name="hotel", service="hotels", operation="book", request=_booking, compensation="give back"),
        Step(name="car", service="cars", operation="book", request=_booking, compensation="give back"),
        Step(name="pay", service="purse", request=_bill, after=("flight", "hotel", "car"), compensation="pay back"),
        Step(name="tell", service="purse", request=_note, after=("pay",), after_commit=True),
    ]


def _trip(number: int) -> dict[str, Any]:
    return {"name": f"trip-{number}", "people": 1 + number % 3}


book_trip = Saga(name="book_trip", input=Trip, example=_trip, steps=_steps())
book_in_order = Saga(name="book_in_order", input=Trip, example=_trip, steps=_steps(), rollback_order=RollbackOrder.REVERSED)
app = App(services=[Flights(), Hotels(), Cars(), Purse()], sagas=[book_trip, book_in_order])
