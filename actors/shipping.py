"""Shipping: a shipping order is created at prepare, dispatched at commit, cancelled by rollback.

State: `shipment/<order id>` has its phase, tracking number, units and address.
"""

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Annotated, Any

from pydantic import Field

from actors.fields import LINES_MAX, Address, Allocated, Identifier, Message, Result, ShortText
from actors.findings import HELD, SETTLED, Findings
from actors.refusals import RefusalCode
from actors.service import NotYet, Refused, Service, State
from orchestrator.app import LedgerRow, ServiceAudit

CREATED = "CREATED"
DISPATCHED = "DISPATCHED"
UNSERVED_DEFAULT = frozenset({"antarctica", "aq"})


class CreateRequest(Message):
    """Ship an order's allocation to an address."""

    order_id: Identifier
    address: Address
    warehouse: ShortText
    allocation: Annotated[list[Allocated], Field(min_length=1, max_length=LINES_MAX)]


class Created(Result):
    """The tracking number, which follows from the order id, so that a repeat does not change it."""

    tracking: str
    units: int


class Shipping(Service):
    """Shipping orders, one an order id.

    Args:
        unserved: countries, by name or code, to which nothing is shipped; compared without regard to case.
    """

    name = "shipping"

    def __init__(self, unserved: Iterable[str] = UNSERVED_DEFAULT) -> None:
        super().__init__()
        self.unserved = frozenset(country.strip().casefold() for country in unserved) | {""}

    def prepare_create(self, state: State, request: CreateRequest) -> Created | Refused | NotYet:
        """Create the shipping order."""
        country = request.address.country.strip()
        if country.casefold() in self.unserved:
            return Refused(RefusalCode.UNDELIVERABLE, f"country {country!r} is not served" if country else "no country")
        key = f"shipment/{request.order_id}"
        if state.get(key) is not None:
            return Refused(RefusalCode.DUPLICATE_SHIPMENT, f"order {request.order_id} has a shipment already")
        code = blake2b(request.order_id.encode(), digest_size=6, person=b"tracking").hexdigest()
        created = Created(tracking=f"T{code.upper()}", units=sum(quantity for _, quantity in request.allocation))
        state[key] = _shipment(request, created, CREATED)
        return created

    def commit_create(self, state: State, request: CreateRequest, result: Created) -> None:
        """The parcel is on its way."""
        state[f"shipment/{request.order_id}"] = _shipment(request, result, DISPATCHED)

    def rollback_create(self, state: State, request: CreateRequest, result: Created) -> None:  # noqa: ARG002 - the order id says it all
        """Cancel the shipping order."""
        del state[f"shipment/{request.order_id}"]

    def audit(self, state: Mapping[str, Any], rows: Iterable[LedgerRow], *, purged: bool = False) -> ServiceAudit:
        """Shipments and the units in them agree with the ledger rows.

        Args:
            state: all keys and values.
            rows: the ledger, once, in id order.
            purged: whether rows below the retention watermark are gone.
        """
        shipments, units = {CREATED: 0, DISPATCHED: 0}, {CREATED: 0, DISPATCHED: 0}
        for _, shipment in state.items():  # noqa: PERF102 - a database streams items(), values() would look up each key
            shipments[shipment["phase"]] += 1
            units[shipment["phase"]] += shipment["units"]
        row_shipments, row_units = {CREATED: 0, DISPATCHED: 0}, {CREATED: 0, DISPATCHED: 0}
        for row in rows:
            phase = {HELD: CREATED, SETTLED: DISPATCHED}.get(row.state)
            if phase is not None:
                row_shipments[phase] += 1
                row_units[phase] += sum(quantity for _, quantity in row.request["allocation"])
        findings = Findings(purged=purged)
        findings.equal(self.name, "shipments created and prepared rows", shipments[CREATED], row_shipments[CREATED])
        findings.equal(self.name, "units created and prepared rows", units[CREATED], row_units[CREATED])
        findings.accounted(self.name, "shipments dispatched", shipments[DISPATCHED], row_shipments[DISPATCHED])
        findings.accounted(self.name, "units dispatched", units[DISPATCHED], row_units[DISPATCHED])
        totals = {"shipments_dispatched": shipments[DISPATCHED], "shipments_created": shipments[CREATED]}
        return ServiceAudit(totals, findings.violations)


def _shipment(request: CreateRequest, created: Created, phase: str) -> dict[str, Any]:
    address = request.address
    return {
        "phase": phase, "tracking": created.tracking, "units": created.units,
        "address": [address.name, address.street, address.city, address.country]}
