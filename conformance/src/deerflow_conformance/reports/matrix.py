"""Several reports as one table: which backend keeps what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from deerflow_conformance.promises import CAPABILITIES, EVERYTHING, HARNESS, LEVELS, Capability, Level, promises_of
from deerflow_conformance.reports.model import FORMAT, MEANINGS, Part, Report
from deerflow_conformance.reports.page import (
    NOT_RUN,
    STATES,
    environment,
    few_programs,
    listed,
    plural,
    took,
    verdict_view,
)
from deerflow_conformance.results import Exit, State
from deerflow_conformance.texts import sentence_of

_ABOVE: Final = "not at this level"
#: The states of a promise that nobody was asked about, or that does not apply.
UNASKED: Final = frozenset({str(State.NOT_APPLICABLE), NOT_RUN, _ABOVE})
#: From the code that hides all others to the one that hides none.
_GRAVEST: Final = (Exit.KIT_DEFECT, Exit.BROKEN, Exit.NOT_CONFORMANT, Exit.INCOMPLETE)


@dataclass(frozen=True, slots=True)
class Row:
    """One backend of one report.

    Attributes:
        label: What tells it from all others of the matrix.
        name: The report's, as it was given.
        report: It came from there.
        parts: What is said of it, by capability.
    """

    label: str
    name: str
    report: Report
    parts: dict[Capability, Part]


@dataclass(frozen=True, slots=True)
class Matrix:
    """Backends by capabilities, and promises by backends.

    Attributes:
        rows: One for each backend of each report, in the order they were given.
    """

    rows: tuple[Row, ...]

    @property
    def exit(self) -> Exit:
        """The gravest exit code of the reports; CONFORMANT only if every one is."""
        codes = {row.report.exit for row in self.rows}
        return next((code for code in _GRAVEST if code in codes), Exit.CONFORMANT if codes else Exit.INCOMPLETE)

    @property
    def asked(self) -> Level | None:
        """The lowest level that a report was asked for; None if each was asked for all that applies."""
        lowest = min((row.report.level for row in self.rows), key=LEVELS.index)
        return None if lowest == EVERYTHING else lowest

    def of(self, capability: Capability) -> list[Row]:
        """Return the rows that say something about *capability*."""
        return [row for row in self.rows if capability in row.parts]

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "format": FORMAT,
            "exit": int(self.exit),
            "meaning": MEANINGS[self.exit],
            "rows": [
                {
                    "label": row.label,
                    "report": row.name,
                    "asked": row.report.asked,
                    "budget": row.report.budget,
                    "exit": int(row.report.exit),
                    "capabilities": {
                        capability: {**_summary(part), "states": {one: state_of(part, one) for one in _numbers(part)}}
                        for capability, part in row.parts.items()
                    },
                }
                for row in self.rows
            ],
        }


def matrix_of(named: Sequence[tuple[str, Report]]) -> Matrix:
    """Merge reports, each with the name that it is known by, such as its path.

    Two that speak of one backend both keep a row, and labels that tell them apart.
    """
    found = [(backend, name, report) for name, report in named for backend in report.backends]
    times = Counter(backend for backend, _, _ in found)
    rows: list[Row] = []
    for index, (backend, name, report) in enumerate(found):
        label = backend if times[backend] == 1 else f"{backend} ({name})"
        if label in (row.label for row in rows):
            label = f"{backend} ({name}, {index + 1})"
        parts = {part.capability: part for part in report.parts if part.backend == backend}
        rows.append(Row(label, name, report, parts))
    return Matrix(tuple(rows))


def state_of(part: Part, number: str) -> str:
    """Return what came of a promise, ``not run`` or ``not at this level``."""
    for result in part.verdict.results:
        if result.number == number:
            return result.word
    return NOT_RUN if number in part.verdict.missing else _ABOVE


def _numbers(part: Part) -> list[str]:
    return [promise.number for promise in promises_of(part.capability)]


def _summary(part: Part) -> dict[str, Any]:
    return {
        "distribution": None if part.distribution is None else str(part.distribution),
        "server": part.server,
        "levels": list(part.verdict.levels),
        "passed": part.passed,
        "wanted": part.wanted,
        "exit": int(part.verdict.exit),
        "verdict": part.verdict.line(),
    }


def matrix_page(matrix: Matrix) -> str:
    """Write the matrix as one page."""
    states = [*STATES, _ABOVE]
    shown = {
        state_of(part, number).removesuffix(" in part")
        for row in matrix.rows
        for part in row.parts.values()
        for number in _numbers(part)
    }
    return (
        environment()
        .get_template("matrix.html.jinja")
        .render(
            verdict={**verdict_view(matrix.exit, matrix.asked), "why": why(matrix)},
            capabilities=[one for one in CAPABILITIES if matrix.of(one)],
            rows=[_row(matrix, row) for row in matrix.rows],
            tables=[_table(matrix, one) for one in CAPABILITIES if matrix.of(one)],
            states=[state for state in states if state in shown],
        )
    )


def why(matrix: Matrix) -> str:
    """Say in a sentence what the matrix comes to."""
    return f"{_outcome(matrix)}{few_programs(part.verdict for row in matrix.rows for part in row.parts.values())}"


def _outcome(matrix: Matrix) -> str:
    rows, what = matrix.rows, "backend"
    if len({part.backend for row in rows for part in row.parts.values()}) < len(rows):
        rows, what = tuple({id(row.report): row for row in rows}.values()), "report"
    good = [row for row in rows if row.report.exit is Exit.CONFORMANT]
    if len(good) < len(rows):
        are = f"{'is' if len(good) == 1 else 'are'} conformant{f', at {_levels(matrix, good)}' if good else ''}"
        return f"{len(good)} of {plural(len(rows), what)} {are}."
    tested = [row for row in good if row.report.level != HARNESS.level]
    if not tested:
        return f"What opens the backend{'' if len(good) == 1 else 's'} works. No promise was tested."
    untested = len(good) - len(tested)
    but = f" Of {plural(untested, what)} no promise was tested." if untested else ""
    return f"Every promise that applies was kept by {_each_of(tested, what)}, at {_levels(matrix, tested)}.{but}"


def _levels(matrix: Matrix, of: Sequence[Row]) -> str:
    reports = [row.report for row in of]
    parts = [part for row in matrix.rows if row.report in reports for part in row.parts.values()]
    return listed(list(dict.fromkeys(part.verdict.level_text for part in parts)))


def _each_of(rows: Sequence[Row], what: str) -> str:
    return f"{'the' if len(rows) == 1 else 'each of'} {plural(len(rows), what)}"


def _row(matrix: Matrix, row: Row) -> dict[str, Any]:
    parts = list(row.parts.values())
    notes = [str(part.distribution) for part in parts if part.distribution] + [
        one.server for one in parts if one.server
    ]
    cells = []
    for capability in CAPABILITIES:
        if not matrix.of(capability):
            continue
        part = row.parts.get(capability)
        cells.append(
            part
            and {
                **verdict_view(part.verdict.exit, row.report.asked),
                "score": part.score,
                "levels": part.verdict.scope,
                "took": took(part.seconds),
            }
        )
    return {"label": row.label, "notes": list(dict.fromkeys(notes)), "cells": cells}


def _table(matrix: Matrix, capability: Capability) -> dict[str, Any]:
    rows = matrix.of(capability)
    return {
        "capability": capability,
        "labels": [row.label for row in rows],
        "promises": [
            {
                "number": one.number,
                "sentence": sentence_of(one.number),
                "states": list(_states(rows, capability, one.number)),
            }
            for one in promises_of(capability)
        ],
    }


def _states(rows: Sequence[Row], capability: Capability, number: str) -> Iterator[dict[str, str]]:
    for row in rows:
        text = state_of(row.parts[capability], number)
        shape = text.removesuffix(" in part")
        yield {"text": text, "shape": "not-run" if shape == _ABOVE else shape.replace(" ", "-")}
