"""What a service instance holds outside its state: compared before and after a handler, it must not change."""

from __future__ import annotations

import types
import warnings
from collections.abc import Collection, Iterator, Mapping
from enum import Enum
from typing import Any

DEPTH_MAX = 8
_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes})
_FIXED = (type, types.FunctionType, types.MethodType, types.BuiltinFunctionType, types.ModuleType, property, Enum)


class Attributes:
    """The attributes of an object and of its classes, as last seen.

    Args:
        owner: whose.
        ignored: names that may change (a client's connections).
    """

    def __init__(self, owner: object, ignored: Collection[str] = ()) -> None:
        self._owner, self._ignored = owner, frozenset(ignored)
        self._seen = self._shapes()

    def changed(self) -> list[str]:
        """Names of those that changed since the last call."""
        now = self._shapes()
        before, self._seen = self._seen, now
        return sorted(name for name in now.keys() | before.keys() if now.get(name) != before.get(name))

    def _shapes(self) -> dict[str, Any]:
        return {name: shape_of(value) for name, value in self._values() if name not in self._ignored}

    def _values(self) -> Iterator[tuple[str, Any]]:
        for cls in type(self._owner).__mro__[:-1]:
            for name, value in vars(cls).items():
                if not name.startswith("__") and not isinstance(value, _FIXED):
                    yield name, value
        yield from getattr(self._owner, "__dict__", {}).items()


def shape_of(value: Any, depth: int = 0) -> Any:
    """Something to compare that tells what the value holds, however deep; names only of code and of what is opaque."""
    kind = type(value)
    if kind in _PLAIN:
        return kind.__name__, value
    if isinstance(value, _FIXED) or depth > DEPTH_MAX:
        return kind.__name__, getattr(value, "__qualname__", "")
    if isinstance(value, Mapping):
        return kind.__name__, [(shape_of(k, depth + 1), shape_of(v, depth + 1)) for k, v in value.items()]
    if isinstance(value, list | tuple):
        return kind.__name__, [shape_of(item, depth + 1) for item in value]
    if isinstance(value, set | frozenset):
        return kind.__name__, sorted(repr(shape_of(item, depth + 1)) for item in value)
    return kind.__name__, _reduced(value, depth)


def _reduced(value: Any, depth: int) -> Any:
    """What pickling would keep: it also tells the position of an `itertools.count` or the state of a generator of chance."""
    try:
        reduced = _quietly(value) if type(value).__module__ == "itertools" else value.__reduce_ex__(4)
    except Exception:  # noqa: BLE001 - a lock, a connection: opaque
        return [shape_of(vars(value), depth + 1)] if hasattr(value, "__dict__") else []
    if isinstance(reduced, str):
        return reduced
    return [shape_of(list(part) if isinstance(part, Iterator) else part, depth + 1) for part in reduced[1:]]


def _quietly(value: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons deprecate the pickling of iterators
        return value.__reduce_ex__(4)
