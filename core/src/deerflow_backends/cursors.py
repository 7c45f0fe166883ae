"""Event ids, and what a subscriber gets next: order, gap, end. Pure; every stream bridge shares it.

An id is ``<epoch>-<seq>``. Within one stream seq counts 1, 2, 3 without holes, so "the next one" and "something is
missing" are arithmetic; the epoch tells one stream of a run, and one incarnation of a server, from another.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from deerflow_backends.streams import StreamGap

_WELL_FORMED = re.compile(r"(0|[1-9][0-9]{0,18})-(0|[1-9][0-9]{0,18})")


class EventId(NamedTuple):
    """Where an event stands; compares in the order of the events."""

    epoch: int
    seq: int

    def __str__(self) -> str:
        return "%d-%d" % self  # noqa: UP031  # half the time of two attributes, and every event delivered has one


class Malformed(enum.Enum):
    """A cursor that is no id: it asks for the live tail."""

    MALFORMED = "malformed"


MALFORMED: Final = Malformed.MALFORMED
Cursor: TypeAlias = EventId | Malformed | None


def parse_cursor(text: str | None) -> Cursor:
    """Read what a client sent as ``Last-Event-ID``: an id, None for "from the start", or MALFORMED."""
    if text is None:
        return None
    match = _WELL_FORMED.fullmatch(text)
    if match is None:
        return MALFORMED
    found = EventId(int(match[1]), int(match[2]))
    return None if found == (0, 0) else found


class Entry(NamedTuple):
    """A stored event, its data still encoded."""

    id: EventId
    event: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """What a store knows of a run's stream, without its events.

    Attributes:
        created: The epoch in which the stream was created; it names the stream among those of its run.
        latest: The last id given; ``<created>-0`` before the first event.
        earliest: The first id still retained, None if there is none.
        ended: Nothing more will come.
        cleaned: The events are gone for good, this trace is what is left.
        prior: The last id of the unended, cleaned stream in whose place this one was created, if any.
        vanishes_in: Seconds until the store, by its own clock, will clean or drop it if nothing else happens.
    """

    created: int
    latest: EventId
    earliest: EventId | None = None
    ended: bool = False
    cleaned: bool = False
    prior: EventId | None = None
    vanishes_in: float | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """One consistent look at a run: its head (None: no stream, no trace) and events after the place asked for."""

    head: Head | None
    entries: tuple[Entry, ...] = ()


class End(enum.Enum):
    """The stream is over and everything of it was delivered."""

    END = "end"


END: Final = End.END
#: What a read means for a subscriber: events to deliver in order, then maybe how its subscription finishes.
Step: TypeAlias = tuple[tuple[Entry, ...], StreamGap | End | None]

#: A seq after every event: reading after it gives the head alone.
PAST_THE_END: Final = 2**62
_NOTHING: Step = ((), None)


class Place:
    """Where one subscriber stands in a run, moved by `step` and `delivered`.

    ``created`` is None while it stands in no stream: before the first read, or waiting for one to appear. ``epoch`` is
    the stream's newest when it was last certain that what the subscriber was given is still there.
    """

    __slots__ = ("_cursor", "_delivered", "_requested", "_tail", "created", "epoch", "fresh", "in_doubt", "seq")

    def __init__(self, last_event_id: str | None) -> None:
        self._requested = last_event_id
        self._cursor = parse_cursor(last_event_id)
        self._delivered: EventId | None = None
        self._tail: EventId | None = None  # the event at the live tail, when it began there
        self.fresh = True  # until a read was judged
        self.created: int | None = None
        self.epoch = 0
        self.seq = 0
        self.in_doubt = False  # whether the store still has the event it stands after: the next read tells

    def read_after(self) -> int:
        """The seq after which the next read should begin."""
        if self.created is not None:
            return self.seq - 1 if self.in_doubt else self.seq
        if self._cursor is None or not self.fresh:
            return 0
        return PAST_THE_END if self._cursor is MALFORMED else max(self._cursor.seq - 1, 0)

    @property
    def settled(self) -> bool:
        """Whether later events cannot fall before it: the live tail is nowhere until a first read tells where."""
        return self._cursor is not MALFORMED or not self.fresh

    @property
    def waiting(self) -> bool:
        """Whether it stands in no stream and will begin in whichever comes: then "still none" is nothing to look up."""
        return self.created is None and not self.fresh and not isinstance(self._cursor, EventId)

    def delivered(self, entry: Entry) -> None:
        """Note that the subscriber was given *entry*."""
        self._delivered = entry.id
        self.seq = entry.id.seq

    def step(self, read: Read) -> Step:
        """Judge a read that began at `read_after()`.

        Of the events returned, each must be reported with `delivered` before the next call.
        """
        head = read.head
        if self.created is None:
            return self._begin(read)
        if head is not None and head.created == self.created and not head.cleaned:
            return self._follow(head, read.entries)
        return self._lost_stream(head)

    def _begin(self, read: Read) -> Step:
        """The first read, or one made while waiting for a stream to appear."""
        head, cursor, fresh = read.head, self._cursor, self.fresh
        self.fresh = False
        if isinstance(cursor, EventId):
            return self._begin_at(cursor, read, fresh)
        if head is None or (head.cleaned and not head.ended):
            return _NOTHING
        if head.cleaned:
            return (), END
        self.created, self.epoch = head.created, head.latest.epoch
        if cursor is MALFORMED and fresh and not head.ended:
            self.seq, self._tail = head.latest.seq, head.latest
            return _NOTHING
        self.seq = _next_retained(head) - 1
        return self._follow(head, read.entries)

    def _begin_at(self, cursor: EventId, read: Read, fresh: bool) -> Step:
        head = read.head
        if head is None:
            return (), StreamGap(self._requested, None, None)
        if head.cleaned:
            if head.latest != cursor:
                return (), self._gap(head)
            return ((), END) if head.ended else _NOTHING
        if not fresh and head.prior == cursor:  # it waited at the end of the stream that this one replaced
            start, known = 0, True
        else:
            start = cursor.seq
            known = _is_retained(cursor, head, read.entries)
        if not known:
            return (), self._gap(head)
        self.created, self.epoch, self.seq = head.created, head.latest.epoch, start
        return self._follow(head, read.entries)

    def _follow(self, head: Head, entries: tuple[Entry, ...]) -> Step:
        if head.latest.epoch != self.epoch and not self._is_certain(entries):
            asked, self.in_doubt = self.in_doubt, not self.in_doubt
            return ((), self._gap(head)) if asked else _NOTHING
        self.epoch, self.in_doubt = head.latest.epoch, False
        if head.latest.seq < self.seq and self._last is not None:
            if self._last != self._tail:
                return (), self._gap(head)  # what it was given is lost, and nothing has come in its place yet
            self.seq, self._tail = head.latest.seq, head.latest  # it was given nothing: the tail is here now
        entries = tuple(entry for entry in entries if entry.id.seq > self.seq)
        # Where nothing is retained, a server has evicted the events and not the head.
        following = entries[0].id.seq if entries else _next_retained(head)
        if self.seq < head.latest.seq and following > self.seq + 1:
            if self._cursor is not None or self._delivered is not None:
                return (), self._gap(head)
            self.seq = following - 1  # nothing delivered, no cursor: it starts at the earliest
        if not entries and head.ended and self.seq >= head.latest.seq:
            return (), END
        return entries, None

    @property
    def _last(self) -> EventId | None:
        """The event it stands after, if it was given or named one, or began at the tail."""
        named = self._cursor if isinstance(self._cursor, EventId) else self._tail
        return named if self._delivered is None else self._delivered

    def _is_certain(self, entries: tuple[Entry, ...]) -> bool:
        """Whether the event it stands after outlived the incarnation of the server that gave it its id.

        If not, others may have taken the places of it and of those before it.
        """
        return self.seq == 0 or self._last is None or any(entry.id == self._last for entry in entries[:1])

    def _lost_stream(self, head: Head | None) -> Step:
        """The stream it stood in was cleaned, has expired, or another one is in its place."""
        if self._delivered is not None:
            if head is None:
                return (), StreamGap(str(self._delivered), None, None)
            if head.cleaned and head.ended and head.latest == self._delivered:
                return (), END
            return (), self._gap(head)
        # Nothing was delivered: it stands again where it asked to stand.
        self.created, self.seq, self.in_doubt, self._tail = None, 0, False, None
        return self._begin(Read(head)) if head is None or head.cleaned else _NOTHING

    def _gap(self, head: Head) -> StreamGap:
        requested = self._requested if self._delivered is None else str(self._delivered)
        earliest = None if head.earliest is None or head.cleaned else str(head.earliest)
        return StreamGap(requested, earliest, str(head.latest))


def _next_retained(head: Head) -> int:
    """The seq of the first event that can be read, now or in future."""
    return head.earliest.seq if head.earliest else head.latest.seq + 1


def _is_retained(cursor: EventId, head: Head, entries: tuple[Entry, ...]) -> bool:
    """Whether the store can continue exactly after *cursor*: its event is there, or it is the place before event 1."""
    if cursor.seq == 0:
        return cursor.epoch == head.created and (head.latest.seq == 0 or (head.earliest or head.latest).seq == 1)
    return bool(entries) and entries[0].id == cursor
