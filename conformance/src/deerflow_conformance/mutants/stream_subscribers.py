"""Faults of a stream bridge that concern waiting, reading slowly and being many: S9, S11, S12 and S15."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

from deerflow_backends import subscription
from deerflow_backends.arguments import check_seconds
from deerflow_backends.cursors import END, Entry, EventId, Head, Place, Read, Step
from deerflow_backends.events import check_event
from deerflow_backends.hub import Hub
from deerflow_backends.inprocess.streams import InProcessStreamBridge, _Stream
from deerflow_backends.streams import HEARTBEAT_SENTINEL, StreamEvent, StreamItem
from deerflow_backends.subscription import Subscription
from deerflow_backends.watches import Watch
from deerflow_conformance.mutants import Patched, mutant, together
from deerflow_conformance.mutants.streams import with_methods

_read = InProcessStreamBridge.read
_publish = InProcessStreamBridge.publish
_begin = Subscription._begin
_next = Subscription._next
_anext = Subscription.__anext__
_finish = Subscription._finish
_attach = Hub.attach
_feed = Hub.feed
_subscribe = InProcessStreamBridge.subscribe
_begin_place = Place._begin
_begin_at = Place._begin_at
_step = Place.step


# ---------------------------------------------------------------------------------------------------- S9 heartbeat


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
def no_interval_is_longer_than_a_minute() -> Patched:
    """Who asks for a heartbeat after more than a minute hears one every minute."""

    def begin(self: Subscription) -> Watch:
        watch = _begin(self)
        self._arguments = (*self._arguments[:2], min(self._arguments[2], 60.0))
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


@mutant("S9", "stream_bridge", by="heartbeats_come_while_waiting")
def a_heartbeat_is_a_copy() -> Patched:
    """A heartbeat equals HEARTBEAT_SENTINEL, and is not it."""
    return mock.patch.object(subscription, "HEARTBEAT_SENTINEL", StreamEvent("", "__heartbeat__", None))


@mutant("S9", "stream_bridge", by="heartbeats_come_while_waiting")
def only_one_heartbeat_comes() -> Patched:
    """After its first heartbeat a subscription waits in silence."""

    async def following(self: Subscription) -> StreamItem:
        item = await _next(self)
        if item is HEARTBEAT_SENTINEL:
            self._arguments = (*self._arguments[:2], 1e9)
        return item

    return mock.patch.object(Subscription, "_next", following)


@mutant("S9", "stream_bridge", by="heartbeats_come_while_waiting")
def a_heartbeat_comes_before_each_event() -> Patched:
    """Each event is announced by a heartbeat, though nobody has waited."""
    told: set[tuple[Subscription, int]] = set()

    async def following(self: Subscription) -> StreamItem:
        watch = self._watch or self._begin()
        known = watch.ring.get(self._place.seq + 1)
        if known is not None and (self, known.id.seq) not in told:
            told.add((self, known.id.seq))
            return HEARTBEAT_SENTINEL
        return await _next(self)

    return mock.patch.object(Subscription, "_next", following)


@mutant("S9", "stream_bridge", by="each_subscriber_has_its_own_interval")
def one_interval_is_everybodys() -> Patched:
    """All subscribers of a run hear heartbeats at the interval of the last one that came."""
    last: dict[str, float] = {}

    def begin(self: Subscription) -> Watch:
        watch = _begin(self)
        last[watch.run_id] = max(self._arguments[2], last.get(watch.run_id, 0.0))
        return watch

    async def following(self: Subscription) -> StreamItem:
        await asyncio.sleep(0)
        if self._watch is not None:
            self._arguments = (*self._arguments[:2], last[self._arguments[0]])
        return await _next(self)

    return together(
        mock.patch.object(Subscription, "_begin", begin), mock.patch.object(Subscription, "_next", following)
    )


@mutant("S9", "stream_bridge", by="other_runs_delay_no_heartbeat")
def each_event_puts_heartbeats_off() -> Patched:
    """The interval begins anew with every event, of whichever run."""

    def feed(self: Hub, run_id: str, head: Head, entries: Sequence[Entry]) -> None:
        _feed(self, run_id, head, entries)
        for watch in self._watches.values():
            for reference in watch.subscriptions:
                if (waiting := reference()) is not None:
                    waiting._deadline = self.binding.loop.time() + waiting._arguments[2]

    return mock.patch.object(Hub, "feed", feed)


@mutant("S9", "stream_bridge", by="bad_arguments_are_refused_at_the_first_item")
def any_interval_is_taken() -> Patched:
    """The interval is not looked at."""
    return mock.patch.object(subscription, "check_seconds", lambda _, value: value)


@mutant("S9", "stream_bridge", by="bad_arguments_are_refused_at_the_first_item")
def any_run_is_waited_for() -> Patched:
    """The run id is not looked at."""
    return mock.patch.object(subscription, "check_identifier", lambda _, value: value)


@mutant("S9", "stream_bridge", by="bad_arguments_are_refused_at_the_first_item")
def a_bad_interval_is_refused_at_once() -> Patched:
    """subscribe() itself raises what is wrong with its arguments."""

    def subscribe(self: InProcessStreamBridge, run_id: str, **arguments: Any) -> Any:
        check_seconds("heartbeat_interval", arguments.get("heartbeat_interval", 15.0))
        return _subscribe(self, run_id, **arguments)

    return with_methods(subscribe=subscribe)


# ------------------------------------------------------------------------------------------- S11 subscribing first


@mutant("S11", "stream_bridge", by="subscribing_to_an_unknown_run")
def subscribing_makes_a_stream() -> Patched:
    """Reading a run that is not there creates it, empty."""

    async def read(self: InProcessStreamBridge, run_id: str, *rest: int) -> Read:
        now = self._clock()
        if self._find(run_id, now) is None:
            self._create(run_id, now, None)
        return await _read(self, run_id, *rest)

    return with_methods(read=read)


@mutant("S11", "stream_bridge", by="subscribing_to_an_unknown_run")
def subscribers_are_written_down() -> Patched:
    """Who subscribes is noted in the store, and stays there."""

    async def read(self: InProcessStreamBridge, run_id: str, *rest: int) -> Read:
        noted = f"subscribers of {run_id}"
        if noted not in self._table.streams:
            self._table.streams[noted] = _Stream(1, EventId(1, 0), self._clock() + 10**12, cleaned=True)
        return await _read(self, run_id, *rest)

    return with_methods(read=read)


@mutant("S11", "stream_bridge", by="subscribing_to_an_unknown_run")
def a_cursor_waits_for_its_run() -> Patched:
    """Who has a cursor of a run that is not there waits for it."""

    def begin_at(self: Place, cursor: EventId, read: Read, fresh: bool) -> Step:
        return ((), None) if read.head is None else _begin_at(self, cursor, read, fresh)

    return mock.patch.object(Place, "_begin_at", begin_at)


@mutant("S11", "stream_bridge", by="subscribing_to_an_unknown_run")
def an_unknown_run_has_ended() -> Patched:
    """Who subscribes to a run that is not there gets END."""

    def begin(self: Place, read: Read) -> Step:
        return ((), END) if read.head is None and self.fresh else _begin_place(self, read)

    return mock.patch.object(Place, "_begin", begin)


@mutant("S11", "stream_bridge", by="who_waits_hears_nothing_of_other_runs")
def who_waits_hears_what_begins_alike() -> Patched:
    """An event is fed to all watched runs whose names begin with its run's name."""

    def feed(self: Hub, run_id: str, head: Head, entries: Sequence[Entry]) -> None:
        for watched in list(self.watched):
            if watched.startswith(run_id):
                _feed(self, watched, head, entries)

    return mock.patch.object(Hub, "feed", feed)


@mutant("S11", "stream_bridge", by="who_waited_gets_the_stream_from_its_first_event")
def who_waited_misses_the_first_event() -> Patched:
    """The event that made the stream is not given to those who waited for it."""

    def step(self: Place, read: Read) -> Step:
        waited = self.created is None and not self.fresh
        entries, finish = _step(self, read)
        if waited and entries and entries[0].id.seq == 1:
            self.seq = 1
            entries = entries[1:]
        return entries, finish

    return mock.patch.object(Place, "step", step)


# -------------------------------------------------------------------------------------------------- S12 slow readers


def _places(bridge: InProcessStreamBridge, run_id: str) -> list[Place]:
    watches = [hub._watches[run_id] for hub in bridge._table.hubs if run_id in hub._watches]
    return [one._place for watch in watches for reference in watch.subscriptions if (one := reference())]


@mutant("S12", "stream_bridge", by="a_slow_reader_delays_nobody")
def publishers_wait_for_readers() -> Patched:
    """A publisher waits until every subscriber has been given the event before."""

    def is_behind(self: InProcessStreamBridge, run_id: str) -> bool:
        stream = self._table.streams.get(run_id)
        return stream is not None and any(
            place.created == stream.created and place.seq < stream.latest.seq for place in _places(self, run_id)
        )

    async def publish(self: InProcessStreamBridge, run_id: str, event: str, data: Any) -> str:
        while is_behind(self, run_id):  # noqa: ASYNC110  # a fault need not be well made
            await asyncio.sleep(0.1)
        return self._publish(run_id, check_event(run_id, event, data))[0]

    return with_methods(publish=publish)


@mutant("S12", "stream_bridge", by="a_slow_reader_delays_nobody")
def the_slow_hold_up_the_quick() -> Patched:
    """No subscriber of a run is given an event before all have been given the one before."""

    async def anext_(self: Subscription) -> StreamItem:
        watch = self._watch
        while watch is not None and any(  # noqa: ASYNC110  # a fault need not be well made
            one._place.seq < self._place.seq for reference in watch.subscriptions if (one := reference())
        ):
            await asyncio.sleep(0.1)
        return await _anext(self)

    return mock.patch.object(Subscription, "__anext__", anext_)


@mutant("S12", "stream_bridge", by="a_reader_that_lags_is_served_from_the_store")
def who_lags_gets_a_gap() -> Patched:
    """What is no longer in the process's buffer is taken for gone, though the store has it."""

    async def read(self: InProcessStreamBridge, run_id: str, after: int, limit: int, max_bytes: int) -> Read:
        found = await _read(self, run_id, after, limit, max_bytes)
        watch = self.hub._watches.get(run_id)
        if found.head is None or watch is None or not watch.ring or after + 1 >= min(watch.ring):
            return found
        earliest = EventId(found.head.latest.epoch, min(watch.ring))
        entries = tuple(entry for entry in found.entries if entry.id.seq >= earliest.seq)
        return Read(dataclasses.replace(found.head, earliest=earliest), entries)

    return with_methods(read=read)


@mutant("S12", "stream_bridge", by="nothing_is_prefetched_beyond_the_buffer")
def the_buffer_has_no_end() -> Patched:
    """For a subscriber that does not read, everything is kept in memory."""

    def append(self: Watch, entry: Entry) -> None:
        if entry.id.seq != self.last + 1:
            self._clear(last=entry.id.seq - 1)
        self.ring[entry.id.seq] = entry
        self.last = entry.id.seq

    return mock.patch.object(Watch, "_append", append)


# -------------------------------------------------------------------------------------------------- S15 connections


def _held_by_subscribers(take: Callable[[], Any], give_back: Callable[[Any], None]) -> Patched:
    """Have each subscription hold something from its beginning to its end."""
    held: dict[Subscription, Any] = {}

    def attach(self: Hub, subscribed: Subscription, run_id: str) -> Watch:
        held[subscribed] = take()
        return _attach(self, subscribed, run_id)

    def finish(self: Subscription) -> None:
        _finish(self)
        if self in held:
            give_back(held.pop(self))

    return together(mock.patch.object(Hub, "attach", attach), mock.patch.object(Subscription, "_finish", finish))


@mutant("S15", "stream_bridge", by="handles_do_not_grow_with_subscribers")
def every_subscriber_has_a_handle() -> Patched:
    """Each subscription opens a file handle of its own."""
    return _held_by_subscribers(lambda: os.open(os.devnull, os.O_RDONLY), os.close)


@mutant("S15", "stream_bridge", by="handles_do_not_grow_with_subscribers")
def every_subscriber_has_a_thread() -> Patched:
    """Each subscription has a thread that waits for it."""

    def take() -> tuple[threading.Thread, threading.Event]:
        done = threading.Event()
        thread = threading.Thread(target=done.wait, daemon=True)
        thread.start()
        return thread, done

    def give_back(taken: tuple[threading.Thread, threading.Event]) -> None:
        taken[1].set()
        taken[0].join()

    return _held_by_subscribers(take, give_back)


@mutant("S15", "stream_bridge", by="handles_do_not_grow_with_publishers")
def every_publication_has_a_handle() -> Patched:
    """Each publication in flight has a file handle of its own."""

    async def publish(self: InProcessStreamBridge, run_id: str, event: str, data: Any) -> str:
        handle = os.open(os.devnull, os.O_RDONLY)
        try:
            await asyncio.sleep(0.01)
            return await _publish(self, run_id, event, data)
        finally:
            os.close(handle)

    return with_methods(publish=publish)


@mutant("S15", "stream_bridge", by="subscribers_do_not_starve_publishers")
def subscribers_take_the_whole_pool() -> Patched:
    """Waiting subscribers hold places of a pool of 150 that publishers need too."""
    free = [150]

    @contextmanager
    def place() -> Iterator[None]:
        free[0] -= 1
        try:
            yield
        finally:
            free[0] += 1

    async def anext_(self: Subscription) -> StreamItem:
        with place():
            return await _anext(self)

    async def publish(self: InProcessStreamBridge, run_id: str, event: str, data: Any) -> str:
        while free[0] <= 0:  # noqa: ASYNC110  # a fault need not be well made
            await asyncio.sleep(0.1)
        return await _publish(self, run_id, event, data)

    return together(mock.patch.object(Subscription, "__anext__", anext_), with_methods(publish=publish))
