"""Figures from samples: percentiles, medians with their spread, and two sides in short alternating rounds. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

T = TypeVar("T")

#: Does one side's share of a round and returns its figure.
Side: TypeAlias = Callable[[], Awaitable[float]]


@dataclass(frozen=True, slots=True)
class Spread:
    """A median of rounds, with the lowest and the highest of them."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Return the median of *values*, of which there is at least one, and how far they reach."""
    return Spread(statistics.median(values), min(values), max(values))


def ratios(pairs: Sequence[tuple[float, float]]) -> Spread:
    """Return how the first of each pair compares to the second, round by round."""
    return spread([first / second for first, second in pairs])


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the smallest of *ordered*, which is sorted and not empty, that *percent* of them do not exceed."""
    rank = -(-len(ordered) * percent // 100)  # rounded up
    return ordered[max(int(rank), 1) - 1]


async def in_turns(
    ours: Callable[[], Awaitable[T]], theirs: Callable[[], Awaitable[T]], *, rounds: int, warm_ups: int = 1
) -> list[tuple[T, T]]:
    """Let both sides do *rounds* rounds, in turns and each first in every other one; return both results of each.

    What disturbs the machine for longer than a round disturbs both, and leaves their ratio as it is. Those before the
    first warm up, and are not returned.
    """
    pairs: list[tuple[T, T]] = []
    for number in range(warm_ups + rounds):
        if number % 2:
            second = await theirs()
            first = await ours()
        else:
            first = await ours()
            second = await theirs()
        if number >= warm_ups:
            pairs.append((first, second))
    return pairs
