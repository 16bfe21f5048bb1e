"""Canary secrets: are any of them found where a deployment shows, logs, exports or leaves anything? Databases excepted.

    python tests/chaos/canaries.py [--transactions 100] [--shown 12] [--leak] [--keep]

Runs an app whose inputs, requests, results, refusals and errors are full of secrets (`chaos.canary_app`), at log level DEBUG,
traced, with a shard and a service killed on the way; asks every command that shows anything for everything, the console for
its pages, Ray's dashboard for its actors; then searches what was answered, the data directory and Ray's session directory.
Prints one JSON object; exit 0 if no secret was found, and what is no secret was (so that the search did look at the right
places). With `--leak` a service tells a secret on purpose: exit 1 is right then.
"""

from __future__ import annotations

import argparse
import base64
import html
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

TESTS = Path(__file__).resolve().parents[1]
COMMAND_S_MAX = 1_800.0
STORED = re.compile(r".+\.sqlite(-wal|-shm|\.mark|\.lock|\.ballast)?")  # what holds data by its nature


def forms_of(secret: str) -> set[bytes]:
    """A secret as text, and as it looks in base64 (at any offset) and in hexadecimal."""
    plain = secret.encode()
    encoded = {base64.b64encode(b"\0" * shift + plain)[(4 if shift else 0) + (shift > 0):-4] for shift in range(3)}
    return {plain, plain.hex().encode()} | {form for form in encoded if len(form) > 8}


def files_in(top: Path) -> Iterator[Path]:
    """All files below a directory but databases; links are not followed, and sockets are none."""
    for path in sorted(top.rglob("*")):
        if path.is_file() and not path.is_symlink() and not STORED.fullmatch(path.name):
            yield path


def search(tops: Mapping[str, Path], wanted: Mapping[str, str]) -> dict[str, list[str]]:
    """Where each of these texts stands: `name: [files]`.

    Args:
        tops: directories, each with a name for the report.
        wanted: texts by name.
    """
    forms = {name: forms_of(text) for name, text in wanted.items()}
    found: dict[str, list[str]] = {name: [] for name in wanted}
    for where, top in tops.items():
        for path in files_in(top):
            content = path.read_bytes() + path.name.encode()
            for name, looks in forms.items():
                if any(form in content for form in looks):
                    found[name].append(f"{where}/{path.relative_to(top)}")
    return found


class Raytx:
    """Runs commands on one data directory and keeps all that they say.

    Args:
        work: a directory for the data, and for the answers.
        environment: of every command.

    Attributes:
        data: the data directory.
        answers: what was said, one file each.
    """

    def __init__(self, work: Path, environment: Mapping[str, str]) -> None:
        self.data, self.answers = work / "data", work / "answers"
        self.answers.mkdir()
        self.environment = dict(environment)
        self._number = 0

    def __call__(self, *arguments: str, may: tuple[int, ...] = (0,), on_data: bool = True) -> str:
        command = [sys.executable, "-m", "loadgen.cli", *arguments, *(["--data", str(self.data)] if on_data else [])]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=COMMAND_S_MAX, check=False)
        self.keep(f"{arguments[0]}.txt", done.stdout + done.stderr)
        if done.returncode not in may:
            raise SystemExit(f"{' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def keep(self, name: str, text: str) -> None:
        """Store an answer."""
        self._number += 1
        (self.answers / f"{self._number:03}-{name}").write_text(text)

    def commands(self) -> set[str]:
        """Those that there are."""
        return set(re.findall(r"^[│ ]+([a-z-]+)  ", self("--help", on_data=False), re.MULTILINE))


def run(raytx: Raytx, transactions: int, shown: int) -> list[str]:
    """Load, kill, look at everything; returns what was looked at."""
    raytx("up", "--app", "chaos.canary_app:app", "--log-level", "DEBUG", "--shards", "2",
          "--set", "tracing=chaos.canary_app:tracing")
    load(raytx, "first", transactions)
    kill(raytx, "shard-0", "service-vault")
    load(raytx, "second", transactions)
    submit(raytx)
    act(raytx)
    looked = [*look(raytx, shown), *pages(raytx), *dashboard(raytx)]
    return ["load", "kill", *looked]


def load(raytx: Raytx, name: str, transactions: int) -> None:
    """Place transactions, and have every kind of report written of them."""
    raytx("load", "--workload", "chaos.canary_app:pay", "--orders", str(transactions), "--concurrency", "16", "--json",
          "--save", str(raytx.answers / f"{name}.json"), "--report", str(raytx.answers / f"{name}.html"),
          "--history", str(raytx.answers / f"{name}-history"), may=(0, 1))


def kill(raytx: Raytx, *names: str) -> None:
    """End actors as the kernel would."""
    for actor in json.loads(raytx("status", "--json"))["actors"]:
        if actor["name"] in names:
            os.kill(actor["pid"], signal.SIGKILL)


def submit(raytx: Raytx) -> None:
    """Outcomes and refusals as the command line tells them, input that fits no model included."""
    word = raytx.environment["RAYTX_CANARY"]
    odd: list[dict[str, Any]] = [
        {}, {}, {"pin": [f"{word}typed"]}, {"password": {"x": f"{word}named"}}, {f"tok_{word}token": 1}]
    for number, more in enumerate(odd):
        file = raytx.data.parent / "input.json"
        file.write_text(json.dumps({"number": 900_000 + number, **more}))
        raytx("submit", str(file), may=(0, 1, 2))
        raytx("submit", str(file), "--json", may=(0, 1, 2))


def act(raytx: Raytx) -> None:
    """Acts of an operator who is careless in the reasons that he gives."""
    reason = f"the customer's card is tok_{raytx.environment['RAYTX_CANARY']}token"
    (parked, *_) = json.loads(raytx("list", "--parked", "--limit", "1", "--json"))["transactions"]
    raytx("retry", parked["transaction"], "--yes", "--reason", reason, may=(0, 1))
    raytx("cancel", parked["transaction"], "--yes", "--reason", reason, may=(0, 1, 2))
    raytx("pause", "--saga", "pay", "--reason", reason)
    raytx("resume", "--saga", "pay", "--reason", reason)


def look(raytx: Raytx, shown: int) -> list[str]:
    """Every command that shows transactions or figures."""
    there = raytx.commands()
    for how in ([], ["--json"]):
        raytx("audit", *how, may=(0, 1))
        raytx("status", *how)
        for which in ([], ["--parked"], ["--state", "aborted"], ["--state", "open"]):
            raytx("list", *which, "--limit", "1000", *how)
        for transaction in chosen(raytx, shown):
            raytx("show", transaction, *how)
    optional = {
        "metrics": [[], ["--prometheus"], ["--json"]], "top": [["--once"]], "acts": [[], ["--json"]],
        "doctor": [["--no-ray"], ["--no-ray", "--json"]]}
    asked = [name for name in optional if name in there]
    for name in asked:
        for arguments in optional[name]:
            raytx(name, *arguments, may=(0, 1))
    return ["audit", "status", "list", "show", "submit", *asked]


def chosen(raytx: Raytx, shown: int) -> list[str]:
    """Some transactions of every kind."""
    found: list[str] = []
    for which in (["--parked"], ["--state", "aborted"], ["--state", "committed"]):
        listed = json.loads(raytx("list", *which, "--limit", str(shown), "--json"))["transactions"]
        assert listed, f"no transaction is {which}"
        found += [one["transaction"] for one in listed]
    return found


def pages(raytx: Raytx) -> list[str]:
    """The console's pages, as far as links lead from the first one; nothing where there is no console."""
    if "console" not in raytx.commands():
        return []
    command = [sys.executable, "-m", "loadgen.cli", "console", "--data", str(raytx.data), "--port", "0"]
    with subprocess.Popen(
            command, env=raytx.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as console:
        try:
            assert console.stdout is not None
            address = next(found[0] for line in console.stdout if (found := re.search(r"http://[^\s\"]+", line)))
            crawl(raytx, address)
        finally:
            console.terminate()
    return ["console"]


def crawl(raytx: Raytx, first: str, pages_max: int = 60) -> None:
    """Follow links within one site."""
    site = re.match(r"http://[^/]+", first)
    assert site is not None
    waiting, seen = [first], {first}
    while waiting and len(seen) < pages_max * 3:
        address = waiting.pop(0)
        text = fetch(address)
        raytx.keep("page.html", text)
        links = map(html.unescape, re.findall(r'(?:href|src|hx-get)="([^"#]+)', text))
        for link in sorted({site[0] + link if link.startswith("/") else link for link in links}):
            if link.startswith(site[0]) and link not in seen:
                seen.add(link)
                waiting.append(link)


def dashboard(raytx: Raytx) -> list[str]:
    """What Ray's dashboard tells of actors."""
    record = json.loads((raytx.data / "deployment.json").read_text())
    token = Path(record["token_path"]).read_text().strip() if record["token_path"] else ""
    looked = []
    for path in ("/logical/actors", "/api/v0/actors?detail=1"):
        try:
            raytx.keep("dashboard.txt", fetch(record["dashboard"] + path, {"Authorization": f"Bearer {token}"}))
            looked.append(f"dashboard{path}")
        except (OSError, ValueError) as error:
            raytx.keep("dashboard.txt", f"{path}: {error}")
    return looked


def fetch(address: str, headers: Mapping[str, str] | None = None) -> str:
    """A page; of an error, its page."""
    request = urllib.request.Request(address, headers=dict(headers or {}))
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return str(answer.read().decode(errors="replace"))
    except HTTPError as error:
        return str(error.read().decode(errors="replace"))


def judge(tops: Mapping[str, Path], word: str, looked: list[str]) -> dict[str, Any]:
    """The report: what was found where."""
    os.environ["RAYTX_CANARY"] = word
    from chaos.canary_app import PLAIN, SECRETS  # noqa: PLC0415 - it reads the environment

    found = search(tops, SECRETS)
    control = search(tops, {"plain": PLAIN})["plain"]
    return {
        "ok": not any(found.values()) and bool(control), "hits": sum(map(len, found.values())),
        "found": {name: where[:20] for name, where in found.items() if where}, "control": len(control), "looked_at": looked,
        "files": {name: sum(1 for _ in files_in(top)) for name, top in tops.items()}}


def main() -> int:
    """Run, search, print; the exit code."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--transactions", type=int, default=100)
    parser.add_argument("--shown", type=int, default=12, help="transactions of every kind that are shown")
    parser.add_argument("--leak", action="store_true", help="a service tells a secret: it must be found")
    parser.add_argument("--keep", action="store_true", help="leave the directory for looking into")
    options = parser.parse_args()
    work, word = Path(tempfile.mkdtemp(prefix="raytx-canaries-")), f"CANARY{secrets.token_hex(6)}"
    python_path = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    raytx = Raytx(work, os.environ | {
        "RAYTX_CANARY": word, "RAYTX_CANARY_LEAK": "1" if options.leak else "", "PYTHONPATH": python_path})
    sys.path.append(str(TESTS))
    try:
        looked = run(raytx, options.transactions, options.shown)
        session = Path(json.loads((raytx.data / "deployment.json").read_text())["temp_dir"])
        shutil.copytree(session, work / "ray", symlinks=True, ignore=_sockets, ignore_dangling_symlinks=True)
        raytx("down", "--drain", "--timeout", "5", may=(0, 1))
        report = judge({"data": raytx.data, "answers": raytx.answers, "ray": work / "ray"}, word, looked)
    finally:
        raytx("down", may=(0, 1, 2, 3))
        if not options.keep:
            shutil.rmtree(work, ignore_errors=True)
    sys.stdout.write(json.dumps(report | ({"kept": str(work)} if options.keep else {}), indent=1) + "\n")
    return 0 if report["ok"] else 1


def _sockets(directory: str, names: list[str]) -> set[str]:
    return {name for name in names if Path(directory, name).is_socket()}


if __name__ == "__main__":
    sys.exit(main())
