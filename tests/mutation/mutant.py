"""One mutant: what is changed, where, and how the running product is made to make the mistake."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from inspect import getattr_static, unwrap
from types import CodeType, FunctionType
from typing import Any


@dataclass(frozen=True)
class Mutant:
    """One mistake.

    Args:
        where: "module:function", "module:Class.method" or "module:TABLE".
        was: the changed lines.
        becomes: what stands there instead.
        apply: makes the running product make this mistake, for good.
    """

    where: str
    was: str
    becomes: str
    apply: Callable[[], None]

    @property
    def name(self) -> tuple[str, str, str]:
        """What it is known by, whatever moves around it."""
        return self.where, self.was, self.becomes


def replaced(where: str, text: str) -> None:
    """Swap the code of a function for what another text of its module has."""
    module, _, path = where.partition(":")
    function = _function(module, path)
    code = compile(text, function.__code__.co_filename, "exec", dont_inherit=True)
    function.__code__ = next(found for found in _codes(code) if found.co_qualname == path)


def _function(module: str, path: str) -> FunctionType:
    found: Any = import_module(module)
    for name in path.split("."):
        found = getattr_static(found, name)
    if isinstance(found, property):
        found = found.fget
    function = unwrap(found)
    assert isinstance(function, FunctionType)
    return function


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)
