"""The real console and a real browser, for tests and for the pictures in the documentation."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from contextlib import contextmanager

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WAIT_MS = 60_000
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}


@contextmanager
def running_console(data):
    """Its address."""
    command = [sys.executable, "-m", "loadgen.cli", "console", "--port", "0", "--data", str(data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield re.search(r"http://\S+", process.stdout.readline())[0]
        finally:
            process.terminate()
            assert process.wait(20) == 0


@contextmanager
def opened_page(url, **options):
    """A page that must neither complain nor ask anybody else."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - not everybody has it

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(base_url=url, viewport=DESK, **options)
        page.set_default_timeout(WAIT_MS)
        complaints = []
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith(url) else complaints.append(request.url))
        try:
            yield page
            assert not complaints, complaints
        finally:
            browser.close()
