"""A result as one HTML file that needs nothing else: plots as SVG in it, no script, no network.

matplotlib draws them (the extra `report`); it is imported only where a report is asked for.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hdrh.histogram import HdrHistogram

from loadgen.result import LoadResult
from orchestrator.errors import DefiniteError, ErrorCode

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE: Final = (9.0, 2.7)  # inches of one plot
STYLE: Final = {"svg.fonttype": "none", "svg.hashsalt": "raytx", "axes.grid": True, "grid.alpha": 0.3, "font.size": 9.0}
COLOURS: Final = {"committed": "#2a7f3f", "aborted": "#d9a400", "rejected": "#c44e52", "unknown": "#7f3f98"}
MARK: Final = "#c44e52"
PAGE: Final = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>raytx load {run}</title>
<style>body{{font:14px/1.45 sans-serif;max-width:62em;margin:2em auto;padding:0 1em}}table{{border-collapse:collapse}}
td,th{{border:1px solid #ccc;padding:.15em .6em;text-align:left}}svg{{max-width:100%;height:auto}}.bad{{color:#b00}}</style>
<h1>raytx load {run}</h1><p class="{mood}"><b>{verdict}</b></p>{tables}{plots}</html>
"""

Plot = Callable[["Axes", LoadResult], None]


def check_library() -> None:
    """Refuse early where the plots could not be drawn.

    Raises:
        DefiniteError: E_CONFIG.
    """
    try:
        import matplotlib  # noqa: F401, ICN001, PLC0415 - an extra, and slow to import
    except ImportError:
        raise DefiniteError(
            ErrorCode.CONFIG, "--report needs matplotlib: pip install 'raytx[report]', or --save it for later") from None


def write_report(result: LoadResult, path: Path) -> None:
    """Write the page.

    Args:
        result: of the run.
        path: of the file, replaced if it is there.

    Raises:
        DefiniteError: E_CONFIG where matplotlib is missing; E_INVALID_INPUT where the file cannot be written.
    """
    check_library()
    plots = "".join(f"<h2>{escape(title)}</h2>{_svg(plot, result)}" for title, plot in _plots(result))
    verdict = "audit ok, history ok" if result.ok else f"NOT OK: {'; '.join(result.wrong_outcomes) or 'see audit and notes'}"
    page = PAGE.format(
        run=escape(result.run), mood="" if result.ok else "bad", verdict=escape(verdict), tables=_tables(result), plots=plots)
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise DefiniteError(ErrorCode.INVALID_INPUT, f"--report: {path} cannot be written: {error.strerror}") from None


def _plots(result: LoadResult) -> list[tuple[str, Plot]]:
    found: list[tuple[str, Plot]] = []
    if result.seconds:
        found += [("Outcomes over time", _throughput), ("Latency over time", _latency), ("In flight over time", _in_flight)]
    found.append(("Latency distribution", _distribution))
    if result.aborted_by_code or result.rejected_by_code:
        found.append(("Aborted and refused orders by reason", _reasons))
    found.append(("CPU per order by role", _cpu))
    if any(second.cpu_share for second in result.seconds):
        found.append(("Processors used over time", _utilisation))
    if result.capacity is not None:
        found.append(("Search for the capacity", _capacity))
    return found


def _svg(plot: Plot, result: LoadResult) -> str:
    from matplotlib import rc_context  # noqa: PLC0415 - see check_library
    from matplotlib.figure import Figure  # noqa: PLC0415

    with rc_context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        plot(figure.subplots(), result)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    return svg[svg.index("<svg"):]


def _times(axes: Axes, result: LoadResult, label: str) -> list[int]:
    """The seconds, on axes that also show the warm-up and what happened to the deployment."""
    axes.set_xlabel("seconds")
    axes.set_ylabel(label)
    warm_up_s = result.settings.get("warm_up_s") or 0
    if warm_up_s:
        axes.axvspan(0, warm_up_s, color="#888888", alpha=0.12, label="warm-up")
    for mark in result.marks:
        axes.axvline(mark.at_s, color=MARK, linestyle="--", linewidth=0.9)
        axes.annotate(
            mark.what, (mark.at_s, 1), xycoords=("data", "axes fraction"), rotation=90, fontsize=7, va="top", ha="right")
    return [*(second.at_s for second in result.seconds), result.seconds[-1].at_s + 1]


def _legend(axes: Axes) -> None:
    """Beside the plot, where it hides nothing."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=7)


def _steps(values: Sequence[float | None]) -> list[float]:
    """One value a second, each until the next one; seconds without one are left out."""
    whole = [float("nan") if value is None else value for value in values]
    return [*whole, whole[-1]]


def _throughput(axes: Axes, result: LoadResult) -> None:
    times = _times(axes, result, "a second")
    told = {kind: _steps([getattr(second, kind) for second in result.seconds]) for kind in COLOURS}
    shown = {kind: values for kind, values in told.items() if any(values)}
    if shown:
        axes.stackplot(times, *shown.values(), labels=list(shown), colors=[COLOURS[kind] for kind in shown], step="post")
    if any(second.offered for second in result.seconds):
        offered = _steps([second.offered for second in result.seconds])
        axes.step(times, offered, where="post", color="black", linewidth=0.9, label="offered")
    axes.set_ylim(bottom=0)
    _legend(axes)


def _latency(axes: Axes, result: LoadResult) -> None:
    times = _times(axes, result, "ms (log)")
    for name in ("p50_ms", "p99_ms", "max_ms"):
        values = [getattr(second, name) or None for second in result.seconds]
        axes.step(times, _steps(values), where="post", label=name.removesuffix("_ms"))
    axes.set_yscale("log")
    _legend(axes)


def _in_flight(axes: Axes, result: LoadResult) -> None:
    times = _times(axes, result, "in flight")
    axes.step(times, _steps([second.in_flight for second in result.seconds]), where="post")
    axes.set_ylim(bottom=0)


def _distribution(axes: Axes, result: LoadResult) -> None:
    """Percentiles on the scale of Gil Tene's histograms: each further nine takes as much room as the one before."""
    histogram = HdrHistogram.decode(result.latency_histogram)
    points = [100 - 100 / 10 ** (nines / 8) for nines in range(33)]
    count = histogram.get_total_count()
    kept = [point for point in points if count and (100 - point) / 100 * count >= 1]  # beyond them there is no data
    axes.plot([100 / (100 - point) for point in kept], [histogram.get_value_at_percentile(point) / 1_000 for point in kept])
    axes.set_xscale("log")
    axes.set_xticks([1, 2, 10, 100, 1_000, 10_000], ["0", "50", "90", "99", "99.9", "99.99"])
    axes.set_xlabel(f"percentile of {count:,} orders")
    axes.set_ylabel("ms")
    axes.set_ylim(bottom=0)


def _reasons(axes: Axes, result: LoadResult) -> None:
    both = [(code, number, COLOURS["aborted"]) for code, number in result.aborted_by_code.items()]
    both += [(code, number, COLOURS["rejected"]) for code, number in result.rejected_by_code.items()]
    _bars(axes, both, "orders")


def _cpu(axes: Axes, result: LoadResult) -> None:
    costs = [(role, cost, "#4c72b0") for role, cost in result.cpu_us_per_order.items() if role != "total"]
    _bars(axes, costs, f"CPU µs an order, {result.cpu_us_per_order.get('total', 0):,.0f} in all")


def _utilisation(axes: Axes, result: LoadResult) -> None:
    times = _times(axes, result, f"of {result.processors} processors")
    roles = sorted({role for second in result.seconds for role in second.cpu_share})
    shares = [_steps([second.cpu_share.get(role, 0.0) if second.cpu_share else None for second in result.seconds])
              for role in roles]  # nothing by role: the clocks were not read, which is not drawn as no CPU at all
    axes.stackplot(times, *shares, labels=roles, step="post")
    busy = [None if second.busy is None else second.busy * result.processors for second in result.seconds]
    axes.step(times, _steps(busy), where="post", color="black", linewidth=0.9, label="whole machine")
    axes.set_ylim(0, result.processors * 1.05)
    _legend(axes)


def _capacity(axes: Axes, result: LoadResult) -> None:
    assert result.capacity is not None
    steps = [step for step in result.capacity.steps if step.rate_per_s]
    for holds, colour in ((True, COLOURS["committed"]), (False, COLOURS["rejected"])):
        some = [step for step in steps if step.holds is holds]
        axes.scatter([step.rate_per_s for step in some], [step.p99_ms for step in some], color=colour,
                     label="holds" if holds else "too much")
    axes.axhline(result.capacity.p99_ms_max, color=MARK, linestyle="--", linewidth=0.9)
    axes.set_yscale("log")
    axes.set_xlabel("offered a second")
    axes.set_ylabel("p99 ms (log)")
    _legend(axes)


def _bars(axes: Axes, bars: Sequence[tuple[str, float, str]], label: str) -> None:
    names, values, colours = zip(*bars, strict=True) if bars else ((), (), ())
    drawn = axes.barh(names, values, color=colours)
    axes.bar_label(drawn, fmt="{:,.0f}", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel(label)


def _tables(result: LoadResult) -> str:
    cost = result.cpu_us_per_order.get("total")
    figures: list[tuple[str, Any]] = [
        ("workload", result.workload), ("orders", f"{result.orders:,}"), ("committed", f"{result.committed:,}"),
        ("aborted", f"{result.aborted:,}"), ("rejected", f"{result.rejected:,}"), ("unknown", f"{result.unknown:,}"),
        ("measured", f"{result.window_s:,.2f} s of {result.wall_s:,.2f} s"), ("orders/s", f"{result.orders_per_s:,.1f}"),
        *((f"latency {name}", f"{value:,.3f} ms") for name, value in result.latency_ms.items()),
        *((f"lateness {name}", f"{value:,.3f} ms") for name, value in (result.lateness_ms or {}).items()),
        ("CPU per order", "none" if cost is None else f"{cost:,.1f} µs"), ("restarts", result.restarts),
        ("repeats", result.repeats)]
    if result.capacity is not None:
        figures.append(("capacity", f"{result.capacity.rate_per_s:,.0f}/s with p99 within {result.capacity.p99_ms_max:g} ms"))
    settings = [(name, value) for name, value in result.settings.items() if value not in (None, False)]
    notes = "".join(f"<p>note: {escape(note)}</p>" for note in result.notes)
    return f"{_table(figures)}<details><summary>settings</summary>{_table(settings)}</details>{notes}"


def _table(rows: Sequence[tuple[str, Any]]) -> str:
    cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in rows)
    return f"<table>{cells}</table>"
