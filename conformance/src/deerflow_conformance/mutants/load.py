"""Faults that show only where there is much of something: each is small enough for the checks of a few to miss it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

from deerflow_backends.binding import Binding
from deerflow_backends.buffering import BufferedCounters
from deerflow_backends.changes import Effects
from deerflow_backends.cursors import Entry, EventId
from deerflow_backends.events import NewEvent
from deerflow_backends.inprocess.counters import InProcessModelCounters
from deerflow_backends.inprocess.memories import InProcessMemoryStore
from deerflow_backends.inprocess.streams import InProcessStreamBridge, _Stream
from deerflow_backends.inprocess.threads import InProcessThreadIndex
from deerflow_backends.listings import ThreadListing
from deerflow_backends.streams import HEARTBEAT_SENTINEL, StreamEvent, StreamItem
from deerflow_backends.subscription import Subscription
from deerflow_backends.thread_changes import StoredThread
from deerflow_backends.watches import Watch
from deerflow_conformance.mutants import Patched, methods, mutant

_next = Subscription._next
_deliver = Subscription._deliver
_finish = Subscription._finish
_watch = Watch.__init__
_watch_close = Watch.close
_append = Watch._append
_publish_end = InProcessStreamBridge.publish_end
_append_events = InProcessStreamBridge._append
_find = InProcessStreamBridge._find
_check = Binding.check
_close = Binding.close
_erase = InProcessMemoryStore.erase
_list_facts = InProcessMemoryStore.list_facts
_store = InProcessMemoryStore._store
_following = InProcessThreadIndex._following
_record_many = InProcessModelCounters.record_many
_buffer = BufferedCounters.record

# -------------------------------------------------------------------------------------------------------- streams


@mutant("S2", "stream_bridge", by="thousands_of_ids_count_in_one_epoch")
def the_epoch_rises_with_every_hundredth_event() -> Patched:
    """Whoever publishes the first event of a hundred raises the epoch, though nothing was started anew."""

    def append(self: InProcessStreamBridge, stream: _Stream, new: Sequence[NewEvent]) -> list[Entry]:
        epoch, seq = stream.latest
        if seq // 100 != (seq + len(new)) // 100:
            stream.latest = EventId(epoch + 1, seq)
        return _append_events(self, stream, new)

    return methods(InProcessStreamBridge, _append=append)


@mutant("S3", "stream_bridge", by="ten_thousand_events_arrive_once")
def every_four_thousandth_event_comes_twice() -> Patched:
    """A subscriber gets an event again when a buffer of 4,096 is full."""
    last: dict[Subscription, StreamItem] = {}

    async def following(self: Subscription) -> StreamItem:
        item = last.pop(self, None)
        if item is None:
            item = await _next(self)
            if isinstance(item, StreamEvent) and item is not HEARTBEAT_SENTINEL and item.id.endswith("-4096"):
                last[self] = item
        return item

    return methods(Subscription, _next=following)


@mutant("S8", "stream_bridge", by="a_thousand_runs_end_once")
def every_hundredth_end_wakes_nobody() -> Patched:
    """Of many runs that end at once some subscribers are not told."""
    ended = 0

    async def publish_end(self: InProcessStreamBridge, run_id: str) -> None:
        nonlocal ended
        ended += 1
        if ended % 100:
            await _publish_end(self, run_id)
            return
        with mock.patch.object(self._table, "feed"):
            await _publish_end(self, run_id)

    return methods(InProcessStreamBridge, publish_end=publish_end)


@mutant("S12", "stream_bridge", by="nothing_is_kept_for_those_who_do_not_read")
def events_queue_for_each_subscriber() -> Patched:
    """Every event is kept for each subscriber until it reads on."""
    queues: dict[Any, list[Entry]] = {}

    def append(self: Watch, entry: Entry) -> None:
        _append(self, entry)
        for subscription in self.subscriptions:
            queues.setdefault(subscription, []).append(entry)

    return methods(Watch, _append=append)


@mutant("S12", "stream_bridge", by="nothing_is_kept_for_those_who_left")
def who_left_is_still_watched_for() -> Patched:
    """A run is watched for good once somebody has subscribed to it."""
    return methods(Watch, release=lambda *_: None)


@mutant("S12", "stream_bridge", by="nothing_is_kept_for_those_who_left")
def who_was_dropped_is_still_watched_for() -> Patched:
    """A subscriber that nobody refers to any more is not noticed, and its run is watched for good."""
    return methods(Subscription, __del__=lambda _: None)


@mutant("S12", "stream_bridge", by="nothing_is_kept_for_those_who_left")
def who_got_the_end_is_still_watched_for() -> Patched:
    """A run is watched for good by who got all of it."""

    def finish(self: Subscription) -> None:
        watch = self._watch
        if self._active:
            self._watch = None
        _finish(self)
        self._watch = watch

    return methods(Subscription, _finish=finish)


@mutant("S12", "stream_bridge", by="nothing_is_kept_for_those_who_left")
def what_was_delivered_is_kept() -> Patched:
    """What was given to a subscriber is kept for it when it has left."""
    kept: list[StreamEvent] = []

    def deliver(self: Subscription, entry: Entry) -> StreamEvent:
        kept.append(_deliver(self, entry))
        return kept[-1]

    return methods(Subscription, _deliver=deliver)


@mutant("S15", "stream_bridge", by="a_crowd_needs_no_more_connections")
def each_watched_run_has_a_connection() -> Patched:
    """A connection is held for each run that is read."""

    def made(self: Watch, *arguments: Any) -> None:
        _watch(self, *arguments)
        self.connection = os.open(os.devnull, os.O_RDONLY)  # type: ignore[attr-defined]  # the fault

    def close(self: Watch) -> None:
        if not self._closed:
            os.close(self.connection)  # type: ignore[attr-defined]  # the fault
        _watch_close(self)

    return methods(Watch, __init__=made, close=close)


@mutant("S15", "stream_bridge", by="a_crowd_that_waits_is_quiet")
def each_subscriber_looks_every_second() -> Patched:
    """Every subscriber looks after its run once a second, each for itself."""

    def set_timer(self: Subscription) -> None:
        loop = self._hub.binding.loop
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(min(self._deadline, loop.time() + 1.0), self.end_wait)

    return methods(Subscription, _set_timer=set_timer)


# -------------------------------------------------------------------------------------------------------- all four


@mutant("G8", "stream_bridge", "memory", "thread_index", "counters", by="ten_thousand_calls_leave_nothing")
def every_hundredth_call_leaves_a_task() -> Patched:
    """Now and then a call leaves a task behind that waits for nothing."""
    left: list[asyncio.Task[None]] = []
    calls = 0

    def check(self: Binding) -> None:
        nonlocal calls
        _check(self)
        calls += 1
        if calls % 100 == 0:
            left.append(asyncio.create_task(asyncio.sleep(3_600.0)))

    return methods(Binding, check=check)


@mutant("G9", "stream_bridge", "memory", "thread_index", "counters", by="closing_under_load_leaves_nothing")
@contextmanager
def every_second_closing_leaves_a_handle() -> Iterator[None]:
    """Some file handle stays open when a capability is closed."""
    left: list[int] = []
    closings = 0

    def close(self: Binding) -> None:
        nonlocal closings
        _close(self)
        closings += 1
        if closings % 2 == 0:
            left.append(os.open(os.devnull, os.O_RDONLY))

    try:
        with methods(Binding, close=close):
            yield
    finally:
        for handle in left:
            os.close(handle)


@mutant("G11", "stream_bridge", by="ten_thousand_names_leave_nothing")
def a_sweep_frees_a_hundred() -> Patched:
    """However much has expired, one sweep frees a hundred streams."""

    def sweep(self: InProcessStreamBridge) -> None:
        with self._tables.lock:
            now = self._clock()
            for run_id in list(self._table.streams)[:100]:
                _find(self, run_id, now)

    return methods(InProcessStreamBridge, sweep=sweep)


@mutant("G11", "memory", by="ten_thousand_names_leave_nothing")
def every_hundredth_erasure_leaves_something() -> Patched:
    """Now and then the memory of an erased user is only hidden."""
    erased = 0

    async def erase(self: InProcessMemoryStore, user_id: str | None) -> None:
        nonlocal erased
        erased += 1
        user = self._users.get(user_id)
        await _erase(self, user_id)
        if user is not None and erased % 100 == 0:
            self._users[f"erased {user_id}"] = user

    return methods(InProcessMemoryStore, erase=erase)


@mutant(
    "G11",
    *("stream_bridge", "memory", "thread_index", "counters"),
    by="ten_thousand_writes_over_the_same_keep_no_more",
)
def each_call_is_remembered() -> Patched:
    """The process keeps a little of every call, for ever."""
    kept: list[object] = []

    def check(self: Binding) -> None:
        _check(self)
        kept.append(object())

    return methods(Binding, check=check)


# ----------------------------------------------------------------------------------- memory, threads and counters


@mutant("M6", "memory", by="thousands_of_facts_come_once")
def a_listing_ends_after_two_thousand() -> Patched:
    """Facts beyond the two thousandth are not listed."""

    async def list_facts(self: InProcessMemoryStore, user_id: str | None, **arguments: Any) -> Any:
        page = await _list_facts(self, user_id, **arguments)
        listed = sorted(self._user(user_id).facts.get(arguments["agent_name"], {}))
        if page.items and listed.index(page.items[-1].fact_id) >= 2_000:
            return replace(page, next_cursor=None)
        return page

    return methods(InProcessMemoryStore, list_facts=list_facts)


@mutant("M9", "memory", by="a_change_among_thousands_costs_what_it_changes")
def a_large_memory_is_written_whole() -> Patched:
    """Each apply goes through all facts once there are more than two thousand."""

    def store(self: InProcessMemoryStore, user_id: str | None, effects: Effects, now: int) -> None:
        _store(self, user_id, effects, now)
        for facts in self._users[user_id].facts.values():
            if len(facts) > 2_000:
                for fact_id in tuple(facts):
                    facts[fact_id] = facts.pop(fact_id)

    return methods(InProcessMemoryStore, _store=store)


@mutant("T3", "thread_index", by="the_hundredth_page_costs_as_the_first")
def a_deep_page_skips_those_before_it() -> Patched:
    """A page goes through all threads before it, and leaves them out."""

    def following(self: InProcessThreadIndex, listing: ThreadListing) -> Iterator[StoredThread]:
        for thread in _following(self, replace(listing, after=None)):
            if listing.after is None or thread.order < listing.after:
                yield thread

    return methods(InProcessThreadIndex, _following=following)


@mutant("T9", "thread_index", by="a_page_of_ten_thousand_costs_as_one_of_ten")
def a_long_list_is_copied_for_each_page() -> Patched:
    """A page of a user with more than four thousand threads goes through all of them."""

    def following(self: InProcessThreadIndex, listing: ThreadListing) -> Iterator[StoredThread]:
        shelf = self._table.shelves.get((listing.scope, listing.status), [])
        if len(shelf) > 4_000:
            for place in shelf:
                self._table.threads.get(place[2])
        return _following(self, listing)

    return methods(InProcessThreadIndex, _following=following)


@mutant("C1", "counters", by="ten_thousand_recordings_add_up")
def every_thousandth_recording_is_lost() -> Patched:
    """Of many recordings one is lost now and then."""
    recorded = 0

    async def record_many(self: InProcessModelCounters, counts: Any, **token: Any) -> None:
        nonlocal recorded
        recorded += 1
        if recorded % 1_000:
            await _record_many(self, counts, **token)

    return methods(InProcessModelCounters, record_many=record_many)


@mutant("C5", "counters", by="ten_thousand_records_are_few_flushes")
def every_hundredth_record_flushes() -> Patched:
    """The buffer is flushed whenever a hundred records are in it."""
    recorded = 0

    async def record(self: BufferedCounters, model_name: str, **figures: Any) -> None:
        nonlocal recorded
        await _buffer(self, model_name, **figures)
        recorded += 1
        if recorded % 100 == 0:
            await self._flush()

    return methods(BufferedCounters, record=record)
