"""Arithmetic of the model counters: when a count belongs to which bucket, and what a window covers (C4). Pure.

A bucket is named by its start, in seconds since 1970, a multiple of its width. A window of N seconds covers every
bucket that intersects ``(now - N, now]``; the widest one covers the current bucket and all ``keep_buckets`` before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from deerflow_backends.arguments import check_integer
from deerflow_backends.clocks import MICROSECONDS
from deerflow_backends.counters import CounterOptions, Counts, Recorded
from deerflow_backends.errors import InvalidArgument

#: Signed sums in the order of the fields of `Counts`.
Sums: TypeAlias = tuple[int, int, int, int, int]


def bucket_of(moment: int, options: CounterOptions) -> int:
    """Name the bucket that holds *moment*, in microseconds since 1970."""
    return moment // (options.bucket_seconds * MICROSECONDS) * options.bucket_seconds


def oldest_kept(now: int, options: CounterOptions) -> int:
    """Name the oldest bucket that any window may still reach; those before it can be removed."""
    return bucket_of(now, options) - options.bucket_seconds * options.keep_buckets


def first_of_window(now: int, seconds: int, options: CounterOptions) -> int:
    """Name the oldest bucket that intersects the last *seconds*.

    Every bucket from there to `bucket_of` now belongs to the window; later ones, of before a clock went back, do not.
    """
    return bucket_of(now - seconds * MICROSECONDS, options)


def check_window(seconds: Any, options: CounterOptions) -> int:
    """Return *seconds* if a window of that length is kept, else raise `InvalidArgument`."""
    return check_integer("seconds", seconds, least=1, most=options.bucket_seconds * options.keep_buckets)


def check_recordings(counts: Any) -> tuple[Recorded, ...]:
    """Return *counts* if it is a sequence of `Recorded`, else raise `InvalidArgument`."""
    if isinstance(counts, str | bytes) or not isinstance(counts, Sequence):
        raise InvalidArgument("counts", f"must be a sequence of Recorded, not {type(counts).__name__}")
    for index, recorded in enumerate(counts):
        if not isinstance(recorded, Recorded):
            raise InvalidArgument(f"counts[{index}]", f"must be a Recorded, not {type(recorded).__name__}")
    return tuple(counts)


def by_model(counts: Iterable[Recorded]) -> dict[str, Sums]:
    """Sum *counts* for each model, whatever their age."""
    sums: dict[str, Sums] = {}
    for recorded in counts:
        sums[recorded.model_name] = add(sums.get(recorded.model_name), _sums(recorded))
    return sums


def by_bucket(counts: Iterable[Recorded], now: int, options: CounterOptions) -> dict[tuple[int, str], Sums]:
    """Sum *counts* for each bucket and model; those older than what is kept are left out (they count in totals)."""
    oldest = oldest_kept(now, options)
    sums: dict[tuple[int, str], Sums] = {}
    for recorded in counts:
        bucket = bucket_of(now - round(recorded.age_seconds * MICROSECONDS), options)
        if bucket >= oldest:
            key = (bucket, recorded.model_name)
            sums[key] = add(sums.get(key), _sums(recorded))
    return sums


def add(some: Sums | None, more: Sums) -> Sums:
    """Add two sums; None is nothing yet."""
    if some is None:
        return more
    return (some[0] + more[0], some[1] + more[1], some[2] + more[2], some[3] + more[3], some[4] + more[4])


def to_counts(sums: Sequence[int]) -> Counts:
    """Show signed sums to a reader: never below 0 (C1)."""
    return Counts(*(max(0, value) for value in sums))


def _sums(recorded: Recorded) -> Sums:
    return (recorded.calls, recorded.successes, recorded.failures, recorded.positive, recorded.negative)
