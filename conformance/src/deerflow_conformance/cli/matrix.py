"""``matrix``: several reports side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from deerflow_conformance.cli.output import cell, console, print_json, remark, table
from deerflow_conformance.cli.screen import STYLES
from deerflow_conformance.promises import CAPABILITIES, Capability, Level, promises_of
from deerflow_conformance.reports import BadReport, Report, read_report
from deerflow_conformance.reports.matrix import UNASKED, Matrix, matrix_of, matrix_page, state_of, why
from deerflow_conformance.reports.page import meaning
from deerflow_conformance.reports.writing import write_whole
from deerflow_conformance.results import BrokenUse, Exit, State

_PASSED = str(State.PASSED)


def show_matrix(paths: Sequence[Path], *, html: Path | None, as_json: bool) -> Exit:
    """Print the reports in *paths* as one table, and write it to *html* if that is given.

    Raises:
        BrokenUse: One cannot be read or contradicts itself, or *html* cannot be written.
    """
    matrix = matrix_of([(str(path), _read(path)) for path in paths])
    if html is not None:
        try:
            write_whole(html, matrix_page(matrix))
        except OSError as error:
            raise BrokenUse(f"{html} cannot be written: {error.strerror or error}") from None
    if as_json:
        print_json(matrix.as_json())
    else:
        _print(matrix, console())
    if html is not None:
        remark(f"matrix: {html}")
    return matrix.exit


def _read(path: Path) -> Report:
    try:
        return read_report(path)
    except BadReport as error:
        raise BrokenUse(str(error)) from None


def _print(matrix: Matrix, out: Console) -> None:
    shown = [one for one in CAPABILITIES if matrix.of(one)]
    listing = table("backend", *shown)
    for row in matrix.rows:
        listing.add_row(cell(row.label), *(_summary(matrix, row.label, one) for one in shown))
    out.print(listing)
    for capability in shown:
        _print_promises(matrix, capability, out)
    out.print(Text.assemble(_word(matrix.exit, matrix.asked), "  ", why(matrix)))


def _summary(matrix: Matrix, label: str, capability: Capability) -> Text:
    row = next(one for one in matrix.rows if one.label == label)
    part = row.parts.get(capability)
    if part is None:
        return Text("-", "dim")
    code = part.verdict.exit
    return Text.assemble(f"{part.score} {part.verdict.scope}\n", _word(code, row.report.asked))


def _print_promises(matrix: Matrix, capability: Capability, out: Console) -> None:
    """Print what not every backend kept, and how much was kept by all that it applies to and that were asked."""
    rows = matrix.of(capability)
    listing = table(capability, *(row.label for row in rows))
    asked = kept = 0
    for promise in promises_of(capability):
        states = [state_of(row.parts[capability], promise.number) for row in rows]
        if not all(state.startswith(_PASSED) for state in states):
            listing.add_row(promise.number, *(cell(state, _style(state)) for state in states))
        if answers := [state for state in states if state not in UNASKED]:
            asked += 1
            kept += all(state.startswith(_PASSED) for state in answers)
    if listing.row_count:
        out.print(listing)
    out.print(Text(f"{capability}: {kept} of {asked} promises were kept by all that were asked", "dim"))
    out.print()


def _style(state: str) -> str:
    if state.startswith(_PASSED):
        return "green"
    return "bold red" if "fail" in state else "yellow" if state in ("could not run", "not run") else "dim"


def _word(code: Exit, asked: Level | None) -> tuple[str, str]:
    return meaning(code, asked), STYLES.get(code, "bold red")
