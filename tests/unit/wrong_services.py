"""Services written wrong, each in one way, and the same one written right: what the contract check has to tell apart."""

from __future__ import annotations

import itertools
import random
import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

from pydantic import BaseModel, ConfigDict

from actors.service import NotYet, Refused, Service, State

STOCK = 10


class Take(BaseModel):
    quantity: int
    notes: list[str] = []


class Hold(BaseModel):
    account: str
    amount: int


class Taken(BaseModel):
    left: int = 0


class Shelf(Service):
    """Written right: a share is held at prepare, and each end takes its own share only."""

    name = "shelf"

    def prepare_take(self, state: State, request: Take) -> Taken | Refused | NotYet:
        if request.quantity < 0:
            return NotYet("not counted yet")
        if request.quantity > self._free(state):
            return Refused("SHORT")
        state["held"] = state.get("held", 0) + request.quantity
        return Taken()

    def commit_take(self, state: State, request: Take, result: Taken) -> None:
        self._release(state, request)
        state["sold"] = state.get("sold", 0) + request.quantity

    def rollback_take(self, state: State, request: Take, result: Taken) -> None:
        self._release(state, request)

    @staticmethod
    def _free(state: State) -> int:
        return STOCK - state.get("held", 0) - state.get("sold", 0)

    @staticmethod
    def _release(state: State, request: Take) -> None:
        held = state["held"] - request.quantity
        if held:
            state["held"] = held
        else:
            del state["held"]


class RestoresASnapshot(Shelf):
    """Its rollback writes back what its prepare found, and with it loses what others have done since."""

    def prepare_take(self, state: State, request: Take) -> Taken | Refused | NotYet:
        found = state.get("held", 0)
        voted = super().prepare_take(state, request)
        if isinstance(voted, Taken):
            state[f"before/{request.quantity}"] = found
        return voted

    def commit_take(self, state: State, request: Take, result: Taken) -> None:
        super().commit_take(state, request, result)
        state.pop(f"before/{request.quantity}", None)

    def rollback_take(self, state: State, request: Take, result: Taken) -> None:
        state["held"] = state.pop(f"before/{request.quantity}", 0)
        if not state["held"]:
            del state["held"]


class NeedsThree(Shelf):
    """Its rollback is wrong only while two others hold something."""

    def prepare_take(self, state: State, request: Take) -> Taken | Refused | NotYet:
        voted = super().prepare_take(state, request)
        if isinstance(voted, Taken):
            state["open"] = state.get("open", 0) + 1
        return voted

    def commit_take(self, state: State, request: Take, result: Taken) -> None:
        super().commit_take(state, request, result)
        self._close(state)

    def rollback_take(self, state: State, request: Take, result: Taken) -> None:
        super().rollback_take(state, request, result)
        if state["open"] > 2:
            state["crowded"] = True
        self._close(state)

    @staticmethod
    def _close(state: State) -> None:
        state["open"] -= 1
        if not state["open"]:
            del state["open"]


class CommitsAnAbsoluteValue(Shelf):
    """Its commit sets what was left when it was prepared."""

    def prepare_take(self, state: State, request: Take) -> Taken | Refused | NotYet:
        if request.quantity > state.get("free", STOCK):
            return Refused("SHORT")
        state["free"] = state.get("free", STOCK) - request.quantity
        state[f"then/{request.quantity}"] = state["free"]
        return Taken()

    def commit_take(self, state: State, request: Take, result: Taken) -> None:
        state["free"] = state.pop(f"then/{request.quantity}", 0)

    def rollback_take(self, state: State, request: Take, result: Taken) -> None:
        state["free"] += request.quantity
        state.pop(f"then/{request.quantity}", None)
        if state["free"] == STOCK:
            del state["free"]


class ForgetsToRelease(Shelf):
    """Its rollback leaves the hold."""

    def rollback_take(self, state: State, request: Take, result: Taken) -> None:
        state["rollbacks"] = state.get("rollbacks", 0) + 1


class LeaksOnRefusal(Shelf):
    """Notes the hold on itself before it knows whether it can be held."""

    def __init__(self) -> None:
        super().__init__()
        self.open: dict[int, int] = {}

    def prepare_take(self, state: State, request: Take) -> Taken | Refused | NotYet:
        self.open[request.quantity] = 1
        return super().prepare_take(state, request)


class CountsOnTheClass(Shelf):
    """Numbers what it does by a counter of the class: a restart begins anew."""

    numbers = itertools.count(1)

    def prepare_take(self, state: State, request: Take) -> Taken | Refused | NotYet:
        voted = super().prepare_take(state, request)
        return Taken(left=next(self.numbers)) if isinstance(voted, Taken) else voted


class AsksTheClock(Shelf):
    """Its result depends on when it runs, by the second: two runs in a row agree."""

    def prepare_take(self, state: State, request: Take) -> Taken | Refused | NotYet:
        voted = super().prepare_take(state, request)
        return Taken(left=int(time.time())) if isinstance(voted, Taken) else voted


class AsksTheCalendar(Shelf):
    """The same by another door."""

    def commit_take(self, state: State, request: Take, result: Taken) -> None:
        super().commit_take(state, request, result)
        state["day"] = datetime.now(UTC).date().isoformat()


class DrawsLots(Shelf):
    """Its vote is a matter of chance."""

    def prepare_take(self, state: State, request: Take) -> Taken | Refused | NotYet:
        voted = super().prepare_take(state, request)
        return Taken(left=random.randint(1, 1 << 40)) if isinstance(voted, Taken) else voted


class MakesUpIds(Shelf):
    """Writes an id that a replay would make anew."""

    def prepare_take(self, state: State, request: Take) -> Taken | Refused | NotYet:
        voted = super().prepare_take(state, request)
        return Taken(left=uuid4().int % (1 << 60)) if isinstance(voted, Taken) else voted


class WritesAnAddress(Shelf):
    """Writes where its request lies in memory."""

    def prepare_take(self, state: State, request: Take) -> Taken | Refused | NotYet:
        state[f"at/{request.quantity}"] = [id(request), next(self.numbers)]
        return super().prepare_take(state, request)

    def rollback_take(self, state: State, request: Take, result: Taken) -> None:
        super().rollback_take(state, request, result)
        state.pop(f"at/{request.quantity}", None)

    numbers = itertools.count()


class LoosensAnAccount(Service):
    """Its rollback is wrong only for two requests about the same account, of which the first samples have none."""

    name = "bank"

    def prepare_hold(self, state: State, request: Hold) -> Taken:
        state[request.account] = [*state.get(request.account, []), request.amount]
        return Taken()

    def commit_hold(self, state: State, request: Hold, result: Taken) -> None: ...

    def rollback_hold(self, state: State, request: Hold, result: Taken) -> None:
        del state[request.account]


class CommitMayFail(Shelf):
    """Its commit looks once more whether there is enough, and by then others have taken it."""

    def prepare_take(self, state: State, request: Take) -> Taken | Refused | NotYet:
        return Taken() if request.quantity <= STOCK - state.get("sold", 0) else Refused("SHORT")

    def commit_take(self, state: State, request: Take, result: Taken) -> None:
        state["sold"] = state.get("sold", 0) + request.quantity
        if state["sold"] > STOCK:
            raise RuntimeError("sold out")

    def rollback_take(self, state: State, request: Take, result: Taken) -> None: ...


class ChangesItsRequest(Shelf):
    """Writes into the request that it was handed."""

    def prepare_take(self, state: State, request: Take) -> Taken | Refused | NotYet:
        request.notes.append("seen")
        return super().prepare_take(state, request)


class Raises(Shelf):
    """Says no by an exception, so that it is asked until the deadline."""

    def prepare_take(self, state: State, request: Take) -> Taken | Refused | NotYet:
        if request.quantity > self._free(state):
            raise LookupError("not enough")
        return super().prepare_take(state, request)


class RefusesAll(Shelf):
    """Nothing of it can be checked."""

    def prepare_take(self, state: State, request: Take) -> Taken | Refused | NotYet:
        return Refused("NEVER")


class Loose(BaseModel):
    pair: Any


class LosesATuple(Service):
    """Its result holds something that msgpack gives back as something else."""

    name = "loose"

    def prepare_take(self, state: State, request: Take) -> Loose:
        return Loose(pair=(1, 2))

    def commit_take(self, state: State, request: Take, result: Loose) -> None: ...

    def rollback_take(self, state: State, request: Take, result: Loose) -> None: ...


class Priced(BaseModel):
    model_config = ConfigDict(strict=True)

    price: Decimal


class CannotReadItsVote(Service):
    """Its vote cannot be decoded any more, so it can neither commit nor roll back."""

    name = "priced"

    def prepare_take(self, state: State, request: Take) -> Priced:
        return Priced(price=Decimal(1))

    def commit_take(self, state: State, request: Take, result: Priced) -> None: ...

    def rollback_take(self, state: State, request: Take, result: Priced) -> None: ...


class Courier(Shelf):
    """Written right, with an asynchronous part and a step after the commit."""

    name = "courier"

    async def ask_take(self, request: Take) -> int:
        return request.quantity

    def prepare_take(self, state: State, request: Take, answer: int) -> Taken | Refused | NotYet:
        return super().prepare_take(state, request)

    def perform_tell(self, state: State, request: Take) -> Taken:
        state["told"] = [*state.get("told", []), request.quantity]
        return Taken(left=request.quantity)


class RemembersWhoAsked(Courier):
    """Its asynchronous part keeps something on the service."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    async def ask_take(self, request: Take) -> int:
        self.asked.append(request.quantity)
        return request.quantity
