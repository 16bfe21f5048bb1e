"""Network namespaces behind a router of their own, so that packets can be dropped in one direction or in both.

Only addresses and links made here are touched: the machine's own network is neither reached nor changed.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum

from orchestrator.errors import DefiniteError, ErrorCode

_SUBNET = "10.231"


class Cut(StrEnum):
    """Which packets of a namespace are dropped."""

    TO = "to"  # it hears nothing
    FROM = "from"  # nobody hears it
    BOTH = "both"


class Network:
    """Namespaces 0, 1, ... on a router; use `network`.

    Args:
        name: prefix of the namespaces' names, unique on the machine, at most 8 characters.
        size: how many besides the router.
    """

    def __init__(self, name: str, size: int) -> None:
        self._name, self._size = name, size
        self._cut: dict[int, Cut] = {}

    def ip(self, index: int) -> str:
        """The address of a namespace."""
        return f"{_SUBNET}.{index}.2"

    def command(self, index: int) -> tuple[str, ...]:
        """What a command is preceded by to run in that namespace."""
        return ("ip", "netns", "exec", self._space(index))

    def cut(self, index: int, cut: Cut) -> None:
        """Drop its packets, silently, in the router."""
        self._cut[index] = cut
        if cut in (Cut.TO, Cut.BOTH):
            self._in_router("route", "add", "blackhole", f"{self.ip(index)}/32")
        if cut in (Cut.FROM, Cut.BOTH):
            self._in_router("rule", "add", "from", f"{self.ip(index)}/32", "blackhole")

    def mend(self, index: int) -> None:
        """Forward its packets again; harmless where they are."""
        cut = self._cut.pop(index, None)
        if cut in (Cut.TO, Cut.BOTH):
            self._in_router("route", "del", "blackhole", f"{self.ip(index)}/32")
        if cut in (Cut.FROM, Cut.BOTH):
            self._in_router("rule", "del", "from", f"{self.ip(index)}/32", "blackhole")

    def make(self) -> None:
        """Make the namespaces and links.

        Raises:
            DefiniteError: E_CONFIG: this user may not, or iproute2 is missing.
        """
        router = self._space(None)
        _ip("netns", "add", router)
        _run([*self._router(), "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])
        self._in_router("link", "set", "lo", "up")
        for index in range(self._size):
            space, near, far = self._space(index), f"{self._name}r{index}", f"{self._name}e{index}"
            _ip("netns", "add", space)
            _ip("link", "add", near, "netns", router, "type", "veth", "peer", "name", far, "netns", space)
            self._in_router("addr", "add", f"{_SUBNET}.{index}.1/24", "dev", near)
            self._in_router("link", "set", near, "up")
            within = ("-n", space)
            _ip(*within, "link", "set", "lo", "up")
            _ip(*within, "addr", "add", f"{self.ip(index)}/24", "dev", far)
            _ip(*within, "link", "set", far, "up")
            _ip(*within, "route", "add", "default", "via", f"{_SUBNET}.{index}.1")

    def remove(self) -> None:
        """Remove what was made; links go with their namespaces."""
        for index in (*range(self._size), None):
            subprocess.run(["ip", "netns", "del", self._space(index)], capture_output=True, check=False)  # noqa: S603, S607

    def _space(self, index: int | None) -> str:
        return f"{self._name}-{'router' if index is None else index}"

    def _router(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self._space(None))

    def _in_router(self, *arguments: str) -> None:
        _ip("-n", self._space(None), *arguments)


@contextmanager
def network(name: str, size: int) -> Iterator[Network]:
    """A network for the life of the context.

    Raises:
        DefiniteError: E_CONFIG: it cannot be made here.
    """
    made = Network(name, size)
    try:
        made.make()
        yield made
    finally:
        made.remove()


def _ip(*arguments: str) -> None:
    _run(["ip", *arguments])


def _run(command: Sequence[str]) -> None:
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - fixed commands
    except FileNotFoundError:
        raise DefiniteError(ErrorCode.CONFIG, "partitions need the command ip: install iproute2") from None
    if ended.returncode:
        raise DefiniteError(
            ErrorCode.CONFIG, f"no network can be made here ({' '.join(command)}: {ended.stderr.strip()}): run it as root")
