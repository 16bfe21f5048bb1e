"""Which transactions an act is on: those that fit a query, or those named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.log.finding import TransactionQuery
from orchestrator.protocol.identifiers import is_id

if TYPE_CHECKING:
    from orchestrator.log.reader import LogReader

IDS_AT_ONCE = 10_000
UNKNOWN = "unknown"  # the state of one that the log does not know

Selection = TransactionQuery | list[str]


class Selected(msgspec.Struct, frozen=True):
    """A transaction, as it was when it was selected."""

    transaction: str
    saga: str
    state: str


def select(log: LogReader, selection: Selection) -> list[Selected]:
    """What a selection stands for: of a query the newest first, ids in their order and each once.

    Raises:
        DefiniteError: E_INVALID_INPUT, naming the field.
    """
    if isinstance(selection, TransactionQuery):
        return [Selected(one.transaction, one.saga, one.state) for one in log.find(selection)]
    ids = list(dict.fromkeys(selection))
    if len(ids) > IDS_AT_ONCE:
        raise DefiniteError(ErrorCode.INVALID_INPUT, f"at most {IDS_AT_ONCE} ids at once; got {len(ids)}")
    wrong = next((one for one in ids if not is_id(one)), None)
    if wrong is not None:
        raise DefiniteError(ErrorCode.INVALID_INPUT, f"transaction: {wrong!r} is no id; one has 32 hexadecimal digits")
    stored = {one.begun.transaction: one for one in log.load([], ids)}
    return [
        Selected(one, stored[one].begun.saga, stored[one].state.name.lower()) if one in stored else Selected(one, "", UNKNOWN)
        for one in ids]
