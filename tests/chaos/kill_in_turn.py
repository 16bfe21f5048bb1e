"""kill -9 of every role in turn while a load runs; the next kill comes as soon as the deployment serves again.

    python tests/chaos/kill_in_turn.py --data DIR [--trace FILE] [--orders N] [--kills 3]

Prints one JSON object; exit 0 if the load's own checks (audit, told = logged) are ok, nothing is open and every role was
killed as often as asked.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from orchestrator.cluster import Deployment, attach
from orchestrator.deployment import DataDirectory
from orchestrator.log.reader import LogReader, TransactionQuery

SERVING_S_MAX = 60.0
POLL_S = 0.02


def serving(deployment: Deployment) -> dict[str, list[int]]:
    """Pids by role once every actor serves; asks again and again, for Ray has no event for it."""
    end_s = time.monotonic() + SERVING_S_MAX
    while True:
        found = deployment.statuses(1.0)
        if all(status["state"] == "serving" for status in found):
            pids: dict[str, list[int]] = {}
            for status in found:
                pids.setdefault(status["role"], []).append(status["pid"])
            return pids
        if time.monotonic() > end_s:
            raise TimeoutError(f"not serving after {SERVING_S_MAX} s: {found}")
        time.sleep(POLL_S)


def until_orders_run(deployment: Deployment, load: subprocess.Popen[str]) -> None:
    """Wait until the load has opened its books and the first order is in the log."""
    orders = TransactionQuery(saga=deployment.app.sagas[0].name, limit=1)
    while load.poll() is None:
        with closing(LogReader(DataDirectory(deployment.data_dir).log_path)) as log:
            if log.find(orders):
                return
        time.sleep(POLL_S)


def raytx(*arguments: str, **more: Any) -> subprocess.Popen[str]:
    """The command line, as a user has it."""
    return subprocess.Popen([sys.executable, "-m", "loadgen.cli", *arguments], text=True, **more)


def kill_in_turn(deployment: Deployment, load: subprocess.Popen[str], kills: int) -> list[dict[str, Any]]:
    """Kill every role `kills` times while the load runs; returns what was killed and how long until all served again."""
    done: list[dict[str, Any]] = []
    roles = list(serving(deployment))
    until_orders_run(deployment, load)
    for number in range(kills * len(roles)):
        pids = serving(deployment)
        if load.poll() is not None:
            break
        role = roles[number % len(roles)]
        pid = pids[role][(number // len(roles)) % len(pids[role])]
        os.kill(pid, signal.SIGKILL)
        killed_s = time.monotonic()
        while pid in serving(deployment)[role]:
            pass
        done.append({"role": role, "pid": pid, "serving_again_ms": round((time.monotonic() - killed_s) * 1000)})
        sys.stderr.write(f"killed {role} (pid {pid}), serving again after {done[-1]['serving_again_ms']} ms\n")
    return done


def run(data: Path, load_arguments: list[str], kills: int) -> dict[str, Any]:
    """Bring a deployment up, load it, kill, wait for the load's verdict, bring it down."""
    up = raytx("up", "--data", str(data), "--no-dashboard", stdout=sys.stderr)
    if up.wait(180) != 0:
        raise RuntimeError("raytx up failed")
    try:
        load = raytx("load", "--data", str(data), "--json", *load_arguments, stdout=subprocess.PIPE)
        deployment = attach(data)
        try:
            done = kill_in_turn(deployment, load, kills)
            report = json.loads(load.communicate()[0])
        finally:
            deployment.detach()
    finally:
        raytx("down", "--data", str(data), stdout=sys.stderr).wait(60)
    by_role: dict[str, int] = {}
    for kill in done:
        by_role[kill["role"]] = by_role.get(kill["role"], 0) + 1
    times = sorted(kill["serving_again_ms"] for kill in done) or [0]
    ok = (report["ok"] and load.returncode == 0 and report["audit"]["open"] == 0 and report["unknown"] == 0
          and bool(by_role) and min(by_role.values()) >= kills)
    return {"ok": ok, "kills": by_role, "serving_again_ms_median": times[len(times) // 2], "kill_list": done, "load": report}


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--trace", type=Path)
    parser.add_argument("--orders", type=int, default=20_000)
    parser.add_argument("--concurrency", type=int, default=256)
    parser.add_argument("--kills", type=int, default=3, help="of each role")
    options = parser.parse_args()
    arguments = ["--orders", str(options.orders), "--concurrency", str(options.concurrency)]
    if options.trace:
        arguments += ["--trace", str(options.trace)]
    result = run(options.data, arguments, options.kills)
    sys.stdout.write(json.dumps(result) + "\n")
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
