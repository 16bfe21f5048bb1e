"""One process of a simulated deployment: it lives until it crashes, and may be stopped for a while."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from orchestrator.testing.simulation.world import World

AGAIN_MS = 400  # a call that was not answered is made again
AGAIN_MS_MAX = 2_000


class Crashed(BaseException):  # not an Exception: the process is gone, and no handler of the product's runs
    """The simulated process that is running has been killed: nothing after this happens."""


class Message(NamedTuple):
    """What travels.

    Attributes:
        source: the life that sent it.
        target: a role's name (whoever plays it when the message arrives), or one life.
        method: which handler takes it.
        number: of the call that it makes or answers, 0 for mail.
        body: what it says, encoded where the product encodes it.
    """

    source: Life
    target: str | Life
    method: str
    number: int
    body: Any


class _Handlers(dict[str, str]):
    """Names of the methods that take messages, by those of the messages."""

    def __missing__(self, method: str) -> str:
        name = self[method] = f"on_{method}"
        return name


_HANDLERS = _Handlers()


class Life:
    """Base of all roles.

    Args:
        world: it lives in.
        role: "log", "shard-0", a service's name, "client-0".
        number: of this life of the role, from 1.
    """

    def __init__(self, world: World, role: str, number: int) -> None:
        self.world = world
        self.role = role
        self.name = f"{role}/{number}"
        self.alive = True
        self.frozen = False
        self.held: list[Callable[[], None]] = []  # what would have happened while it was stopped
        self._calls: dict[int, Callable[[Any], None]] = {}

    def __repr__(self) -> str:
        return self.name

    def boot(self) -> None:
        """Begin to live; may crash."""

    def handle(self, message: Message) -> None:
        """Take a message."""
        if message.method == "answer":
            deliver = self._calls.pop(message.number, None)
            if deliver is not None:
                deliver(message.body)
            return
        getattr(self, _HANDLERS[message.method])(message)

    def after(self, delay_ms: int, action: Callable[[], None]) -> None:
        """Do something later, if it still lives then."""
        self.world.after(delay_ms, self, action)

    def mail(self, target: str | Life, method: str, body: Any) -> None:
        """Send what nobody answers."""
        self.world.send(Message(self, target, method, 0, body))

    def call(
        self, target: str | Life, method: str, body: Callable[[], Any], deliver: Callable[[Any], None],
        *, again: bool = True,
    ) -> int:
        """Send a request, again and again until it is answered (once where not `again`); returns the call's number."""
        number = self.world.next_call()
        self._calls[number] = deliver
        self._attempt(number, target, method, body, AGAIN_MS if again else 0)
        return number

    def answer(self, message: Message, body: Any) -> None:
        """Answer a request."""
        self.world.send(Message(self, message.source, "answer", message.number, body))

    def forget_call(self, number: int) -> None:
        """Wait for an answer no longer."""
        self._calls.pop(number, None)

    def _attempt(self, number: int, target: str | Life, method: str, body: Callable[[], Any], again_ms: int) -> None:
        if number not in self._calls:
            return
        self.world.send(Message(self, target, method, number, body()))
        if again_ms:
            following_ms = min(again_ms * 2, AGAIN_MS_MAX)
            self.after(again_ms, lambda: self._attempt(number, target, method, body, following_ms))
