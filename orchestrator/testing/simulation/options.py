"""What a schedule may meet: swarm options, drawn from the seed, so that every schedule is hostile in its own way."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from orchestrator.testing.simulation.chance import Chance


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """One mixture of load and faults; times in milliseconds of the simulated clock, chances per message or commit.

    Attributes:
        shards: number of orchestrator shards.
        transactions: how many are submitted.
        spread_ms: over which time.
        phase_ms: how long faults happen; then everything heals.
        deadline_ms: of each transaction, 0 = its saga's.
        in_doubt_after_ms: when participants ask about what they hold.
        retention_ms: how long what has ended is remembered.
        repeat: chance that a submit is sent by several callers at once.
        other_payload: chance that one of them sends another payload under the same key.
        cancel: chance that somebody cancels it by its key.
        lose, double: per message.
        delay_ms: a message takes 1 ms up to so long.
        late: chance that a message takes `late_ms` instead.
        crash: at every point where a role may die.
        power: chance that a crash takes what was not synced.
        disk_error: per commit: the sync fails, its outcome is unknown.
        disk_full_ms: for so long nothing can be written by one role.
        slow_disk_ms: commits take up to so long.
        decline, transient: chances of a service's answers.
        kills, freezes, zombies, cuts, deployments: how often a role is killed, stopped for a while, started anew beside
            its living predecessor, cut off in one direction; how often everything is killed at once.
        driver_dies: whether the callers are killed.
        clock_jump_ms: wall clocks jump by so much, either way.
        reshard: whether the number of shards changes when everything was killed.
        acts: how often an operator acts at any moment: retries, cancels, resolves, pauses for a while.
        resolve: chance that an operator resolves a step that was parked.
        breaker_failures: transactions that fail until a service's breaker opens; 0: there is none.
    """

    shards: int = 1
    transactions: int = 1
    spread_ms: int = 0
    phase_ms: int = 3_000
    deadline_ms: int = 0
    in_doubt_after_ms: int = 5_000
    retention_ms: int = 7 * 24 * 3_600_000
    repeat: float = 0.0
    other_payload: float = 0.0
    cancel: float = 0.0
    lose: float = 0.0
    double: float = 0.0
    delay_ms: int = 1
    late: float = 0.0
    late_ms: int = 0
    crash: float = 0.0
    power: float = 0.0
    disk_error: float = 0.0
    disk_full_ms: int = 0
    slow_disk_ms: int = 0
    decline: float = 0.0
    transient: float = 0.0
    kills: int = 0
    freezes: int = 0
    zombies: int = 0
    cuts: int = 0
    deployments: int = 0
    driver_dies: bool = False
    clock_jump_ms: int = 0
    reshard: bool = False
    acts: int = 0
    resolve: float = 0.0
    breaker_failures: int = 0

    def __str__(self) -> str:
        base = asdict(Options())
        said = [f"{name}={value}" for name, value in asdict(self).items() if value != base[name]]
        return " ".join(said) or "no faults"


_STRIKES = (  # at least one of them is in every schedule
    "lose", "double", "late", "crash", "disk_error", "disk_full_ms", "kills", "freezes", "zombies", "cuts", "deployments",
    "clock_jump_ms")


def draw(chance: Chance) -> Options:
    """Options of one schedule; most kinds of fault are off in most schedules, so that each is seen with few others."""

    def maybe(name: str, share: float, *values: float) -> float:
        if chance.between("whether " + name, 1, 1_000) > share * 1_000:
            return 0
        return chance.pick("how much " + name, values)

    def number(name: str, *values: int) -> int:
        return chance.pick("how much " + name, values)

    drawn = Options(
        shards=number("shards", 1, 1, 1, 1, 1, 2, 3),
        transactions=number("transactions", *(1,) * 12, 2, 3),
        spread_ms=number("spread", 0, 0, 200, 2_000),
        phase_ms=number("phase", 500, 1_500, 3_000, 8_000),
        deadline_ms=number("deadline", 0, 0, 300, 1_500, 5_000),
        in_doubt_after_ms=number("doubt", 400, 2_000, 5_000),
        retention_ms=number("retention", 7 * 24 * 3_600_000, 7 * 24 * 3_600_000, 1_000, 4_000),
        repeat=maybe("repeat", 0.12, 0.3, 1.0),
        other_payload=maybe("payload", 0.15, 0.5),
        cancel=maybe("cancel", 0.2, 0.3, 1.0),
        lose=maybe("lose", 0.3, 0.02, 0.1, 0.3),
        double=maybe("double", 0.3, 0.02, 0.1, 0.4),
        delay_ms=number("delay", 1, 3, 30, 300),
        late=maybe("late", 0.25, 0.01, 0.05),
        late_ms=number("late_ms", 1_200, 4_000, 12_000),
        crash=maybe("crash", 0.4, 0.003, 0.01, 0.03),
        power=maybe("power", 0.5, 0.3, 1.0),
        disk_error=maybe("disk_error", 0.15, 0.02, 0.1),
        disk_full_ms=number("disk_full", 0, 0, 0, 0, 0, 800, 3_000),
        slow_disk_ms=number("slow_disk", 0, 0, 0, 5, 100, 1_500),
        decline=maybe("decline", 0.3, 0.1, 0.4),
        transient=maybe("transient", 0.3, 0.1, 0.5),
        kills=number("kills", 0, 0, 0, 1, 1, 2),
        freezes=number("freezes", 0, 0, 0, 0, 1, 2),
        zombies=number("zombies", 0, 0, 0, 0, 1, 2),
        cuts=number("cuts", 0, 0, 0, 0, 1, 2),
        deployments=number("deployments", 0, 0, 0, 0, 0, 0, 0, 0, 0, 1),
        driver_dies=bool(maybe("driver", 0.1, 1)),
        clock_jump_ms=number("clock", 0, 0, 0, 0, 5_000, 3_600_000),
        reshard=bool(maybe("reshard", 0.5, 1)),
        acts=number("acts", 0, 0, 0, 0, 0, 1, 4),
        resolve=maybe("resolve", 0.25, 0.5, 1.0),
        breaker_failures=number("breaker", 0, 0, 1, 1, 2),
    )
    return drawn if any(getattr(drawn, name) for name in _STRIKES) else replace(drawn, kills=1)
