"""Buckets and windows (C4): pure arithmetic, held against its definition."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deerflow_backends.buckets import (
    bucket_of,
    by_bucket,
    by_model,
    check_recordings,
    check_window,
    first_of_window,
    oldest_kept,
    to_counts,
)
from deerflow_backends.counters import MAX_COUNT, CounterOptions, Counts, Recorded
from deerflow_backends.errors import InvalidArgument

SECOND = 1_000_000
all_options = st.builds(CounterOptions, st.sampled_from([1, 7, 60, 3600]), st.integers(1, 100))
moments = st.integers(0, 4_000_000_000 * SECOND) | st.integers(0, 10_000).map(lambda n: n * 60 * SECOND)


@given(moments, all_options)
def test_a_bucket_holds_its_moment(moment: int, options: CounterOptions) -> None:
    """C4: buckets are named by their start, do not overlap, and leave no hole."""
    start = bucket_of(moment, options)
    assert start % options.bucket_seconds == 0
    assert start * SECOND <= moment < (start + options.bucket_seconds) * SECOND


@given(moments, all_options, st.data())
def test_a_window_is_every_bucket_that_intersects_it(now: int, options: CounterOptions, data: st.DataObject) -> None:
    """C4: the bucket [s, s + width) intersects (now - N, now] if s <= now and s + width > now - N, and only then."""
    seconds = data.draw(st.integers(1, options.bucket_seconds * options.keep_buckets))
    width = options.bucket_seconds
    first, last = first_of_window(now, seconds, options), bucket_of(now, options)
    for start in {first - width, first, first + width, last, last + width}:
        intersects = start * SECOND <= now and (start + width) * SECOND > now - seconds * SECOND
        assert (first <= start <= last) == intersects
    assert first >= oldest_kept(now, options)


@given(moments, all_options)
def test_exactly_keep_buckets_are_kept_besides_the_current_one(now: int, options: CounterOptions) -> None:
    """C4: the widest window reaches the oldest bucket that is kept, and no more is."""
    widest = options.bucket_seconds * options.keep_buckets
    assert oldest_kept(now, options) == first_of_window(now, widest, options)
    assert bucket_of(now, options) - oldest_kept(now, options) == widest


@pytest.mark.parametrize("seconds", [0, -1, 601, True, 1.5, None, "60"])
def test_a_window_that_is_not_kept_is_refused(seconds: Any) -> None:
    """C4: nothing is summed over less than was asked for."""
    options = CounterOptions(bucket_seconds=60, keep_buckets=10)
    assert [check_window(good, options) for good in (1, 600)] == [1, 600]
    with pytest.raises(InvalidArgument, match="seconds must be"):
        check_window(seconds, options)


def test_counts_go_to_the_bucket_of_their_age() -> None:
    """C4: what is older than every window counts in the totals only."""
    options = CounterOptions(bucket_seconds=60, keep_buckets=2)
    now = 6_000 * SECOND
    counts = [
        Recorded("m", calls=1),
        Recorded("m", calls=10, age_seconds=0.000001),
        Recorded("m", calls=100, age_seconds=60.0),
        Recorded("m", calls=1_000, age_seconds=120.0),
        Recorded("m", calls=10_000, age_seconds=120.000001),
        Recorded("n", positive=-1, age_seconds=31_557_600_000.0),
        Recorded("m", calls=100_000),
    ]
    assert by_bucket(counts, now, options) == {
        (6_000, "m"): (100_001, 0, 0, 0, 0),
        (5_940, "m"): (110, 0, 0, 0, 0),
        (5_880, "m"): (1_000, 0, 0, 0, 0),
    }
    assert by_model(counts) == {"m": (111_111, 0, 0, 0, 0), "n": (0, 0, 0, -1, 0)}


@given(st.lists(st.builds(Recorded, st.sampled_from("mn"), *[st.integers(0, 9)] * 3, *[st.integers(-9, 9)] * 2)))
def test_sums_are_sums(counts: list[Recorded]) -> None:
    """C1: everything of a model is summed, field by field; readers never see less than 0."""
    for model_name, sums in by_model(counts).items():
        mine = [recorded for recorded in counts if recorded.model_name == model_name]
        fields = ("calls", "successes", "failures", "positive", "negative")
        assert sums == tuple(sum(getattr(recorded, name) for recorded in mine) for name in fields)
        assert to_counts(sums) == Counts(*(max(0, value) for value in sums))
    assert by_model(counts).keys() == {recorded.model_name for recorded in counts}


def test_what_is_no_recording_is_refused() -> None:
    """C1: the error names which one."""
    assert check_recordings([]) == ()
    for bad, place in [(None, "counts"), ("m", "counts"), ({"m": 1}, "counts"), ([Recorded("m"), "m"], "counts[1]")]:
        with pytest.raises(InvalidArgument) as caught:
            check_recordings(bad)
        assert caught.value.place == place


@pytest.mark.parametrize(
    "wrong",
    [
        {"calls": -1},
        {"successes": 1.0},
        {"failures": True},
        {"calls": 10**9 + 1},
        {"positive": 0.5},
        {"negative": -(10**9) - 1},
        {"age_seconds": -1.0},
        {"age_seconds": float("nan")},
        {"model_name": ""},
    ],
)
def test_bad_figures_are_refused_where_they_are_made(wrong: dict[str, Any]) -> None:
    """C1: a recording that exists can be counted by every backend."""
    with pytest.raises(InvalidArgument) as caught:
        Recorded(**({"model_name": "m"} | wrong))
    assert caught.value.place in wrong


class Number(enum.IntEnum):
    """An int that is more than that."""

    TWO = 2


class Name(enum.StrEnum):
    """A str that is more than that."""

    MINE = "mine"


def test_a_recording_keeps_plain_values() -> None:
    """C1, G2: of subclasses of str and int only the value is kept."""
    recorded = Recorded(Name.MINE, *[Number.TWO] * 6)
    assert dataclasses.astuple(recorded) == ("mine", 2, 2, 2, 2, 2, 2.0)
    assert [type(value) for value in dataclasses.astuple(recorded)] == [str, *[int] * 5, float]


def test_what_may_be_recorded_fits_64_bits() -> None:
    """C1: billions of the largest recordings of one model have a sum that every server can keep."""
    assert MAX_COUNT * 9 * 10**9 < 2**63
