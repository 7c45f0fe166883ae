"""Faults of a stream bridge that concern END: S8."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any
from unittest import mock

from deerflow_backends import subscription
from deerflow_backends.cursors import END, Entry, Head, Place, Read, Step
from deerflow_backends.errors import StreamEnded
from deerflow_backends.events import NewEvent, check_event, check_events
from deerflow_backends.hub import Hub
from deerflow_backends.inprocess.streams import InProcessStreamBridge
from deerflow_backends.streams import END_SENTINEL, HEARTBEAT_SENTINEL, StreamEvent, StreamItem
from deerflow_backends.subscription import Subscription
from deerflow_conformance.mutants import Patched, mutant
from deerflow_conformance.mutants.streams import with_methods

_publish = InProcessStreamBridge._publish
_publish_end = InProcessStreamBridge.publish_end
_step = Place.step
_follow = Place._follow
_anext = Subscription.__anext__
_deliver = Subscription._deliver
_close = Hub.close


@mutant("S8", "stream_bridge", by="publishing_after_end_stores_nothing")
def publishing_after_end_is_stored() -> Patched:
    """An ended run still takes events."""
    return with_methods(_publish=_publish_in_spite_of_the_end)


def _publish_in_spite_of_the_end(self: InProcessStreamBridge, run_id: str, new: Sequence[NewEvent]) -> list[str]:
    stream = self._table.streams.get(run_id)
    if stream is None or not stream.ended:
        return _publish(self, run_id, new)
    stream.ended = False
    try:
        return _publish(self, run_id, new)
    finally:
        stream.ended = True


@mutant("S8", "stream_bridge", by="publishing_after_end_stores_nothing")
def publishing_after_end_is_dropped() -> Patched:
    """What is published to an ended run is dropped, and nobody is told."""

    def publish(self: InProcessStreamBridge, run_id: str, new: Sequence[NewEvent]) -> list[str]:
        try:
            return _publish(self, run_id, new)
        except StreamEnded:
            return [str(self._table.streams[run_id].latest)] * len(new)

    return with_methods(_publish=publish)


@mutant("S8", "stream_bridge", by="publishing_after_end_stores_nothing")
def a_batch_after_end_is_stored() -> Patched:
    """Whether the run has ended is looked at by publish, and not by publish_many."""

    async def publish_many(self: InProcessStreamBridge, run_id: str, events: Any) -> list[str]:
        return _publish_in_spite_of_the_end(self, run_id, check_events(run_id, events, self._options))

    return with_methods(publish_many=publish_many)


@mutant("S8", "stream_bridge", by="publishing_after_end_stores_nothing")
def a_refused_event_is_stored() -> Patched:
    """Publishing to an ended run stores the event and raises StreamEnded."""

    def publish(self: InProcessStreamBridge, run_id: str, new: Sequence[NewEvent]) -> list[str]:
        try:
            return _publish(self, run_id, new)
        except StreamEnded:
            _publish_in_spite_of_the_end(self, run_id, new)
            raise

    return with_methods(_publish=publish)


@mutant("S8", "stream_bridge", by="replicas_may_end_at_once")
def an_event_may_overtake_the_end() -> Patched:
    """Whether the run has ended is looked at first, and the event is stored a moment later, come what may."""

    async def publish(self: InProcessStreamBridge, run_id: str, event: str, data: Any) -> str:
        new = check_event(run_id, event, data)
        stream = self._table.streams.get(run_id)
        ended = stream is not None and stream.ended
        await asyncio.sleep(0)
        return (self._publish if ended else partial(_publish_in_spite_of_the_end, self))(run_id, new)[0]

    return with_methods(publish=publish)


@mutant("S8", "stream_bridge", by=("end_comes_once_and_last", "end_on_an_unknown_run"))
def end_comes_twice() -> Patched:
    """Asked again after END, a subscription gives END again."""

    async def anext_(self: Subscription) -> StreamItem:
        try:
            return await _anext(self)
        except StopAsyncIteration:
            return END_SENTINEL

    return mock.patch.object(Subscription, "__anext__", anext_)


@mutant("S8", "stream_bridge", by="end_comes_once_and_last")
def end_overtakes_events() -> Patched:
    """Once a run has ended, its subscribers get END, whatever they have not got yet."""

    def follow(self: Place, head: Head, entries: tuple[Entry, ...]) -> Step:
        return ((), END) if head.ended and self._delivered is None else _follow(self, head, entries)

    return mock.patch.object(Place, "_follow", follow)


@mutant("S8", "stream_bridge", by="end_comes_once_and_last")
def who_comes_late_gets_no_end() -> Patched:
    """A subscriber that comes after the end gets the events, and then waits."""

    def step(self: Place, read: Read) -> Step:
        if self.fresh and read.head is not None and read.head.ended:
            late.append(self)
        entries, finish = _step(self, read)
        return entries, None if self in late and finish is END else finish

    late: list[Place] = []
    return mock.patch.object(Place, "step", step)


@mutant("S8", "stream_bridge", by="end_comes_once_and_last")
def end_is_a_copy() -> Patched:
    """The last item equals END_SENTINEL, and is not it."""
    return mock.patch.object(subscription, "END_SENTINEL", StreamEvent("", "__end__", None))


@mutant("S8", "stream_bridge", by="end_comes_once_and_last")
def ending_again_is_an_error() -> Patched:
    """publish_end on an ended run raises StreamEnded."""

    async def publish_end(self: InProcessStreamBridge, run_id: str) -> None:
        stream = self._table.streams.get(run_id)
        if stream is not None and stream.ended:
            raise StreamEnded(f"run {run_id!r} has ended already")
        await _publish_end(self, run_id)

    return with_methods(publish_end=publish_end)


@mutant("S8", "stream_bridge", by="end_on_an_unknown_run")
def an_unknown_run_does_not_end() -> Patched:
    """publish_end on a run without stream does nothing."""

    async def publish_end(self: InProcessStreamBridge, run_id: str) -> None:
        if run_id in self._table.streams:
            await _publish_end(self, run_id)

    return with_methods(publish_end=publish_end)


@mutant("S8", "stream_bridge", by="ending_one_leaves_the_others")
def ending_ends_what_begins_alike() -> Patched:
    """With a run all those end whose names begin with its name."""

    async def publish_end(self: InProcessStreamBridge, run_id: str) -> None:
        await _publish_end(self, run_id)
        for other in list(self._table.streams):
            if other.startswith(run_id):
                await _publish_end(self, other)

    return with_methods(publish_end=publish_end)


@mutant("S8", "stream_bridge", by="end_is_durable")
def the_end_is_kept_in_memory() -> Patched:
    """That a run has ended is forgotten once nobody has the bridge open."""

    async def close(self: Hub) -> None:
        await _close(self)
        table = self._read.__self__._table  # type: ignore[attr-defined]  # a bound method
        if not table.hubs:
            for stream in table.streams.values():
                stream.ended = False

    return mock.patch.object(Hub, "close", close)


@mutant("S8", "stream_bridge", by="an_event_named_like_a_sentinel_is_an_event")
def an_event_named_end_ends_the_run() -> Patched:
    """Publishing an event of the sentinel's name ends the run."""

    async def publish(self: InProcessStreamBridge, run_id: str, event: str, data: Any) -> str:
        (event_id,) = self._publish(run_id, check_event(run_id, event, data))
        if event == END_SENTINEL.event:
            await self.publish_end(run_id)
        return event_id

    return with_methods(publish=publish)


@mutant("S8", "stream_bridge", by="an_event_named_like_a_sentinel_is_an_event")
def an_event_named_heartbeat_is_one() -> Patched:
    """An event of the other sentinel's name is not told from it, and is swallowed by the first filter."""

    def deliver(self: Subscription, entry: Entry) -> StreamEvent:
        event = _deliver(self, entry)
        return HEARTBEAT_SENTINEL if event.event == "__heartbeat__" else event

    return mock.patch.object(Subscription, "_deliver", deliver)
