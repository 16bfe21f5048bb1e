"""The pages that show something; what acts is in `orchestrator.console.acting`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.console.figures import (
    SERVICE_COLUMNS,
    SHARD_COLUMNS,
    UNKNOWN,
    log_figures,
    overview_figures,
    service_cells,
    shard_cells,
)
from orchestrator.console.filters import LIMIT_MAX, filters_of
from orchestrator.console.needs import breakers_of, needs_of
from orchestrator.console.picture import picture
from orchestrator.console.records import PARKED_MAX
from orchestrator.console.trends import plots

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from orchestrator.console.site import Site

STATES = ("open", "preparing", "committing", "committed", "aborting", "aborted")


def overview(site: Site, request: Request) -> Response:
    """What is wrong, and how much goes through."""
    sample = site.link.latest()
    observed = site.records.observed(sample.statuses if sample else [])
    needs = needs_of(site.link.standing, observed, str(site.records.directory.path))
    return site.render(
        request, "overview.html", needs=site.memory.dated(needs, site.now_ms()), backlog=observed.backlog,
        figures=overview_figures(site.link.reading()), plots=plots(site.link.trends.points(), site.now_ms()))


def transactions(site: Site, request: Request) -> Response:
    """A page of the list, the newest first; the next one begins after the last id."""
    filters = filters_of(request.query_params)
    found = site.records.find(filters.query(limit=filters.limit + 1))
    more = len(found) > filters.limit
    return site.render(
        request, "transactions.html", filters=filters, found=found[: filters.limit], more=more, states=STATES,
        deployed=site.records.deployed())


def transaction(site: Site, request: Request) -> Response:
    """One transaction: where its time went, what was asked and answered."""
    found = site.records.timeline(request.path_params["transaction"])
    return site.render(request, "transaction.html", found=found, picture=picture(found, site.now_ms()))


def parked(site: Site, request: Request) -> Response:
    """The queue of what needs an operator."""
    found, more = site.records.parked()
    return site.render(request, "parked.html", found=found, more=more, shown=PARKED_MAX)


def services(site: Site, request: Request) -> Response:
    """How every service is."""
    sample, deployed = site.link.latest(), site.records.deployed()
    statuses = {status["role"]: status for status in sample.statuses} if sample else {}
    return site.render(
        request, "services.html", statuses=statuses, deployed=deployed, pauses=site.records.pauses(),
        breakers=breakers_of(sample.statuses if sample else []), columns=SERVICE_COLUMNS,
        cells=service_cells(site.link.reading(), deployed.services), blanks=[UNKNOWN] * len(SERVICE_COLUMNS))


def shards(site: Site, request: Request) -> Response:
    """How the shards and the log are."""
    sample = site.link.latest()
    statuses = [status for status in sample.statuses if status["role"] in ("log", "orchestrator")] if sample else []
    reading = site.link.reading()
    return site.render(
        request, "shards.html", statuses=statuses, facts=site.records.facts(), figures=log_figures(reading),
        columns=SHARD_COLUMNS, cells=shard_cells(reading, [status["name"] for status in statuses[1:]]),
        blanks=[UNKNOWN] * len(SHARD_COLUMNS))


def acts(site: Site, request: Request) -> Response:
    """Who did what, when and why."""
    return site.render(request, "acts.html", found=site.records.acts(LIMIT_MAX), shown=LIMIT_MAX, pauses=site.records.pauses())


ROUTES: dict[str, Callable[[Site, Request], Response]] = {
    "/": overview,
    "/transactions": transactions,
    "/transactions/{transaction}": transaction,
    "/parked": parked,
    "/services": services,
    "/shards": shards,
}
