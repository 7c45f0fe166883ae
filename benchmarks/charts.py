"""Line charts as SVG text, coloured by the page around them: a distribution of latencies, and cost growth. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from benchmarks.measures import percentile

_WIDTH, _HEIGHT = 520, 330
_LEFT, _RIGHT, _TOP, _BOTTOM = 74, 30, 14, 54

#: Where the distribution is drawn: nines, further apart the rarer they are.
_PERCENTS: Final = [
    *range(0, 90, 5),
    *(90 + step / 2 for step in range(19)),
    *(99 + step / 10 for step in range(1, 10)),
    *(99.9 + step / 100 for step in range(1, 10)),
]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart.

    Attributes:
        label: For the legend.
        colour: Which of the page's colours, from 0.
        points: Both coordinates more than 0 where the axis is logarithmic.
        dashed: For a rival.
    """

    label: str
    colour: int
    points: Sequence[tuple[float, float]]
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis: its title, the ticks with their labels, and where a value is, from 0 to 1."""

    title: str
    ticks: Sequence[tuple[float, str]]
    place: Callable[[float], float]


def distribution(samples: Mapping[str, tuple[int, bool, Sequence[float]]], title: str) -> str:
    """Draw percentiles of sorted *samples* by their labels, each with a colour and whether it is dashed."""
    lines = []
    for label, (colour, dashed, ordered) in samples.items():
        # Of n samples, nothing is known beyond the last one's place.
        known = [percent for percent in _PERCENTS if (100 - percent) * len(ordered) >= 100]
        points = [(percent, max(percentile(ordered, percent), 1e-4)) for percent in known]
        lines.append(Line(label, colour, points, dashed))
    deepest = max(line.points[-1][0] for line in lines)
    far = -math.log10(1 - deepest / 100)

    def place(percent: float) -> float:
        return -math.log10(1 - percent / 100) / far if far else 0.0

    ticks = [(value, f"{value:g}") for value in (0, 50, 90, 99, 99.9) if value <= deepest]
    return _draw(lines, Axis("percentile", ticks, place), _logarithmic(title, lines, 1))


def growth(lines: Sequence[Line], across: str, up: str) -> str:
    """Draw *lines* on two logarithmic axes, each measured value a dot."""
    return _draw(lines, _logarithmic(across, lines, 0), _logarithmic(up, lines, 1), dots=True)


def legend(lines: Sequence[tuple[str, int, bool]]) -> str:
    """Name the lines by label, colour and whether dashed."""
    items = "".join(
        f'<li class="c{colour}{" dashed" if dashed else ""}"><svg viewBox="0 0 28 8" aria-hidden="true">'
        f'<path d="M0 4H28"/></svg>{escape(label)}</li>'
        for label, colour, dashed in lines
    )
    return f'<ul class="legend">{items}</ul>'


def _logarithmic(title: str, lines: Sequence[Line], coordinate: int) -> Axis:
    values = [point[coordinate] for line in lines for point in line.points]
    low, high = math.floor(math.log10(min(values)) + 1e-9), math.ceil(math.log10(max(values)) - 1e-9)
    high = max(high, low + 1)
    # Half decades are as good as whole ones for ends; with few decades they are ticks, too.
    steps = (1, 2, 5) if high - low <= 2 else (1,)
    ticks = [(step * 10.0**power, f"{step * 10.0**power:,g}") for power in range(low, high + 1) for step in steps]
    return Axis(
        title,
        [tick for tick in ticks if tick[0] <= 10.0**high * 1.001],
        lambda value: (math.log10(value) - low) / (high - low),
    )


def _draw(lines: Sequence[Line], across: Axis, up: Axis, *, dots: bool = False) -> str:
    def x(value: float) -> float:
        return _LEFT + across.place(value) * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - up.place(value) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"><title>{escape(up.title)}</title>']
    for value, label in up.ticks:
        parts.append(f'<path class="grid" d="M{_LEFT} {y(value):.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y(value) + 5:.1f}" text-anchor="end">{label}</text>')
    for value, label in across.ticks:
        parts.append(f'<path class="grid" d="M{x(value):.1f} {_TOP}V{_HEIGHT - _BOTTOM}"/>')
        parts.append(f'<text x="{x(value):.1f}" y="{_HEIGHT - _BOTTOM + 20}" text-anchor="middle">{label}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(across.title)}</text>')
    for line in lines:
        path = "L".join(f"{x(first):.1f} {y(second):.1f}" for first, second in line.points)
        parts.append(f'<path class="line c{line.colour}{" dashed" if line.dashed else ""}" d="M{path}"/>')
        if dots:
            parts += [
                f'<circle class="c{line.colour}" cx="{x(first):.1f}" cy="{y(second):.1f}" r="4.5">'
                f"<title>{escape(line.label)}: {second:,.3g} at {first:,g}</title></circle>"
                for first, second in line.points
            ]
    return "".join([*parts, "</svg>"])
