"""Faults of a stream bridge that concern time, room and crowds: S9 to S15."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
from collections.abc import Sequence
from typing import Any
from unittest import mock

from deerflow_backends.clocks import MICROSECONDS, to_datetime
from deerflow_backends.cursors import Entry, Read
from deerflow_backends.events import NewEvent, check_event
from deerflow_backends.hub import Hub
from deerflow_backends.inprocess.streams import InProcessStreamBridge, _head, _Stream
from deerflow_backends.streams import HEARTBEAT_SENTINEL, StreamItem, StreamStatus
from deerflow_backends.subscription import Subscription
from deerflow_backends.watches import Watch
from deerflow_conformance.mutants import mutant
from deerflow_conformance.mutants.streams import Patched, _with_methods

_publish = InProcessStreamBridge._publish
_append = InProcessStreamBridge._append
_find = InProcessStreamBridge._find
_read = InProcessStreamBridge.read
_status = InProcessStreamBridge.status
_cleanup = InProcessStreamBridge.cleanup
_begin = Subscription._begin
_next = Subscription._next
_finish = Subscription._finish
_attach = Hub.attach


@mutant("S9", "stream_bridge", by="heartbeats_come_while_waiting")
def every_other_heartbeat_is_missing() -> Patched:
    """Heartbeats come at twice the interval."""

    def begin(self: Subscription) -> Watch:
        watch = _begin(self)
        run_id, last_event_id, heartbeat_interval = self._arguments
        self._arguments = (run_id, last_event_id, 2 * heartbeat_interval)
        return watch

    return mock.patch.object(Subscription, "_begin", begin)


@mutant("S9", "stream_bridge", by="heartbeats_come_while_waiting")
def heartbeats_are_due_while_nobody_waits() -> Patched:
    """The interval counts from the last heartbeat, also while the subscriber is busy elsewhere."""
    last: dict[Subscription, float] = {}

    async def following(self: Subscription) -> StreamItem:
        loop = asyncio.get_running_loop()
        if self._watch is not None and loop.time() >= last.setdefault(self, loop.time()) + self._arguments[2]:
            last[self] = loop.time()
            return self._take(self._watch) or HEARTBEAT_SENTINEL
        item = await _next(self)
        last[self] = loop.time()
        return item

    return mock.patch.object(Subscription, "_next", following)


@mutant("S10", "stream_bridge", by="the_last_max_events_replay")
def one_event_too_many_is_kept() -> Patched:
    """A stream keeps one event more than max_events."""

    def append(self: InProcessStreamBridge, stream: _Stream, new: Sequence[NewEvent]) -> list[Entry]:
        oldest = stream.entries[0] if len(stream.entries) == self._options.max_events else None
        entries = _append(self, stream, new)
        if oldest is not None and len(new) == 1 and stream.entries[0].id.seq == oldest.id.seq + 1:
            stream.entries.appendleft(oldest)
            stream.size += len(oldest.data)
        return entries

    return _with_methods(_append=append)


@mutant("S10", "stream_bridge", by="bytes_count_as_encoded")
def bytes_are_counted_as_characters() -> Patched:
    """max_bytes is compared with the number of characters."""

    def append(self: InProcessStreamBridge, stream: _Stream, new: Sequence[NewEvent]) -> list[Entry]:
        stream.size -= sum(len(event.data) - len(event.data.decode()) for event in new)
        return _append(self, stream, new)

    return _with_methods(_append=append)


@mutant("S10", "stream_bridge", by=("a_stream_expires_whole", "expires_at_moves_with_writes"))
def a_stream_expires_by_its_first_write() -> Patched:
    """Later writes do not keep a stream alive."""

    def publish(self: InProcessStreamBridge, run_id: str, new: Sequence[NewEvent]) -> list[str]:
        before = self._find(run_id, self._clock())
        expires_at = before.expires_at if before is not None and not before.cleaned else None
        ids = _publish(self, run_id, new)
        if expires_at is not None:
            self._table.streams[run_id].expires_at = expires_at
        return ids

    return _with_methods(_publish=publish)


@mutant("S11", "stream_bridge", by="subscribing_to_an_unknown_run")
def subscribing_makes_a_stream() -> Patched:
    """Reading a run that is not there creates it, empty."""

    async def read(self: InProcessStreamBridge, run_id: str, *rest: int) -> Read:
        now = self._clock()
        if self._find(run_id, now) is None:
            self._create(run_id, now, None)
        return await _read(self, run_id, *rest)

    return _with_methods(read=read)


@mutant("S12", "stream_bridge", by="a_slow_reader_delays_nobody")
def publishers_wait_for_readers() -> Patched:
    """A publisher waits until every subscriber has been given the event before."""

    def _is_behind(self: InProcessStreamBridge, run_id: str) -> bool:
        stream = self._table.streams.get(run_id)
        watches = [hub._watches[run_id] for hub in self._table.hubs if run_id in hub._watches]
        places = [
            subscription._place
            for watch in watches
            for reference in watch.subscriptions
            if (subscription := reference())
        ]
        return stream is not None and any(
            place.created == stream.created and place.seq < stream.latest.seq for place in places
        )

    async def publish(self: InProcessStreamBridge, run_id: str, event: str, data: Any) -> str:
        while _is_behind(self, run_id):  # noqa: ASYNC110  # a fault need not be well made
            await asyncio.sleep(0.1)
        return self._publish(run_id, check_event(run_id, event, data))[0]

    return _with_methods(publish=publish)


@mutant("S12", "stream_bridge", by="nothing_is_prefetched_beyond_the_buffer")
def the_buffer_has_no_end() -> Patched:
    """For a subscriber that does not read, everything is kept in memory."""

    def append(self: Watch, entry: Entry) -> None:
        if entry.id.seq != self.last + 1:
            self._clear(last=entry.id.seq - 1)
        self.ring[entry.id.seq] = entry
        self.last = entry.id.seq

    return mock.patch.object(Watch, "_append", append)


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

    return _with_methods(_find=find)


@mutant("S13", "stream_bridge", by="the_earliest_scheduled_cleanup_wins")
def the_last_scheduled_cleanup_wins() -> Patched:
    """A later schedule replaces an earlier one."""

    async def cleanup(self: InProcessStreamBridge, run_id: str, *, delay: float = 0) -> None:
        stream = self._table.streams.get(run_id)
        if stream is not None and delay:
            stream.cleanup_at = None
        await _cleanup(self, run_id, delay=delay)

    return _with_methods(cleanup=cleanup)


@mutant("S13", "stream_bridge", by="the_earliest_scheduled_cleanup_wins")
def publishing_postpones_a_cleanup() -> Patched:
    """Each event moves a scheduled cleanup on."""

    def publish(self: InProcessStreamBridge, run_id: str, new: Sequence[NewEvent]) -> list[str]:
        ids = _publish(self, run_id, new)
        stream = self._table.streams[run_id]
        if stream.cleanup_at is not None:
            stream.cleanup_at += 60 * MICROSECONDS
            self._table.feed(run_id, _head(stream, self._clock()), ())
        return ids

    return _with_methods(_publish=publish)


@mutant("S13", "stream_bridge", by="the_earliest_scheduled_cleanup_wins")
def a_schedule_does_not_show() -> Patched:
    """Expires_at tells when the stream would expire, whatever cleanup is scheduled."""

    async def status(self: InProcessStreamBridge, run_id: str) -> StreamStatus | None:
        found = await _status(self, run_id)
        if found is None:
            return None
        return dataclasses.replace(found, expires_at=to_datetime(self._table.streams[run_id].expires_at))

    return _with_methods(status=status)


@mutant("S14", "stream_bridge", by=("waiting_subscribers_learn_of_expiry", "waiting_subscribers_learn_of_a_cleanup"))
def expiry_wakes_nobody() -> Patched:
    """A subscriber is not told when its stream disappears by itself."""
    return mock.patch.object(Watch, "_arm")


@mutant("S14", "stream_bridge", by="waiting_subscribers_learn_of_a_cleanup")
def cleanup_wakes_nobody() -> Patched:
    """A subscriber is not told of a cleanup until somebody publishes."""

    async def cleanup(self: InProcessStreamBridge, run_id: str, *, delay: float = 0) -> None:
        with mock.patch.object(self._table, "wake"):
            await _cleanup(self, run_id, delay=delay)

    return _with_methods(cleanup=cleanup)


@mutant("S15", "stream_bridge", by="handles_do_not_grow_with_subscribers")
def every_subscriber_has_a_handle() -> Patched:
    """Each subscription opens a file handle of its own."""
    opened: dict[int, int] = {}

    def attach(self: Hub, subscription: Subscription, run_id: str) -> Watch:
        opened[id(subscription)] = os.open(os.devnull, os.O_RDONLY)
        return _attach(self, subscription, run_id)

    def finish(self: Subscription) -> None:
        _finish(self)
        if id(self) in opened:
            os.close(opened.pop(id(self)))

    @contextlib.contextmanager
    def patched() -> Any:
        with mock.patch.object(Hub, "attach", attach), mock.patch.object(Subscription, "_finish", finish):
            yield

    return patched()
