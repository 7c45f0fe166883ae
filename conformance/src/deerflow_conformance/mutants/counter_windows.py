"""Faults of model counters that concern windows and resets: C4 and C6."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any
from unittest import mock

from deerflow_backends import buckets
from deerflow_backends import counters as recordings
from deerflow_backends.arguments import check_identifier
from deerflow_backends.counters import CounterOptions, Counts, Recorded
from deerflow_backends.inprocess import counters
from deerflow_backends.inprocess.counters import InProcessModelCounters
from deerflow_conformance.mutants import Patched, mutant
from deerflow_conformance.mutants.counters import with_methods

_record_many = InProcessModelCounters.record_many
_reset = InProcessModelCounters.reset
_window = InProcessModelCounters._window
_all_windows = InProcessModelCounters.all_windows
_first_of_window = buckets.first_of_window
_by_bucket = buckets.by_bucket
_bucket_of = buckets.bucket_of
_check_window = buckets.check_window


def _recording(record_many: Any) -> Patched:
    return with_methods(record_many=record_many)


@mutant("C4", "counters", by=("windows_hold_their_buckets", "windows_have_bounds"))
def a_window_is_a_bucket_short() -> Patched:
    """A window leaves out the oldest bucket that it reaches."""
    return mock.patch.object(
        counters,
        "first_of_window",
        lambda now, seconds, options: _first_of_window(now, seconds, options) + options.bucket_seconds,
    )


@mutant("C4", "counters", by=("windows_hold_their_buckets", "time_moves_windows_on"))
def a_window_is_two_buckets_long() -> Patched:
    """A window takes in two buckets that lie before it."""
    return mock.patch.object(
        counters,
        "first_of_window",
        lambda now, seconds, options: _first_of_window(now, seconds, options) - 2 * options.bucket_seconds,
    )


@mutant("C4", "counters", by=("windows_hold_their_buckets", "windows_have_bounds"))
def ages_are_ignored() -> Patched:
    """Everything counts in the current bucket, whatever its age."""
    return mock.patch.object(
        counters,
        "by_bucket",
        lambda counts, now, options: _by_bucket(
            [dataclasses.replace(one, age_seconds=0) for one in counts], now, options
        ),
    )


@mutant("C4", "counters", by="windows_have_bounds")
def a_window_may_be_longer_than_what_is_kept() -> Patched:
    """Too long a window is answered from what is there."""
    return mock.patch.object(counters, "check_window", lambda seconds, _: seconds)


@mutant("C4", "counters", by=("windows_hold_their_buckets", "windows_have_bounds"))
def the_current_bucket_is_left_out() -> Patched:
    """A window ends with the last bucket that is over."""

    def window(self: InProcessModelCounters, seconds: int) -> dict[str, buckets.Sums]:
        with mock.patch.object(
            counters, "bucket_of", lambda now, options: _bucket_of(now, options) - options.bucket_seconds
        ):
            return _window(self, seconds)

    return with_methods(_window=window)


@mutant("C4", "counters", by=("windows_hold_their_buckets", "time_moves_windows_on"))
def all_windows_are_the_longest() -> Patched:
    """Asked for all models, the window is the longest one."""

    async def all_windows(self: InProcessModelCounters, *, seconds: int) -> dict[str, Counts]:
        _check_window(seconds, self._options)
        longest = self._options.bucket_seconds * self._options.keep_buckets
        return await _all_windows(self, seconds=longest)

    return with_methods(all_windows=all_windows)


@mutant("C4", "counters", by="windows_reach_as_far_as_what_is_kept")
def a_window_is_two_hours_at_most() -> Patched:
    """A window of more than two hours is one of two hours."""
    return mock.patch.object(
        counters,
        "first_of_window",
        lambda now, seconds, options: _first_of_window(now, min(seconds, 7_200), options),
    )


@mutant("C4", "counters", by="windows_reach_as_far_as_what_is_kept")
def a_thousand_buckets_are_kept() -> Patched:
    """A sweep leaves the last thousand buckets, however many are to be kept."""
    return mock.patch.object(
        counters,
        "oldest_kept",
        lambda now, options: _bucket_of(now, options) - options.bucket_seconds * min(options.keep_buckets, 1_000),
    )


@mutant("C4", "counters", by="windows_have_bounds")
def what_is_too_old_counts_in_the_oldest_bucket() -> Patched:
    """What is older than what is kept counts as old as can be."""

    def by_bucket(counts: Any, now: int, options: CounterOptions) -> Any:
        longest = options.bucket_seconds * options.keep_buckets
        young = [dataclasses.replace(one, age_seconds=min(one.age_seconds, longest)) for one in counts]
        return _by_bucket(young, now, options)

    return mock.patch.object(counters, "by_bucket", by_bucket)


@mutant("C4", "counters", by="windows_have_bounds")
def a_window_of_nothing_is_taken() -> Patched:
    """A window below a second is one of a second."""
    return mock.patch.object(
        counters,
        "check_window",
        lambda seconds, options: _check_window(max(seconds, 1) if type(seconds) is int else seconds, options),
    )


@mutant("C4", "counters", by="windows_have_bounds")
def ages_may_be_anything() -> Patched:
    """An age is not looked at."""
    return mock.patch.object(recordings, "check_seconds", lambda _, value, **__: value)


@mutant("C4", "counters", by="windows_have_bounds")
def what_is_old_does_not_count() -> Patched:
    """What is older than what is kept counts nowhere, not even in totals."""

    async def record_many(self: InProcessModelCounters, counts: Sequence[Recorded], *, token: Any = None) -> None:
        longest = self._options.bucket_seconds * self._options.keep_buckets
        young = [one for one in buckets.check_recordings(counts) if one.age_seconds <= longest]
        await _record_many(self, young, token=token)

    return _recording(record_many)


@mutant("C4", "counters", by="old_buckets_are_removed")
def old_buckets_are_kept() -> Patched:
    """Buckets that no window reaches are never removed."""

    def sweep(self: InProcessModelCounters) -> None:
        now = self._clock()
        for token in [token for token, until in self._table.tokens.items() if until <= now]:
            del self._table.tokens[token]

    return with_methods(sweep=sweep)


@mutant("C6", "counters", by="reset_forgets_sums_below_zero")
def reset_keeps_buckets() -> Patched:
    """Reset removes a model's totals and leaves its buckets."""

    async def reset(self: InProcessModelCounters, model_name: str) -> None:
        self._table.totals.pop(check_identifier("model_name", model_name), None)

    return mock.patch.object(InProcessModelCounters, "reset", reset)


@mutant("C6", "counters", by="reset_forgets_sums_below_zero")
def reset_keeps_what_is_below_zero() -> Patched:
    """Reset takes off what readers see, and leaves sums below 0."""

    async def reset(self: InProcessModelCounters, model_name: str) -> None:
        below = self._table.totals.get(model_name, (0,) * 5)
        await _reset(self, model_name)
        if min(below) < 0:
            self._table.totals[model_name] = (0, 0, 0, min(0, below[3]), min(0, below[4]))

    return mock.patch.object(InProcessModelCounters, "reset", reset)


@mutant("C6", "counters", by="reset_forgets_sums_below_zero")
def reset_keeps_all_but_a_thousand_buckets() -> Patched:
    """Reset removes a model from a thousand buckets."""

    async def reset(self: InProcessModelCounters, model_name: str) -> None:
        holding = [models for models in self._table.buckets.values() if model_name in models]
        kept = [(models, models[model_name]) for models in holding[1_000:]]
        await _reset(self, model_name)
        for models, sums in kept:
            models[model_name] = sums

    return mock.patch.object(InProcessModelCounters, "reset", reset)


@mutant("C6", "counters", by="reset_forgets_one_model")
def reset_takes_look_alikes() -> Patched:
    """Reset removes every model whose name differs by case only."""

    async def reset(self: InProcessModelCounters, model_name: str) -> None:
        for name in list(self._table.totals):
            if name.casefold() == model_name.casefold():
                await _reset(self, name)

    return mock.patch.object(InProcessModelCounters, "reset", reset)


@mutant("C6", "counters", by="a_reset_forgets_no_token")
def a_reset_forgets_tokens() -> Patched:
    """Resetting a model forgets every token, so that a recording sent again after it counts again."""

    async def reset(self: InProcessModelCounters, model_name: str) -> None:
        await _reset(self, model_name)
        self._table.tokens.clear()

    return mock.patch.object(InProcessModelCounters, "reset", reset)


@mutant("C6", "counters", by="resets_among_recordings_stay_whole")
def a_reset_is_in_two_steps() -> Patched:
    """Reset removes the totals first and the buckets a moment later."""

    async def reset(self: InProcessModelCounters, model_name: str) -> None:
        self._table.totals.pop(check_identifier("model_name", model_name), None)
        await asyncio.sleep(0)
        for models in self._table.buckets.values():
            models.pop(model_name, None)

    return with_methods(reset=reset)


@mutant("C6", "counters", by="reset_forgets_sums_below_zero")
def a_reset_model_is_still_named() -> Patched:
    """After a reset a model is there, with sums of 0."""

    async def reset(self: InProcessModelCounters, model_name: str) -> None:
        known = model_name in self._table.totals
        await _reset(self, model_name)
        if known:
            self._table.totals[model_name] = (0, 0, 0, 0, 0)

    return with_methods(reset=reset)


@mutant("C6", "counters", by="reset_forgets_one_model")
def reset_takes_every_model() -> Patched:
    """Reset removes all models."""

    async def reset(self: InProcessModelCounters, model_name: str) -> None:
        for name in [*self._table.totals, model_name]:
            await _reset(self, name)

    return with_methods(reset=reset)


@mutant("C6", "counters", by="reset_forgets_sums_below_zero")
def reset_keeps_what_is_old() -> Patched:
    """Reset removes the totals and the current bucket."""

    async def reset(self: InProcessModelCounters, model_name: str) -> None:
        now = buckets.bucket_of(self._clock(), self._options)
        kept = [
            (models, models[model_name])
            for at, models in self._table.buckets.items()
            if model_name in models and at != now
        ]
        await _reset(self, model_name)
        for models, sums in kept:
            models[model_name] = sums

    return with_methods(reset=reset)
