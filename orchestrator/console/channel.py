"""Messages between the console and its attachment: JSON, one a line, over a socket pair."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

LINE_BYTES_MAX = 16 * 1024 * 1024


class Channel:
    """One end; `send` is thread-safe, one thread at a time may iterate over what arrives.

    Args:
        end: a connected stream socket, owned from now on.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._sending = threading.Lock()

    def send(self, message: dict[str, Any]) -> None:
        """Send one message.

        Raises:
            OSError: the other end is gone.
        """
        line = msgspec.json.encode(message, enc_hook=str) + b"\n"
        with self._sending:
            self._socket.sendall(line)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Messages until the other end is gone."""
        with self._socket.makefile("rb") as lines:
            while True:
                try:
                    line = lines.readline(LINE_BYTES_MAX)
                except OSError:
                    return
                if not line.endswith(b"\n"):
                    return
                yield msgspec.json.decode(line, type=dict[str, Any])

    def close(self) -> None:
        """Hang up; the other end notices."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
