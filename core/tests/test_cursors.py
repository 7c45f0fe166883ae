"""Event ids and cursors: the pure part of S4 to S8, S11 and S13."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deerflow_backends.cursors import (
    END,
    MALFORMED,
    PAST_THE_END,
    Entry,
    EventId,
    Head,
    Place,
    Read,
    Step,
    parse_cursor,
)
from deerflow_backends.streams import StreamGap


def entries(first: int, last: int, epoch: int = 7) -> tuple[Entry, ...]:
    return tuple(Entry(EventId(epoch, seq), "e", b"1") for seq in range(first, last + 1))


def live(first: int, last: int, *, epoch: int = 7, ended: bool = False, prior: EventId | None = None) -> Head:
    earliest = EventId(epoch, first) if first <= last else None
    return Head(epoch, EventId(epoch, last), earliest, ended=ended, prior=prior)


def trace(seq: int, *, epoch: int = 7, ended: bool = False) -> Head:
    return Head(epoch, EventId(epoch, seq), ended=ended, cleaned=True)


def look(place: Place, head: Head | None, first: int = 1, epoch: int = 7, most: int = 1_000) -> Step:
    """What a store whose retained events begin at *first* answers to this place's read."""
    if head is None or head.cleaned:
        return place.step(Read(head))
    start = max(first, place.read_after() + 1)
    return place.step(Read(head, entries(start, head.latest.seq, epoch)[:most]))


def take(place: Place, step: Step) -> list[str]:
    """Deliver what a step gives; a finish is shown as its last item."""
    got = []
    for entry in step[0]:
        place.delivered(entry)
        got.append(str(entry.id))
    if step[1] is not None:
        got.append("END" if step[1] is END else repr(step[1]))
    return got


def gap(requested: str | None, earliest: str | None, latest: str | None) -> list[str]:
    return [repr(StreamGap(requested, earliest, latest))]


@pytest.mark.parametrize(
    "text",
    [
        "-1",
        "abc",
        "",
        "007-1",
        "17",
        "1-",
        "1-01",
        "1-1 ",
        " 1-1",
        "1-1\n",
        "+1-1",
        "1-" + "9" * 20,
        "٣-١",
        "1.0-1",
        "-",
    ],
)
def test_malformed(text: str) -> None:
    """What is not exactly an id asks for the live tail (S7)."""
    assert parse_cursor(text) is MALFORMED


@given(st.integers(0, 10**19 - 1), st.integers(0, 10**19 - 1))
def test_ids_round_trip(epoch: int, seq: int) -> None:
    """Every id up to nineteen digits is well formed (S5); 0-0 is no cursor (S4)."""
    expected = EventId(epoch, seq) if (epoch, seq) != (0, 0) else None
    assert parse_cursor(str(EventId(epoch, seq))) == expected


def test_no_cursor_gets_everything_retained_then_the_tail() -> None:
    """Without a cursor it starts at the earliest retained, never with a gap (S4)."""
    for nothing in (None, "0-0"):
        place = Place(nothing)
        assert take(place, look(place, live(3, 5), first=3)) == ["7-3", "7-4", "7-5"]
        assert take(place, look(place, live(3, 6), first=3)) == ["7-6"]


def test_no_cursor_and_nothing_delivered_starts_anew_after_a_trim() -> None:
    """Before anything was delivered, a trim moves its start instead of giving a gap (S4)."""
    place = Place(None)
    place.step(Read(live(1, 5), entries(1, 5)))
    assert take(place, look(place, live(9, 12), first=9)) == ["7-9", "7-10", "7-11", "7-12"]


@pytest.mark.parametrize("cursor", ["7-2", "7-6", "6-4", "8-4", "7-99", "7-0", "6-0"])
def test_cursor_not_retained_is_a_gap(cursor: str) -> None:
    """Trimmed, beyond the tail, another stream's, or the place before a trimmed event 1: one gap (S5, S6)."""
    place = Place(cursor)
    assert take(place, look(place, live(3, 5), first=3)) == gap(cursor, "7-3", "7-5")


def test_cursor_retained_continues_exactly_after_it() -> None:
    """If exactly that event is retained, the events after it (S5)."""
    for cursor, expected in (("7-3", ["7-4", "7-5"]), ("7-5", [])):
        place = Place(cursor)
        assert take(place, look(place, live(3, 5), first=3)) == expected


def test_place_before_event_one() -> None:
    """``<epoch>-0`` of the stream's own epoch is the place before event 1 (S5)."""
    place = Place("7-0")
    assert take(place, look(place, live(1, 2))) == ["7-1", "7-2"]
    empty = Place("7-0")
    assert take(empty, look(empty, live(1, 0, ended=True))) == ["END"]


def test_an_epoch_that_rose_within_the_stream() -> None:
    """After the server's incarnation changed, seq goes on and only exact ids are known (S2, S6)."""
    mixed = (*entries(1, 2, epoch=7), *entries(3, 4, epoch=9))
    head = Head(7, EventId(9, 4), EventId(7, 1))
    for cursor, expected in (
        ("7-2", ["9-3", "9-4"]),
        ("7-3", gap("7-3", "7-1", "9-4")),
        ("9-2", gap("9-2", "7-1", "9-4")),
    ):
        place = Place(cursor)
        start = place.read_after()
        assert take(place, place.step(Read(head, mixed[start:]))) == expected


def test_what_another_incarnation_may_have_lost() -> None:
    """In a risen epoch a place is looked up again: what was given is still there, or there is a gap (S2, S6)."""
    kept, lost = (*entries(1, 3), *entries(4, 6, epoch=9)), (*entries(1, 2), *entries(3, 6, epoch=9))
    for stored, expected in ((kept, ["9-4", "9-5", "9-6"]), (lost, gap("7-3", "7-1", "9-6"))):
        place = Place(None)
        assert take(place, look(place, live(1, 3))) == ["7-1", "7-2", "7-3"]
        head = Head(7, EventId(9, 6), EventId(7, 1))
        assert take(place, place.step(Read(head, stored[place.read_after() :]))) == []
        assert place.in_doubt
        assert take(place, place.step(Read(head, stored[place.read_after() :]))) == expected


def test_what_another_incarnation_may_have_lost_of_a_live_tail() -> None:
    """Who began at the live tail gets what follows that place, or a gap where others may have come before it (S6)."""
    kept, lost = (*entries(1, 3), *entries(4, 5, epoch=9)), (*entries(1, 2), *entries(3, 5, epoch=9))
    for stored, expected in ((kept, ["9-4", "9-5"]), (lost, gap("-1", "7-1", "9-5"))):
        place = Place("-1")
        assert take(place, look(place, live(1, 3))) == []
        head = Head(7, EventId(9, 5), EventId(7, 1))
        assert take(place, place.step(Read(head, stored[place.read_after() :]))) == []
        assert take(place, place.step(Read(head, stored[place.read_after() :]))) == expected
    back = Place("-1")
    assert take(back, look(back, live(1, 3))) == []
    assert take(back, look(back, live(1, 2))) == []
    head = Head(7, EventId(9, 4), EventId(7, 1))
    for _ in range(2):
        got = take(back, back.step(Read(head, (*entries(1, 2), *entries(3, 4, epoch=9))[back.read_after() :])))
    assert got == ["9-3", "9-4"]


def test_a_tail_that_fell_back() -> None:
    """Who was given events that are no more gets a gap, also while nothing has come in their place (S6)."""
    for cursor in (None, "7-2"):
        place = Place(cursor)
        assert take(place, look(place, live(1, 3)))[-1] == "7-3"
        assert take(place, look(place, live(1, 2))) == gap("7-3", "7-1", "7-2")
    tail = Place("abc")
    assert take(tail, look(tail, live(1, 3))) == []
    assert take(tail, look(tail, live(1, 2))) == []


def test_malformed_is_the_live_tail_or_everything_of_an_ended_stream() -> None:
    """A malformed cursor skips what is there, unless the run has ended or there is no stream yet (S7)."""
    tail = Place("abc")
    assert tail.read_after() == PAST_THE_END
    assert take(tail, look(tail, live(1, 5))) == []
    assert take(tail, look(tail, live(1, 6))) == ["7-6"]
    ended = Place("abc")
    assert take(ended, look(ended, live(1, 2, ended=True))) == []
    assert take(ended, look(ended, live(1, 2, ended=True))) == ["7-1", "7-2"]
    assert take(ended, look(ended, live(1, 2, ended=True))) == ["END"]
    early = Place("abc")
    assert take(early, look(early, None)) == []
    assert take(early, look(early, live(1, 2))) == ["7-1", "7-2"]


def test_no_stream() -> None:
    """Without a stream or trace a well-formed cursor is a gap at once; anything else waits (S11)."""
    place = Place("7-3")
    assert take(place, look(place, None)) == gap("7-3", None, None)
    for waiting in (Place(None), Place("abc")):
        assert take(waiting, look(waiting, None)) == []


def test_attached_and_overrun() -> None:
    """An attached subscriber whose next event is gone gets a gap from its last one (S6)."""
    place = Place(None)
    take(place, look(place, live(1, 2)))
    assert take(place, look(place, live(4, 9), first=4)) == gap("7-2", "7-4", "7-9")


def test_events_that_a_server_evicted() -> None:
    """Where events are gone and the head is not, who was given some gets a gap, who was not starts behind (S6)."""
    for most, ended in ((2, False), (2, True), (5, False)):
        behind = Place(None)
        got = take(behind, look(behind, live(1, 5), most=most))
        evicted = live(6, 5, ended=ended)
        assert take(behind, look(behind, evicted, first=6)) == (gap(got[-1], None, "7-5") if most < 5 else [])
    cursor = Place("7-2")
    look(cursor, live(1, 5))
    assert take(cursor, look(cursor, live(6, 5), first=6)) == gap("7-2", None, "7-5")
    new = Place(None)
    look(new, live(1, 5))
    assert take(new, look(new, live(6, 5), first=6)) == []
    assert take(new, look(new, live(6, 7), first=6)) == ["7-6", "7-7"]


def test_trace_of_an_ended_run() -> None:
    """While the trace says ended: END without a cursor or at the last id, else a gap whose latest is it (S13)."""
    for cursor, expected in ((None, ["END"]), ("x", ["END"]), ("7-5", ["END"]), ("7-4", gap("7-4", None, "7-5"))):
        place = Place(cursor)
        assert take(place, look(place, trace(5, ended=True))) == expected


def test_trace_of_an_unended_run() -> None:
    """Without END, who got nothing or stands at the last id waits; every other gets the gap (S13)."""
    for cursor, expected in ((None, []), ("x", []), ("7-5", []), ("7-4", gap("7-4", None, "7-5"))):
        place = Place(cursor)
        assert take(place, look(place, trace(5))) == expected
    attached = Place(None)
    take(attached, look(attached, live(1, 5)))
    assert take(attached, look(attached, trace(5))) == gap("7-5", None, "7-5")


def test_waiting_at_the_last_id_goes_on_in_the_next_stream() -> None:
    """Who waited at the last id gets the next stream from its event 1, if nothing came between (S13)."""
    for prior, expected in ((EventId(7, 5), ["9-1", "9-2"]), (EventId(8, 3), gap("7-5", "9-1", "9-2"))):
        place = Place("7-5")
        look(place, trace(5))
        step = look(place, live(1, 2, epoch=9, prior=prior), epoch=9)
        assert take(place, step) == expected


def test_replaced_while_attached() -> None:
    """Another stream in its place: a gap for who got something, a new start for who got nothing (S6, S13)."""
    got = Place(None)
    take(got, look(got, live(1, 2)))
    assert take(got, look(got, live(1, 3, epoch=9), epoch=9)) == gap("7-2", "9-1", "9-3")
    nothing = Place(None)
    nothing.step(Read(live(1, 2)))
    head = live(1, 3, epoch=9)
    assert take(nothing, look(nothing, head, epoch=9)) == []
    assert take(nothing, look(nothing, head, epoch=9)) == ["9-1", "9-2", "9-3"]


def test_gone_without_trace() -> None:
    """Expired: who got something learns it, with nothing to resume at (S14)."""
    place = Place(None)
    take(place, look(place, live(1, 2)))
    assert take(place, look(place, None)) == gap("7-2", None, None)


@given(st.data())
def test_every_event_once_however_reads_fall(data: st.DataObject) -> None:
    """Reads of any size at any moment deliver every event once, in order, then END (S3, S8)."""
    total = data.draw(st.integers(0, 12))
    place, got, published = Place(None), [], 0
    for _ in range(60):
        published = min(total, published + data.draw(st.integers(0, 3)))
        ended = published == total and data.draw(st.booleans())
        head = live(1, published, ended=ended) if published or ended else None
        got += take(place, look(place, head, most=data.draw(st.integers(1, 4))))
        if got and got[-1] == "END":
            break
    else:
        for _ in range(total + 1):
            got += take(place, look(place, live(1, total, ended=True)))
            if got[-1] == "END":
                break
    assert got == [f"7-{seq}" for seq in range(1, total + 1)] + ["END"]
