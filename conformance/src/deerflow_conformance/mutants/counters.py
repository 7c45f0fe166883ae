"""Faults of model counters, and of the buffer in front of them."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

from deerflow_backends import buckets, buffering
from deerflow_backends.arguments import check_identifier, check_token
from deerflow_backends.buffering import BufferedCounters
from deerflow_backends.counters import CounterOptions, Counts, Recorded
from deerflow_backends.errors import BackendUnavailable
from deerflow_backends.inprocess import counters
from deerflow_backends.inprocess.counters import InProcessModelCounters
from deerflow_conformance.mutants import mutant

Patched = AbstractContextManager[Any]

_record_many = InProcessModelCounters.record_many
_reset = InProcessModelCounters.reset
_window = InProcessModelCounters._window
_all_totals = InProcessModelCounters.all_totals
_first_of_window = buckets.first_of_window
_add = buckets.add
_by_bucket = buckets.by_bucket
_flush = BufferedCounters._flush
_send = BufferedCounters._send


def _recording(record_many: Any) -> Patched:
    return mock.patch.object(InProcessModelCounters, "record_many", record_many)


@mutant("C1", "counters", by=("totals_are_sums", "concurrent_recordings_all_count"))
def the_last_recording_of_a_model_counts() -> Patched:
    """Of several recordings of one model in one call only the last is counted."""

    async def record_many(self: InProcessModelCounters, counts: Sequence[Recorded], *, token: Any = None) -> None:
        last = {recorded.model_name: recorded for recorded in buckets.check_recordings(counts)}
        await _record_many(self, tuple(last.values()), token=token)

    return _recording(record_many)


@mutant("C1", "counters", by="thumbs_are_signed_and_shown_from_zero")
def thumbs_stop_at_zero() -> Patched:
    """A sum of thumbs that would fall below 0 is stored as 0."""

    def add(some: Any, more: Any) -> Any:
        total = _add(some, more)
        return (*total[:3], max(0, total[3]), max(0, total[4]))

    return mock.patch.object(counters, "add", add)


@mutant("C1", "counters", by="thumbs_are_summed_before_they_are_shown")
def each_bucket_shows_from_zero() -> Patched:
    """A window sums what its buckets would show, so that a thumb taken back in another bucket is not."""

    def window(self: InProcessModelCounters, seconds: int) -> dict[str, buckets.Sums]:
        signed, self._table.buckets = (
            self._table.buckets,
            {
                start: {name: _shown(sums) for name, sums in models.items()}
                for start, models in self._table.buckets.items()
            },
        )
        try:
            return _window(self, seconds)
        finally:
            self._table.buckets = signed

    return mock.patch.object(InProcessModelCounters, "_window", window)


def _shown(sums: buckets.Sums) -> buckets.Sums:
    return (*sums[:3], max(0, sums[3]), max(0, sums[4]))


@mutant("C1", "counters", by="concurrent_recordings_all_count")
def concurrent_sums_are_lost() -> Patched:
    """A recording reads the sums, waits, and writes them back."""

    async def record_many(self: InProcessModelCounters, counts: Sequence[Recorded], *, token: Any = None) -> None:
        before = dict(self._table.totals)
        await _record_many(self, counts, token=token)
        mine = {name: self._table.totals[name] for name in {one.model_name for one in counts}}
        self._table.totals.clear()
        self._table.totals.update(before)
        await asyncio.sleep(0)
        self._table.totals.update(mine)

    return _recording(record_many)


@mutant("C2", "counters", by=("a_token_counts_once", "rivals_with_one_token_count_once"))
def a_token_is_ignored() -> Patched:
    """A batch with a token is counted each time it comes."""

    async def record_many(self: InProcessModelCounters, counts: Sequence[Recorded], *, token: Any = None) -> None:
        if token is not None:
            check_token("token", token)
        await _record_many(self, counts)

    return _recording(record_many)


@mutant("C2", "counters", by="a_token_counts_once")
def a_token_is_one_instances() -> Patched:
    """Each instance remembers its own tokens only."""

    async def record_many(self: InProcessModelCounters, counts: Sequence[Recorded], *, token: Any = None) -> None:
        if token is not None:
            token = f"{id(self) % 10_000} {check_token('token', token)}"[:64]
        await _record_many(self, counts, token=token)

    return _recording(record_many)


@mutant("C2", "counters", by="a_forgotten_token_counts_again")
def a_token_is_never_forgotten() -> Patched:
    """A token is refused long after token_seconds."""
    return mock.patch.object(
        CounterOptions,
        "__getattribute__",
        lambda self, name: 10**9 if name == "token_seconds" else object.__getattribute__(self, name),
    )


@mutant("C3", "counters", by="no_reader_sees_half_a_recording")
def calls_come_before_their_outcome() -> Patched:
    """Calls are counted first and their outcomes a moment later."""

    async def record_many(self: InProcessModelCounters, counts: Sequence[Recorded], *, token: Any = None) -> None:
        checked = buckets.check_recordings(counts)
        calls = tuple(Recorded(one.model_name, one.calls, age_seconds=one.age_seconds) for one in checked)
        await _record_many(self, calls, token=token)
        await asyncio.sleep(0)
        await _record_many(self, tuple(dataclasses.replace(one, calls=0) for one in checked))

    return _recording(record_many)


@mutant("C3", "counters", by="no_reader_sees_half_a_recording")
def models_are_counted_one_by_one() -> Patched:
    """A call for several models counts one after the other, with readers in between."""

    async def record_many(self: InProcessModelCounters, counts: Sequence[Recorded], *, token: Any = None) -> None:
        checked = buckets.check_recordings(counts)
        for recorded in checked or ():
            await _record_many(self, (recorded,), token=token)
            await asyncio.sleep(0)
            token = None

    return _recording(record_many)


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


@mutant("C5", "counters", by="outages_lose_and_double_nothing")
def a_flush_is_sent_again_as_another() -> Patched:
    """After a failure the same counts are sent with a new token."""

    async def send(self: BufferedCounters, batch: Any) -> None:
        await _send(self, buffering._Batch(batch.entries))

    return mock.patch.object(BufferedCounters, "_send", send)


@mutant("C5", "counters", by="outages_lose_and_double_nothing")
def a_failed_flush_is_dropped() -> Patched:
    """What a flush could not send is gone."""

    async def send(self: BufferedCounters, batch: Any) -> None:
        try:
            await _send(self, batch)
        except BackendUnavailable:
            self._batch = None
            raise

    return mock.patch.object(BufferedCounters, "_send", send)


@mutant("C5", "counters", by="an_outage_is_counted_where_it_happened")
def held_counts_are_counted_as_new() -> Patched:
    """A flush gives no ages, so that what an outage held back counts as of now."""
    recordings = buffering._Entry.recordings

    def ageless(self: Any, now: float) -> Any:
        return (dataclasses.replace(one, age_seconds=0.0) for one in recordings(self, now))

    return mock.patch.object(buffering._Entry, "recordings", ageless)


@mutant("C5", "counters", by="reads_and_closing_flush")
def reads_do_not_flush() -> Patched:
    """Reads show what was flushed before them."""

    async def nothing(self: BufferedCounters) -> None:
        self._check_binding()

    return mock.patch.object(BufferedCounters, "_flush_to_read", nothing)


@mutant("C5", "counters", by="recording_on_the_buffer_is_no_io")
def recording_waits_for_the_backend() -> Patched:
    """Recording on the buffer records at the backend."""

    async def record(self: BufferedCounters, model_name: str, **figures: Any) -> None:
        await self._counters.record_many([Recorded(model_name, **figures)])

    return mock.patch.object(BufferedCounters, "record", record)


@mutant("C5", "counters", by="reads_and_closing_flush")
def closing_forgets() -> Patched:
    """Leaving the buffer drops what was not flushed."""

    async def close(_: BufferedCounters, flushing: asyncio.Task[None]) -> None:
        flushing.cancel()
        await asyncio.wait([flushing])

    return mock.patch.object(BufferedCounters, "_close", close)


@mutant("C5", "counters", by="it_flushes_by_itself_one_at_a_time")
def flushes_run_side_by_side() -> Patched:
    """Nothing keeps a second flush from starting while one is under way."""

    class Open:
        async def __aenter__(self) -> None:
            """Let everybody in."""

        async def __aexit__(self, *_: object) -> None:
            """Nothing to give back."""

    async def flush(self: BufferedCounters) -> None:
        self._flushing = Open()  # type: ignore[assignment]  # a lock that does not lock
        await _flush(self)

    return mock.patch.object(BufferedCounters, "_flush", flush)


@mutant("C5", "counters", by="a_full_buffer_refuses_other_models")
def refusals_are_not_counted() -> Patched:
    """What a full buffer drops is not told."""
    return mock.patch.object(BufferedCounters, "refused", property(lambda _: 0, lambda *_: None), create=True)


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


@mutant("C7", "counters", by="any_name_is_a_model")
def names_lose_their_end() -> Patched:
    """Names are cut to 255 characters."""

    async def record_many(self: InProcessModelCounters, counts: Sequence[Recorded], *, token: Any = None) -> None:
        cut = [dataclasses.replace(one, model_name=one.model_name[:255]) for one in buckets.check_recordings(counts)]
        await _record_many(self, cut, token=token)

    return _recording(record_many)


@mutant("C7", "counters", by="ten_thousand_models_in_one_call")
def a_thousand_models_are_read() -> Patched:
    """All totals are those of the first thousand models."""

    async def all_totals(self: InProcessModelCounters) -> dict[str, Counts]:
        return dict(list((await _all_totals(self)).items())[:1_000])

    return mock.patch.object(InProcessModelCounters, "all_totals", all_totals)
