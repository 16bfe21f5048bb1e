"""What a service instance holds outside its state: compared before and after a handler, it must not change."""

from __future__ import annotations

import types
import warnings
from collections.abc import Collection, Iterator, Mapping
from enum import Enum
from typing import Any

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
        met = {id(self._owner): self._owner}
        return {name: _shape(value, met) for name, value in self._values() if name not in self._ignored}

    def _values(self) -> Iterator[tuple[str, Any]]:
        for cls in type(self._owner).__mro__[:-1]:
            for name, value in vars(cls).items():
                if not name.startswith("__") and not isinstance(value, _FIXED):
                    yield name, value
        yield from getattr(self._owner, "__dict__", {}).items()


def _shape(value: Any, met: dict[int, Any]) -> Any:  # noqa: PLR0911 - one for each kind
    """Something to compare that tells what the value holds, however deep; of code and of what is opaque the name only.

    `met` keeps what was met before: a circle ends, and nothing is freed whose identity could be taken by something else.
    """
    kind = type(value)
    if kind in _PLAIN:
        return kind.__name__, value
    if isinstance(value, _FIXED):
        return kind.__name__, getattr(value, "__qualname__", "")
    if id(value) in met:
        return kind.__name__, "met before"
    met[id(value)] = value
    if isinstance(value, Mapping):
        return kind.__name__, [(_shape(k, met), _shape(v, met)) for k, v in value.items()]
    if isinstance(value, list | tuple):
        return kind.__name__, [_shape(item, met) for item in value]
    if isinstance(value, set | frozenset):
        return kind.__name__, sorted(repr(_shape(item, met)) for item in value)
    return kind.__name__, _reduced(value, met)


def _reduced(value: Any, met: dict[int, Any]) -> Any:
    """What pickling would keep: it also tells the position of an `itertools.count` or the state of a generator of chance."""
    try:
        reduced = _quietly(value) if type(value).__module__ == "itertools" else value.__reduce_ex__(4)
    except Exception:  # noqa: BLE001 - a lock, a connection: opaque
        return [_shape(vars(value), met)] if hasattr(value, "__dict__") else []
    if isinstance(reduced, str):
        return reduced
    return [_shape(list(part) if isinstance(part, Iterator) else part, met) for part in reduced[1:]]


def _quietly(value: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons deprecate the pickling of iterators
        return value.__reduce_ex__(4)
