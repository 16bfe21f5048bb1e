"""The list's filters as they stand in an address, and the address that they stand in."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode

from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.log.finding import TransactionQuery
from orchestrator.protocol.identifiers import is_id
from orchestrator.terminal.options import parse_time

if TYPE_CHECKING:
    from collections.abc import Mapping

LIMIT_DEFAULT = 50
LIMIT_MAX = 200
TEXT_LENGTH_MAX = 256
_TEXTS = ("state", "saga", "code", "service", "key", "since", "until")


class Filters(NamedTuple):
    """What was asked for, as text; an empty one does not restrict."""

    state: str = ""
    saga: str = ""
    code: str = ""
    service: str = ""
    key: str = ""
    since: str = ""
    until: str = ""
    parked: str = ""  # "yes", "no"
    after: str = ""
    limit: int = LIMIT_DEFAULT

    def query(self, limit: int) -> TransactionQuery:
        """The same for the log, with another limit.

        Raises:
            DefiniteError: E_INVALID_INPUT, naming the field.
        """
        return TransactionQuery(
            state=self.state or None, saga=self.saga or None, code=self.code or None, service=self.service or None,
            key=self.key or None, parked={"yes": True, "no": False}.get(self.parked), after=self.after or None,
            since_ms=parse_time("from", self.since or None), until_ms=parse_time("to", self.until or None),
            limit=limit)

    def address(self, after: str) -> str:
        """The query part of an address with these filters, of the page that begins after that transaction."""
        values = self._replace(after=after)._asdict()
        if values["limit"] == LIMIT_DEFAULT:
            del values["limit"]
        return urlencode({name: value for name, value in values.items() if value})

    @property
    def restrict(self) -> bool:
        """Whether any is set."""
        return any((*(getattr(self, name) for name in _TEXTS), self.parked))


def filters_of(values: Mapping[str, str]) -> Filters:
    """Filters from an address.

    Raises:
        DefiniteError: E_INVALID_INPUT, naming the field.
    """
    texts = {name: values.get(name, "").strip() for name in _TEXTS}
    for name, text in texts.items():
        if len(text) > TEXT_LENGTH_MAX:
            raise DefiniteError(ErrorCode.INVALID_INPUT, f"{name}: at most {TEXT_LENGTH_MAX} characters")
    after, parked, limit = values.get("after", ""), values.get("parked", ""), values.get("limit", "") or str(LIMIT_DEFAULT)
    if after and not is_id(after):
        raise DefiniteError(ErrorCode.INVALID_INPUT, "after: it is no transaction's id")
    if parked not in ("", "yes", "no"):
        raise DefiniteError(ErrorCode.INVALID_INPUT, "parked: yes or no")
    if not (limit.isdecimal() and len(limit) <= len(str(LIMIT_MAX)) and 1 <= int(limit) <= LIMIT_MAX):
        raise DefiniteError(ErrorCode.INVALID_INPUT, f"limit: 1 to {LIMIT_MAX}")
    return Filters(**texts | {"state": texts["state"].lower()}, parked=parked, after=after, limit=int(limit))
