"""The user's function that gives an actor its provider: the setting `tracing` names it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.errors import DefiniteError, ErrorCode


def check_tracing(path: str | None) -> None:
    """Refuse a setting that no actor could follow; None asks for nothing.

    Raises:
        DefiniteError: E_CONFIG.
    """
    if path is not None:
        load(path)


def load(path: str) -> Callable[[str, Path], Any]:
    """The function that the setting `tracing` names, `module:callable`.

    Raises:
        DefiniteError: E_CONFIG, saying what could not be found.
    """
    module, _, attribute = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise DefiniteError(ErrorCode.CONFIG, f"tracing: cannot load {path!r} ({error}); write module:callable") from None
    if not callable(found):
        raise DefiniteError(ErrorCode.CONFIG, f"tracing: {path!r} is a {type(found).__name__}, not a function")
    return found  # type: ignore[no-any-return]
