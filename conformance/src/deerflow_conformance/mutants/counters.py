"""Faults of model counters that concern sums, whole recordings and names: C1, C3 and C7."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any
from unittest import mock

from deerflow_backends import buckets
from deerflow_backends import counters as recordings
from deerflow_backends.arguments import check_identifier, check_integer
from deerflow_backends.counters import Counts, Recorded
from deerflow_backends.inprocess import counters
from deerflow_backends.inprocess.counters import InProcessModelCounters
from deerflow_conformance.mutants import Patched, methods, mutant

with_methods = partial(methods, InProcessModelCounters)

_record_many = InProcessModelCounters.record_many
_window = InProcessModelCounters._window
_totals = InProcessModelCounters.totals
_all_totals = InProcessModelCounters.all_totals
_all_windows = InProcessModelCounters.all_windows
_add = buckets.add


def _recording(record_many: Any) -> Patched:
    return with_methods(record_many=record_many)


# ---------------------------------------------------------------------- C1


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


@mutant("C1", "counters", by=("totals_are_sums", "concurrent_recordings_all_count"))
def failures_are_lost() -> Patched:
    """Failures are not summed."""
    return mock.patch.object(
        counters, "add", lambda some, more: _add(some, (more[0], more[1], 0 if some else more[2], *more[3:]))
    )


@mutant("C1", "counters", by="totals_are_sums")
def each_instance_sums_for_itself() -> Patched:
    """An instance shows what was recorded through it."""
    own: dict[tuple[InProcessModelCounters, str], Any] = {}

    async def record_many(self: InProcessModelCounters, counts: Sequence[Recorded], *, token: Any = None) -> None:
        before = dict(self._table.totals)
        await _record_many(self, counts, token=token)
        for name, sums in buckets.by_model(buckets.check_recordings(counts)).items():
            if before.get(name) != self._table.totals.get(name):
                own[self, name] = _add(own.get((self, name)), sums)

    async def totals(self: InProcessModelCounters, model_name: str) -> Counts:
        await _totals(self, model_name)
        return buckets.to_counts(own.get((self, model_name), ()))

    return with_methods(record_many=record_many, totals=totals)


@mutant("C1", "counters", by="totals_are_sums")
def sums_are_floats() -> Patched:
    """Sums are kept as floats."""

    def add(some: Any, more: Any) -> Any:
        return tuple(float(value) for value in _add(some, more))

    return mock.patch.object(counters, "add", add)


@mutant("C1", "counters", by="thumbs_are_signed_and_shown_from_zero")
def windows_show_what_is_below_zero() -> Patched:
    """A window shows sums of thumbs as they are."""

    async def window(self: InProcessModelCounters, model_name: str, *, seconds: int) -> Counts:
        check_identifier("model_name", model_name)
        return Counts(*self._window(seconds).get(model_name, ()))

    return with_methods(window=window)


@mutant("C1", "counters", by="bad_counts_are_refused")
def any_figure_is_taken() -> Patched:
    """Figures are made integers within the bounds, whatever they are."""

    def check(place: str, value: Any, **bounds: Any) -> int:
        return (
            max(int(value), bounds.get("least", 0))
            if isinstance(value, float)
            else check_integer(place, value, **bounds)
        )

    return mock.patch.object(recordings, "check_integer", check)


@mutant("C1", "counters", by="bad_counts_are_refused")
def calls_may_be_taken_back() -> Patched:
    """Calls, successes and failures may be below 0."""
    return mock.patch.object(
        recordings, "check_integer", lambda place, value, least, most: check_integer(place, value, most=most)
    )


@mutant("C1", "counters", by="bad_counts_are_refused")
def one_recording_is_a_batch() -> Patched:
    """What is recorded many together may be a single recording."""

    def check_recordings(counts: Any) -> tuple[Recorded, ...]:
        return (counts,) if isinstance(counts, Recorded) else buckets.check_recordings(counts)

    return mock.patch.object(counters, "check_recordings", check_recordings)


# ---------------------------------------------------------------------- C3


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


@mutant("C3", "counters", by="no_reader_sees_half_a_recording")
def windows_lag_behind_outcomes() -> Patched:
    """In windows calls are counted first and their outcomes a moment later."""

    async def record_many(self: InProcessModelCounters, counts: Sequence[Recorded], *, token: Any = None) -> None:
        checked = buckets.check_recordings(counts)
        await _record_many(self, checked, token=token)
        late = [(models, name, models[name]) for models in self._table.buckets.values() for name in models]
        for models, name, sums in late:
            models[name] = (sums[0], 0, 0, 0, 0)
        await asyncio.sleep(0)
        for models, name, sums in late:
            models[name] = sums

    return _recording(record_many)


# ---------------------------------------------------------------------- C7


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


@mutant("C7", "counters", by="any_name_is_a_model")
def names_fold() -> Patched:
    """Models whose names differ by case only are one."""

    async def record_many(self: InProcessModelCounters, counts: Sequence[Recorded], *, token: Any = None) -> None:
        folded = [
            dataclasses.replace(one, model_name=one.model_name.lower()[:170])
            for one in buckets.check_recordings(counts)
        ]
        await _record_many(self, folded, token=token)

    return _recording(record_many)


@mutant("C7", "counters", by="ten_thousand_models_in_one_call")
def a_thousand_windows_are_read() -> Patched:
    """All windows are those of the first thousand models."""

    async def all_windows(self: InProcessModelCounters, *, seconds: int) -> dict[str, Counts]:
        return dict(list((await _all_windows(self, seconds=seconds)).items())[:1_000])

    return with_methods(all_windows=all_windows)


@mutant("C7", "counters", by="ten_thousand_models_in_one_call")
def a_thousand_models_are_recorded() -> Patched:
    """Of what is recorded together the first thousand recordings count."""

    async def record_many(self: InProcessModelCounters, counts: Sequence[Recorded], *, token: Any = None) -> None:
        await _record_many(self, buckets.check_recordings(counts)[:1_000], token=token)

    return _recording(record_many)


@mutant("C7", "counters", by="ten_thousand_models_in_one_call")
def a_token_guards_the_first_thousand() -> Patched:
    """A large batch is sent in parts, of which the first bears the token."""

    async def record_many(self: InProcessModelCounters, counts: Sequence[Recorded], *, token: Any = None) -> None:
        checked = buckets.check_recordings(counts)
        await _record_many(self, checked[:1_000], token=token)
        await _record_many(self, checked[1_000:])

    return _recording(record_many)
