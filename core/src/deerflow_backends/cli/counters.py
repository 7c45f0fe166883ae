"""The command ``counters``: how every model does, in all and of late, once or again and again."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from deerflow_backends.backends import open_capability
from deerflow_backends.cli.output import cell, console, moment, print_json, printable, remark, table, warn_of_reach
from deerflow_backends.configuration import Configuration
from deerflow_backends.counters import Counts, ModelCounters
from deerflow_backends.errors import BackendUnavailable
from deerflow_backends.verdicts import Health, health

_STATE_STYLES: Final = {"healthy": "green", "unhealthy": "bold red", "unknown": "dim"}
_NOTHING: Final = "Nothing has been counted."


@dataclass(frozen=True, slots=True)
class Model:
    """How one model does.

    Attributes:
        totals: Everything since its last reset.
        window: The last seconds that were asked for.
        health: The verdict on the window.
    """

    model_name: str
    totals: Counts
    window: Counts
    health: Health

    def to_json(self) -> dict[str, Any]:
        """Return it for scripts, rates included."""
        return {
            "model_name": self.model_name,
            "totals": {**asdict(self.totals), "success_rate": self.totals.success_rate},
            "window": {**asdict(self.window), "success_rate": self.window.success_rate},
            "health": asdict(self.health),
        }


@dataclass(frozen=True, slots=True)
class Reading:
    """All models at one moment, by name.

    Attributes:
        at: When it was read, by this computer's clock.
        window_seconds: How far back the windows go.
    """

    at: datetime
    window_seconds: int
    models: tuple[Model, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it for scripts."""
        models = [model.to_json() for model in self.models]
        return {"at": self.at.isoformat(), "window_seconds": self.window_seconds, "models": models}


async def read(counters: ModelCounters, *, window_seconds: int) -> Reading:
    """Read all models; what is counted between its two reads may show in the window first."""
    totals = await counters.all_totals()
    windows = await counters.all_windows(seconds=window_seconds)
    models = []
    for name in sorted(totals.keys() | windows.keys()):
        window = windows.get(name, Counts())
        models.append(Model(name, totals.get(name, Counts()), window, health(window)))
    return Reading(datetime.now(UTC), window_seconds, tuple(models))


async def show_counters(
    configuration: Configuration, *, window_seconds: int, interval_seconds: float | None, as_json: bool
) -> None:
    """Print all models, or with *interval_seconds* do so again and again, until cancelled.

    An outage does not end watching once it has begun: the last figures stay, with what is wrong.

    Args:
        as_json: One JSON document, while watching one a line.

    Raises:
        InvalidArgument: *window_seconds* is longer than what the counters keep.
        BackendsError: As `deerflow_backends.open_backends` does.
    """
    async with open_capability(configuration, "counters") as counters:
        reading = await read(counters, window_seconds=window_seconds)
        backend = configuration.choices["counters"].backend
        warn_of_reach(counters.reach, f"the counters {backend!r}", "no call of another process is counted here")
        if interval_seconds is not None:
            await _watch(counters, reading, interval_seconds, as_json=as_json)
        elif as_json:
            print_json(reading.to_json())
        elif reading.models:
            console().print(shown(reading.models, window_seconds))
        else:
            remark(_NOTHING)


async def _watch(counters: ModelCounters, reading: Reading, interval_seconds: float, *, as_json: bool) -> None:
    out = console()
    screen = _Screen(out) if out.is_terminal and not as_json else _Lines(as_json=as_json)
    with screen.open():
        screen.show(reading)
        while True:
            await asyncio.sleep(interval_seconds)
            try:
                reading = await read(counters, window_seconds=reading.window_seconds)
            except BackendUnavailable as error:
                screen.tell(printable(str(error)))
            else:
                screen.show(reading)


class _Lines:
    """What watching prints to a pipe: a table or a JSON line each time, what is wrong on stderr."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def open(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def show(self, reading: Reading) -> None:
        if self._as_json:
            print_json(reading.to_json())
            return
        out = console()
        out.print(_heading(reading))
        out.print(shown(reading.models, reading.window_seconds) if reading.models else Text(_NOTHING))
        sys.stdout.flush()

    def tell(self, problem: str) -> None:
        remark(f"warning: {problem}", style="yellow")


class _Screen:
    """A table at a terminal that changes in place."""

    def __init__(self, out: Console) -> None:
        self._live = Live(console=out, auto_refresh=False)
        self._shown: RenderableType = ""

    @contextmanager
    def open(self) -> Iterator[None]:
        with self._live:
            try:
                yield
            finally:
                self._live.update(self._shown)  # the last figures stay, what was said below them does not

    def show(self, reading: Reading) -> None:
        figures = shown(reading.models, reading.window_seconds) if reading.models else Text(f"{_NOTHING}\n")
        self._shown = Group(_heading(reading), figures)
        self._update(Text("Ctrl-C ends it.", "dim"))

    def tell(self, problem: str) -> None:
        self._update(Text(f"{problem}; trying again", "red"))

    def _update(self, last_line: Text) -> None:
        self._live.update(Group(self._shown, last_line), refresh=True)


def _heading(reading: Reading) -> Text:
    count = len(reading.models)
    return Text.assemble((moment(reading.at), "bold"), (f" UTC, {count} model{'' if count == 1 else 's'}", "dim"))


def shown(models: Sequence[Model], window_seconds: int) -> Group:
    """Return the table of *models*, and why the unhealthy ones are."""
    window = f"last {window_seconds} s"
    listing = table("model", "calls", "success", "thumbs", window, "success", "health")
    listing.columns[0].min_width = 12
    listing.columns[-1].no_wrap = True
    for column in listing.columns[1:-1]:
        column.justify, column.no_wrap = "right", True
    lines = []
    for model in models:
        name, state = cell(printable(model.model_name)), model.health.state
        listing.add_row(name, *_figures(model), Text(state, _STATE_STYLES[state]))
        if state == "unhealthy":
            lines.append(Text.assemble(name, ": ", model.health.reason, style="red"))
    return Group(listing, *lines)


def _figures(model: Model) -> tuple[str, ...]:
    totals, window = model.totals, model.window
    thumbs = f"+{totals.positive} -{totals.negative}" if totals.positive or totals.negative else "-"
    return str(totals.calls), _rate(totals), thumbs, str(window.calls), _rate(window)


def _rate(counts: Counts) -> str:
    return "-" if counts.success_rate is None else f"{counts.success_rate:.1%}"
