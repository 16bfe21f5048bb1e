"""A protocol bug as a diff of a few characters: applied to the product in memory, taken back afterwards.

An edit names a function and replaces a piece of its text; the code object is swapped, so that everybody who holds the
function runs the changed one. An edit whose text is not found exactly once is an error: the product has moved on, and
the bug has to be written anew.
"""

from __future__ import annotations
import __future__

import builtins
import dis
import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import CodeType, FunctionType
from typing import Any
from unittest.mock import patch

from actors.ledger import TABLE, Action, RowState
from orchestrator.protocol.messages import Kind

_texts: dict[CodeType, str] = {}  # of functions that are changed already, for a second edit


@dataclass(frozen=True)
class Edit:
    """One changed place.

    Args:
        where: "module:function" or "module:Class.method" (also of a property).
        old: a piece of its text, to be found once, without regard to the indentation of the whole.
        new: what stands there instead.
    """

    where: str
    old: str
    new: str

    @contextmanager
    def applied(self) -> Iterator[None]:
        function = _find(self.where)
        before = function.__code__
        text = _texts.get(before) or textwrap.dedent(inspect.getsource(function))
        if text.count(self.old) != 1:
            raise LookupError(f"{self.where} has {text.count(self.old)} places {self.old!r}: write the seeded bug anew")
        changed = text.replace(self.old, self.new)
        function.__code__ = _compiled(function, changed)
        _texts[function.__code__] = changed
        try:
            yield
        finally:
            del _texts[function.__code__]
            function.__code__ = before


@dataclass(frozen=True)
class Cell:
    """One changed cell of the ledger's table."""

    row: RowState | None
    kind: Kind
    action: Action

    @contextmanager
    def applied(self) -> Iterator[None]:
        assert TABLE[self.row, self.kind] is not self.action
        with patch.dict(TABLE, {(self.row, self.kind): self.action}):
            yield


@dataclass(frozen=True)
class Bug:
    """A mistake that a reviewer might have let through.

    Args:
        name: in a few words.
        breaks: what goes wrong, in a line.
        rows: of the table of failure modes.
        changes: where; more than one where the product has a second line of defence for the first.
        workload: what it is hunted on: schedules of "order" or "trip", the scenario "blackout", the real "log".
    """

    name: str
    breaks: str
    rows: str
    changes: tuple[Edit | Cell, ...]
    workload: str = "order"

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Have the product make this mistake."""
        with ExitStack() as stack:
            for change in self.changes:
                stack.enter_context(change.applied())
            yield


def _find(where: str) -> FunctionType:
    module, _, path = where.partition(":")
    found: Any = import_module(module)
    for name in path.split("."):
        found = inspect.getattr_static(found, name)
    if isinstance(found, property):
        found = found.fget
    return inspect.unwrap(found)


def _compiled(function: FunctionType, text: str) -> CodeType:
    name, flags = f"<seeded bug in {function.__qualname__}>", __future__.annotations.compiler_flag
    code = compile(text, name, "exec", flags, dont_inherit=True)
    scope: dict[str, Any] = {}
    exec(code, function.__globals__, scope)
    changed: Callable[..., Any] | property = scope[function.__name__]
    if isinstance(changed, property):
        assert changed.fget is not None
        changed = changed.fget
    assert isinstance(changed, FunctionType)
    _check_names(function, changed.__code__)
    return changed.__code__


def _check_names(function: FunctionType, code: CodeType) -> None:
    """A name that is not there would be an error that everything catches, and no mistake of the protocol."""
    known = function.__globals__.keys() | vars(builtins).keys()
    for used in (code, *(const for const in code.co_consts if isinstance(const, CodeType))):
        unknown = {one.argval for one in dis.get_instructions(used) if one.opname == "LOAD_GLOBAL"} - known
        if unknown:
            raise LookupError(f"{function.__module__} does not know {sorted(unknown)}: write the seeded bug anew")
