"""raytx: transactions across services for Ray. These are the public names."""

from typing import TYPE_CHECKING

from orchestrator.app import App, LedgerRow, ServiceAudit
from orchestrator.config import FaultSettings, Settings
from orchestrator.errors import (
    DefiniteError,
    ErrorCode,
    IndefiniteError,
    InvariantViolation,
    OverloadedError,
    RaytxError,
    RefusedForNowError,
)
from orchestrator.protocol.retry import RetryPolicy
from orchestrator.saga import Context, RollbackOrder, Saga, Step

if TYPE_CHECKING:
    from orchestrator.client import Client, connect
    from orchestrator.outcome import Handle, Outcome, OutcomeKind

__all__ = [
    "App",
    "Client",
    "Context",
    "DefiniteError",
    "ErrorCode",
    "FaultSettings",
    "Handle",
    "IndefiniteError",
    "InvariantViolation",
    "LedgerRow",
    "Outcome",
    "OutcomeKind",
    "OverloadedError",
    "RaytxError",
    "RefusedForNowError",
    "RetryPolicy",
    "RollbackOrder",
    "Saga",
    "ServiceAudit",
    "Settings",
    "Step",
    "connect",
]


def __getattr__(name: str) -> object:
    """The client's names, on first use: they import Ray, which takes most of a second that `raytx list` need not pay."""
    if name in {"Client", "connect"}:
        from orchestrator import client  # noqa: PLC0415

        return getattr(client, name)
    if name in {"Handle", "Outcome", "OutcomeKind"}:
        from orchestrator import outcome  # noqa: PLC0415

        return getattr(outcome, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
