"""Counts over a window, judged: is this model healthy? Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deerflow_backends.arguments import check_integer
from deerflow_backends.counters import Counts
from deerflow_backends.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class Health:
    """A verdict with its reason, for people.

    Attributes:
        state: ``unknown`` while too little was seen.
        reason: One sentence with the figures that decided.
    """

    state: Literal["unknown", "healthy", "unhealthy"]
    reason: str


def health(counts: Counts, *, min_calls: int = 20, min_success_rate: float = 0.5) -> Health:
    """Judge a model by its counts, best taken from a window of some minutes.

    Args:
        min_calls: Finished calls (successes and failures) below which nothing is said; 1 or more.
        min_success_rate: The lowest healthy share of successes, 0.0 to 1.0.

    Raises:
        InvalidArgument: A limit out of range.
    """
    check_integer("min_calls", min_calls, least=1)
    if type(min_success_rate) not in {int, float} or not 0.0 <= min_success_rate <= 1.0:
        raise InvalidArgument("min_success_rate", f"must be from 0.0 to 1.0, not {min_success_rate!r}")
    finished = counts.successes + counts.failures
    rate = counts.success_rate
    if rate is None or finished < min_calls:
        return Health("unknown", f"{finished} finished calls, fewer than {min_calls}")
    seen = f"{counts.successes} of {finished} calls succeeded ({rate:.1%})"
    if rate < min_success_rate:
        return Health("unhealthy", f"{seen}, below {min_success_rate:.1%}")
    return Health("healthy", seen)
