"""Who may import whom, what is pure, how big things may be; every rule also catches a sample that breaks it."""

from __future__ import annotations

import ast
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("orchestrator", "actors", "loadgen", "benchmarks")
FILE_LINES_MAX = 450
FUNCTION_LINES_MAX = 60
FUNCTION_LINES_USUAL = 35
USUAL_SHARE = 0.9

FORBIDDEN_NAMES = frozenset({"util", "utils", "helper", "helpers", "common", "manager", "misc", "base2"})
IMPURE_CALLS = frozenset({"open", "print", "input", "exec", "eval", "__import__", "breakpoint"})
CLOCK_METHODS = frozenset({"now", "utcnow", "today"})
PURE_LIBRARIES = frozenset({
    "__future__", "bisect", "collections", "dataclasses", "enum", "functools", "hashlib", "heapq", "itertools", "math",
    "msgspec", "operator", "pydantic", "re", "struct", "typing", "zlib"})
PURE_OWN = frozenset({"orchestrator.errors", "orchestrator.saga", "orchestrator.protocol", "actors.ledger"})
ACTORS_MAY_IMPORT = frozenset(f"orchestrator.{name}" for name in (
    "app", "ballast", "config", "conversation", "creation", "database", "errors", "exchange", "files", "garbage", "local",
    "logs", "metrics", "migration", "plane", "protocol", "saga", "tracing", "transport", "watchdog", "writer"))
RAY_EDGE = PurePosixPath("orchestrator/cluster.py")
RIVALS = "benchmarks"  # they compare raytx with actors without it

Source = tuple[PurePosixPath, ast.Module, str]


def sources() -> list[Source]:
    """Every module of the packages: path below the repository, tree, text."""
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            text = path.read_text()
            found.append((PurePosixPath(path.relative_to(ROOT).as_posix()), ast.parse(text), text))
    assert len(found) > len(PACKAGES)
    return found


def sample(path: str, text: str) -> Source:
    return PurePosixPath(path), ast.parse(text), text


def imported(tree: ast.Module) -> Iterator[str]:
    """Full names of modules (and of what is taken from them), wherever the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a module lies"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_part_of(name: str, modules: frozenset[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def is_pure(path: PurePosixPath) -> bool:
    return path.is_relative_to("orchestrator/protocol") or path == PurePosixPath("actors/ledger.py")


def wrong_imports(source: Source) -> list[str]:
    """Imports against the direction protocol <- orchestrator <- actors <- loadgen <- benchmarks."""
    path, tree, _ = source
    owner = path.parts[0]
    wrong = set(PACKAGES[PACKAGES.index(owner) + 1:])
    found = [f"{path} imports {name}" for name in imported(tree) if is_part_of(name, frozenset(wrong))]
    if owner == "actors":
        own = [name for name in imported(tree) if is_part_of(name, frozenset({"orchestrator"}))]
        found += [f"{path} imports {name}" for name in own if not is_part_of(name, ACTORS_MAY_IMPORT)]
    return found


def impurities(source: Source) -> list[str]:
    """Clock, randomness, files, network or processes in what must be a function of its arguments."""
    path, tree, _ = source
    found = [f"{path} imports {name}" for name in imported(tree) if not is_part_of(name, PURE_LIBRARIES | PURE_OWN)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Name) and called.id in IMPURE_CALLS:
                found.append(f"{path}:{node.lineno} calls {called.id}()")
            if isinstance(called, ast.Attribute) and called.attr in CLOCK_METHODS and not node.args:
                found.append(f"{path}:{node.lineno} reads the clock")
        elif isinstance(node, (ast.AsyncFunctionDef, ast.Await, ast.Global)):
            found.append(f"{path}:{node.lineno} is no plain function of its arguments")
    return found


def ray_edges(source: Source) -> list[str]:
    """Where a class becomes an actor, or its options are set."""
    path, tree, _ = source
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "remote" and ast.unparse(node.value) == "ray":
            found.append(f"{path}:{node.lineno} ray.remote")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "options":
            found.append(f"{path}:{node.lineno} .options()")
        if isinstance(node, ast.ImportFrom) and node.module == "ray" and any(alias.name == "remote" for alias in node.names):
            found.append(f"{path}:{node.lineno} imports ray.remote")
    return found


def function_sizes(source: Source) -> list[tuple[str, int]]:
    """Lines of every function, its decorators and docstring included."""
    path, tree, _ = source
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    return [(f"{path}:{node.lineno} {node.name}", (node.end_lineno or node.lineno) - node.lineno + 1) for node in functions]


def too_long_files(source: Source) -> list[str]:
    path, _, text = source
    lines = text.count("\n")
    return [f"{path} has {lines} lines"] if lines > FILE_LINES_MAX else []


def nameless_modules(source: Source) -> list[str]:
    """A module named after no concept."""
    path, _, _ = source
    return [str(path)] if {part.removesuffix(".py") for part in path.parts} & FORBIDDEN_NAMES else []


def test_imports_point_one_way() -> None:
    assert [text for source in sources() for text in wrong_imports(source)] == []


def test_the_core_is_pure() -> None:
    assert [text for source in sources() if is_pure(source[0]) for text in impurities(source)] == []


def test_only_the_cluster_makes_actors() -> None:
    product = [source for source in sources() if source[0] != RAY_EDGE and source[0].parts[0] != RIVALS]
    assert [text for source in product for text in ray_edges(source)] == []


def test_files_are_short() -> None:
    assert [text for source in sources() for text in too_long_files(source)] == []


def test_functions_are_short() -> None:
    sizes = [size for source in sources() for size in function_sizes(source)]
    assert [size for size in sizes if size[1] > FUNCTION_LINES_MAX] == []
    usual = sum(1 for _, lines in sizes if lines < FUNCTION_LINES_USUAL)
    assert usual >= USUAL_SHARE * len(sizes), f"only {usual} of {len(sizes)} functions are under {FUNCTION_LINES_USUAL} lines"


def test_every_module_is_named_after_a_concept() -> None:
    assert [text for source in sources() for text in nameless_modules(source)] == []


@pytest.mark.parametrize(("path", "text"), [
    ("orchestrator/shard.py", "import actors.ledger"),
    ("orchestrator/shard.py", "from loadgen import cli"),
    ("loadgen/load.py", "from benchmarks.plan import Plan"),
    ("orchestrator/shard.py", "def late():\n    from actors.store import Store"),
    ("actors/host.py", "from loadgen.cli import main"),
    ("actors/host.py", "from orchestrator.cluster import start_deployment"),
    ("actors/host.py", "from orchestrator import client"),
])
def test_a_wrong_import_is_caught(path: str, text: str) -> None:
    assert wrong_imports(sample(path, text))


@pytest.mark.parametrize("text", [
    "from orchestrator.protocol import messages", "import orchestrator.errors", "import actorsmith"])
def test_a_right_import_is_not(text: str) -> None:
    assert wrong_imports(sample("actors/host.py", text)) == []


@pytest.mark.parametrize("text", [
    "import time", "from random import random", "import os.path", "def f():\n    import asyncio", "import ray",
    "from loguru import logger", "from orchestrator.database import open_reader", "from datetime import datetime",
    "def f(): return open('x')", "x = datetime.now()", "def f(day): return day.today()",
    "async def f(): pass", "def f():\n    global x\n    x = 1", "print(1)",
])
def test_an_impurity_is_caught(text: str) -> None:
    assert impurities(sample("orchestrator/protocol/retry.py", text))


@pytest.mark.parametrize("text", [
    "import msgspec\nfrom enum import Enum", "from orchestrator.protocol.messages import Wire", "x = now(1)"])
def test_purity_is_not_an_impurity(text: str) -> None:
    assert impurities(sample("orchestrator/protocol/retry.py", text)) == []


@pytest.mark.parametrize("text", [
    "import ray\n@ray.remote\nclass A: ...", "A = ray.remote(B)", "handle = A.options(name='x')", "from ray import remote"])
def test_an_actor_made_elsewhere_is_caught(text: str) -> None:
    assert ray_edges(sample("actors/host.py", text))


def test_a_call_of_an_actor_is_none_of_these() -> None:
    assert ray_edges(sample("orchestrator/transport.py", "x = handle.exchange.remote(b'')")) == []


def test_sizes_are_counted() -> None:
    body = "    x = 1\n" * FUNCTION_LINES_MAX
    sizes = function_sizes(sample("loadgen/driver.py", f"def f():\n{body}"))
    assert sizes == [("loadgen/driver.py:1 f", FUNCTION_LINES_MAX + 1)]
    assert too_long_files(sample("loadgen/driver.py", "x = 1\n" * (FILE_LINES_MAX + 1)))
    assert too_long_files(sample("loadgen/driver.py", "x = 1\n" * FILE_LINES_MAX)) == []


@pytest.mark.parametrize("path", [
    "actors/utils.py", "orchestrator/common/errors.py", "loadgen/helpers.py", "orchestrator/manager.py"])
def test_a_nameless_module_is_caught(path: str) -> None:
    assert nameless_modules(sample(path, ""))


def test_which_modules_must_be_pure() -> None:
    assert is_pure(PurePosixPath("orchestrator/protocol/coordinator.py"))
    assert is_pure(PurePosixPath("actors/ledger.py"))
    assert not is_pure(PurePosixPath("orchestrator/saga.py"))
