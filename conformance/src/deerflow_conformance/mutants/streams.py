"""Faults of a stream bridge that concern order, ids, cursors and END: S1 to S8."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

from deerflow_backends import cursors
from deerflow_backends.cursors import Entry, EventId, Head, Place, Read, Step
from deerflow_backends.events import NewEvent, check_event, check_events
from deerflow_backends.hub import Hub
from deerflow_backends.inprocess.streams import InProcessStreamBridge, _Stream
from deerflow_backends.streams import END_SENTINEL, StreamGap, StreamItem
from deerflow_backends.subscription import Subscription
from deerflow_backends.watches import Watch
from deerflow_conformance.mutants import mutant

Patched = AbstractContextManager[Any]

_publish = InProcessStreamBridge._publish
_create = InProcessStreamBridge._create
_append = InProcessStreamBridge._append
_find = InProcessStreamBridge._find
_read = InProcessStreamBridge.read
_step = Place.step
_begin_at = Place._begin_at
_parse_cursor = cursors.parse_cursor
_is_retained = cursors._is_retained
_anext = Subscription.__anext__
_begin = Subscription._begin
_finish = Subscription._finish
_attach = Hub.attach


def _with_methods(**methods: Any) -> Patched:
    patched: Patched = mock.patch.multiple(InProcessStreamBridge, **methods)
    return patched


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

    return _with_methods(publish_many=publish_many)


@mutant("S1", "stream_bridge", by=("a_subscriber_gets_what_was_published", "all_see_one_order"))
def a_batch_is_turned_round() -> Patched:
    """The events of a batch are stored in the opposite order."""

    def append(self: InProcessStreamBridge, stream: _Stream, new: Sequence[NewEvent]) -> list[Entry]:
        return _append(self, stream, new[::-1])

    return _with_methods(_append=append)


@mutant("S2", "stream_bridge", by="each_stream_has_a_higher_epoch")
def ids_are_reused_after_cleanup() -> Patched:
    """A new stream takes the server's time as its epoch, though the trace of an earlier one has the same."""

    def create(self: InProcessStreamBridge, run_id: str, now: int, trace: _Stream | None) -> _Stream:
        stream = _create(self, run_id, now, trace)
        stream.created = now // 1_000
        stream.latest = EventId(stream.created, 0)
        return stream

    return _with_methods(_create=create)


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

    return _with_methods(publish_many=publish_many)


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


@mutant("S3", "stream_bridge", by="what_comes_during_a_read_is_not_lost")
def news_during_a_read_is_forgotten() -> Patched:
    """What is stored while the process reads the run's head is taken for read."""

    def feed(self: Watch, read: Read) -> None:
        if self._reading is None:
            self._absorb(read) if self._fits(read) else self.wake()

    return mock.patch.object(Watch, "feed", feed)


@mutant("S4", "stream_bridge", by="no_cursor_gives_everything_retained")
def zero_is_a_cursor() -> Patched:
    """0-0 is looked for among the ids, and is not there."""

    def parse_cursor(text: str | None) -> cursors.Cursor:
        return EventId(0, 0) if text == "0-0" else _parse_cursor(text)

    return mock.patch.object(cursors, "parse_cursor", parse_cursor)


@mutant("S4", "stream_bridge", by=("no_gap_before_anything_was_delivered", "no_cursor_gives_everything_retained"))
def a_late_start_is_a_gap() -> Patched:
    """A subscriber without cursor that finds event 1 trimmed is given a gap."""

    def begin(self: Place, read: Read) -> Step:
        head = read.head
        if self._cursor is None and head is not None and head.earliest is not None and head.earliest.seq > 1:
            return (), self._gap(head)
        return _begin_place(self, read)

    return mock.patch.object(Place, "_begin", begin)


_begin_place = Place._begin


@mutant("S5", "stream_bridge", by="the_place_before_event_1")
def the_place_before_event_1_is_unknown() -> Patched:
    """<epoch>-0 is looked for among the events, and is not there."""

    def is_retained(cursor: EventId, head: Head, entries: tuple[Entry, ...]) -> bool:
        return cursor.seq != 0 and _is_retained(cursor, head, entries)

    return mock.patch.object(cursors, "_is_retained", is_retained)


@mutant("S6", "stream_bridge", by="an_unretained_cursor_gives_one_gap")
def a_gap_is_served_as_a_replay() -> Patched:
    """A trimmed cursor replays from the earliest retained event instead of giving a gap."""

    def begin_at(self: Place, cursor: EventId, read: Read, fresh: bool) -> Step:
        head = read.head
        outcome = _begin_at(self, cursor, read, fresh)
        if head is None or head.earliest is None or not isinstance(outcome[1], StreamGap):
            return outcome
        if cursor.epoch != head.created or cursor.seq > head.latest.seq:
            return outcome
        self.created, self.epoch, self.seq = head.created, head.latest.epoch, head.earliest.seq - 1
        return self._follow(head, read.entries)

    return mock.patch.object(Place, "_begin_at", begin_at)


@mutant("S6", "stream_bridge", by="another_streams_cursor_is_a_gap")
def epochs_are_not_compared() -> Patched:
    """A cursor of another stream is taken for this stream's event of the same seq."""

    def is_retained(cursor: EventId, head: Head, entries: tuple[Entry, ...]) -> bool:
        return _is_retained(EventId(head.created, cursor.seq), head, entries)

    return mock.patch.object(cursors, "_is_retained", is_retained)


@mutant(
    "S7",
    "stream_bridge",
    by=(
        "a_malformed_cursor_gives_the_live_tail",
        "a_malformed_cursor_on_an_ended_stream_gives_all_of_it",
        "a_malformed_cursor_without_stream_is_no_cursor",
    ),
)
def any_digits_make_an_id() -> Patched:
    """Leading zeros, any number of digits and digits of other scripts are read as numbers."""
    return mock.patch.object(cursors, "_WELL_FORMED", re.compile(r"(\d+)-(\d+)"))


@mutant(
    "S7",
    "stream_bridge",
    by=(
        "a_malformed_cursor_gives_the_live_tail",
        "a_malformed_cursor_on_an_ended_stream_gives_all_of_it",
        "a_malformed_cursor_without_stream_is_no_cursor",
    ),
)
def an_id_may_be_followed_by_anything() -> Patched:
    """A cursor that begins with an id is taken for that id."""
    pattern = cursors._WELL_FORMED.pattern

    return mock.patch.object(cursors, "_WELL_FORMED", re.compile(f"{pattern}.*", re.DOTALL))


@mutant("S8", "stream_bridge", by="publishing_after_end_stores_nothing")
def publishing_after_end_is_stored() -> Patched:
    """An ended run still takes events."""

    def publish(self: InProcessStreamBridge, run_id: str, new: Sequence[NewEvent]) -> list[str]:
        stream = self._table.streams.get(run_id)
        if stream is None or not stream.ended:
            return _publish(self, run_id, new)
        stream.ended = False
        try:
            return _publish(self, run_id, new)
        finally:
            stream.ended = True

    return _with_methods(_publish=publish)


@mutant("S8", "stream_bridge", by=("end_comes_once_and_last", "end_on_an_unknown_run"))
def end_comes_twice() -> Patched:
    """Asked again after END, a subscription gives END again."""

    async def anext_(self: Subscription) -> StreamItem:
        try:
            return await _anext(self)
        except StopAsyncIteration:
            return END_SENTINEL

    return mock.patch.object(Subscription, "__anext__", anext_)


@mutant("S8", "stream_bridge", by="an_event_named_like_a_sentinel_is_an_event")
def an_event_named_end_ends_the_run() -> Patched:
    """Publishing an event of the sentinel's name ends the run."""

    async def publish(self: InProcessStreamBridge, run_id: str, event: str, data: Any) -> str:
        (event_id,) = self._publish(run_id, check_event(run_id, event, data))
        if event == END_SENTINEL.event:
            await self.publish_end(run_id)
        return event_id

    return _with_methods(publish=publish)
