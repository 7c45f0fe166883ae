"""Faults of a stream bridge that concern order, ids and loss: S1 to S3."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from unittest import mock

from deerflow_backends import cursors
from deerflow_backends.cursors import Entry, EventId, Head, Malformed, Place, Read, Step
from deerflow_backends.events import NewEvent, check_event, check_events
from deerflow_backends.hub import Hub
from deerflow_backends.inprocess import streams
from deerflow_backends.inprocess.streams import InProcessStreamBridge, StreamTable, _Stream
from deerflow_backends.streams import (
    END_SENTINEL,
    StreamEvent,
    StreamItem,
    StreamOptions,
    StreamStatus,
)
from deerflow_backends.subscription import Subscription
from deerflow_backends.watches import Watch
from deerflow_conformance.mutants import Patched, methods, mutant, together

with_methods = partial(methods, InProcessStreamBridge)

_publish = InProcessStreamBridge._publish
_publish_many = InProcessStreamBridge.publish_many
_create = InProcessStreamBridge._create
_append = InProcessStreamBridge._append
_status = InProcessStreamBridge.status
_tell = StreamTable._tell
_step = Place.step
_begin_at = Place._begin_at
_follow = Place._follow
_anext = Subscription.__anext__
_deliver = Subscription._deliver
_feed = Hub.feed
_subscribe = Hub.subscribe


# ---------------------------------------------------------------------------------------------------- S1 order


@mutant("S1", "stream_bridge", by="a_batch_is_all_or_nothing")
def a_batch_is_stored_one_by_one() -> Patched:
    """publish_many stores each event as soon as it has looked at it, so a bad one leaves those before it."""

    async def publish_many(self: InProcessStreamBridge, run_id: str, events: Any) -> list[str]:
        if not isinstance(events, Sequence) or not 1 <= len(events) <= self._options.max_events:
            check_events(run_id, events, self._options)  # raises
        ids: list[str] = []
        for event in events:
            ids += self._publish(run_id, check_events(run_id, [event], self._options))
        return ids

    return with_methods(publish_many=publish_many)


@mutant("S1", "stream_bridge", by="a_batch_is_all_or_nothing")
def an_empty_batch_is_taken() -> Patched:
    """publish_many of no events gives no ids, and no error."""

    async def publish_many(self: InProcessStreamBridge, run_id: str, events: Any) -> list[str]:
        return [] if events == [] else await _publish_many(self, run_id, events)

    return with_methods(publish_many=publish_many)


@mutant("S1", "stream_bridge", by="a_batch_is_all_or_nothing")
def too_large_a_batch_is_trimmed() -> Patched:
    """publish_many takes more than max_events events, and keeps the last of them."""

    def check(run_id: str, events: Any, options: StreamOptions) -> list[NewEvent]:
        return check_events(run_id, events, dataclasses.replace(options, max_events=1_000))

    return mock.patch.object(streams, "check_events", check)


@mutant("S1", "stream_bridge", by=("a_subscriber_gets_what_was_published", "all_see_one_order"))
def a_batch_is_turned_round() -> Patched:
    """The events of a batch are stored in the opposite order."""

    def append(self: InProcessStreamBridge, stream: _Stream, new: Sequence[NewEvent]) -> list[Entry]:
        return _append(self, stream, new[::-1])

    return with_methods(_append=append)


@mutant("S1", "stream_bridge", by="all_see_one_order")
def others_come_into_a_batch() -> Patched:
    """publish_many gives way between its events, and those of others come in between."""

    async def publish_many(self: InProcessStreamBridge, run_id: str, events: Any) -> list[str]:
        ids: list[str] = []
        for event in check_events(run_id, events, self._options):
            ids += self._publish(run_id, [event])
            await asyncio.sleep(0)
        return ids

    return with_methods(publish_many=publish_many)


@mutant("S1", "stream_bridge", by="a_subscriber_gets_what_was_published")
def a_replica_turns_batches_round() -> Patched:
    """The second instance hands the events of a batch on in the opposite order."""

    def feed(self: Hub, run_id: str, head: Head, entries: Sequence[Entry]) -> None:
        table = self._read.__self__._table  # type: ignore[attr-defined]  # a bound method
        if table.hubs[0] is not self:
            turned = zip(entries, reversed(entries), strict=True)
            entries = [Entry(one.id, other.event, other.data) for one, other in turned]
        _feed(self, run_id, head, entries)

    return mock.patch.object(Hub, "feed", feed)


@mutant("S1", "stream_bridge", by="a_subscriber_gets_what_was_published")
def other_instances_hear_nothing() -> Patched:
    """Only the subscribers of the instance that was opened first are told of an event."""

    def tell(self: StreamTable, hub: Hub, call: Callable[..., None], *arguments: Any) -> None:
        if hub is self.hubs[0]:
            _tell(self, hub, call, *arguments)

    return mock.patch.object(StreamTable, "_tell", tell)


# ------------------------------------------------------------------------------------------------------ S2 ids


@mutant("S2", "stream_bridge", by="each_stream_has_a_higher_epoch")
def ids_are_reused_after_cleanup() -> Patched:
    """A new stream takes the server's time as its epoch, though the trace of an earlier one has the same."""

    def create(self: InProcessStreamBridge, run_id: str, now: int, trace: _Stream | None) -> _Stream:
        stream = _create(self, run_id, now, trace)
        stream.created = now // 1_000
        stream.latest = EventId(stream.created, 0)
        return stream

    return with_methods(_create=create)


@mutant("S2", "stream_bridge", by="each_stream_has_a_higher_epoch")
def a_new_stream_goes_on_counting() -> Patched:
    """What is published after a cleanup has a new epoch, and a seq after that of the stream before."""

    def create(self: InProcessStreamBridge, run_id: str, now: int, trace: _Stream | None) -> _Stream:
        stream = _create(self, run_id, now, trace)
        stream.latest = EventId(stream.created, 0 if trace is None else trace.latest.seq)
        return stream

    return with_methods(_create=create)


@mutant("S2", "stream_bridge", by="the_epoch_is_the_servers_milliseconds")
def epochs_are_seconds() -> Patched:
    """The epoch is the server's time in seconds."""

    def create(self: InProcessStreamBridge, run_id: str, now: int, trace: _Stream | None) -> _Stream:
        return _create(self, run_id, now // 1_000, trace)

    return with_methods(_create=create)


@mutant("S2", "stream_bridge", by="ids_count_without_holes")
def seqs_begin_at_0() -> Patched:
    """The first event of a stream has the seq 0."""

    def create(self: InProcessStreamBridge, run_id: str, now: int, trace: _Stream | None) -> _Stream:
        stream = _create(self, run_id, now, trace)
        stream.latest = EventId(stream.created, -1)
        return stream

    return with_methods(_create=create)


@mutant("S2", "stream_bridge", by="ids_count_without_holes")
def a_refused_event_takes_a_seq() -> Patched:
    """A batch that is refused leaves a hole in the ids."""

    async def publish_many(self: InProcessStreamBridge, run_id: str, events: Any) -> list[str]:
        try:
            new = check_events(run_id, events, self._options)
        except Exception:
            stream = self._table.streams.get(run_id)
            if stream is not None:
                stream.latest = EventId(stream.latest.epoch, stream.latest.seq + 1)
            raise
        return self._publish(run_id, new)

    return with_methods(publish_many=publish_many)


@mutant("S2", "stream_bridge", by="ids_count_without_holes")
def rivals_get_one_id() -> Patched:
    """Who publishes reads the last id, and others do so too before the next one is stored."""

    async def publish(self: InProcessStreamBridge, run_id: str, event: str, data: Any) -> str:
        new = check_event(run_id, event, data)
        stream = self._stream_to_write(run_id, self._clock())
        latest = stream.latest
        await asyncio.sleep(0)
        stream.latest = latest
        return self._publish(run_id, new)[0]

    return with_methods(publish=publish)


@mutant("S2", "stream_bridge", by="ids_count_without_holes")
def the_latest_id_is_the_earliest() -> Patched:
    """The status tells of the first id that is retained as the last one given."""

    async def status(self: InProcessStreamBridge, run_id: str) -> StreamStatus | None:
        found = await _status(self, run_id)
        return found and dataclasses.replace(found, latest_id=found.earliest_id or found.latest_id)

    return with_methods(status=status)


# ---------------------------------------------------------------------------- S3 nothing lost, nothing twice


@mutant("S3", "stream_bridge", by=("programs_agree_with_the_model", "nothing_is_lost_over_reconnects"))
def resuming_drops_an_event() -> Patched:
    """Who resumes where more than one event is waiting misses the first of them."""

    def step(self: Place, read: Read) -> Step:
        resuming = self.created is None and self._cursor is not None
        entries, finish = _step(self, read)
        return (entries[1:] if resuming and len(entries) > 1 else entries), finish

    return mock.patch.object(Place, "step", step)


@mutant("S3", "stream_bridge", by=("programs_agree_with_the_model", "nothing_is_lost_over_reconnects"))
def resuming_repeats_an_event() -> Patched:
    """Who resumes at the tail is given the last event again with the next one."""

    def begin_at(self: Place, cursor: EventId, read: Read, fresh: bool) -> Step:
        outcome = _begin_at(self, cursor, read, fresh)
        if outcome == ((), None) and self.created is not None and self.seq:
            self.seq -= 1
        return outcome

    return mock.patch.object(Place, "_begin_at", begin_at)


@mutant("S3", "stream_bridge", by="nothing_is_lost_over_reconnects")
def another_instances_cursor_is_none() -> Patched:
    """An instance knows the ids that it gave out itself; who resumes with another begins anew."""
    given: dict[Hub, set[str]] = {}

    def deliver(self: Subscription, entry: Entry) -> StreamEvent:
        given.setdefault(self._hub, set()).add(str(entry.id))
        return _deliver(self, entry)

    def subscribe(self: Hub, run_id: str, *, last_event_id: str | None, heartbeat_interval: float) -> Subscription:
        known = last_event_id in given.get(self, set())
        return _subscribe(
            self, run_id, last_event_id=last_event_id if known else None, heartbeat_interval=heartbeat_interval
        )

    return together(
        mock.patch.object(Subscription, "_deliver", deliver), mock.patch.object(Hub, "subscribe", subscribe)
    )


@mutant("S3", "stream_bridge", by="what_comes_during_a_read_is_not_lost")
def news_during_a_read_is_forgotten() -> Patched:
    """What is stored while the process reads the run's head is taken for read."""

    def feed(self: Watch, read: Read) -> None:
        if self._reading is None:
            self._absorb(read) if self._fits(read) else self.wake()

    return mock.patch.object(Watch, "feed", feed)


@mutant("S3", "stream_bridge", by="subscribing_begins_with_the_first_item")
def subscribing_begins_with_the_call() -> Patched:
    """The live tail is where it was when subscribe() was called."""

    def subscribe(self: InProcessStreamBridge, run_id: str, **arguments: Any) -> Any:
        stream = self._table.streams.get(run_id)
        malformed = isinstance(cursors.parse_cursor(arguments.get("last_event_id")), Malformed)
        if malformed and stream is not None and not stream.ended and not stream.cleaned:
            arguments["last_event_id"] = str(stream.latest)
        return self.hub.subscribe(run_id, **{"last_event_id": None, "heartbeat_interval": 15.0, **arguments})

    return with_methods(subscribe=subscribe)


@mutant("S3", "stream_bridge", by="programs_agree_with_the_model")
def a_number_of_events_is_enough() -> Patched:
    """A subscription ends, as if the run did, after four items."""
    counts: dict[Subscription, int] = {}

    async def anext_(self: Subscription) -> StreamItem:
        item = await _anext(self)
        counts[self] = counts.get(self, 0) + 1
        return END_SENTINEL if counts[self] > 4 else item

    return mock.patch.object(Subscription, "__anext__", anext_)
