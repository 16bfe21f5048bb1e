"""The console's process that is attached to Ray: it samples every actor's status and carries out acts.

A process of its own, because one that is attached ends with the Ray head it is attached to; the pages must not. It ends when
the console does: the socket between them is closed by the kernel.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from orchestrator.client import Client
from orchestrator.cluster import attach
from orchestrator.console.channel import Channel
from orchestrator.console.requests import carry_out
from orchestrator.errors import DefiniteError, RaytxError

if TYPE_CHECKING:
    from orchestrator.cluster import Deployment

SAMPLE_S = 1.0
STATUS_S_MAX = 3.0  # for the slowest actor's answer
_ACTS_AT_ONCE = 4


def main(data: str, descriptor: int) -> None:
    """Attach to what runs on a data directory and serve the console until it hangs up.

    Args:
        data: the data directory.
        descriptor: of the socket to the console.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the console, which then hangs up
    channel = Channel(socket.socket(fileno=descriptor))
    try:
        client = Client(attach(data))
    except RaytxError as error:
        channel.send({"kind": "failed", **_told(error)})
        sys.exit(1)
    channel.send({"kind": "attached", "run": client.deployment.run})
    threading.Thread(target=_sample, args=(client.deployment, channel), daemon=True).start()
    _serve(client, channel)
    os._exit(0)  # Ray's shutdown waits for whatever is under way, and nothing here is worth it


def _serve(client: Client, channel: Channel) -> None:
    with ThreadPoolExecutor(_ACTS_AT_ONCE) as pool:
        for message in channel:
            pool.submit(_answer, client, channel, message)
        pool.shutdown(wait=False, cancel_futures=True)
        os._exit(0)


def _answer(client: Client, channel: Channel, message: dict[str, Any]) -> None:
    number = message["number"]
    try:
        value = carry_out(client, message["act"], message["arguments"])
    except RaytxError as error:
        channel.send({"kind": "answer", "number": number, "error": _told(error)})
    except Exception as error:  # a bug, which whoever asked has to be told, or would wait for ever
        channel.send({"kind": "answer", "number": number,
                      "error": {"code": "", "message": f"{type(error).__name__}: {error}", "definite": False}})
        raise
    else:
        channel.send({"kind": "answer", "number": number, "value": value})


def _sample(deployment: Deployment, channel: Channel) -> None:
    pace = threading.Event()  # never set: what ends this thread is the end of the process
    while True:
        began_s = time.monotonic()
        statuses = deployment.statuses(STATUS_S_MAX)
        channel.send({"kind": "sample", "at_ms": time.time_ns() // 1_000_000, "statuses": statuses})
        pace.wait(max(SAMPLE_S - (time.monotonic() - began_s), 0.0))


def _told(error: RaytxError) -> dict[str, Any]:
    return {"code": str(error.code), "message": error.message, "definite": isinstance(error, DefiniteError)}


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
