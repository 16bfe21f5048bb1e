"""A service that is stopped for a while under load: what is told, what is refused, what `raytx status` says each second.

    python tests/chaos/service_down.py [--seconds 20] [--rate 60] [--service payment] [--shards 1] [--data DIR] [--open-max N]

Offers `--rate` orders a second, stops the service's process (SIGSTOP) after 5 s, lets it go on after `--seconds`, and offers as
much for 15 s more. Prints a line a second on stderr and one JSON object on stdout. A deployment that runs on `--data` is
used, so that `raytx top`, the console and the dashboard can be looked at meanwhile. Exit 0 if its breaker opened within 8 s and
closed within 5 s after the service went on, once it was open every order that was refused was refused with E_UNAVAILABLE,
every order that was admitted ended, nearly all were committed again at the end, and the audit is ok.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from loadgen.load import LoadPlan, Prepared, deployed, open_books
from loadgen.open_loop import Arrivals, OpenLoop
from loadgen.shapes import make_baskets
from loadgen.tally import Tally
from loadgen.workload import OrderFeed, Told, Workload, new_run
from orchestrator.advice import advise
from orchestrator.audit import audit
from orchestrator.client import Client
from orchestrator.config import Settings
from orchestrator.deployment import DataDirectory
from orchestrator.log.rest import wait_for_rest
from orchestrator.observation import observe

BEFORE_S, AFTER_S = 5, 15
OPENED_S_MAX = 8.0
CLOSED_S_MAX = 5.0
COMMITTED_SHARE_MIN = 0.9  # of what arrived in the last seconds
LAST_S = 5
ANSWER_S = 0.6
PATIENCE_S = 60.0
BASKETS = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(LoadPlan):
    """A load on a deployment with an admission limit of its own."""

    open_max: int | None = None

    def settings(self) -> Settings:
        """See `LoadPlan.settings`."""
        found = LoadPlan.settings(self)
        return found if self.open_max is None else found.model_copy(update={"open_transactions_max": self.open_max})


@dataclass(slots=True)
class Moment:
    """What was seen in one second of the run."""

    at_s: float
    breakers: list[str]  # of the service, by shard
    advice: list[str]
    open: int
    told: dict[str, int] = field(default_factory=dict)  # since the moment before
    refused: dict[str, int] = field(default_factory=dict)  # likewise, by code

    def __str__(self) -> str:
        said = " ".join(f"{name} {count}" for name, count in {**self.told, **self.refused}.items() if count)
        breakers = "/".join(self.breakers) or "-"
        return f"{self.at_s:5.1f} s  {breakers:9}  open {self.open:4}  {said:60}  {'; '.join(self.advice)}"


class Watcher:
    """Looks at the deployment every second, on a thread of its own.

    Args:
        client: of the deployment.
        service: whose breaker is shown.
        tally: what the load has counted so far.
    """

    def __init__(self, client: Client, service: str, tally: Callable[[], Tally | None]) -> None:
        self.moments: list[Moment] = []
        self.turned: list[tuple[float, str]] = []  # when the breaker was seen in another state, monotonic seconds
        self._client, self._service, self._tally = client, service, tally
        self._directory = DataDirectory(client.deployment.data_dir)
        self._began_s = time.monotonic()
        self._counted: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch while the block runs."""
        done = threading.Event()

        def watch() -> None:
            while not done.is_set():
                began_s = time.monotonic()
                self._look(began_s)
                done.wait(max(0.0, 1.0 - (time.monotonic() - began_s)))

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _look(self, at_s: float) -> None:
        actors = self._client.deployment.statuses(ANSWER_S)
        reports = [actor["breakers"].get(self._service) for actor in actors if "breakers" in actor]
        states = [str(report["state"]) for report in reports if report]
        record = self._directory.record()
        assert record is not None
        observed = observe(self._directory, record, actors)
        advice = [f"{one.severity}: {one.what}" for one in advise(observed)]
        moment = Moment(round(at_s - self._began_s, 1), states, advice, observed.backlog.open)
        self._count(moment)
        state = "open" if any(state != "closed" for state in states) else "closed"
        if not self.turned or self.turned[-1][1] != state:
            self.turned.append((at_s, state))
        self.moments.append(moment)
        sys.stderr.write(f"{moment}\n")

    def _count(self, moment: Moment) -> None:
        tally = self._tally()
        if tally is None:
            return
        told = Counter({one.name.lower(): count for one, count in tally.orders.told.items() if one is not Told.REJECTED})
        refused = Counter(tally.orders.rejected_by_code)
        moment.told, moment.refused = dict(told - self._counted), dict(refused - self._refused)
        self._counted, self._refused = told, refused


def judge(report: dict[str, Any]) -> list[str]:
    """What is not as it must be."""
    wrong = []
    if report["opened_after_s"] is None or report["opened_after_s"] > OPENED_S_MAX:
        wrong.append(f"the breaker opened after {report['opened_after_s']} s, at most {OPENED_S_MAX} is asked for")
    if report["closed_after_s"] is None or report["closed_after_s"] > CLOSED_S_MAX:
        wrong.append(f"the breaker closed after {report['closed_after_s']} s, at most {CLOSED_S_MAX} is asked for")
    if not report["refused_by_code"].get("E_UNAVAILABLE"):
        wrong.append("nothing was refused with E_UNAVAILABLE")
    others = [code for code in report["refused_while_open"] if code != "E_UNAVAILABLE"]
    wrong += [f"refused with {code} while the breaker was open" for code in others]
    if report["told"].get("UNKNOWN"):
        wrong.append(f"{report['told']['UNKNOWN']} admitted orders have no outcome")
    if report["committed_share_at_the_end"] < COMMITTED_SHARE_MIN:
        wrong.append(f"only {report['committed_share_at_the_end']:.2f} of what arrived in the last seconds was committed")
    if report["open"] or not report["audit_ok"]:
        wrong.append(f"{report['open']} are open at the end, audit {'ok' if report['audit_ok'] else 'failed'}")
    return wrong


def experiment(client: Client, feed: OrderFeed, options: argparse.Namespace) -> dict[str, Any]:
    """Load, the service stopped amid it, load."""
    latest: list[Tally] = []
    seconds = BEFORE_S + options.seconds + AFTER_S
    loop = OpenLoop(client, feed, [Arrivals(options.rate, seconds)], patience_s=PATIENCE_S,
                    progress=lambda tally, _: latest.__setitem__(slice(None), [tally]))
    watcher = Watcher(client, options.service, lambda: latest[0] if latest else None)
    (pid,) = [actor["pid"] for actor in client.deployment.statuses(5.0) if actor["role"] == options.service]
    times: dict[str, float] = {}

    def stop_for_a_while() -> None:
        os.kill(pid, signal.SIGSTOP)
        times["stopped"] = time.monotonic()
        time.sleep(options.seconds)
        os.kill(pid, signal.SIGCONT)
        times["went_on"] = time.monotonic()

    stopper = threading.Timer(BEFORE_S, stop_for_a_while)
    stopper.start()
    try:
        with watcher.watching():
            tally = loop.run()
    finally:
        stopper.cancel()
        if "stopped" in times and "went_on" not in times:
            os.kill(pid, signal.SIGCONT)
    opened_s = next((at_s for at_s, state in watcher.turned if state == "open" and at_s > times["stopped"]), None)
    closed_s = next((at_s for at_s, state in watcher.turned if state == "closed" and opened_s and at_s > opened_s), None)
    while_open: Counter[str] = Counter()
    for before, moment in zip(watcher.moments, watcher.moments[1:], strict=False):
        if all(any(state != "closed" for state in one.breakers) for one in (before, moment)):
            while_open.update(moment.refused)
    last = loop.seconds[max(0, seconds - LAST_S):seconds]
    return {
        "service": options.service, "stopped_s": options.seconds, "rate": options.rate,
        "opened_after_s": opened_s and round(opened_s - times["stopped"], 1),
        "closed_after_s": closed_s and round(closed_s - times["went_on"], 1),
        "told": {told.name: count for told, count in tally.orders.told.items() if count},
        "aborted_by_code": dict(tally.orders.aborted_by_code), "refused_by_code": dict(tally.orders.rejected_by_code),
        "refused_while_open": dict(while_open),
        "committed_share_at_the_end": round(
            sum(second.became[Told.COMMITTED] for second in last) / max(sum(second.offered for second in last), 1), 3),
        "moments": [asdict(moment) for moment in watcher.moments],
    }


def run(data: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Deploy or attach, stop the service amid a load, audit."""
    plan = Plan(data=data, app="actors.orders:app", shards=options.shards, open_max=options.open_max)
    orders = int(options.rate * (BEFORE_S + options.seconds + AFTER_S) * 1.2) + 100
    prepared = Prepared(plan, Workload(make_baskets(BASKETS, plan.seed, None), orders=orders, run=new_run()), None, None)
    with deployed(plan) as client:
        open_books(client, prepared)
        report = experiment(client, OrderFeed(prepared.workload), options)
        wait_for_rest(DataDirectory(data).log_path, PATIENCE_S)
        app = client.deployment.app
    audited = audit(data, app)
    report |= {"audit_ok": audited.ok, "open": audited.to_json()["open"], "parked": audited.to_json()["parked"]}
    report["wrong"] = judge(report)
    return report


def main(arguments: list[str] | None = None, act: Callable[[Path, argparse.Namespace], dict[str, Any]] = run) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--rate", type=float, default=60.0)
    parser.add_argument("--service", default="payment")
    parser.add_argument("--shards", type=int)
    parser.add_argument("--open-max", type=int, help="open transactions a shard admits; its default unless given")
    parser.add_argument("--data", type=Path, help="data directory that stays; a temporary one unless given")
    options = parser.parse_args(arguments)
    if options.data is not None:
        report = act(options.data, options)
    else:
        with tempfile.TemporaryDirectory(prefix="raytx-down-") as data:
            report = act(Path(data), options)
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    return 1 if report["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
