"""The results as one HTML page that needs nothing else: tables, and charts drawn by `charts`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

from benchmarks import charts
from benchmarks.goals import GOALS, not_run, verdict
from benchmarks.results import Figure, Report

#: How many colours the page has.
_COLOURS = 4


def page(report: Report, titles: Mapping[str, str]) -> str:
    """Write the page.

    Args:
        titles: Of the scenarios, by their names.
    """
    template = Template((Path(__file__).parent / "page.html").read_text(encoding="utf-8"))
    goals, judged, reached = _goals(report, titles)
    machine = f"{report.machine['processor']}, {report.machine['cores']} cores"
    summary = f"{report.machine['date']} · {machine} · {reached} of {judged} goals reached"
    warning = "A quick run: tiny sizes, which try the program. Its figures say nothing about speed."
    return template.substitute(
        name=escape(report.name),
        summary=escape(summary),
        warning=f'<p class="warning">{warning}</p>' if report.quick else "",
        goals=goals,
        charts="".join([*_latencies(report, titles), *_growths(report, titles)]),
        figures=_figures(report, titles),
        absent=_absent(report, titles),
        rivals=_list(report.rivals),
        machine=_list(report.machine),
    )


def _goals(report: Report, titles: Mapping[str, str]) -> tuple[str, int, int]:
    """Return a table of the goals, a column for each backend, and how many cells of it there are and are reached."""
    found = {
        (outcome.scenario, figure.name, outcome.backend): (outcome, figure)
        for outcome in report.outcomes
        for figure in outcome.figures
    }
    judged = reached = 0
    rows = []
    for goal in GOALS:
        cells = []
        for backend in report.backends:
            outcome, figure = found.get((goal.scenario, goal.figure, backend), (None, None))
            if outcome is None or figure is None or not goal.concerns(backend):
                cells.append("")
                continue
            judgement = verdict(outcome, figure)
            judged, reached = judged + 1, reached + (judgement == "reached")
            kind = "reached" if judgement == "reached" else "missed"
            cells.append(_found(figure, f'<span class="{kind}">{judgement}</span>'))
        if any(cells):
            rows.append((_what(goal.scenario, goal.figure, titles), f"{goal.text()} {escape(goal.unit)}", *cells))
    for outcome in report.outcomes:
        if outcome.failure:
            failed = f'<span class="missed">failed</span><small>{escape(outcome.failure)}</small>'
            cells = [failed if backend == outcome.backend else "" for backend in report.backends]
            rows.append((_what(outcome.scenario, "", titles), "", *cells))
    return _table(("Scenario", "Goal", *map(escape, report.backends)), rows), judged, reached


def _what(scenario: str, figure: str, titles: Mapping[str, str]) -> str:
    return f"{escape(titles[scenario])}<small>{escape(figure)}</small>"


def _found(figure: Figure, badge: str = "") -> str:
    value, _, rounds = escape(figure.text()).partition(" (")
    return f"{value} {badge}{f'<small>({rounds}</small>' if rounds else ''}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table; on a narrow screen each cell but the first stands under its column's name."""
    head = "".join(f"<th>{column}</th>" for column in columns)
    body = []
    for first, *others in rows:
        cells = [f'<td data-of="{of}">{text}</td>' for of, text in zip(columns[1:], others, strict=True)]
        body.append(f"<tr><td>{first}</td>{''.join(cells)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _figures(report: Report, titles: Mapping[str, str]) -> str:
    parts = []
    for backend in report.backends:
        rows = [
            (_what(outcome.scenario, figure.name, titles), _found(figure))
            for outcome in report.outcomes
            if outcome.backend == backend
            for figure in outcome.figures
        ]
        table = _table(("Scenario", "Found"), rows)
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
            _what(goal.scenario, goal.figure, titles),
            escape(", ".join(goal.backends)),
            f"{goal.text()} {escape(goal.unit)}",
        )
        for goal in not_run(report.backends)
    ]
    return _table(("Scenario", "Only for", "Goal"), rows) if rows else "<p>Nothing.</p>"


def _list(pairs: Mapping[str, str]) -> str:
    return "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in pairs.items())
