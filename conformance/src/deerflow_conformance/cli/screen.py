"""Shows how a run goes: at a terminal each promise as it is judged, in a pipe one plain line each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from deerflow_conformance.cli.output import cell, console, say
from deerflow_conformance.reports.model import MEANINGS, Part
from deerflow_conformance.results import Exit, Result, State
from deerflow_conformance.texts import result_text, sentence_of

#: A sign and a style for each state, at a terminal.
_SIGNS: Final = {
    State.PASSED: ("✓", "green"),
    State.FAILED: ("✗", "bold red"),
    State.KNOWN_FAILURE: ("!", "red"),
    State.COULD_NOT_RUN: ("?", "yellow"),
    State.NOT_APPLICABLE: ("-", "dim"),
}
#: How wide a sign and a number are.
_NUMBER_WIDTH: Final = 6
STYLES: Final = {Exit.CONFORMANT: "bold green", Exit.INCOMPLETE: "bold yellow"}


class Screen(Protocol):
    """Hears how a run goes, as `deerflow_conformance.judging.Listener`, and who is judged and what it comes to."""

    def judging(self, number: str) -> None:
        """Hear that the promise *number* is judged from now on."""

    def judged(self, result: Result) -> None:
        """Hear what came of it."""

    def begin(self, backend: str, capability: str, numbers: Sequence[str], replay: Callable[[str], str]) -> None:
        """Hear that a capability's *numbers* come; *replay* gives the command that judges one again."""

    def end(self, parts: Sequence[Part]) -> None:
        """Hear that all was judged."""


@contextmanager
def open_screen(*, silent: bool = False) -> Iterator[Screen]:
    """Yield what shows a run on this moment's stdout, or what shows nothing."""
    out = console()
    if silent:
        yield Silence()
    elif not out.is_terminal:
        yield Lines()
    else:
        # Refreshed by hand: a thread that does so would be there while checks look for threads.
        live = Live(console=out, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False)
        with live:
            yield Terminal(out, live)


class Silence:
    """Shows nothing, for ``--json``."""

    def judging(self, number: str) -> None:
        """Show nothing."""

    def judged(self, result: Result) -> None:
        """Show nothing."""

    def begin(self, backend: str, capability: str, numbers: Sequence[str], replay: Callable[[str], str]) -> None:
        """Show nothing."""

    def end(self, parts: Sequence[Part]) -> None:
        """Show nothing."""


class Lines:
    """Prints a line for what passed and some for what did not."""

    def __init__(self) -> None:
        self._replay: Callable[[str], str] = str

    def judging(self, number: str) -> None:
        """Print nothing: a pipe gets results."""

    def judged(self, result: Result) -> None:
        """Print it."""
        if result.state is State.PASSED:
            part = f" (in part: {result.reason})" if result.reason else ""
            say(f"{result.capability} {result.number} passed{part}")
        else:
            say(result_text(result, self._replay(result.number)))

    def begin(self, backend: str, capability: str, numbers: Sequence[str], replay: Callable[[str], str]) -> None:
        """Print nothing: each line says whose it is."""
        self._replay = replay

    def end(self, parts: Sequence[Part]) -> None:
        """Print one line a capability."""
        backends = {part.backend for part in parts}
        say(
            "",
            *(f"{part.backend}: {part.verdict.line()}" if len(backends) > 1 else part.verdict.line() for part in parts),
        )


class Terminal:
    """A line for each promise that was judged, and below them what is judged now."""

    def __init__(self, out: Console, live: Live) -> None:
        self._out, self._live = out, live
        self._replay: Callable[[str], str] = str
        self._capability, self._numbers, self._done = "", 0, 0

    def begin(self, backend: str, capability: str, numbers: Sequence[str], replay: Callable[[str], str]) -> None:
        """Print a heading."""
        self._replay = replay
        self._capability, self._numbers, self._done = capability, len(numbers), 0
        self._out.print(Text.assemble("\n", (f"{backend} {capability}", "bold")))

    def judging(self, number: str) -> None:
        """Show it in the last line."""
        progress = f"{self._capability} {self._done + 1}/{self._numbers}"
        line = Text.assemble((progress, "bold"), f"  {number}  ", (sentence_of(number), "dim"))
        self._live.update(_fitted(line, self._out.width), refresh=True)

    def judged(self, result: Result) -> None:
        """Print one line for what passed, and everything about what did not."""
        self._done += 1
        sign, style = _SIGNS[result.state]
        seconds = f"{result.seconds:8.2f} s"
        if result.state in (State.FAILED, State.KNOWN_FAILURE):
            text = result_text(result, self._replay(result.number))
            head, _, rest = text.partition("\n")
            self._out.print(Text.assemble((f"{sign} ", style), cell(head, style)), soft_wrap=True)
            self._out.print(cell(rest), soft_wrap=True)
            return
        if result.state is not State.PASSED:
            said = cell(f"{result.state}: {result.reason}", "" if style == "yellow" else "dim")
        elif result.reason:
            said = cell(f"in part, {result.reason}", "dim")
        else:
            said = _fitted(cell(sentence_of(result.number), "dim"), self._out.width - _NUMBER_WIDTH - len(seconds))
        line = Table.grid(expand=True)  # wraps a reason, which says what to do, below itself
        line.add_column(width=_NUMBER_WIDTH)
        line.add_column(ratio=1, overflow="fold")
        line.add_column(width=len(seconds))
        line.add_row(Text.assemble((f"{sign} ", style), result.number), said, Text(seconds, "dim"))
        self._out.print(line)

    def end(self, parts: Sequence[Part]) -> None:
        """Print one line a capability."""
        self._live.stop()
        self._out.print()
        width = max(len(MEANINGS[part.verdict.exit]) for part in parts)
        for part in parts:
            code = part.verdict.exit
            word = (MEANINGS[code].upper().ljust(width), STYLES.get(code, "bold red"))
            self._out.print(Text.assemble(word, "  ", cell(f"{part.backend} {part.verdict.line()}")))


def _fitted(line: Text, width: int) -> Text:
    line.truncate(width, overflow="ellipsis")
    return line
