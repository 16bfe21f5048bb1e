"""Mutation testing of the coordinator, the ledger and the runner of batches.

    nice python -m tests.mutation [--minutes 10] [--seed 0] [--only TEXT]

Mutants are drawn evenly, by the seed, from all there are, until the time is used up. Prints every survivor that
`survivors.toml` does not explain, and the counts; exit 1 if there is one, 2 if the tests fail without any mutant.
Needs the extra `proof`.
"""

# ruff: noqa: T201, E402 - a command prints; the path is set before what lies on it is imported

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import tomllib
from pathlib import Path

import pytest
from hypothesis import Phase, settings

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]  # so that this runs from anywhere

from mutation.killing import Fate, Fates, Killing
from mutation.mutant import Mutant
from mutation.mutants import mutants_of

TARGETS = ("orchestrator/protocol/*.py", "actors/ledger.py", "actors/runner.py")
KILLERS = (
    "unit/test_coordinator.py", "unit/test_ledger.py", "unit/test_pacing.py", "unit/test_retry_budget.py",
    "unit/test_standing.py", "unit/test_service_base.py", "unit/*_paths.py", "simulation/test_protocol_schedules.py",
    "simulation/test_scenarios.py", "mutation/schedules.py")
SLOW = "every_order or hundred_thousand or stormed or no_more_than_a_bound or do_not_need_a_stopped"
Name = tuple[str, str, str]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="functions whose module:name contains this")
    arguments = parser.parse_args()
    settings.register_profile("mutation", derandomize=True, database=None, deadline=None, phases=[Phase.generate])
    settings.load_profile("mutation")
    makers = mutants_of(path for pattern in TARGETS for path in sorted(TESTS.parent.glob(pattern)))
    if arguments.only:
        makers = [make for make in makers if arguments.only in make().where]
    random.Random(arguments.seed).shuffle(makers)
    explained = known()
    killing = Killing(makers, 60 * arguments.minutes, lambda mutant, fate: _print(mutant, fate, explained))
    with tempfile.TemporaryDirectory() as scratch:
        pytest.main([
            "-q", "-s", "--assert=plain", "--tb=no", "-k", f"not ({SLOW})",
            "--no-header", "--no-summary", "--import-mode=importlib", "-p", "no:cacheprovider",
            "-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning",
            f"--rootdir={TESTS.parent}", f"--basetemp={scratch}/pytest", "-o", "tmp_path_retention_policy=none",
            *(str(path) for pattern in KILLERS for path in sorted(TESTS.glob(pattern)))], plugins=[killing])
    return told(killing.fates, explained)


def known() -> dict[Name, str]:
    """Survivors that change nothing that a test should notice, with their class."""
    entries = tomllib.loads((Path(__file__).parent / "survivors.toml").read_text())["survivor"]
    return {(entry["where"], entry["was"], entry["becomes"]): entry["class"] for entry in entries}


def told(fates: Fates, explained: dict[Name, str]) -> int:
    """Print the counts; the exit code."""
    if fates.baseline_failed:
        print("these fail without any mutant:", *fates.baseline_failed, sep="\n  ")
        return 2
    tried = len(fates.tried) - fates.count(Fate.INVALID)
    killed, hung = fates.count(Fate.KILLED), fates.count(Fate.HUNG)
    print(f"{tried} of {fates.all_count} mutants tried in {fates.seconds:.0f} s: {killed} killed, {hung} did not end, "
          f"{len(fates.survivors)} survived")
    classes = [explained[name] for name in fates.survivors if name in explained]
    for name in sorted(set(classes)):
        print(f"  {classes.count(name)} {name}")
    unexplained = len(fates.survivors) - len(classes)
    print(f"  {unexplained} not explained")
    return 1 if unexplained or not tried else 0


def _print(mutant: Mutant, fate: Fate, explained: dict[Name, str]) -> None:
    if fate in (Fate.SURVIVED, Fate.NOT_RUN) and mutant.name not in explained:
        print(f"{fate.value}\n  {mutant.where}\n  - {mutant.was}\n  + {mutant.becomes}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
