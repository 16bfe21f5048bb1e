"""Pictures of the console, at the width of a desk and of a phone, and of `raytx top` while a service is down.

    PYTHONPATH=.:tests python -m integration.console_pictures --out docs/images


A shop under load whose payment service stands still for a while, then letters of which one cannot be delivered.
"""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from integration.console_browser import DESK, PHONE, opened_page, running_console
from orchestrator import Settings, connect
from orchestrator.deployment import DataDirectory
from orchestrator.log.finding import TransactionQuery
from orchestrator.log.reader import LogReader

WIDTHS = {"": DESK, "-phone": PHONE}
LETTERS = 6
TERMINAL_SIZE = (40, 124)  # rows, columns
QUICK = Settings(in_doubt_after_ms=2_000)


def main(
    out: Annotated[Path, typer.Option(help="Directory for the PNGs.")],
    rate: Annotated[int, typer.Option(min=1, help="Orders a second.")] = 50,
    seconds: Annotated[int, typer.Option(min=20, help="Of load; the payment service stands still for the last third.")] = 60,
) -> None:
    """Take all of them."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="raytx-pictures-") as temporary:
        letters(Path(temporary) / "letters", out)
        shop(Path(temporary) / "shop", out, rate, seconds)


def letters(data: Path, out: Path) -> None:
    """What is parked, and an act on it."""
    with connect(data, app="integration.console_app:app", settings=QUICK) as client:
        sent = [client.submit("send_letter", {"letter": f"letter-{n}", "to": "nobody" if n % 3 == 0 else "ann"}).outcome(60)
                for n in range(LETTERS)]
        while _parked(data) < LETTERS:
            time.sleep(0.1)
        with running_console(data) as url, opened_page(url) as page:
            page.goto("/")
            page.locator(".tie-attached").wait_for()
            _take(page, out, "letters-overview", "/")
            _take(page, out, "parked", "/parked")
            page.goto(f"/acts/new?act=resolve&id={sent[0].transaction}&step=post")
            page.get_by_label("Reason").fill("posted by hand, receipt 4711")
            _shot(page, out, "confirm")
            page.locator("form.act button").click()
            page.wait_for_url("**/acts/results/*")
            _shot(page, out, "result")
            _take(page, out, "transaction", f"/transactions/{sent[3].transaction}", opened="#step-1")
            _take(page, out, "pause", "/acts/new?act=pause&service=office")
            _take(page, out, "acts", "/acts")
            _take(page, out, "login", "/login")
        with running_console(data) as url, opened_page(url) as page:
            page.emulate_media(color_scheme="dark")
            page.goto("/")
            page.locator(".tie-attached").wait_for()
            _take(page, out, "dark", f"/transactions/{sent[3].transaction}")


def shop(data: Path, out: Path, rate: int, seconds: int) -> None:
    """A service that does not answer under load."""
    with (connect(data, app="actors.orders:app", settings=QUICK) as client, running_console(data) as url,
          _load(data, rate, seconds), opened_page(url) as page):
        page.goto("/")
        page.locator(".tie-attached").wait_for()
        time.sleep(seconds * 2 / 3)
        _take(page, out, "well", "/")
        (pid,) = [status["pid"] for status in client.deployment.statuses() if status["role"] == "payment"]
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(14)  # until its breaker is open
            for name, path in (("overview", "/"), ("services", "/services"), ("shards", "/shards"),
                               ("transactions", "/transactions?since=1h"), ("aborted", "/transactions?state=aborted")):
                _take(page, out, name, path)
            _terminal(page, out, "top", ["top", "--data", str(data), "--every", "4", "--once"])
        finally:
            os.kill(pid, signal.SIGCONT)


@contextmanager
def _load(data: Path, rate: int, seconds: int) -> Iterator[None]:
    command = [
        sys.executable, "-m", "loadgen.cli", "load", "--data", str(data), "--rate", str(rate), "--duration", str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.wait()


def _parked(data: Path) -> int:
    with closing(LogReader(DataDirectory(data).log_path)) as log:
        return len(log.find(TransactionQuery(parked=True)))


def _take(page: Any, out: Path, name: str, path: str, opened: str = "") -> None:
    for suffix, size in WIDTHS.items():
        page.set_viewport_size(size)
        page.goto(path)
        if opened:
            page.locator(f"{opened} summary").click()
        page.screenshot(path=out / f"console-{name}{suffix}.png", full_page=True)
    page.set_viewport_size(DESK)


def _terminal(page: Any, out: Path, name: str, arguments: list[str]) -> None:
    """What a command writes to a terminal, as a picture."""
    ours, its = os.openpty()
    termios.tcsetwinsize(its, TERMINAL_SIZE)
    with subprocess.Popen([sys.executable, "-m", "loadgen.cli", *arguments], stdin=its, stdout=its, stderr=its) as process:
        os.close(its)
        written = b"".join(iter(partial(_read, ours), b""))
    os.close(ours)
    assert process.returncode == 0, written
    terminal = Console(record=True, width=TERMINAL_SIZE[1], file=io.StringIO())
    terminal.print(Text.from_ansi(written.decode().replace("\r\n", "\n")))
    paper = page.context.browser.new_page()
    paper.set_viewport_size(DESK)
    drawn = terminal.export_svg(title=f"raytx {arguments[0]}")
    paper.set_content(re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL))  # which would be fetched from elsewhere
    paper.locator("svg").screenshot(path=out / f"{name}-payment-down.png")
    paper.close()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # how Linux tells that nobody holds the other side
        return b""


def _shot(page: Any, out: Path, name: str) -> None:
    for suffix, size in WIDTHS.items():
        page.set_viewport_size(size)
        page.screenshot(path=out / f"console-{name}{suffix}.png", full_page=True)
    page.set_viewport_size(DESK)


if __name__ == "__main__":
    typer.run(main)
