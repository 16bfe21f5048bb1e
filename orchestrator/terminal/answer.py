"""How a command answers: text or JSON on stdout, an error on stderr, and the exit code that fits.

Exit codes: 0 done, 1 the answer is bad (a transaction aborted, the audit found something), 2 wrong use, 3 the deployment
cannot be reached. Errors go to stderr, as one line or, with --json, as one JSON object.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from orchestrator import rendering
from orchestrator.errors import DefiniteError, RaytxError
from orchestrator.logs import redact

EXIT_BAD, EXIT_WRONG_USE, EXIT_UNREACHABLE = 1, 2, 3


@contextmanager
def report_errors(*, as_json: bool) -> Iterator[None]:
    """Print what raytx raises on stderr and end with the exit code that fits."""
    try:
        yield
    except RaytxError as error:
        message = redact(error.message)
        told = {"error": {"code": str(error.code), "message": message}}
        typer.echo(json.dumps(told) if as_json else f"error {error.code}: {message}", err=True)
        raise typer.Exit(EXIT_WRONG_USE if isinstance(error, DefiniteError) else EXIT_UNREACHABLE) from None


def answer(told: dict[str, Any], text: Any, *, as_json: bool) -> None:
    """Print one answer on stdout.

    Args:
        told: plain data, for `--json`.
        text: the same for a person: anything that rich prints; brackets in it are no markup.
        as_json: which of the two.
    """
    if as_json:
        typer.echo(json.dumps(told))
    else:
        rendering.console().print(text, markup=False)
