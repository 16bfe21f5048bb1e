"""How the processes of a deployment reach each other: over connections of their own, or by Ray actor calls.

Nothing above `way_to` knows which of the two it is. A failed call means unknown outcome and nothing else (an in-flight
ActorDiedError or ActorUnavailableError may have been executed, and so may what was asked over a connection that broke), so
every failure becomes one IndefiniteError and the caller sends again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Mapping
from functools import partial
from typing import Any, Protocol, TypeVar

import msgspec
import ray
from ray.exceptions import RayError

from orchestrator.config import Transport
from orchestrator.errors import ErrorCode, IndefiniteError
from orchestrator.logs import log_event
from orchestrator.plane.link import Plane
from orchestrator.protocol.identifiers import partition_of
from orchestrator.protocol.messages import Command, Inquiry
from orchestrator.protocol.records import (
    AppendReply,
    AppendRequest,
    LoadRequest,
    Pauses,
    StoredTransaction,
    TakeReply,
    TakeRequest,
    encode,
)

LOG_ACTOR = "log"
CALL_S_MAX = 30.0
INQUIRE_S_MAX = 3.0

K = TypeVar("K")
T = TypeVar("T")
_COMMANDS = msgspec.msgpack.Decoder(list[Command])
_STORED = msgspec.msgpack.Decoder(list[StoredTransaction])
_TAKE = msgspec.msgpack.Decoder(TakeReply)
_APPEND = msgspec.msgpack.Decoder(AppendReply)
_PAUSES = msgspec.msgpack.Decoder(Pauses)


def shard_actor(index: int) -> str:
    """Name of a shard's actor in its deployment's namespace."""
    return f"shard-{index}"


def service_actor(name: str) -> str:
    """Name of a service's actor in its deployment's namespace."""
    return f"service-{name}"


class ActorMethod(Protocol):
    """One method of one actor; `RayPort` and `DirectMethod` are such."""

    async def call(self, payload: Any) -> bytes:
        """One call.

        Raises:
            IndefiniteError: E_UNREACHABLE; it may or may not have been executed.
        """


class WayTo(Protocol):
    """How one event loop reaches the actors of a deployment; `RayCalls` and `Plane` are such."""

    def __call__(self, actor: str, method: str) -> ActorMethod:
        """The way to a method.

        Args:
            actor: the actor's name.
            method: the method's.
        """

    def close(self) -> None:
        """Give up what it has open; calls under way are of unknown outcome."""


class RayPort:
    """Calls one method of one named actor, bytes to bytes.

    Args:
        namespace: the deployment's.
        actor: the actor's name; looked up again after every failure.
        method: takes and returns bytes.
        timeout_s: an answer later than this is given up as unknown; None where the other side bounds it.
    """

    def __init__(self, namespace: str, actor: str, method: str, timeout_s: float | None = CALL_S_MAX) -> None:
        self._namespace, self._actor, self._method, self.timeout_s = namespace, actor, method, timeout_s
        self._bound: Any = None
        self._lookup: asyncio.Future[Any] | None = None

    def __repr__(self) -> str:
        return f"RayPort({self._actor}.{self._method})"

    async def call(self, payload: Any) -> bytes:
        """One call.

        Raises:
            IndefiniteError: E_UNREACHABLE; it may or may not have been executed.
        """
        try:
            if self._bound is None:
                self._bound = await self._resolve()
            async with asyncio.timeout(self.timeout_s):  # cheaper than wait_for, which makes a task
                return bytes(await self._bound.remote(payload))
        except (RayError, ValueError, TimeoutError, ConnectionError) as error:
            self._bound = None
            raise IndefiniteError(ErrorCode.UNREACHABLE, f"{self._actor} did not answer ({type(error).__name__})") from None

    async def _resolve(self) -> Any:
        # get_actor asks the cluster's head and blocks: never on the event loop, and once for all calls that wait for it
        if self._lookup is None:
            find = partial(ray.get_actor, self._actor, namespace=self._namespace)
            self._lookup = asyncio.get_running_loop().run_in_executor(None, find)
            self._lookup.add_done_callback(self._looked_up)
        return getattr(await asyncio.shield(self._lookup), self._method)

    def _looked_up(self, _lookup: asyncio.Future[Any]) -> None:
        self._lookup = None


class RayCalls:
    """Ways over Ray alone.

    Args:
        namespace: the deployment's.
    """

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    def __call__(self, actor: str, method: str) -> RayPort:
        """The way to a method of an actor."""
        return RayPort(self._namespace, actor, method)

    def close(self) -> None:
        """Nothing is open."""


def way_to(namespace: str, transport: Transport, refused: Counter[str] | None = None) -> WayTo:
    """The ways of one event loop.

    Args:
        namespace: the deployment's.
        transport: what calls go over.
        refused: see `Plane`.
    """
    through_ray = RayCalls(namespace)
    return Plane(through_ray, refused) if transport is Transport.DIRECT else through_ray


class RemoteLog:
    """The transaction log as a shard sees it."""

    def __init__(self, way_to: WayTo) -> None:
        self._append = way_to(LOG_ACTOR, "append")
        self._take = way_to(LOG_ACTOR, "take")
        self._load = way_to(LOG_ACTOR, "load")
        self._owner = way_to(LOG_ACTOR, "owner")
        self._pauses = way_to(LOG_ACTOR, "pauses")

    async def append(self, request: AppendRequest) -> AppendReply:
        """Append a batch.

        Raises:
            IndefiniteError: the records may or may not be durable; append the same again.
        """
        return _APPEND.decode(await self._append.call(encode(request)))

    async def take(self, request: TakeRequest) -> TakeReply:
        """Take partitions.

        Raises:
            IndefiniteError: they may or may not be taken; take again.
        """
        return _TAKE.decode(await self._take.call(encode(request)))

    async def load(self, keys: list[str], transactions: list[str]) -> list[StoredTransaction]:
        """The transactions that these keys are bound to or that have these ids, as far as the log knows them.

        Raises:
            IndefiniteError: the log did not answer.
        """
        return _STORED.decode(await self._load.call(encode(LoadRequest(keys, transactions))))

    async def pauses(self, payload: bytes = b"") -> Pauses:
        """What operators have paused.

        Raises:
            IndefiniteError: the log did not answer.
        """
        return _PAUSES.decode(await self._pauses.call(payload))

    async def owner(self, partition: int) -> dict[str, Any]:
        """Who owns a partition: {shard, epoch, incarnation}.

        Raises:
            IndefiniteError: the log did not answer.
        """
        found: dict[str, Any] = msgspec.msgpack.decode(await self._owner.call(partition))
        return found


class RemoteOwners:
    """How a participant reaches the log and the owners of its rows."""

    def __init__(self, way_to: WayTo) -> None:
        self._way_to = way_to
        self._owner = way_to(LOG_ACTOR, "owner")
        self._register = way_to(LOG_ACTOR, "register_store")
        self._shards: dict[int, ActorMethod] = {}

    async def ask(self, inquiries: list[Inquiry]) -> list[Command]:
        """What to do with prepared rows that nobody has been heard of: grouped by the shard that the log names.

        Whoever is silent takes no other one's answers along, and does not keep them for long: what only they know is asked
        again later.

        Raises:
            IndefiniteError: nobody answered.
        """
        by_partition: dict[int, list[Inquiry]] = {}
        for inquiry in inquiries:
            by_partition.setdefault(partition_of(inquiry.transaction), []).append(inquiry)
        silent: list[IndefiniteError] = []
        owners = await _answered({partition: self._shard_of(partition) for partition in by_partition}, silent)
        by_shard: dict[int, list[Inquiry]] = {}
        for partition, shard in owners.items():
            by_shard.setdefault(shard, []).extend(by_partition[partition])
        answers = await _answered({shard: self._inquire(shard, batch) for shard, batch in by_shard.items()}, silent)
        if silent and not answers:
            raise silent[0]
        if silent:
            log_event("owner_unreachable", level="WARNING", code=silent[0].code, message=silent[0].message, silent=len(silent))
        return [command for commands in answers.values() for command in commands]

    async def register(self, name: str, uuid: str, sequence: int) -> str:
        """Tell the log which database a service runs on; returns why it is refused, or nothing.

        Raises:
            IndefiniteError: the log did not answer.
        """
        payload = msgspec.msgpack.encode({"name": name, "uuid": uuid, "sequence": sequence})
        return (await self._register.call(payload)).decode()

    async def _shard_of(self, partition: int) -> int:
        return int(msgspec.msgpack.decode(await self._owner.call(partition))["shard"])

    async def _inquire(self, shard: int, inquiries: list[Inquiry]) -> list[Command]:
        method = self._shards.get(shard)
        if method is None:
            method = self._shards[shard] = self._way_to(shard_actor(shard), "inquire")
        try:
            async with asyncio.timeout(INQUIRE_S_MAX):
                return _COMMANDS.decode(await method.call(msgspec.msgpack.encode(inquiries)))
        except TimeoutError:
            raise IndefiniteError(ErrorCode.UNREACHABLE, f"{shard_actor(shard)} did not answer in time") from None


async def _answered(calls: Mapping[K, Awaitable[T]], silent: list[IndefiniteError]) -> dict[K, T]:
    """The answers that came, by key; all are waited for at once, and who did not answer is added to `silent`."""
    found = await asyncio.gather(*map(_attempt, calls.values()))
    silent.extend(answer for answer in found if isinstance(answer, IndefiniteError))
    return {key: answer for key, answer in zip(calls, found, strict=True) if not isinstance(answer, IndefiniteError)}


async def _attempt(call: Awaitable[T]) -> T | IndefiniteError:
    try:
        return await call
    except IndefiniteError as error:
        return error
