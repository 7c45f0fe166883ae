"""Faults of a stream bridge that show in long runs only: hundreds of events, or large ones (S1 to S3, S5, S6, S10)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from deerflow_backends.cursors import Entry, EventId, Head, Place, Read, Step
from deerflow_backends.events import NewEvent, check_events
from deerflow_backends.inprocess.streams import InProcessStreamBridge, _Stream
from deerflow_backends.streams import StreamStatus
from deerflow_backends.subscription import READ_EVENTS
from deerflow_conformance.mutants import Patched, methods, mutant
from deerflow_conformance.mutants.streams import with_methods

_publish = InProcessStreamBridge._publish
_append = InProcessStreamBridge._append
_read = InProcessStreamBridge.read
_status = InProcessStreamBridge.status
_step = Place.step
_delivered = Place.delivered
_begin_at = Place._begin_at
_follow = Place._follow

_REPLAY = "a_replay_of_any_length_is_whole"


@mutant("S1", "stream_bridge", by="a_large_batch_stays_together")
def a_large_batch_is_stored_in_parts() -> Patched:
    """A batch of more than a hundred events is stored a hundred at a time, and others come in between."""

    async def publish_many(self: InProcessStreamBridge, run_id: str, events: Any) -> list[str]:
        new = check_events(run_id, events, self._options)
        ids: list[str] = []
        for start in range(0, len(new), 100):
            ids += self._publish(run_id, new[start : start + 100])
            await asyncio.sleep(0)
        return ids

    return with_methods(publish_many=publish_many)


@mutant("S2", "stream_bridge", by="a_long_run_counts_on")
def epochs_rise_with_every_hundredth_event() -> Patched:
    """After a hundred events the ids have another epoch."""

    def append(self: InProcessStreamBridge, stream: _Stream, new: Sequence[NewEvent]) -> list[Entry]:
        if (stream.latest.seq + 1) % 100 == 0:
            stream.latest = EventId(stream.latest.epoch + 1, stream.latest.seq)
        return _append(self, stream, new)

    return with_methods(_append=append)


@mutant("S2", "stream_bridge", by="a_long_run_counts_on")
def the_latest_id_goes_by_its_text() -> Patched:
    """Once ids have three digits, the status tells of the one whose text is the greatest."""

    async def status(self: InProcessStreamBridge, run_id: str) -> StreamStatus | None:
        found = await _status(self, run_id)
        entries = self._table.streams[run_id].entries if found else ()
        if found is None or not entries or entries[-1].id.seq < 100:
            return found
        return replace(found, latest_id=max(str(entry.id) for entry in entries))

    return with_methods(status=status)


@mutant("S3", "stream_bridge", by=_REPLAY)
def a_full_read_loses_its_last_event() -> Patched:
    """Where as many events are waiting as are read at once, the last of them is not given."""
    followed: set[tuple[Place, EventId]] = set()

    def step(self: Place, read: Read) -> Step:
        entries, finish = _step(self, read)
        if len(entries) == READ_EVENTS:
            entries = entries[:-1]
            followed.add((self, entries[-1].id))
        return entries, finish

    def delivered(self: Place, entry: Entry) -> None:
        _delivered(self, entry)
        if (self, entry.id) in followed:
            self.seq += 1

    return methods(Place, step=step, delivered=delivered)


@mutant("S3", "stream_bridge", by=_REPLAY)
def at_most_a_thousand_replay() -> Patched:
    """No more than a thousand events are kept, whatever max_events says."""

    def append(self: InProcessStreamBridge, stream: _Stream, new: Sequence[NewEvent]) -> list[Entry]:
        entries = _append(self, stream, new)
        while len(stream.entries) > 1_000:
            stream.size -= len(stream.entries.popleft().data)
        return entries

    return with_methods(_append=append)


@mutant("S3", "stream_bridge", by="large_events_replay_among_small_ones")
def what_is_larger_than_a_read_is_passed_over() -> Patched:
    """An event that alone is larger than what is read at once is left out, unless it is the first one to read."""

    async def read(self: InProcessStreamBridge, run_id: str, after: int, limit: int, max_bytes: int) -> Read:
        found = await _read(self, run_id, after, limit, 2**40)
        first, rest = found.entries[:1], found.entries[1:]
        return replace(found, entries=(*first, *(entry for entry in rest if len(entry.data) <= max_bytes)))

    return with_methods(read=read)


@mutant("S5", "stream_bridge", by="cursors_go_by_number")
def ids_are_compared_as_text_of_three_digits() -> Patched:
    """What comes after a cursor is what its text sorts before, with noughts up to three digits."""

    def begin_at(self: Place, cursor: EventId, read: Read, fresh: bool) -> Step:
        entries, finish = _begin_at(self, cursor, read, fresh)
        after = tuple(entry for entry in entries if f"{entry.id.seq:03}" > f"{cursor.seq:03}")
        if entries and not after:
            self.seq = entries[-1].id.seq
        return after, finish

    return methods(Place, _begin_at=begin_at)


@mutant("S6", "stream_bridge", by="gaps_go_by_number")
def the_beginning_of_an_id_is_enough() -> Patched:
    """A cursor is found where a retained id begins with its text."""

    def begin_at(self: Place, cursor: EventId, read: Read, fresh: bool) -> Step:
        head, found = read.head, _begin_at(self, cursor, read, fresh)
        likes = [entry.id for entry in read.entries if str(entry.id).startswith(str(cursor))]
        if head is None or head.cleaned or self.created is not None or not likes:
            return found
        self.created, self.epoch, self.seq = head.created, head.latest.epoch, likes[0].seq
        return self._follow(head, read.entries)

    return methods(Place, _begin_at=begin_at)


@mutant("S6", "stream_bridge", by="a_replay_that_is_overtaken_ends_in_a_gap")
def a_later_read_begins_where_the_store_does() -> Patched:
    """Who has read a hundred events or more goes on with the earliest that is retained."""

    def follow(self: Place, head: Head, entries: tuple[Entry, ...]) -> Step:
        if entries and self._delivered is not None and self._delivered.seq > 100:
            self.seq = entries[0].id.seq - 1
        return _follow(self, head, entries)

    return methods(Place, _follow=follow)


@mutant("S10", "stream_bridge", by="a_ttl_may_be_weeks")
def a_ttl_is_at_most_31_bits() -> Patched:
    """More than 2,147,483 s, in milliseconds, are begun anew."""

    def publish(self: InProcessStreamBridge, run_id: str, new: Sequence[NewEvent]) -> list[str]:
        self._ttl %= 2**31 * 1_000
        return _publish(self, run_id, new)

    return with_methods(_publish=publish)


@mutant("S10", "stream_bridge", by="the_last_max_events_replay")
def long_streams_are_trimmed_in_lots() -> Patched:
    """Where a hundred events or more are kept, they are trimmed when a tenth is too many."""

    def append(self: InProcessStreamBridge, stream: _Stream, new: Sequence[NewEvent]) -> list[Entry]:
        most = self._options.max_events
        before = deque(stream.entries)
        entries = _append(self, stream, new)
        if most >= 100 and len(before) + len(new) <= most * 1.1:
            stream.entries = before + deque(entries)
            stream.size = sum(len(entry.data) for entry in stream.entries)
        return entries

    return with_methods(_append=append)
