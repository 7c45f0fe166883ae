"""Faults of a stream bridge that concern late cleanups, what they leave, and what happens meanwhile: S13 and S14."""

from __future__ import annotations

import asyncio
from typing import Any

from deerflow_backends.clocks import MICROSECONDS
from deerflow_backends.cursors import END, EventId, Place, Read, Step
from deerflow_backends.inprocess.streams import InProcessStreamBridge, _Stream
from deerflow_backends.watches import Watch
from deerflow_conformance.mutants import Patched, methods, mutant
from deerflow_conformance.mutants.streams import with_methods

_publish_end = InProcessStreamBridge.publish_end
_read = InProcessStreamBridge.read
_publish = InProcessStreamBridge.publish
_find = InProcessStreamBridge._find
_cleanup = InProcessStreamBridge.cleanup
_begin_at = Place._begin_at
_wake = Watch.wake

_HOURS, _LASTS = "a_cleanup_may_be_due_in_hours", "a_trace_lasts_from_its_cleanup_on"


@mutant("S13", "stream_bridge", by=_HOURS)
def no_cleanup_is_later_than_an_hour() -> Patched:
    """What is to be cleaned up after more than an hour is cleaned up after an hour."""

    async def cleanup(self: InProcessStreamBridge, run_id: str, *, delay: float = 0) -> None:
        await _cleanup(self, run_id, delay=min(delay, 3_600))

    return with_methods(cleanup=cleanup)


@mutant("S13", "stream_bridge", by=_HOURS)
def a_delay_is_at_most_31_bits() -> Patched:
    """More than 2,147,483 s, in milliseconds, are none."""

    async def cleanup(self: InProcessStreamBridge, run_id: str, *, delay: float = 0) -> None:
        await _cleanup(self, run_id, delay=delay if delay * 1_000 < 2**31 else 0)

    return with_methods(cleanup=cleanup)


@mutant("S13", "stream_bridge", by=_HOURS)
def a_cleanup_beyond_the_expiry_is_forgotten() -> Patched:
    """A cleanup is not noted if the stream would expire before, though it is written to later."""

    async def cleanup(self: InProcessStreamBridge, run_id: str, *, delay: float = 0) -> None:
        if delay * MICROSECONDS < self._ttl:
            await _cleanup(self, run_id, delay=delay)

    return with_methods(cleanup=cleanup)


@mutant("S13", "stream_bridge", by=_HOURS)
def the_end_undoes_a_far_cleanup() -> Patched:
    """With the end of a run a cleanup is forgotten that is due in more than ten minutes."""

    async def publish_end(self: InProcessStreamBridge, run_id: str) -> None:
        await _publish_end(self, run_id)
        stream = self._table.streams[run_id]
        if stream.cleanup_at is not None and stream.cleanup_at - self._clock() > 600 * MICROSECONDS:
            stream.cleanup_at = None

    return with_methods(publish_end=publish_end)


@mutant("S13", "stream_bridge", by=_HOURS)
def no_trace_lasts_longer_than_an_hour() -> Patched:
    """What a cleanup leaves is gone after an hour at the latest."""

    def find(self: InProcessStreamBridge, run_id: str, now: int) -> _Stream | None:
        stream = self._table.streams.get(run_id)
        cleaned_before = stream is not None and stream.cleaned
        stream = _find(self, run_id, now)
        if stream is not None and stream.cleaned and not cleaned_before:
            stream.expires_at = min(stream.expires_at, now + 3_600 * MICROSECONDS)
        return stream

    return with_methods(_find=find)


@mutant("S13", "stream_bridge", by=(_HOURS, "the_earliest_scheduled_cleanup_wins"))
def a_schedule_tells_of_the_stream_as_it_was() -> Patched:
    """The trace is written down when the cleanup is scheduled: what came between is not in it."""
    written: dict[int, tuple[_Stream, EventId, bool]] = {}

    async def cleanup(self: InProcessStreamBridge, run_id: str, *, delay: float = 0) -> None:
        stream = self._table.streams.get(run_id)
        if stream is not None and not stream.cleaned:
            written[id(stream)] = stream, stream.latest, stream.ended
        await _cleanup(self, run_id, delay=delay)

    def find(self: InProcessStreamBridge, run_id: str, now: int) -> _Stream | None:
        stream = _find(self, run_id, now)
        if stream is not None and stream.cleaned and id(stream) in written:
            _, stream.latest, stream.ended = written.pop(id(stream))
        return stream

    return with_methods(cleanup=cleanup, _find=find)


@mutant("S13", "stream_bridge", by="what_expires_before_its_cleanup_leaves_no_trace")
def a_cleanup_finds_what_has_expired() -> Patched:
    """A stream that expired, and whose cleanup was due afterwards, is cleaned up and leaves a trace."""

    def find(self: InProcessStreamBridge, run_id: str, now: int) -> _Stream | None:
        stream = self._table.streams.get(run_id)
        if stream is not None and stream.cleanup_at is not None and stream.cleanup_at <= now:
            stream.expires_at = max(stream.expires_at, stream.cleanup_at)
        return _find(self, run_id, now)

    return with_methods(_find=find)


@mutant("S13", "stream_bridge", by=_LASTS)
def a_trace_lives_from_when_it_is_noticed() -> Patched:
    """The time of a trace begins when somebody looks, however long ago its cleanup was due."""

    def find(self: InProcessStreamBridge, run_id: str, now: int) -> _Stream | None:
        stream = self._table.streams.get(run_id)
        if stream is not None and stream.cleanup_at is not None and stream.cleanup_at <= min(now, stream.expires_at):
            stream.cleanup_at, stream.expires_at = now, now + 1
        return _find(self, run_id, now)

    return with_methods(_find=find)


@mutant("S13", "stream_bridge", by=_LASTS)
def cleaning_a_trace_prolongs_it() -> Patched:
    """Who cleans a run up again has its trace last as if that were the first time."""

    async def cleanup(self: InProcessStreamBridge, run_id: str, *, delay: float = 0) -> None:
        await _cleanup(self, run_id, delay=delay)
        _prolong(self, run_id)

    return with_methods(cleanup=cleanup)


@mutant("S13", "stream_bridge", by=_LASTS)
def ending_a_trace_again_prolongs_it() -> Patched:
    """Who ends a run once more when it was cleaned up has its trace last longer."""

    async def publish_end(self: InProcessStreamBridge, run_id: str) -> None:
        await _publish_end(self, run_id)
        _prolong(self, run_id)

    return with_methods(publish_end=publish_end)


@mutant("S13", "stream_bridge", by=_LASTS)
def reading_a_trace_prolongs_it() -> Patched:
    """What a cleanup left lasts for as long as somebody subscribes to it now and then."""

    async def read(self: InProcessStreamBridge, run_id: str, *rest: int) -> Read:
        _prolong(self, run_id)
        return await _read(self, run_id, *rest)

    return with_methods(read=read)


def _prolong(bridge: InProcessStreamBridge, run_id: str) -> None:
    """Begin the time of a trace anew."""
    stream = bridge._find(run_id, bridge._clock())
    if stream is not None and stream.cleaned:
        stream.expires_at = bridge._clock() + bridge._ttl


@mutant("S13", "stream_bridge", by="cleaning_an_ended_run")
def a_trace_counts_to_a_thousand() -> Patched:
    """The last id of a run with more than a thousand events is its thousandth once it was cleaned up."""

    def find(self: InProcessStreamBridge, run_id: str, now: int) -> _Stream | None:
        stream = _find(self, run_id, now)
        if stream is not None and stream.cleaned and stream.latest.seq > 1_000:
            stream.latest = EventId(stream.latest.epoch, 1_000)
        return stream

    return with_methods(_find=find)


@mutant("S13", "stream_bridge", by="cleaning_an_ended_run")
def the_end_has_a_place_in_a_trace() -> Patched:
    """After the cleanup of an ended run, the id after its last one gets END, as if END were an event."""

    def begin_at(self: Place, cursor: EventId, read: Read, fresh: bool) -> Step:
        head = read.head
        if head is not None and head.cleaned and head.ended and cursor == (head.latest.epoch, head.latest.seq + 1):
            return (), END
        return _begin_at(self, cursor, read, fresh)

    return methods(Place, _begin_at=begin_at)


# ------------------------------------------------------------------------------------------- cleanups meanwhile

_MEANWHILE = "cleaning_and_writing_at_once"


@mutant("S13", "stream_bridge", by=_MEANWHILE)
def a_cleanup_writes_down_what_it_read_before() -> Patched:
    """The trace tells of the stream as the cleanup found it, not of what others wrote until it was done."""

    async def cleanup(self: InProcessStreamBridge, run_id: str, *, delay: float = 0) -> None:
        stream = self._table.streams.get(run_id)
        before = None if stream is None else (stream.latest, stream.ended)
        await asyncio.sleep(0)
        await _cleanup(self, run_id, delay=delay)
        if stream is not None and stream.cleaned and before is not None:
            stream.latest, stream.ended = before

    return with_methods(cleanup=cleanup)


@mutant("S13", "stream_bridge", by=_MEANWHILE)
def ending_misses_what_is_cleaned_meanwhile() -> Patched:
    """An end finds its stream gone if it is cleaned up between its two halves, and takes it for ended."""

    async def publish_end(self: InProcessStreamBridge, run_id: str) -> None:
        stream = self._table.streams.get(run_id)
        was_there = stream is not None and not stream.cleaned
        await asyncio.sleep(0)
        if stream is None or not was_there or not stream.cleaned:
            await _publish_end(self, run_id)

    return with_methods(publish_end=publish_end)


@mutant("S13", "stream_bridge", by=_MEANWHILE)
def each_publisher_replaces_a_trace() -> Patched:
    """Of two that publish to a trace at once each makes a stream, and the second takes the place of the first."""

    async def publish(self: InProcessStreamBridge, run_id: str, event: str, data: Any) -> str:
        trace = self._table.streams.get(run_id)
        if trace is not None and trace.cleaned and not trace.ended:
            await asyncio.sleep(0)
            self._create(run_id, self._clock(), self._table.streams[run_id])
        return await _publish(self, run_id, event, data)

    return with_methods(publish=publish)


@mutant("S13", "stream_bridge", by="a_stream_in_between_is_not_passed_over")
def every_next_stream_is_the_next() -> Patched:
    """Who waited at the end of a stream goes on with any stream whose predecessor had as many events."""

    def begin_at(self: Place, cursor: EventId, read: Read, fresh: bool) -> Step:
        prior = read.head.prior if read.head is not None else None
        if not fresh and prior is not None and prior.seq == cursor.seq:
            cursor = prior
        return _begin_at(self, cursor, read, fresh)

    return methods(Place, _begin_at=begin_at)


@mutant("S14", "stream_bridge", by="a_cleanup_during_a_read_is_noticed")
def a_cleanup_during_a_read_is_forgotten() -> Patched:
    """What wakes a process that is just reading the run's head is taken for read."""

    def wake(self: Watch) -> None:
        if self._reading is None:
            _wake(self)

    return methods(Watch, wake=wake)
