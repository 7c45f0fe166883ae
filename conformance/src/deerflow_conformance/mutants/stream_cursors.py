"""Faults of a stream bridge that concern where a subscriber begins: S4 to S7."""

from __future__ import annotations

import dataclasses
import re
from typing import Any
from unittest import mock

from deerflow_backends import cursors
from deerflow_backends.cursors import END, MALFORMED, Entry, EventId, Head, Malformed, Place, Read, Step
from deerflow_backends.errors import InvalidArgument
from deerflow_backends.streams import END_SENTINEL, StreamGap, StreamItem
from deerflow_backends.subscription import Subscription
from deerflow_backends.watches import Watch
from deerflow_conformance.mutants import Patched, mutant

_begin = Place._begin
_begin_at = Place._begin_at
_follow = Place._follow
_gap = Place._gap
_judge = Subscription._judge
_take = Subscription._take
_parse_cursor = cursors.parse_cursor
_is_retained = cursors._is_retained
_next_retained = cursors._next_retained


def _parsing(parse_cursor: Any) -> Patched:
    return mock.patch.object(cursors, "parse_cursor", parse_cursor)


def _retaining(is_retained: Any) -> Patched:
    return mock.patch.object(cursors, "_is_retained", is_retained)


# ---------------------------------------------------------------------------------------------- S4 no cursor


@mutant("S4", "stream_bridge", by="no_cursor_gives_everything_retained")
def zero_is_a_cursor() -> Patched:
    """0-0 is looked for among the ids, and is not there."""
    return _parsing(lambda text: EventId(0, 0) if text == "0-0" else _parse_cursor(text))


@mutant("S4", "stream_bridge", by="no_cursor_gives_everything_retained")
def no_cursor_is_the_live_tail() -> Patched:
    """Who gives no cursor gets what is published from now on."""
    return _parsing(lambda text: _parse_cursor(text) or MALFORMED)


@mutant("S4", "stream_bridge", by=("no_gap_before_anything_was_delivered", "no_cursor_gives_everything_retained"))
def a_late_start_is_a_gap() -> Patched:
    """A subscriber without cursor that finds event 1 trimmed is given a gap."""

    def begin(self: Place, read: Read) -> Step:
        head = read.head
        if self._cursor is None and head is not None and head.earliest is not None and head.earliest.seq > 1:
            return (), self._gap(head)
        return _begin(self, read)

    return mock.patch.object(Place, "_begin", begin)


@mutant("S4", "stream_bridge", by="no_cursor_gives_everything_retained")
def a_trimmed_stream_begins_one_late() -> Patched:
    """Of a trimmed stream the earliest event is passed over."""

    def next_retained(head: Head) -> int:
        return _next_retained(head) + (head.earliest is not None and 1 < head.earliest.seq < head.latest.seq)

    return mock.patch.object(cursors, "_next_retained", next_retained)


@mutant("S4", "stream_bridge", by="no_cursor_gives_everything_retained")
def a_replay_has_no_tail() -> Patched:
    """A subscriber without cursor gets END after what was retained."""

    def take(self: Subscription, watch: Watch) -> StreamItem | None:
        item = _take(self, watch)
        if item is not None or self._place._cursor is not None or self._place._delivered is None:
            return item
        self._finish()
        return END_SENTINEL

    return mock.patch.object(Subscription, "_take", take)


# -------------------------------------------------------------------------------------------------- S5 cursor


@mutant("S5", "stream_bridge", by=("the_place_before_event_1", "a_retained_cursor_continues_exactly"))
def the_place_before_event_1_is_unknown() -> Patched:
    """<epoch>-0 is looked for among the events, and is not there."""
    return _retaining(lambda cursor, head, entries: cursor.seq != 0 and _is_retained(cursor, head, entries))


@mutant("S5", "stream_bridge", by="the_place_before_event_1")
def the_place_before_event_1_never_goes() -> Patched:
    """<epoch>-0 replays what is retained, also when event 1 is not."""

    def begin_at(self: Place, cursor: EventId, read: Read, fresh: bool) -> Step:
        head = read.head
        if head is not None and cursor == (head.created, 0) and head.earliest is not None and not head.cleaned:
            self.created, self.epoch, self.seq = head.created, head.latest.epoch, head.earliest.seq - 1
            return self._follow(head, read.entries)
        return _begin_at(self, cursor, read, fresh)

    return mock.patch.object(Place, "_begin_at", begin_at)


@mutant("S5", "stream_bridge", by="the_place_before_event_1")
def an_empty_stream_has_no_place() -> Patched:
    """<epoch>-0 of a stream that ended without events is a gap."""
    return _retaining(lambda cursor, head, entries: head.earliest is not None and _is_retained(cursor, head, entries))


@mutant("S5", "stream_bridge", by=("a_retained_cursor_continues_exactly", "a_cursor_goes_on_among_rivals"))
def a_cursor_repeats_its_event() -> Patched:
    """Who resumes gets the event that the cursor names once more."""

    def begin_at(self: Place, cursor: EventId, read: Read, fresh: bool) -> Step:
        outcome = _begin_at(self, cursor, read, fresh)
        if self.created is None or read.head is None or self.seq == 0:
            return outcome
        self.seq -= 1
        return read.entries, None

    return mock.patch.object(Place, "_begin_at", begin_at)


@mutant("S5", "stream_bridge", by="a_retained_cursor_continues_exactly")
def the_earliest_event_is_no_cursor() -> Patched:
    """The id of the earliest retained event is taken for trimmed."""
    return _retaining(lambda cursor, head, entries: cursor != head.earliest and _is_retained(cursor, head, entries))


# ----------------------------------------------------------------------------------------------------- S6 gap


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


@mutant("S6", "stream_bridge", by="an_unretained_cursor_gives_one_gap")
def a_cursor_beyond_the_tail_waits() -> Patched:
    """A cursor beyond the last event waits there for what it names."""

    def begin_at(self: Place, cursor: EventId, read: Read, fresh: bool) -> Step:
        head = read.head
        if head is not None and cursor.epoch == head.created and cursor.seq > head.latest.seq and not head.cleaned:
            cursor = head.latest
            read = Read(head, read.entries or (Entry(cursor, "", b""),))
        return _begin_at(self, cursor, read, fresh)

    return mock.patch.object(Place, "_begin_at", begin_at)


@mutant("S6", "stream_bridge", by="another_streams_cursor_is_a_gap")
def epochs_are_not_compared() -> Patched:
    """A cursor of another stream is taken for this stream's event of the same seq."""
    return _retaining(lambda cursor, head, entries: _is_retained(EventId(head.created, cursor.seq), head, entries))


@mutant("S6", "stream_bridge", by="an_unretained_cursor_gives_one_gap")
def ids_wrap_at_63_bits() -> Patched:
    """The numbers of an id are kept in 63 bits."""

    def parse_cursor(text: str | None) -> cursors.Cursor:
        found = _parse_cursor(text)
        if not isinstance(found, EventId):
            return found
        wrapped = EventId(found.epoch % 2**63, found.seq % 2**63)
        return None if wrapped == (0, 0) else wrapped

    return _parsing(parse_cursor)


@mutant("S6", "stream_bridge", by=("an_unretained_cursor_gives_one_gap", "another_streams_cursor_is_a_gap"))
def a_gap_does_not_end_it() -> Patched:
    """After a gap the subscription goes on with what is retained."""

    def judge(self: Subscription, read: Read) -> StreamItem | None:
        watch, finish = self._watch, self._finish
        self._finish = lambda: None  # type: ignore[method-assign]  # the fault
        item = _judge(self, read)
        self._finish = finish  # type: ignore[method-assign]  # the fault
        if isinstance(item, StreamGap):
            self._place, self._watch, self._behind = Place(None), watch, True
        elif item is not None:
            finish()
        return item

    return mock.patch.object(Subscription, "_judge", judge)


@mutant("S6", "stream_bridge", by=("an_unretained_cursor_gives_one_gap", "another_streams_cursor_is_a_gap"))
def a_gap_tells_no_earliest() -> Patched:
    """A gap names the last event, and not the first one that is retained."""
    return _gaps(lambda gap: dataclasses.replace(gap, earliest_available_event_id=None))


@mutant("S6", "stream_bridge", by="a_reader_whose_next_event_is_gone_gets_a_gap")
def a_gap_tells_what_was_asked_first() -> Patched:
    """A gap names the cursor that the subscription began with, whatever was delivered since."""

    def gap(self: Place, head: Head) -> StreamGap:
        return dataclasses.replace(_gap(self, head), requested_event_id=self._requested)

    return mock.patch.object(Place, "_gap", gap)


def _gaps(changed: Any) -> Patched:
    return mock.patch.object(Place, "_gap", lambda self, head: changed(_gap(self, head)))


@mutant("S6", "stream_bridge", by="a_reader_whose_next_event_is_gone_gets_a_gap")
def who_fell_behind_goes_on() -> Patched:
    """A subscriber whose next event was trimmed goes on with the earliest one, and is not told."""

    def follow(self: Place, head: Head, entries: tuple[Entry, ...]) -> Step:
        if self._delivered is not None and head.earliest is not None and self.seq + 1 < head.earliest.seq:
            self.seq = head.earliest.seq - 1
        return _follow(self, head, entries)

    return mock.patch.object(Place, "_follow", follow)


@mutant("S6", "stream_bridge", by="resuming_at_latest_goes_on")
def the_last_event_is_no_cursor() -> Patched:
    """Who resumes at the last event of a stream that has not ended gets a gap."""
    return _retaining(
        lambda cursor, head, entries: (cursor != head.latest or head.ended) and _is_retained(cursor, head, entries)
    )


# ------------------------------------------------------------------------------------------- S7 malformed cursor

_LIVE, _ENDED, _NONE = (
    "a_malformed_cursor_gives_the_live_tail",
    "a_malformed_cursor_on_an_ended_stream_gives_all_of_it",
    "a_malformed_cursor_without_stream_is_no_cursor",
)


@mutant("S7", "stream_bridge", by=(_LIVE, _ENDED, _NONE))
def any_digits_make_an_id() -> Patched:
    """Leading zeros, any number of digits and digits of other scripts are read as numbers."""
    return mock.patch.object(cursors, "_WELL_FORMED", re.compile(r"(\d+)-(\d+)"))


@mutant("S7", "stream_bridge", by=(_LIVE, _ENDED, _NONE))
def an_id_may_be_followed_by_anything() -> Patched:
    """A cursor that begins with an id is taken for that id."""
    pattern = cursors._WELL_FORMED.pattern
    return mock.patch.object(cursors, "_WELL_FORMED", re.compile(f"{pattern}.*", re.DOTALL))


@mutant("S7", "stream_bridge", by=(_LIVE, _ENDED, _NONE))
def space_around_an_id_is_cut_off() -> Patched:
    """A cursor with white space around it is taken for what is in between."""
    return _parsing(lambda text: _parse_cursor(text if text is None else text.strip()))


@mutant("S7", "stream_bridge", by=(_LIVE, _ENDED, _NONE))
def a_malformed_cursor_is_refused() -> Patched:
    """A cursor that is no id raises InvalidArgument."""

    def parse_cursor(text: str | None) -> cursors.Cursor:
        found = _parse_cursor(text)
        if isinstance(found, Malformed):
            raise InvalidArgument("last_event_id", "is no event id")
        return found

    return _parsing(parse_cursor)


@mutant("S7", "stream_bridge", by=_LIVE)
def a_malformed_cursor_is_none() -> Patched:
    """A cursor that is no id gives everything retained."""

    def parse_cursor(text: str | None) -> cursors.Cursor:
        found = _parse_cursor(text)
        return None if isinstance(found, Malformed) else found

    return _parsing(parse_cursor)


@mutant("S7", "stream_bridge", by=_ENDED)
def a_malformed_cursor_gives_only_the_end() -> Patched:
    """On an ended stream a malformed cursor is at the tail, where only END comes."""

    def begin(self: Place, read: Read) -> Step:
        malformed = isinstance(self._cursor, Malformed) and self.fresh
        ended = read.head is not None and read.head.ended
        return ((), END) if malformed and ended else _begin(self, read)

    return mock.patch.object(Place, "_begin", begin)


@mutant("S7", "stream_bridge", by=_NONE)
def a_malformed_cursor_waits_for_a_tail() -> Patched:
    """A malformed cursor without stream waits for one, and begins at its tail as it is then."""

    def begin(self: Place, read: Read) -> Step:
        waited = isinstance(self._cursor, Malformed) and not self.fresh
        outcome = _begin(self, read)
        if waited and self.created is not None and read.head is not None:
            self.seq = read.head.latest.seq
            return (), None
        return outcome

    return mock.patch.object(Place, "_begin", begin)
