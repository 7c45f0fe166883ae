"""What a benchmark found: figures, the curves that are plotted, and the raw samples they were made from."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measures import Spread


@dataclass(frozen=True, slots=True)
class Figure:
    """One number.

    Attributes:
        name: What was measured; unique in its outcome.
        value: A median where there were rounds.
        unit: Such as ``x`` for a ratio.
        low: Of the rounds; None if there were none.
        high: As `low`.
    """

    name: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, name: str, found: Spread, unit: str) -> Figure:
        """Make one of a spread."""
        return cls(name, found.median, unit, found.low, found.high)

    def text(self) -> str:
        """Write the value with its unit, and the spread if there is one."""
        text = f"{_digits(self.value)} {self.unit}"
        if self.low is None or self.high is None:
            return text
        return f"{text} ({_digits(self.low)} to {_digits(self.high)})"


def _digits(value: float) -> str:
    """Write three significant digits, and no more of the fraction."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one scenario found for one backend.

    Attributes:
        scenario: By its name.
        backend: By its name in configuration; ``core`` for what concerns no backend.
        figures: In the order to show.
        samples: Raw values by what they are, with their unit: ``delivery, ms``.
        latencies: The names of those samples that are plotted as a distribution.
        growth: Cost in microseconds an event, by the number of subscribers.
        failure: Why there are no figures; empty if there are.
    """

    scenario: str
    backend: str
    figures: tuple[Figure, ...] = ()
    samples: Mapping[str, Sequence[float]] = field(default_factory=dict)
    latencies: tuple[str, ...] = ()
    growth: Mapping[int, float] = field(default_factory=dict)
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run.

    Attributes:
        name: Of its files: ``embedded``, or the backend's.
        quick: Tiny sizes, which try the program and say nothing about speed.
        machine: What it ran on, and which versions.
        rivals: What the rival of each backend does.
        outcomes: In the order they were run.
    """

    name: str
    quick: bool
    machine: Mapping[str, str]
    rivals: Mapping[str, str]
    outcomes: tuple[Outcome, ...]

    @property
    def backends(self) -> list[str]:
        """The backends that were run."""
        return list(dict.fromkeys(outcome.backend for outcome in self.outcomes))


def write(report: Report, folder: Path, extra: Mapping[str, Any]) -> None:
    """Write the summary as JSON, and beside it, compressed, the raw samples.

    Args:
        extra: Further parts of the summary.
    """
    outcomes, samples = [], {}
    for outcome in report.outcomes:
        fields = dataclasses.asdict(outcome)
        del fields["samples"]
        outcomes.append(fields)
        for name, values in outcome.samples.items():
            key = f"{outcome.scenario} / {outcome.backend} / {name}"
            samples[key] = [float(f"{value:.4g}") for value in values]
    summary = {**dataclasses.asdict(report), **extra, "outcomes": outcomes}
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(summary, indent=1, ensure_ascii=False)
    (folder / f"{report.name}.json").write_text(f"{text}\n", encoding="utf-8")
    packed = gzip.compress(json.dumps(samples, separators=(",", ":")).encode(), mtime=0)
    (folder / f"{report.name}-samples.json.gz").write_bytes(packed)
