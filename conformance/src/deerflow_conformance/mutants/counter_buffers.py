"""Faults of the buffer in front of model counters: C5."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable
from functools import partial
from typing import Any
from unittest import mock

from deerflow_backends import buffering
from deerflow_backends.buffering import BufferedCounters
from deerflow_backends.counters import Recorded
from deerflow_backends.errors import BackendUnavailable
from deerflow_conformance.mutants import Patched, methods, mutant

with_methods = partial(methods, BufferedCounters)

_record = BufferedCounters.record
_record_many = BufferedCounters.record_many
_flush = BufferedCounters._flush
_send = BufferedCounters._send
_entry_for = BufferedCounters._entry_for


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


@mutant("C5", "counters", by="recording_on_the_buffer_is_no_io")
def the_buffer_takes_tokens() -> Patched:
    """A token that is given to the buffer is ignored."""

    async def record(self: BufferedCounters, model_name: str, *, token: Any = None, **figures: Any) -> None:
        await _record(self, model_name, **figures)

    return with_methods(record=record)


@mutant("C5", "counters", by="recording_on_the_buffer_is_no_io")
def the_buffer_takes_tokens_of_many() -> Patched:
    """A token that is given with many recordings is ignored."""

    async def record_many(self: BufferedCounters, counts: Any, *, token: Any = None) -> None:
        await _record_many(self, counts)

    return with_methods(record_many=record_many)


@mutant("C5", "counters", by="recording_on_the_buffer_is_no_io")
def the_buffer_takes_any_figure() -> Patched:
    """Figures that are too small are 0 in the buffer."""

    async def record(self: BufferedCounters, model_name: str, *, token: Any = None, **figures: Any) -> None:
        good = {name: max(value, 0) if name == "calls" else value for name, value in figures.items()}
        await _record(self, model_name, token=token, **good)

    return with_methods(record=record)


@mutant("C5", "counters", by="recording_on_the_buffer_is_no_io")
def each_recording_is_a_flush() -> Patched:
    """A flush sends each model by itself."""

    async def send(self: BufferedCounters, batch: Any) -> None:
        for entry in batch.entries[1:]:
            await _send(self, buffering._Batch([entry]))
        await _send(self, buffering._Batch(batch.entries[:1]))

    return with_methods(_send=send)


@mutant("C5", "counters", by=("recording_on_the_buffer_is_no_io", "it_flushes_by_itself_one_at_a_time"))
def flushes_bear_no_token() -> Patched:
    """A flush is sent without a token."""

    async def send(self: BufferedCounters, batch: Any) -> None:
        batch.token = None
        await _send(self, batch)

    return with_methods(_send=send)


@mutant("C5", "counters", by="it_flushes_by_itself_one_at_a_time")
def it_never_flushes_by_itself() -> Patched:
    """What is recorded waits for somebody to read."""

    async def flush_forever(self: BufferedCounters, flush_seconds: float) -> None:
        await asyncio.sleep(1e6)

    return with_methods(_flush_forever=flush_forever)


@mutant("C5", "counters", by="it_flushes_by_itself_one_at_a_time")
def flushes_share_a_token() -> Patched:
    """All flushes of a buffer bear one token."""
    tokens: dict[BufferedCounters, str] = {}

    async def send(self: BufferedCounters, batch: Any) -> None:
        batch.token = tokens.setdefault(self, batch.token)
        await _send(self, batch)

    return with_methods(_send=send)


def _without_flush(name: str) -> Patched:
    """Let one read go to the backend at once."""

    async def read(self: BufferedCounters, *arguments: Any, **more: Any) -> Any:
        call: Awaitable[Any] = getattr(self._counters, name)(*arguments, **more)
        return await call

    return with_methods(**{name: read})


@mutant("C5", "counters", by="reads_and_closing_flush")
def windows_do_not_flush() -> Patched:
    """A model's window shows what was flushed before."""
    return _without_flush("window")


@mutant("C5", "counters", by="reads_and_closing_flush")
def all_windows_do_not_flush() -> Patched:
    """All models' windows show what was flushed before."""
    return _without_flush("all_windows")


@mutant("C5", "counters", by="reads_and_closing_flush")
def all_totals_do_not_flush() -> Patched:
    """All models' totals show what was flushed before."""
    return _without_flush("all_totals")


@mutant("C5", "counters", by="reads_and_closing_flush")
def resets_do_not_flush() -> Patched:
    """A reset leaves what is in the buffer, which is counted after it."""
    return _without_flush("reset")


@mutant("C5", "counters", by="a_full_buffer_refuses_other_models")
def a_full_buffer_refuses_everything() -> Patched:
    """Once a buffer is full, it refuses the models that it holds, too."""

    def entry_for(self: BufferedCounters, recorded: Recorded, now: float) -> Any:
        return None if len(self._models) >= self._max_models else _entry_for(self, recorded, now)

    return with_methods(_entry_for=entry_for)


@mutant("C5", "counters", by="a_full_buffer_refuses_other_models")
def a_full_buffer_drops_the_oldest() -> Patched:
    """A full buffer makes room for a new model by dropping another one."""

    def entry_for(self: BufferedCounters, recorded: Recorded, now: float) -> Any:
        if recorded.model_name not in self._models and len(self._models) >= self._max_models:
            dropped = next(iter(sorted(self._models)))
            self._models.discard(dropped)
            self._newest.pop(dropped, None)
            self._slot.pop(dropped, None)
        return _entry_for(self, recorded, now)

    return with_methods(_entry_for=entry_for)


@mutant("C5", "counters", by="a_full_buffer_refuses_other_models")
def a_buffer_has_no_end() -> Patched:
    """In an outage a buffer holds any number of models."""

    def entry_for(self: BufferedCounters, recorded: Recorded, now: float) -> Any:
        self._max_models = 10**9
        return _entry_for(self, recorded, now)

    return with_methods(_entry_for=entry_for)


@mutant("C5", "counters", by="a_full_buffer_refuses_other_models")
def a_full_buffer_stays_full() -> Patched:
    """A model that was refused once is refused for ever."""
    refused: set[str] = set()

    def entry_for(self: BufferedCounters, recorded: Recorded, now: float) -> Any:
        entry = None if recorded.model_name in refused else _entry_for(self, recorded, now)
        if entry is None:
            refused.add(recorded.model_name)
        return entry

    return with_methods(_entry_for=entry_for)
