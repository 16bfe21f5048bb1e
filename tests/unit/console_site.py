"""A console over a log that was written directly, with a deployment that the test plays."""

from __future__ import annotations

from typing import Any

from starlette.testclient import TestClient

from actors.orders import app as shop
from orchestrator.console.guard import Access
from orchestrator.console.link import Standing, Tie
from orchestrator.console.records import Records
from orchestrator.console.site import build_site
from orchestrator.console.trends import Reading, Sample, Trends
from orchestrator.deployment import DataDirectory
from orchestrator.log.store import LogStore, create_log
from orchestrator.protocol.identifiers import make_id
from orchestrator.protocol.records import (
    Act,
    AppendRequest,
    Begun,
    Decided,
    Decision,
    Ended,
    EpochRecord,
    Parked,
    Record,
    TakeRequest,
)
from orchestrator.saga import encode_plain

BEGAN_MS = 1_763_836_800_000  # 2025-11-22T18:40:00Z
HOSTILE = "<script>alert('1')</script>\"><img src=x onerror=alert(2)>"
INPUT = {"stock": [{"sku": "A1", "quantity": 10}], "card_token": "tok_canary", "note": HOSTILE}


class PlayedLink:
    """Stands for `DeploymentLink`."""

    def __init__(self) -> None:
        self.standing = Standing(Tie.DOWN, BEGAN_MS, "no deployment runs")
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.answers: dict[str, Any] = {}
        self.trends = Trends()

    def attach(self, *statuses: dict[str, Any], at_ms: int = BEGAN_MS) -> None:
        self.standing = Standing(Tie.ATTACHED, BEGAN_MS, "")
        self.trends.add(Sample(at_ms, list(statuses)))

    def latest(self) -> Sample | None:
        return self.trends.latest()

    def reading(self) -> Reading | None:
        return self.trends.reading()

    def ask(self, act: str, arguments: dict[str, Any], timeout_s: float = 0.0) -> Any:
        self.asked.append((act, arguments))
        answer = self.answers.get(act)
        if isinstance(answer, Exception):
            raise answer
        return answer


def status_of(name: str, role: str = "", state: str = "serving", **more: Any) -> dict[str, Any]:
    return {"role": role or name.removeprefix("service-"), "name": name, "pid": 1, "node": "n", "epoch": 1, "state": state,
            "restarts": 0, "detail": "", **more}


def transaction_id(number: int) -> str:
    return make_id(BEGAN_MS + number * 60_000, 7, 1, number + 1)


def begun(number: int, saga: str = "open_books", business_key: str = "") -> Begun:
    began_ms = BEGAN_MS + number * 60_000
    return Begun(
        transaction_id(number), f"tok_key_{number}", b"f" * 16, saga, 1, encode_plain(INPUT), began_ms, began_ms + 30_000,
        30_000, business_key or f"order-{number}")


def write_log(directory: DataDirectory, records: list[Record], paused: Act | None = None) -> None:
    directory.prepare()
    directory.create_databases(shop, create_log)
    store = LogStore(directory.log_path, "run", 7 * 24 * 3_600_000)
    store.take(TakeRequest(1, 0, "first", [7], 1, "run"), BEGAN_MS)
    store.append([AppendRequest(1, 0, "first", 1, [EpochRecord(1, record) for record in records])], BEGAN_MS)
    if paused is not None:
        store.pause(paused, BEGAN_MS)
    store.close()


def usual_records() -> list[Record]:
    """0 aborted with a hostile message, 1 committed, 2 aborting and parked, 3 undecided and hostile."""
    return [
        *(begun(number) for number in range(3)), begun(3, business_key=HOSTILE),
        Decided(transaction_id(0), Decision.ABORT, BEGAN_MS + 5, "OUT_OF_STOCK", HOSTILE, "inventory", "receive", 1),
        Decided(transaction_id(1), Decision.COMMIT, BEGAN_MS + 60_005),
        Decided(transaction_id(2), Decision.ABORT, BEGAN_MS + 120_005, "E_TIMEOUT", "too slow"),
        Ended(transaction_id(0), BEGAN_MS + 9), Ended(transaction_id(1), BEGAN_MS + 60_009),
        Parked(transaction_id(2), "receive", "E_VIOLATION", f"token=secret1 {HOSTILE}", BEGAN_MS + 120_009)]


class ConsoleSite:
    """Pages, their link, and a browser that has not been there before."""

    def __init__(self, directory: DataDirectory, access: Access, app: str = "actors.orders:app") -> None:
        self.link, self.access, self.directory = PlayedLink(), access, directory
        self.application = build_site(Records(directory, app), self.link, access)

    def browser(self, host: str = "127.0.0.1:8300", *, raises: bool = True) -> TestClient:
        return TestClient(
            self.application, base_url=f"http://{host}", follow_redirects=False, raise_server_exceptions=raises)


def form_token(text: str) -> str:
    """As a page's form carries it."""
    return text.partition('name="form_token" value="')[2].partition('"')[0]
