"""How the demo looks: live at a terminal, plain lines elsewhere, and a summary at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.box import ROUNDED
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from deerflow_backends.cli.demo.acts import Stage
from deerflow_backends.cli.demo.clients import Client
from deerflow_backends.cli.demo.program import Outcome
from deerflow_backends.cli.demo.script import EVENTS
from deerflow_backends.cli.demo.verify import Published

_REPLICA_STYLES = {"A": "cyan", "B": "magenta"}


class Lines:
    """A stage for logs and pipes: one line as each step begins."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._begun = time.monotonic()

    def step(self, text: str) -> None:
        """Print it, with the seconds since the beginning."""
        self._console.print(f"{time.monotonic() - self._begun:5.1f} s  {text}", soft_wrap=True)

    def watch(self, clients: Sequence[Client], published: Sequence[Published]) -> None:
        """Say nothing: figures that move belong on a terminal."""


class Silence(Lines):
    """A stage for scripts, which want nothing but the result."""

    def step(self, text: str) -> None:
        """Say nothing."""


class Screen:
    """A stage for a terminal: steps with their seconds, and a bar for each client while they read."""

    def __init__(self) -> None:
        self._steps: list[tuple[str, float]] = []
        self._ended_at: float | None = None
        self._failed = False
        self._clients: Sequence[Client] = ()
        self._published: Sequence[Published] = ()
        self._spinner = Spinner("dots", style="cyan")

    def step(self, text: str) -> None:
        """Begin a step, which ticks off the one before."""
        self._steps.append((text, time.monotonic()))

    def watch(self, clients: Sequence[Client], published: Sequence[Published]) -> None:
        """Show bars below the steps, or none any more."""
        self._clients, self._published = clients, published

    def end(self, *, failed: bool) -> None:
        """Stop the clock of the last step."""
        self._ended_at, self._failed = time.monotonic(), failed
        self._clients = ()

    def __rich__(self) -> RenderableType:
        grid = Table.grid(padding=(0, 1), expand=False)
        grid.add_column(width=1)
        grid.add_column(overflow="fold")
        grid.add_column(justify="right", no_wrap=True)
        steps = list(self._steps)
        for number, (text, begun) in enumerate(steps, 1):
            is_last = number == len(steps)
            end = (self._ended_at or time.monotonic()) if is_last else steps[number][1]
            mark = self._last_mark() if is_last else Text("✔", "green")
            grid.add_row(mark, text, Text(f"{end - begun:.1f} s", "dim"))
        return Group(grid, self._bars()) if self._clients else grid

    def _last_mark(self) -> RenderableType:
        if self._ended_at is None:
            return self._spinner
        return Text("✘", "bold red") if self._failed else Text("✔", "green")

    def _bars(self) -> RenderableType:
        bars = Table.grid(padding=(0, 1))
        bars.add_row("", "worker", _bar(len(self._published), "green"), f"{len(self._published):>3}", "published")
        for client in self._clients:
            read = len(client.delivered)
            style = _REPLICA_STYLES.get(client.replica or "", "yellow")
            where = "has all of it" if client.done else f"from {client.replica}" if client.replica else "reconnecting"
            bars.add_row("", client.name, _bar(read, style), f"{read:>3}", Text(where, style))
        return bars


def _bar(completed: int, style: str) -> ProgressBar:
    return ProgressBar(total=EVENTS, completed=completed, width=40, complete_style=style, finished_style=style)


@contextmanager
def stage(console: Console, *, silent: bool) -> Iterator[Stage]:
    """Yield the stage that fits where *console* prints."""
    if silent:
        yield Silence(console)
    elif not console.is_terminal:
        yield Lines(console)
    else:
        screen = Screen()
        with Live(screen, console=console, refresh_per_second=15, transient=False):
            try:
                yield screen
            except BaseException:
                screen.end(failed=True)
                raise
            screen.end(failed=False)


def summary(outcome: Outcome) -> RenderableType:
    """Return what a person reads at the end."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=1)
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    for verdict in outcome.verdicts:
        mark = Text("✔", "green") if verdict.ok else Text("✘", "bold red")
        grid.add_row(mark, verdict.name, Text(verdict.detail, "" if verdict.ok else "red"))
    figures = [f"backend {outcome.backend}, reach {outcome.reach}", f"{outcome.seconds:.1f} s in all"]
    if outcome.delivery is not None:
        median, most = (f"{seconds * 1000:.1f} ms" for seconds in outcome.delivery)
        figures.insert(1, f"publish to client {median} (p50), {most} (p99, over the kill)")
    grid.add_row("", "", "")
    grid.add_row("", "measured", Text(" · ".join(figures)))
    title = "All of it held" if outcome.ok else "Not all of it held"
    style = "green" if outcome.ok else "red"
    return Panel(grid, title=title, title_align="left", border_style=style, box=ROUNDED, expand=False, padding=(0, 1))


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Return the same for scripts."""
    median, most = outcome.delivery or (None, None)
    return {
        "ok": outcome.ok,
        "backend": outcome.backend,
        "reach": outcome.reach,
        "seconds": outcome.seconds,
        "delivery_seconds_p50": median,
        "delivery_seconds_p99": most,
        "run_id": outcome.run_id,
        "kept": None if outcome.kept is None else str(outcome.kept),
        "claims": {
            verdict.name: {"ok": verdict.ok, "detail": verdict.detail, **verdict.figures}
            for verdict in outcome.verdicts
        },
    }
