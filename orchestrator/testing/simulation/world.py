"""A whole deployment under one simulated clock: processes, network, disks, and every fault that they may meet.

Nothing here is concurrent and nothing waits: events happen one after the other in the order of the simulated time, so
that the same seed and options always give the same run.
"""

from __future__ import annotations

import heapq
import sqlite3
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.config import FaultSettings
from orchestrator.errors import InvariantViolation
from orchestrator.local import SupersededError
from orchestrator.protocol.identifiers import PARTITIONS
from orchestrator.protocol.records import Decided
from orchestrator.saga import Saga
from orchestrator.testing.simulation.chance import Chance
from orchestrator.testing.simulation.client_life import ClientLife, Told
from orchestrator.testing.simulation.life import Crashed, Life, Message
from orchestrator.testing.simulation.log_life import LogLife
from orchestrator.testing.simulation.operator import Operator
from orchestrator.testing.simulation.options import Options
from orchestrator.testing.simulation.service_life import ServiceLife
from orchestrator.testing.simulation.shard_life import ShardLife
from orchestrator.testing.simulation.stores import Stores
from orchestrator.testing.simulation.witness import Witness
from orchestrator.testing.simulation.workload import Books

WALL_MS = 1_700_000_000_000
RESTART_MS = (60, 900)
LATE_MS = 60_000  # later than every timeout


class ViolationError(Exception):
    """A guarantee was broken.

    Args:
        guarantee: its letter (see docs/testing.md).
        text: what happened, for a person.
    """

    def __init__(self, guarantee: str, text: str) -> None:
        super().__init__(f"{guarantee}: {text}")
        self.guarantee, self.text = guarantee, text


class World:
    """Everything that a schedule can act on.

    Args:
        books: the app, and what its journals hold already.
        options: what may happen.
        chance: whether it does.
    """

    def __init__(self, books: Books, options: Options, chance: Chance) -> None:
        self.books, self.options, self.chance = books, options, chance
        self.app = books.app
        self.sagas: Mapping[tuple[str, int], Saga] = {(saga.name, saga.version): saga for saga in self.app.sagas}
        self.shards = options.shards
        self.run = "run-1"  # changes whenever the deployment as a whole is started
        self.partitions: Sequence[int] = range(PARTITIONS)  # those that keys of the schedule fall into
        self.now_ms = 0
        self.jumped_ms = 0
        self.faulty = False  # whether anything may go wrong by chance
        self.watched = False  # whether points are counted and may be where somebody dies
        self.crash_points: frozenset[int] = frozenset()  # points at which whoever runs dies, counted from 1
        self.power_fails = False  # whether that takes what was not synced
        self.dies_at: Callable[[World, str, str, str], bool] | None = None  # a scenario's say in that
        self.mishap_of: Callable[[Message], str | None] | None = None
        self.message_faults: Mapping[int, str] = {}  # by number of the message: "lose", "double", "late", "swap"
        self.points = self.messages = 0
        self.planned = 0  # acts of callers that are still to come
        self.point_names: list[str] | None = None
        self.roles: dict[str, Life] = {}  # who plays a role now
        self.lives: dict[str, Life] = {}  # everybody who lives, by name
        self.zombies: dict[str, Life] = {}  # by role: a predecessor that still lives
        self.cuts: set[tuple[str, str]] = set()
        self.decisions: dict[str, Decided] = dict(books.decisions)
        self.heard: dict[tuple[str, int], tuple[int, str]] = {}  # by service and partition: epoch and shard last answered
        self.parked: set[tuple[str, str]] = set()  # steps that any shard ever parked, durably or not
        self.worked: set[str] = set()  # services that wrote anything but their openings
        self.answers: list[Told] = []
        self.trace: list[tuple[int, str, str]] = []
        self.service_faults: Mapping[str, FaultSettings] = {}
        if options.decline or options.transient:
            faults = FaultSettings(
                seed=chance.between("service", 1, 1 << 30), decline=options.decline, transient=options.transient)
            self.service_faults = {service.name: faults for service in self.app.services}
        self._events: list[tuple[int, int, Life | None, Any]] = []  # when, in which order, to whom, what: an act, a message
        self._order = self._calls = 0
        self._numbers: dict[str, int] = {}
        self._everybody: list[Life] = []
        self._running: Life | None = None
        self._overtaken = options.delay_ms > 1 or options.late > 0  # whether a message may overtake another
        self._died_when = ""  # the point at which whoever runs is dying
        self.stores: Stores = books.stores(self)
        self.witness = Witness(self)
        self.operator = Operator(self)

    # ---- processes ------------------------------------------------------------------------------------------------

    @property
    def wall_ms(self) -> int:
        """What a wall clock shows, Unix ms."""
        return WALL_MS + self.books.ended_ms + self.now_ms + self.jumped_ms

    def start(self, role: str) -> None:
        """A new life plays a role; a predecessor that still lives goes on as a zombie."""
        number = self._numbers[role] = self._numbers.get(role, 0) + 1
        life = self._make(role, number)
        previous = self.roles.get(role)
        if previous is not None and previous.alive:
            self.zombies[role] = previous
        self.roles[role] = self.lives[life.name] = life
        self._everybody.append(life)
        self.note("start", life.name)
        self.run_as(life, life.boot)

    def start_all(self) -> None:
        """Whatever is not running starts."""
        for role in ("log", *(s.name for s in self.app.services), *(f"shard-{i}" for i in range(self.shards)), "client"):
            if role not in self.roles:
                self.start(role)

    def crash(self, life: Life, why: str = "killed") -> None:
        """A process ends here and now; its successor starts after a while."""
        if not life.alive:
            return
        self.note(why, life.name)
        when, self._died_when = self._died_when, ""
        self.witness.dying(life, when, why)
        life.alive = False
        self.lives.pop(life.name, None)
        if self.zombies.get(life.role) is life:
            del self.zombies[life.role]
        if life.role in self.stores.names:
            self.stores.died(life)
        if self.roles.get(life.role) is life:
            del self.roles[life.role]
            delay_ms = self.chance.between("restart", *RESTART_MS) if self.faulty else RESTART_MS[0]
            self.after(delay_ms, None, lambda: self.start_missing(life.role))

    def end(self, life: Life, why: str) -> None:
        """A process ends itself."""
        self.crash(life, why)
        raise Crashed

    def run_as(self, life: Life | None, action: Callable[..., None], *arguments: Any) -> None:
        """Let one process do something, and die of it if it must."""
        before, self._running = self._running, life
        try:
            action(*arguments)
        except Crashed:
            if life is not None:
                self.crash(life, "crashed")
        except SupersededError:
            assert life is not None
            self.crash(life, "superseded")
        except (OSError, sqlite3.Error) as error:
            assert life is not None
            self.crash(life, f"died of {getattr(error, 'strerror', error)}")
        except ViolationError:
            raise
        except InvariantViolation as error:
            self.violation("M", f"{life}: {error}")
        except Exception as error:  # noqa: BLE001 - whatever the product raises where nothing may be raised
            where = "".join(traceback.format_exception(error)[-3:])
            self.violation("bug", f"{life} raised {type(error).__name__}: {error}\n{where}")
        finally:
            self._running = before

    def freeze(self, life: Life) -> None:
        """Stop a process; what would have happened to it waits."""
        if life.alive:
            self.note("stopped", life.name)
            life.frozen = True

    def thaw(self, life: Life) -> None:
        """Let it go on; what waited happens in an order of its own."""
        if not life.frozen:
            return
        self.note("continued", life.name)
        life.frozen = False
        held, life.held = life.held, []
        if self.faulty:
            held = self.chance.shuffled("thaw", held)
        for action in held:
            self.after(0, life, action)

    def _make(self, role: str, number: int) -> Life:
        if role == "log":
            return LogLife(self, role, number)
        if role == "client":
            return ClientLife(self, role, number)
        if role.startswith("shard-"):
            return ShardLife(self, role, number, int(role[6:]))
        return ServiceLife(self, role, number)

    def start_missing(self, role: str) -> None:
        """Start a role that nobody plays, unless it is not wanted any more."""
        wanted = not role.startswith("shard-") or int(role[6:]) < self.shards
        if role not in self.roles and wanted:
            self.start(role)

    # ---- time -----------------------------------------------------------------------------------------------------

    def after(self, delay_ms: int, life: Life | None, action: Callable[[], None]) -> None:
        """Have something happen later, to a process if it still lives then."""
        self._order += 1
        heapq.heappush(self._events, (self.now_ms + delay_ms, self._order, life, action))

    def run_until(self, end_ms: int) -> None:
        """Let everything happen that is due by then."""
        events = self._events
        while events and events[0][0] <= end_ms:
            at_ms, order, life, action = heapq.heappop(events)
            self.now_ms = at_ms
            if life is None:
                if type(action) is Message:
                    self._arrive(action, order)
                else:
                    action()
            elif life.frozen:
                life.held.append(action)
            elif life.alive:
                self.run_as(life, action)
        self.now_ms = end_ms

    # ---- network --------------------------------------------------------------------------------------------------

    def next_call(self) -> int:
        """A number no other call has."""
        self._calls += 1
        return self._calls

    def send(self, message: Message) -> None:
        """Put a message on its way."""
        if self.watched:
            self.point("before sending", message.method)
        self.messages += 1
        options, chance = self.options, self.chance
        if not self.faulty:
            planned = self.message_faults.get(self.messages) if self.mishap_of is None else self.mishap_of(message)
            if planned is None:
                self._deliver_after(1, message)
            else:
                self._send_faulty(message, planned)
            return
        target = message.target if isinstance(message.target, str) else message.target.role
        if self.cuts and (message.source.role, target) in self.cuts:
            self.note("cut", f"{message.method} to {target}")
            self.witness.cut(message, target)
            return
        if options.lose and chance.hits("lose", options.lose):
            self.note("lost", f"{message.method} to {target}")
            self.witness.lost(message)
            return
        self._deliver_after(self._delay_ms(), message)
        if options.double and chance.hits("double", options.double):
            self.note("doubled", f"{message.method} to {target}")
            self._deliver_after(self._delay_ms(), message)

    def _delay_ms(self) -> int:
        options, chance = self.options, self.chance
        if options.late and chance.hits("late", options.late):
            return options.late_ms
        return 1 if options.delay_ms <= 1 else chance.between("delay", 1, options.delay_ms)

    def _send_faulty(self, message: Message, fault: str) -> None:
        self.note(fault, f"{message.method} from {message.source.name}")
        self._overtaken = True
        if fault == "double":
            self._deliver_after(1, message)
            self._deliver_after(3, message)
        elif fault == "late":
            order = self._order + 1
            self.after(LATE_MS, None, lambda: self._arrive(message, order, late=True))
        elif fault == "swap":
            self._deliver_after(25, message)
        else:
            self.witness.lost(message)

    def _deliver_after(self, delay_ms: int, message: Message) -> None:
        self._order += 1
        heapq.heappush(self._events, (self.now_ms + delay_ms, self._order, None, message))

    def _arrive(self, message: Message, order: int, *, late: bool = False) -> None:
        target = message.target
        life = self._player(target) if isinstance(target, str) else target
        if life is None or not life.alive:
            return
        if self._overtaken:
            self.witness.arrived(life, message, order, late=late)
        if life.frozen:
            life.held.append(lambda: self._receive(life, message))
        else:
            self.run_as(life, self._receive, life, message)

    def _receive(self, life: Life, message: Message) -> None:
        self.note(message.method, life.name)
        if self.watched:
            self.point("on receiving", message.method)
            life.handle(message)
            self.point("after handling", message.method)
        else:
            life.handle(message)

    def _player(self, role: str) -> Life | None:
        zombie = self.zombies.get(role)
        if zombie is not None and self.chance.hits("to zombie", 0.4):
            return zombie
        return self.roles.get(role)

    # ---- disks ----------------------------------------------------------------------------------------------------

    def commit_ms(self, role: str) -> int:
        """How long the next commit takes."""
        slow_ms = self.options.slow_disk_ms
        return self.chance.between("slow", 1, slow_ms) if self.faulty and slow_ms and role in self.stores.names else 1

    def point(self, when: str, what: str) -> None:
        """A place where whoever runs may die."""
        life = self._running
        if life is None or life.role == "client":
            return
        self.points += 1
        if self.point_names is not None:
            self.point_names.append(f"{life.role} {when} ({what})")
        if self.points in self.crash_points or (self.faulty and self.chance.hits("crash", self.options.crash)):
            self._die(life, when, what)
        if self.dies_at is not None and self.dies_at(self, life.role, when, what):
            self._die(life, when, what)

    def _die(self, life: Life, when: str, what: str) -> None:
        self.note("dies", f"{life.name} {when} ({what})")
        self._died_when = when
        raise Crashed

    # ---- what is known --------------------------------------------------------------------------------------------

    def decided(self, transaction: str, decided: Decided) -> None:
        """A decision is durable: there is never another one."""
        known = self.decisions.setdefault(transaction, decided)
        if known.decision is not decided.decision:
            self.violation("D", f"{transaction} was decided {known.decision.name}, then {decided.decision.name}")

    def told(self, told: Told) -> None:
        """A caller has been told something."""
        self.note("told", f"{told.key} {told.outcome.status.name} {told.outcome.code}")
        self.witness.told(told)
        self.answers.append(told)

    def dismantle(self) -> None:
        """Take it apart at the end: it hangs together in circles, which would keep the collector busy."""
        everybody = self._everybody
        for life in everybody:
            vars(life).clear()
        vars(self.witness).clear()
        vars(self.operator).clear()
        vars(self).clear()

    def violation(self, guarantee: str, text: str) -> None:
        """A guarantee is broken: the run ends here.

        Raises:
            ViolationError: always.
        """
        self.note("VIOLATION", f"{guarantee}: {text}")
        raise ViolationError(guarantee, text)

    def note(self, what: str, who: str) -> None:
        """One line of the trace."""
        self.trace.append((self.now_ms, what, who))

    @property
    def client(self) -> Any:
        """Who submits now, a `ClientLife` or None."""
        return self.roles.get("client")

    @property
    def log(self) -> Any:
        """Who plays the log now, a `LogLife` or None."""
        return self.roles.get("log")
