"""Faults of a stream bridge that concern how a stream goes away: S13 and S14."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

from deerflow_backends.clocks import MICROSECONDS, to_datetime
from deerflow_backends.cursors import END, EventId, Head, Place, Read, Step
from deerflow_backends.errors import StreamEnded
from deerflow_backends.events import NewEvent
from deerflow_backends.hub import Hub
from deerflow_backends.inprocess import streams
from deerflow_backends.inprocess.streams import InProcessStreamBridge, StreamTable, _head, _Stream
from deerflow_backends.streams import StreamGap, StreamStatus
from deerflow_backends.watches import Watch
from deerflow_conformance.mutants import Patched, mutant, together
from deerflow_conformance.mutants.streams import with_methods

_publish = InProcessStreamBridge._publish
_publish_end = InProcessStreamBridge.publish_end
_create = InProcessStreamBridge._create
_find = InProcessStreamBridge._find
_status = InProcessStreamBridge.status
_cleanup = InProcessStreamBridge.cleanup
_close = Hub.close
_tell = StreamTable._tell
_begin = Place._begin
_begin_at = Place._begin_at
_gap = Place._gap
_lost_stream = Place._lost_stream
_follow = Place._follow


# ------------------------------------------------------------------------------------------------------ S13 cleanup


@mutant(
    "S13",
    "stream_bridge",
    by=("cleaning_an_ended_run", "cleaning_a_run_that_has_not_ended", "the_trace_lasts_for_the_ttl"),
)
def cleanup_leaves_no_trace() -> Patched:
    """A run that was cleaned up is as if it had never been."""

    def find(self: InProcessStreamBridge, run_id: str, now: int) -> _Stream | None:
        stream = _find(self, run_id, now)
        if stream is not None and stream.cleaned:
            del self._table.streams[run_id]
            return None
        return stream

    return with_methods(_find=find)


@mutant("S13", "stream_bridge", by="cleaning_an_ended_run")
def cleaned_events_still_replay() -> Patched:
    """After a cleanup there is no status, and subscribers still get the events."""

    async def status(self: InProcessStreamBridge, run_id: str) -> StreamStatus | None:
        return None if run_id in cleaned else await _status(self, run_id)

    async def cleanup(self: InProcessStreamBridge, run_id: str, *, delay: float = 0) -> None:
        if self._table.streams.get(run_id) is not None:
            cleaned.add(run_id)

    cleaned: set[str] = set()
    return with_methods(status=status, cleanup=cleanup)


@mutant("S13", "stream_bridge", by=("cleaning_an_ended_run", "cleaning_a_run_that_has_not_ended"))
def a_cleaned_stream_has_a_status() -> Patched:
    """A stream without events is left behind by a cleanup, and its status tells of it."""

    async def status(self: InProcessStreamBridge, run_id: str) -> StreamStatus | None:
        stream = self._find(run_id, self._clock())
        if stream is None or not stream.cleaned:
            return await _status(self, run_id)
        return StreamStatus(None, str(stream.latest), 0, stream.ended, to_datetime(stream.expires_at))

    return with_methods(status=status)


@mutant("S13", "stream_bridge", by="cleaning_an_ended_run")
def the_trace_forgets_the_end() -> Patched:
    """After a cleanup nobody knows that the run had ended."""

    def find(self: InProcessStreamBridge, run_id: str, now: int) -> _Stream | None:
        stream = _find(self, run_id, now)
        if stream is not None and stream.cleaned:
            stream.ended = False
        return stream

    return with_methods(_find=find)


@mutant("S13", "stream_bridge", by="cleaning_an_ended_run")
def an_ended_trace_takes_events() -> Patched:
    """Publishing to what a cleanup left of an ended run begins a new stream."""

    def publish(self: InProcessStreamBridge, run_id: str, new: Sequence[NewEvent]) -> list[str]:
        try:
            return _publish(self, run_id, new)
        except StreamEnded:
            stream = self._table.streams[run_id]
            if not stream.cleaned:
                raise
            stream.ended = False
            return _publish(self, run_id, new)

    return with_methods(_publish=publish)


@mutant("S13", "stream_bridge", by="cleaning_an_ended_run")
def every_cursor_of_an_ended_trace_gets_the_end() -> Patched:
    """After the cleanup of an ended run all subscribers get END, and never learn what they missed."""

    def begin_at(self: Place, cursor: EventId, read: Read, fresh: bool) -> Step:
        cleaned = read.head is not None and read.head.cleaned and read.head.ended
        return ((), END) if cleaned else _begin_at(self, cursor, read, fresh)

    return mock.patch.object(Place, "_begin_at", begin_at)


@mutant("S13", "stream_bridge", by="cleaning_an_ended_run")
def no_cursor_waits_at_an_ended_trace() -> Patched:
    """After the cleanup of an ended run, who has no cursor waits."""

    def begin(self: Place, read: Read) -> Step:
        entries, finish = _begin(self, read)
        cleaned = read.head is not None and read.head.cleaned
        return entries, None if cleaned and self._cursor is None and finish is END else finish

    return mock.patch.object(Place, "_begin", begin)


@mutant("S13", "stream_bridge", by=("cleaning_an_ended_run", "cleaning_a_run_that_has_not_ended"))
def a_trace_knows_no_last_id() -> Patched:
    """The gap that a trace gives does not say where to go on."""

    def gap(self: Place, head: Head) -> StreamGap:
        found = _gap(self, head)
        return dataclasses.replace(found, latest_available_event_id=None) if head.cleaned else found

    return mock.patch.object(Place, "_gap", gap)


@mutant("S13", "stream_bridge", by="cleaning_a_run_that_has_not_ended")
def the_last_id_of_a_trace_is_a_gap() -> Patched:
    """Who subscribes at the last id of a cleaned run that has not ended gets a gap."""

    def begin_at(self: Place, cursor: EventId, read: Read, fresh: bool) -> Step:
        outcome = _begin_at(self, cursor, read, fresh)
        cleaned = read.head is not None and read.head.cleaned
        return ((), self._gap(read.head)) if read.head and cleaned and outcome == ((), None) else outcome

    return mock.patch.object(Place, "_begin_at", begin_at)


@mutant("S13", "stream_bridge", by="cleaning_a_run_that_has_not_ended")
def no_cursor_at_a_trace_is_a_gap() -> Patched:
    """Who subscribes without cursor to a cleaned run that has not ended gets a gap."""

    def begin(self: Place, read: Read) -> Step:
        head = read.head
        if self.fresh and self._cursor is None and head is not None and head.cleaned and not head.ended:
            return (), self._gap(head)
        return _begin(self, read)

    return mock.patch.object(Place, "_begin", begin)


@mutant("S13", "stream_bridge", by="cleaning_a_run_that_has_not_ended")
def who_waits_at_the_last_id_misses_the_new_stream() -> Patched:
    """A new stream does not know which one it came in place of: who waited at the end of that gets a gap."""

    def create(self: InProcessStreamBridge, run_id: str, now: int, trace: _Stream | None) -> _Stream:
        stream = _create(self, run_id, now, trace)
        stream.prior = None
        return stream

    return with_methods(_create=create)


@mutant("S13", "stream_bridge", by="cleaning_a_run_that_has_not_ended")
def an_attached_reader_goes_over_to_the_new_stream() -> Patched:
    """A subscriber that got something is not told of a cleanup, and is given what comes after it."""

    def lost_stream(self: Place, head: Head | None) -> Step:
        self._delivered, self._cursor = None, None
        return _lost_stream(self, head)

    return mock.patch.object(Place, "_lost_stream", lost_stream)


@mutant("S13", "stream_bridge", by="ending_what_a_cleanup_left")
def ending_a_trace_makes_a_stream() -> Patched:
    """publish_end on what a cleanup left makes a stream, ended and empty, in place of the trace."""

    async def publish_end(self: InProcessStreamBridge, run_id: str) -> None:
        stream = self._find(run_id, self._clock())
        if stream is not None and stream.cleaned and not stream.ended:
            self._create(run_id, self._clock(), stream)
        await _publish_end(self, run_id)

    return with_methods(publish_end=publish_end)


@mutant("S13", "stream_bridge", by="ending_what_a_cleanup_left")
def a_trace_cannot_be_ended() -> Patched:
    """publish_end on what a cleanup left does nothing."""

    async def publish_end(self: InProcessStreamBridge, run_id: str) -> None:
        stream = self._find(run_id, self._clock())
        if stream is None or not stream.cleaned:
            await _publish_end(self, run_id)

    return with_methods(publish_end=publish_end)


_EARLIEST = "the_earliest_scheduled_cleanup_wins"


@mutant("S13", "stream_bridge", by=_EARLIEST)
def the_last_scheduled_cleanup_wins() -> Patched:
    """A later schedule replaces an earlier one."""

    async def cleanup(self: InProcessStreamBridge, run_id: str, *, delay: float = 0) -> None:
        stream = self._table.streams.get(run_id)
        if stream is not None and delay:
            stream.cleanup_at = None
        await _cleanup(self, run_id, delay=delay)

    return with_methods(cleanup=cleanup)


@mutant("S13", "stream_bridge", by=_EARLIEST)
def the_first_scheduled_cleanup_wins() -> Patched:
    """Once a cleanup is scheduled, an earlier one is not taken."""

    async def cleanup(self: InProcessStreamBridge, run_id: str, *, delay: float = 0) -> None:
        stream = self._table.streams.get(run_id)
        if stream is None or stream.cleanup_at is None or not delay:
            await _cleanup(self, run_id, delay=delay)

    return with_methods(cleanup=cleanup)


@mutant("S13", "stream_bridge", by=_EARLIEST)
def publishing_postpones_a_cleanup() -> Patched:
    """Each event moves a scheduled cleanup on."""

    def publish(self: InProcessStreamBridge, run_id: str, new: Sequence[NewEvent]) -> list[str]:
        ids = _publish(self, run_id, new)
        _postpone(self, run_id)
        return ids

    return with_methods(_publish=publish)


def _postpone(bridge: InProcessStreamBridge, run_id: str) -> None:
    stream = bridge._table.streams[run_id]
    if stream.cleanup_at is not None:
        stream.cleanup_at += 60 * MICROSECONDS
        bridge._table.feed(run_id, _head(stream, bridge._clock()), ())


@mutant("S13", "stream_bridge", by=_EARLIEST)
def ending_postpones_a_cleanup() -> Patched:
    """The end moves a scheduled cleanup on."""

    async def publish_end(self: InProcessStreamBridge, run_id: str) -> None:
        await _publish_end(self, run_id)
        _postpone(self, run_id)

    return with_methods(publish_end=publish_end)


@mutant("S13", "stream_bridge", by=_EARLIEST)
def a_delay_is_ignored() -> Patched:
    """A cleanup is done at once, whatever its delay."""

    async def cleanup(self: InProcessStreamBridge, run_id: str, *, delay: float = 0) -> None:
        await _cleanup(self, run_id, delay=delay * 0)

    return with_methods(cleanup=cleanup)


@mutant("S13", "stream_bridge", by=_EARLIEST)
def a_schedule_does_not_show() -> Patched:
    """Expires_at tells when the stream would expire, whatever cleanup is scheduled."""

    async def status(self: InProcessStreamBridge, run_id: str) -> StreamStatus | None:
        found = await _status(self, run_id)
        if found is None:
            return None
        return dataclasses.replace(found, expires_at=to_datetime(self._table.streams[run_id].expires_at))

    return with_methods(status=status)


@mutant("S13", "stream_bridge", by="cleaning_again_with_0_does_it_at_once")
def a_scheduled_cleanup_is_not_hastened() -> Patched:
    """Where a cleanup is scheduled, one without delay waits for it."""

    async def cleanup(self: InProcessStreamBridge, run_id: str, *, delay: float = 0) -> None:
        stream = self._table.streams.get(run_id)
        if delay or stream is None or stream.cleanup_at is None:
            await _cleanup(self, run_id, delay=delay)

    return with_methods(cleanup=cleanup)


@mutant("S13", "stream_bridge", by="cleaning_again_with_0_does_it_at_once")
def a_schedule_outlives_its_stream() -> Patched:
    """What was scheduled for a stream is done to the one that came in its place."""

    def create(self: InProcessStreamBridge, run_id: str, now: int, trace: _Stream | None) -> _Stream:
        stream = _create(self, run_id, now, trace)
        stream.cleanup_at = scheduled.pop(run_id, None)
        return stream

    async def cleanup(self: InProcessStreamBridge, run_id: str, *, delay: float = 0) -> None:
        if delay:
            at = self._clock() + int(delay * MICROSECONDS)
            scheduled[run_id] = min(at, scheduled.get(run_id, at))
        await _cleanup(self, run_id, delay=delay)

    scheduled: dict[str, int] = {}
    return with_methods(_create=create, cleanup=cleanup)


@mutant("S13", "stream_bridge", by="a_scheduled_cleanup_needs_nobody")
def who_asked_has_to_be_there() -> Patched:
    """A scheduled cleanup is done by whoever asked for it, and not if that is closed before."""
    asked: dict[Hub, list[Callable[[], None]]] = {}

    async def cleanup(self: InProcessStreamBridge, run_id: str, *, delay: float = 0) -> None:
        await _cleanup(self, run_id, delay=delay)
        stream = self._table.streams.get(run_id)

        def forget() -> None:
            if stream is not None:
                stream.cleanup_at = None

        asked.setdefault(self.hub, []).append(forget)

    async def close(self: Hub) -> None:
        for forget in asked.pop(self, ()):
            forget()
        await _close(self)

    return together(with_methods(cleanup=cleanup), mock.patch.object(Hub, "close", close))


@mutant("S13", "stream_bridge", by="the_trace_lasts_for_the_ttl")
def a_trace_lasts_as_its_stream_would() -> Patched:
    """A trace is gone ttl_seconds after the stream's last write, not after the cleanup."""

    async def cleanup(self: InProcessStreamBridge, run_id: str, *, delay: float = 0) -> None:
        stream = self._table.streams.get(run_id)
        expires_at = None if stream is None else stream.expires_at
        await _cleanup(self, run_id, delay=delay)
        if stream is not None and stream.cleaned and expires_at is not None:
            stream.expires_at = expires_at

    return with_methods(cleanup=cleanup)


@mutant("S13", "stream_bridge", by="the_trace_lasts_for_the_ttl")
def a_trace_lasts_for_ever() -> Patched:
    """What a cleanup leaves is never gone."""

    def find(self: InProcessStreamBridge, run_id: str, now: int) -> _Stream | None:
        stream = _find(self, run_id, now)
        if stream is not None and stream.cleaned:
            stream.expires_at = now + self._ttl
        return stream

    return with_methods(_find=find)


@mutant("S13", "stream_bridge", by="cleaning_an_unknown_run_does_nothing")
def an_unknown_run_leaves_a_trace() -> Patched:
    """Cleaning a run that is not there leaves a trace of it."""

    async def cleanup(self: InProcessStreamBridge, run_id: str, *, delay: float = 0) -> None:
        if self._find(run_id, self._clock()) is None and not delay:
            self._create(run_id, self._clock(), None)
        await _cleanup(self, run_id, delay=delay)

    return with_methods(cleanup=cleanup)


@mutant("S13", "stream_bridge", by="cleaning_an_unknown_run_does_nothing")
def any_delay_is_taken() -> Patched:
    """A delay below 0 is 0."""
    return mock.patch.object(streams, "check_seconds")


# ------------------------------------------------------------------------------------------------ S14 disappearance

_CLEANUP, _EXPIRY, _END = (
    "waiting_subscribers_learn_of_a_cleanup",
    "waiting_subscribers_learn_of_expiry",
    "every_waiting_subscriber_learns_of_the_end",
)


@mutant("S14", "stream_bridge", by=(_EXPIRY, _CLEANUP))
def expiry_wakes_nobody() -> Patched:
    """A subscriber is not told when its stream disappears by itself."""
    return mock.patch.object(Watch, "_arm")


@mutant("S14", "stream_bridge", by=_CLEANUP)
def cleanup_wakes_nobody() -> Patched:
    """A subscriber is not told of a cleanup until somebody publishes."""

    async def cleanup(self: InProcessStreamBridge, run_id: str, *, delay: float = 0) -> None:
        with mock.patch.object(self._table, "wake"):
            await _cleanup(self, run_id, delay=delay)

    return with_methods(cleanup=cleanup)


@mutant("S14", "stream_bridge", by=_END)
def the_end_wakes_nobody() -> Patched:
    """A subscriber is not told of the end."""

    async def publish_end(self: InProcessStreamBridge, run_id: str) -> None:
        with mock.patch.object(self._table, "feed"), mock.patch.object(self._table, "wake"):
            await _publish_end(self, run_id)

    return with_methods(publish_end=publish_end)


@mutant("S14", "stream_bridge", by=(_CLEANUP, _END))
def news_take_four_seconds() -> Patched:
    """What happens to a run is told 4 s later."""

    def tell(self: StreamTable, hub: Hub, call: Callable[..., None], *arguments: Any) -> None:
        hub.binding.loop.call_later(4.0, lambda: hub.binding.closed or _tell(self, hub, hub.wake, arguments[0]))

    return mock.patch.object(StreamTable, "_tell", tell)


@mutant("S14", "stream_bridge", by=_EXPIRY)
def expiry_is_noticed_four_seconds_late() -> Patched:
    """What disappears by itself is looked for 4 s after its time."""
    arm = Watch._arm
    return mock.patch.object(Watch, "_arm", lambda self, vanishes_in: arm(self, vanishes_in + 4.0))


@mutant("S14", "stream_bridge", by=_EXPIRY)
def an_expired_stream_has_a_last_id() -> Patched:
    """The gap after an expiry names the last event, as if a trace were left."""

    def lost_stream(self: Place, head: Head | None) -> Step:
        entries, finish = _lost_stream(self, head)
        if head is None and isinstance(finish, StreamGap):
            finish = dataclasses.replace(finish, latest_available_event_id=finish.requested_event_id)
        return entries, finish

    return mock.patch.object(Place, "_lost_stream", lost_stream)


@mutant("S14", "stream_bridge", by=_END)
def who_got_nothing_is_not_told_of_the_end() -> Patched:
    """The end reaches subscribers that were given an event, and no others that wait."""

    def follow(self: Place, head: Head, entries: Any) -> Step:
        found, finish = _follow(self, head, entries)
        return found, None if finish is END and self._delivered is None and self._cursor is not None else finish

    return mock.patch.object(Place, "_follow", follow)
