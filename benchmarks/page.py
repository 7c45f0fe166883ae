"""The results as one HTML page that needs nothing else: tables, and charts drawn by `charts`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

from benchmarks import charts
from benchmarks.goals import goal_of, not_run, verdict
from benchmarks.results import Outcome, Report

#: How many colours the page has.
_COLOURS = 4


def page(report: Report, titles: Mapping[str, str]) -> str:
    """Write the page.

    Args:
        titles: Of the scenarios, by their names.
    """
    template = Template((Path(__file__).parent / "page.html").read_text(encoding="utf-8"))
    judged = [row for outcome in report.outcomes for row in _rows(outcome, titles) if row[4]]
    missed = sum("missed" in row[4] for row in judged)
    summary = f"{report.machine['date']} · {report.machine['processor']}, {report.machine['cores']} cores · " + (
        f"{len(judged) - missed} of {len(judged)} goals reached"
    )
    warning = "A quick run: tiny sizes, which try the program. Its figures say nothing about speed."
    return template.substitute(
        name=escape(report.name),
        summary=escape(summary),
        warning=f'<p class="warning">{warning}</p>' if report.quick else "",
        goals=_table(("Scenario", "Backend", "Found", "Goal", ""), judged),
        latencies="".join(_latencies(report, titles)),
        growths="".join(_growths(report, titles)),
        figures=_figures(report, titles),
        absent=_absent(report, titles),
        rivals=_list(report.rivals),
        machine=_list(report.machine),
    )


def _rows(outcome: Outcome, titles: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Return a row of cells, as HTML, for each figure: what, backend, value, goal, verdict."""
    title = escape(titles[outcome.scenario])
    if outcome.failure:
        failed = f'<span class="missed">failed</span><small>{escape(outcome.failure)}</small>'
        return [(title, escape(outcome.backend), "", "", failed)]
    rows = []
    for figure in outcome.figures:
        value, _, rounds = escape(figure.text()).partition(" (")
        found = f"{value}<small>({rounds}</small>" if rounds else value
        goal, judgement = goal_of(outcome, figure), verdict(outcome, figure)
        kind = "reached" if judgement == "reached" else "missed"
        badge = f'<span class="{kind}">{judgement}</span>' if judgement else ""
        what = f"{title}<small>{escape(figure.name)}</small>"
        rows.append((what, escape(outcome.backend), found, goal.text() if goal else "", badge))
    return rows


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{column}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _figures(report: Report, titles: Mapping[str, str]) -> str:
    parts = []
    for backend in report.backends:
        rows = [row for outcome in report.outcomes if outcome.backend == backend for row in _rows(outcome, titles)]
        table = _table(("Scenario", "Found", "Goal"), [(what, found, goal) for what, _, found, goal, _ in rows])
        parts.append(f"<details><summary>{escape(backend)}</summary>{table}</details>")
    return "".join(parts)


def _latencies(report: Report, titles: Mapping[str, str]) -> Iterable[str]:
    """Draw the distributions of each scenario that has any, all backends together."""
    for name, title in titles.items():
        samples: dict[str, tuple[int, bool, Sequence[float]]] = {}
        for outcome in (outcome for outcome in report.outcomes if outcome.scenario == name):
            for number, what in enumerate(outcome.latencies):
                label = f"{outcome.backend}: {what.removesuffix(', ms')}"
                colour = report.backends.index(outcome.backend) % _COLOURS
                samples[label] = (colour, number > 0, outcome.samples[what])
        if samples:
            drawn = charts.distribution(samples, "milliseconds")
            lines = [(label, colour, dashed) for label, (colour, dashed, _) in samples.items()]
            yield _figure(title, "milliseconds, by percentile", drawn, lines)


def _growths(report: Report, titles: Mapping[str, str]) -> Iterable[str]:
    for name, title in titles.items():
        lines = [
            charts.Line(
                outcome.backend, report.backends.index(outcome.backend) % _COLOURS, sorted(outcome.growth.items())
            )
            for outcome in report.outcomes
            if outcome.scenario == name and outcome.growth
        ]
        if lines:
            drawn = charts.growth(lines, "subscribers", "microseconds of CPU an event")
            named = [(line.label, line.colour, line.dashed) for line in lines]
            yield _figure(title, "microseconds of CPU an event, by subscribers; flat is good", drawn, named)


def _figure(title: str, axes: str, drawn: str, lines: Sequence[tuple[str, int, bool]]) -> str:
    caption = f"<figcaption><h3>{escape(title)}</h3><p>{axes}</p></figcaption>"
    return f"<figure>{caption}{drawn}{charts.legend(lines)}</figure>"


def _absent(report: Report, titles: Mapping[str, str]) -> str:
    """Name the goals that are for other backends alone: they are neither reached nor missed."""
    rows = [
        (
            f"{escape(titles[goal.scenario])}<small>{escape(goal.figure)}</small>",
            escape(", ".join(goal.backends)),
            goal.text(),
        )
        for goal in not_run(report.backends)
    ]
    return _table(("Scenario", "Only for", "Goal"), rows) if rows else "<p>Nothing.</p>"


def _list(pairs: Mapping[str, str]) -> str:
    return "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in pairs.items())
