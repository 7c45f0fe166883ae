"""What publishers were told of one run and what subscribers got, judged by S1, S3, S5 and S8.

By S2, S4, S6 and G5, too, where their breach would pass for one of those.

What counts is the run's *replay*: what a subscriber without a cursor got who began when everything else was over, up
to END. It holds everything that is stored, so nothing may have been trimmed, cleaned up or expired before.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from deerflow_backends.errors import StreamEnded
from deerflow_backends.streams import END_SENTINEL, StreamEvent, StreamGap
from deerflow_conformance.histories import Call, History, Impossible, Outcome, Subscription, timeline

_ID: Final = re.compile(r"(0|[1-9][0-9]{0,18})-(0|[1-9][0-9]{0,18})", re.ASCII)
#: What makes an event the same wherever it is seen: its name and its data, which no two events of a history share.
_Content: TypeAlias = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that no backend gives that keeps its promises.

    Attributes:
        promises: The numbers of those that it breaks, the first the most.
        wanted: What they ask for.
        got: What came.
        about: The calls and subscriptions that show it.
    """

    promises: tuple[str, ...]
    wanted: str
    got: str
    about: tuple[Call | Subscription, ...]


def expect_stream(
    history: History, run_id: str, *promises: str, may_lose: bool = False, restarts: bool = False
) -> None:
    """Fail the check if a promise is broken, one of *promises* if any are given.

    Args:
        history: Its calls are over, and every subscriber that still reads has got what it will get.
        run_id: Whose events are judged; no two of them have the same name and data.
        promises: Such as ``S3``; none: all of them.
        may_lose: Whether acknowledged events may be lost, as with a replica that was promoted. A subscriber that saw
            one must have got a gap after it.
        restarts: Whether the server was started anew meanwhile: then the epoch may rise, as where events may be lost.

    Raises:
        Impossible: One is; its timeline is of the calls that show it.
        ValueError: The history has no replay, or two events of the same name and data.
    """
    for fault in faults(history, run_id, may_lose=may_lose, restarts=restarts):
        if not promises or any(number in promises for number in fault.promises):
            raise Impossible(f"{', '.join(fault.promises)}: {fault.wanted}", fault.got, timeline(fault.about))


def faults(history: History, run_id: str, *, may_lose: bool = False, restarts: bool = False) -> list[Fault]:
    """Return everything that is wrong with a run, what explains other things first; as `expect_stream`."""
    run = _Run(history, run_id, may_lose=may_lose, restarts=restarts)
    if not any(item is END_SENTINEL for _, item in run.replay.items):
        wanted = "everything and END for who begins when all is over"
        return [Fault(("S8", "S4"), wanted, run.replay.result, (*run.ends, run.replay))]
    subscribed = [fault for one in run.subscriptions for fault in _of_subscription(run, one)]
    return [*_of_ids(run), *_of_content(run), *_of_order(run), *_of_end(run), *subscribed]


class _Publication:
    """A call of ``publish`` or ``publish_many``."""

    def __init__(self, call: Call) -> None:
        given = call.arguments
        self.call = call
        self.events = [(given["event"], given["data"])] if call.name == "publish" else list(given["events"])
        self.contents = [_content(event, data) for event, data in self.events]
        self.ids: list[str] = []
        if call.outcome is Outcome.RETURNED:
            self.ids = [call.value] if call.name == "publish" else list(call.value)


def _content(event: str, data: Any) -> _Content:
    return event, json.dumps(data, sort_keys=True)


class _Run:
    """One run's part of a history.

    Attributes:
        replay: The subscription that is its replay.
        kept: The events that it got, and *contents* what they are.
        places: Where each id is in the replay.
        stored: Where each content is, mostly once.
        publications: Of each content, the call that published it.
    """

    def __init__(self, history: History, run_id: str, *, may_lose: bool, restarts: bool) -> None:
        self.may_lose = may_lose
        self.restarts = restarts or may_lose
        calls = [call for call in history.calls if call.arguments.get("run_id") == run_id]
        self.published = [_Publication(call) for call in calls if call.name in {"publish", "publish_many"}]
        self.ends = [call for call in calls if call.name == "publish_end"]
        self.subscriptions = [one for one in history.subscriptions if one.run_id == run_id]
        self.publications: dict[_Content, _Publication] = {}
        for publication, content in ((one, content) for one in self.published for content in one.contents):
            if content in self.publications:
                raise ValueError(f"two events are {content}; make every event's data its own")
            self.publications[content] = publication
        self.replay = self._replay()
        self.kept = events_of(self.replay)
        self.contents = [_content(event.event, event.data) for event in self.kept]
        self.places = {event.id: place for place, event in reversed([*enumerate(self.kept)])}
        self.stored: dict[_Content, list[int]] = {}
        for place, content in enumerate(self.contents):
            self.stored.setdefault(content, []).append(place)

    def _replay(self) -> Subscription:
        returned = [one.call.ended for one in self.published if one.call.outcome is Outcome.RETURNED]
        over = max(returned, default=-math.inf)
        late = [one for one in self.subscriptions if one.cursor in {None, "0-0"} and one.started > over]
        if not late:
            raise ValueError("the history has no replay: end the run, and read it without a cursor when all is over")
        return next((one for one in reversed(late) if any(item is END_SENTINEL for _, item in one.items)), late[-1])

    def by(self, place: int) -> tuple[Call, ...]:
        """Return the call that published an event of the replay, if there is one."""
        publication = self.publications.get(self.contents[place])
        return () if publication is None else (publication.call,)

    def start(self, one: Subscription) -> int | None:
        """Return the place in the replay that it begins at; None if that is not known, -1 if it is nowhere."""
        if one.cursor is not None and not _ID.fullmatch(one.cursor):
            over = (call for call in self.ends if call.outcome is Outcome.RETURNED and call.ended < one.started)
            return 0 if any(over) else None
        return self.after(one.cursor)

    def after(self, cursor: str | None) -> int:
        """Return the place in the replay after a cursor, -1 if it is nowhere."""
        if cursor is None or cursor == "0-0":
            return 0
        epoch, _, seq = cursor.partition("-")
        if seq == "0" and (not self.kept or self.kept[0].id.partition("-")[0] == epoch):
            return 0
        return self.places.get(cursor, -2) + 1

    def known(self, moment: float) -> int:
        """Return how many events of the replay there were at least, for they were acknowledged, at that moment."""
        told = [event_id for one in self.published if one.call.ended < moment for event_id in one.ids]
        return 1 + max((self.places[event_id] for event_id in told if event_id in self.places), default=-1)


def events_of(subscription: Subscription) -> list[StreamEvent]:
    """Return the events that a subscription gave."""
    items = (item for _, item in subscription.items)
    return [item for item in items if isinstance(item, StreamEvent) and item is not END_SENTINEL]


# ------------------------------------------------------------------------------------------------------- ids and order


def _of_ids(run: _Run) -> Iterator[Fault]:
    """S2: each event has an id, seq counts without holes, the epoch rises with a restart alone, no id names two."""
    for one in run.published:
        if one.call.outcome is Outcome.RETURNED and len(one.ids) != len(one.contents):
            wanted = f"{len(one.contents)} ids from {one.call}, one for each event"
            yield Fault(("S2",), wanted, f"{len(one.ids)}: {', '.join(one.ids)}", (one.call,))
            break
    epoch, seq = -1, 0
    for place, event in enumerate(run.kept):
        found = _ID.fullmatch(event.id)
        last, due = epoch, seq + 1
        epoch, seq = (int(found[1]), int(found[2])) if found else (-1, -1)
        may_rise = not place or (run.restarts and run.by(place) != run.by(place - 1))
        if seq != due or epoch < last or (epoch > last and not may_rise):
            which = f"after {run.kept[place - 1].id}, in {'no lower' if may_rise else 'the same'} epoch"
            yield Fault(("S2",), f"the seq {due} {which if place else 'first'}", event.id, (run.replay,))
            break
    named: dict[str, tuple[_Content, Call | Subscription]] = {}
    for event_id, content, where in _named(run):
        before, told = named.setdefault(event_id, (content, where))
        if before != content:
            got = f"{_shown(before)} and {_shown(content)}"
            yield Fault(("S2",), f"the id {event_id} to name one event", got, (told, where))
            break


def _named(run: _Run) -> Iterator[tuple[str, _Content, Call | Subscription]]:
    """Give every id that anybody was told, with what it names."""
    for one in run.published:
        yield from ((event_id, content, one.call) for event_id, content in zip(one.ids, one.contents, strict=False))
    for subscription in run.subscriptions:
        for event in events_of(subscription):
            yield event.id, _content(event.event, event.data), subscription


def _shown(content: _Content) -> str:
    return f"{content[0]} {content[1]}"


def _of_content(run: _Run) -> Iterator[Fault]:
    """What is stored: everything acknowledged, what is a maybe at most once, and nothing else."""
    for event, content in zip(run.kept, run.contents, strict=True):
        if content not in run.publications:
            yield Fault(("S3",), "events that were published", f"{event.id} {_shown(content)}", (run.replay,))
    for one in run.published:
        counts = [len(run.stored.get(content, ())) for content in one.contents]
        about = (one.call, run.replay)
        if one.call.outcome is Outcome.REFUSED and any(counts):
            number = "S8" if isinstance(one.call.value, StreamEnded) else "G5"
            yield Fault((number,), f"nothing stored by {one.call}, which was refused", "it is in the replay", about)
        elif max(counts, default=0) > 1:
            number = "G5" if one.call.outcome is Outcome.MAYBE else "S3"
            yield Fault((number,), f"what {one.call} stored once", f"it {max(counts)} times in the replay", about)
        elif 0 in counts and any(counts):
            yield Fault(("S1",), f"all of {one.call} or nothing", f"{sum(counts)} of {len(counts)} events", about)
        elif one.call.outcome is Outcome.RETURNED and 0 in counts and not run.may_lose:
            yield Fault(("S3",), f"{one.call}, which was acknowledged, in the replay", "it is not there", about)
        elif not run.may_lose:
            for event_id, content in zip(one.ids, one.contents, strict=False):
                if event_id != (stored := run.kept[run.stored[content][0]].id):
                    wanted = f"{_shown(content)} under {event_id}, as its publisher was told"
                    yield Fault(("S2",), wanted, stored, about)


def _of_order(run: _Run) -> Iterator[Fault]:
    """S1: a batch stays together, and what was published after something was acknowledged comes after it."""
    placed = [
        (one, [run.stored[content][0] for content in one.contents if content in run.stored]) for one in run.published
    ]
    for one, places in placed:
        if len(places) == len(one.contents) and places != list(range(places[0], places[0] + len(places))):
            got = ", ".join(run.kept[place].id for place in places)
            yield Fault(("S1",), f"the events of {one.call} in a row", got, (one.call, run.replay))
    in_order = sorted(((places[0], one) for one, places in placed if places), key=lambda pair: pair[0])
    soonest = in_order[-1:]
    for place, one in reversed(in_order):
        later_place, later = soonest[0]
        if later.call.latest < one.call.started:
            wanted = f"{later.call} before what was published after it returned"
            got = f"{run.kept[place].id} before {run.kept[later_place].id}"
            yield Fault(("S1",), wanted, got, (one.call, later.call, run.replay))
            break
        if one.call.latest < later.call.latest:
            soonest = [(place, one)]


# ----------------------------------------------------------------------------------------------------------------- END


def _of_end(run: _Run) -> Iterator[Fault]:
    """S8: END is durable and idempotent, nothing is stored after it, and everybody gets it."""
    began = min((call.started for call in run.ends), default=math.inf)
    shown = _signs_of_end(run)
    for moment, where in shown:
        if moment < began:
            yield Fault(("S8",), "no sign of END before publish_end was called", "one", (*run.ends[:1], where))
            break
    for call in run.ends:
        if isinstance(call.value, StreamEnded):
            yield Fault(("S8",), f"{call} to be idempotent", repr(call.value), (*run.ends[:1], call))
    moment, sign = min(shown, key=lambda one: one[0])
    for one in run.published:
        stored = any(content in run.stored for content in one.contents)
        if one.call.started > moment and (one.ids or (stored and one.call.outcome is Outcome.MAYBE)):
            wanted = f"StreamEnded from {one.call}, which came after END"
            got = f"the id {one.ids[0]}" if one.ids else "it is in the replay"
            yield Fault(("S8",), wanted, got, (sign, one.call))
            break
    for subscription in run.subscriptions:
        if subscription.end == "open" and not _is_over(subscription):
            wanted = f"END for {subscription.client}, which goes on reading"
            yield Fault(("S8",), wanted, "nothing", (sign, subscription))


def _signs_of_end(run: _Run) -> list[tuple[float, Call | Subscription]]:
    """Return when somebody knew that the run had ended, and how. There is one at least: the replay's END."""
    found: list[tuple[float, Call | Subscription]] = []
    found += [(call.ended, call) for call in run.ends if call.outcome is Outcome.RETURNED]
    found += [(one.call.ended, one.call) for one in run.published if isinstance(one.call.value, StreamEnded)]
    for subscription in run.subscriptions:
        found += [(moment, subscription) for moment, item in subscription.items if item is END_SENTINEL]
    return found


def _is_over(subscription: Subscription) -> bool:
    return any(item is END_SENTINEL or isinstance(item, StreamGap) for _, item in subscription.items)


# --------------------------------------------------------------------------------------------------------- subscribers


def _of_subscription(run: _Run, one: Subscription) -> Iterator[Fault]:
    """S3 and S5, and S1, S6, S7 and S8 where a subscriber shows them: at most one fault."""
    found = (_of_last_item(one), _of_events(run, one), _of_stop(run, one), _of_gap(run, one), _of_moments(run, one))
    yield from itertools.islice(itertools.chain(*found), 1)


def _of_last_item(one: Subscription) -> Iterator[Fault]:
    """END and a gap are the last item, and without one nothing ends, nor fails."""
    for place, (_, item) in enumerate(one.items[:-1]):
        if item is END_SENTINEL or isinstance(item, StreamGap):
            number, name = ("S8", "END") if item is END_SENTINEL else ("S6", "a gap")
            yield Fault((number,), f"nothing after {name}", f"{len(one.items) - place - 1} more", (one,))
    if one.end == "exhausted" and not _is_over(one):
        yield Fault(("S8", "S3"), "END before the iterator ends", "its end", (one,))
    if one.end == "raised":
        yield Fault(("S3", "S8"), f"{one} to go on until END or a gap", "an error", (one,))


def _of_events(run: _Run, one: Subscription) -> Iterator[Fault]:
    """Each event once, in the order of the replay, none left out."""
    ids = [event.id for event in events_of(one)]
    twice = [event_id for event_id, count in Counter(ids).items() if count > 1]
    if twice:
        yield Fault(("S3",), f"{twice[0]} once", f"it {ids.count(twice[0])} times", (one,))
    places = [run.places[event_id] for event_id in ids if event_id in run.places]
    for before, after in itertools.pairwise(places):
        if after < before:
            got = f"{run.kept[after].id} after {run.kept[before].id}"
            yield Fault(("S1",), "the order that the replay has", got, (one, run.replay))
    begins = run.start(one)
    if begins == -1 and (places or _ends(one)):
        yield Fault(("S6",), f"a gap, for {one.cursor} is not in the replay", "no gap", (one, run.replay))
        return
    lost = next((event_id for event_id in ids if event_id not in run.places), None)
    if lost is not None and not run.may_lose:
        yield Fault(("S3",), "only what the replay has", lost, (one, run.replay))
    due = begins if begins is not None else places[0] if places else None
    for place in places:
        if due is not None and place != due:
            yield _missed(run, one, due, run.kept[place].id, first=place == places[0])
        due = place + 1
    if lost is not None and (_ends(one) or any(event_id in run.places for event_id in ids[ids.index(lost) :])):
        yield Fault(("S6", "S3"), f"a gap after {lost}, which was lost", "it goes on", (one, run.replay))
    if _ends(one) and due is not None and due < len(run.kept):
        yield _missed(run, one, due, "END", first=not ids)


def _missed(run: _Run, one: Subscription, due: int, got: str, *, first: bool) -> Fault:
    """Tell of an event of the replay, or its END, that should have come next."""
    at_end = due >= len(run.kept)
    published = () if at_end else run.by(due)
    wanted = f"{'END' if at_end else run.kept[due].id} {_after(one) if first else 'next'}"
    numbers = _promises(run, one, first=first)
    if got == "END":
        numbers = (*numbers, "S8")  # which is the last of all
    return Fault(numbers, wanted, got, (*published, one, run.replay))


def _after(one: Subscription) -> str:
    return "first" if one.cursor is None else f"after the cursor {one.cursor}"


def _promises(run: _Run, one: Subscription, *, first: bool) -> tuple[str, ...]:
    """Return what is broken where something else comes than is due."""
    if not first:
        return ("S3",)
    if one.cursor is None or one.cursor == "0-0":
        return ("S4", "S3")
    if not _ID.fullmatch(one.cursor):
        return ("S7", "S3")
    return ("S5", "S3") if _reconnects(run, one) else ("S5",)


def _reconnects(run: _Run, one: Subscription) -> bool:
    """Whether the cursor is the last id that its client had seen."""
    before = [other for other in run.subscriptions if other.client == one.client and other.started < one.started]
    seen = [event.id for other in before for event in events_of(other)]
    return bool(seen) and seen[-1] == one.cursor


def _ends(one: Subscription) -> bool:
    return bool(one.items) and one.items[-1][1] is END_SENTINEL


def _of_stop(run: _Run, one: Subscription) -> Iterator[Fault]:
    """A gap comes only where what was seen last is not there any more."""
    gap = one.items[-1][1] if one.items else None
    if not isinstance(gap, StreamGap):
        return
    seen, begins = [event.id for event in events_of(one)], run.start(one)
    if seen and seen[-1] in run.places:
        yield Fault(("S3", "S6"), f"what follows {seen[-1]}, which is there", "a gap", (one, run.replay))
    elif not seen and begins is not None and begins >= 0:
        wanted = f"what comes {_after(one)}, which is there"
        yield Fault(_promises(run, one, first=True), wanted, "a gap", (one, run.replay))


def _of_gap(run: _Run, one: Subscription) -> Iterator[Fault]:
    """A gap tells what was seen last, the first event that there is, and one to go on from."""
    gap = one.items[-1][1] if one.items else None
    if not isinstance(gap, StreamGap):
        return
    seen = [one.cursor, *(event.id for event in events_of(one))][-1]
    if gap.requested_event_id != seen:
        yield Fault(("S6",), f"a gap after {seen}", f"one after {gap.requested_event_id}", (one,))
    if run.may_lose:
        return  # what it tells of may be lost, too
    earliest, latest = gap.earliest_available_event_id, gap.latest_available_event_id
    known, first = run.known(one.started), run.kept[0].id if run.kept else None
    if known or earliest is not None:
        true = earliest == first and run.places.get(latest or "", -1) >= known - 1
        wanted = f"a gap from {first} to {run.kept[known - 1].id if known else first} or later"
    else:
        true = run.after(latest) == 0
        wanted = "a gap of no events, to begin before the first"
    if not true:
        yield Fault(("S6",), wanted, f"one from {earliest} to {latest}", (one, run.replay))


def _of_moments(run: _Run, one: Subscription) -> Iterator[Fault]:
    """Nothing is read before somebody began to publish it."""
    for moment, item in one.items:
        if isinstance(item, StreamEvent) and item is not END_SENTINEL:
            publication = run.publications.get(_content(item.event, item.data))
            if publication is not None and moment < publication.call.started:
                yield Fault(("S3",), f"{item.id} after it was published", "it came before", (one, publication.call))
