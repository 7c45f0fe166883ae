"""Health: counts over a window, judged."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deerflow_backends import Counts, InvalidArgument, health

figures = st.integers(0, 1_000)


@given(figures, figures, st.integers(1, 100), st.floats(0.0, 1.0))
def test_judged_by_finished_calls_and_their_successes(
    successes: int, failures: int, min_calls: int, min_success_rate: float
) -> None:
    """Below ``min_calls`` nothing is said; from there the share of successes decides, the limit itself is healthy."""
    counts = Counts(calls=10_000, successes=successes, failures=failures)
    verdict = health(counts, min_calls=min_calls, min_success_rate=min_success_rate)
    finished = successes + failures
    if finished < min_calls:
        assert verdict.state == "unknown"
    else:
        assert verdict.state == ("healthy" if successes / finished >= min_success_rate else "unhealthy")


def test_the_reason_is_a_sentence_with_the_figures() -> None:
    """A person sees why."""
    assert health(Counts()).reason == "0 finished calls, fewer than 20"
    unhealthy = health(Counts(successes=5, failures=15))
    assert (unhealthy.state, unhealthy.reason) == ("unhealthy", "5 of 20 calls succeeded (25.0%), below 50.0%")
    assert health(Counts(successes=20)).reason == "20 of 20 calls succeeded (100.0%)"


def test_calls_that_are_not_finished_say_nothing() -> None:
    """A call without outcome is no failure, and there is no rate before the first outcome."""
    assert Counts(calls=100).success_rate is None
    assert health(Counts(calls=100)).state == "unknown"


@pytest.mark.parametrize(
    "limits",
    [{"min_calls": 0}, {"min_calls": True}, {"min_calls": 1.0}]
    + [{"min_success_rate": rate} for rate in (-0.1, 1.1, float("nan"), "0.5", None, True)],
)
def test_a_limit_out_of_range_is_refused(limits: dict[str, Any]) -> None:
    """A limit that cannot be meant is an error that names it."""
    with pytest.raises(InvalidArgument, match=next(iter(limits))):
        health(Counts(), **limits)
