"""Whatever a deployment writes is for its user alone, whatever the umask says; and nothing on disk is a pickle."""

from __future__ import annotations

import ast
import os
import pickle
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from loguru import logger

from actors.orders import app
from actors.store import Store
from orchestrator.bringup import _keeper_log
from orchestrator.config import LogLevel
from orchestrator.deployment import DataDirectory
from orchestrator.head import write_private
from orchestrator.log.reader import LogReader
from orchestrator.log.store import LogStore, create_log
from orchestrator.logs import configure_logging, log_event

ROOT = Path(__file__).resolve().parents[2]
PICKLING = frozenset({"pickle", "cloudpickle", "dill", "shelve", "joblib", "_pickle"})
PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """The files of a deployment, made by a process whose umask hides nothing, in a directory that was open to all."""
    before = os.umask(0)
    (tmp_path / "data").mkdir(mode=0o777)
    directory = DataDirectory(tmp_path / "data")
    try:
        directory.prepare()
        lock = directory.lock()
        directory.create_databases(app, create_log)
        write_private(directory.token_path, "token")
        configure_logging("log", directory.path, LogLevel.INFO, stderr=False)
        log_event("serving")
        _keeper_log(directory)
        with closing(LogStore(directory.log_path, "run", 1)), closing(LogReader(directory.log_path)):
            stores = [Store(directory.service_path(service.name), service.name, "run") for service in app.services]
            yield directory.path
        for store in stores:
            store.close()
        lock.release()
    finally:
        os.umask(before)
        logger.remove()


def open_to_others(top: Path) -> list[str]:
    """What anybody but its owner may read, write or enter."""
    paths = [top, *top.rglob("*")]
    assert len(paths) > 1
    return [f"{path.relative_to(top)} {path.stat().st_mode & 0o777:o}" for path in paths if path.stat().st_mode & 0o077]


def test_files_are_0600_in_directories_0700(data: Path) -> None:
    names = {path.name for path in data.rglob("*")}
    assert {"log.sqlite", "log.sqlite-wal", "log.sqlite-shm", "log.sqlite.mark", "log.sqlite.lock", "lock", "ray.token",
            "created.json", f"log-{os.getpid()}.jsonl"} <= names
    assert open_to_others(data) == []
    assert {path.stat().st_mode & 0o777 for path in data.rglob("*") if path.is_file()} == {0o600}


def test_a_file_that_is_open_to_others_is_found(data: Path) -> None:
    (data / "services" / "payment.sqlite").chmod(0o644)
    assert open_to_others(data) == ["services/payment.sqlite 644"]


def pickling(tree: ast.Module) -> list[str]:
    """Modules of a program that read or write pickles."""
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [f"{node.module}.{alias.name}" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
              for alias in node.names]
    return [name for name in names if PICKLING.intersection(name.split("."))]


@pytest.mark.parametrize("package", ["orchestrator", "actors", "loadgen"])
def test_no_code_pickles(package: str) -> None:
    found = {path.name: pickling(ast.parse(path.read_text())) for path in (ROOT / package).rglob("*.py")}
    assert len(found) > 10
    assert {name: used for name, used in found.items() if used} == {}


def test_code_that_pickles_is_found() -> None:
    assert pickling(ast.parse("import pickle\nfrom ray import cloudpickle\nfrom dill import dump")) == [
        "pickle", "ray.cloudpickle", "dill.dump"]


def pickles(top: Path) -> list[str]:
    """Files that begin as a pickle does."""
    return [path.name for path in top.rglob("*") if path.is_file() and path.read_bytes()[:2] in PICKLE_STARTS]


def test_nothing_on_disk_is_a_pickle(data: Path) -> None:
    assert pickles(data) == []
    (data / "planted").write_bytes(pickle.dumps({"a": 1}))
    assert pickles(data) == ["planted"]
