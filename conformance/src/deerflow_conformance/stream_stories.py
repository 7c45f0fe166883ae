"""Publishers and subscribers of one run at once, drawn as data: who publishes, who reads and comes back where.

Two publishers and the subscribers share what two instances here and two processes elsewhere have opened. A subscriber
leaves after some events and comes again, mostly elsewhere, with the last id that it saw; its last subscription goes to
the end of the run.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias

from deerflow_backends.errors import BackendUnavailable, StreamEnded
from deerflow_backends.streams import END_SENTINEL, HEARTBEAT_SENTINEL, StreamEvent, StreamGap
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import expect
from deerflow_conformance.digits import Digits
from deerflow_conformance.histories import History
from deerflow_conformance.replicas import ReplicaDied
from deerflow_conformance.rivalries import Strike, Striking, struck
from deerflow_conformance.spaces import Space

RUN: Final = "run"
#: What the publishers and subscribers use, by number: those from 2 on live in processes of their own.
PLACES: Final = ("one", "other", "rival", "rival 2")
#: How long all of a story may take, in seconds: so long only where something is wrong.
PATIENCE_SECONDS: Final = 45.0


@dataclass(frozen=True, slots=True)
class Publish:
    """One call of a publisher: *size* events at once, or the end of the run with 0."""

    pause: int
    size: int
    strike: Strike | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """One subscription: where, how many turns of the event loop later, and after how many events it is left."""

    place: int
    pause: int
    events: int


@dataclass(frozen=True, slots=True)
class Story:
    """What everybody does.

    Attributes:
        publishers: Of each, by its place in `PLACES`, its calls one after the other.
        readers: Of each its subscriptions; the last one goes to the end.
    """

    publishers: Mapping[int, Sequence[Publish]]
    readers: Sequence[Sequence[Read]]


def story(digits: Digits, steps: Sequence[Digits], *, ends: bool = False) -> Story:
    """Make a story of drawn numbers: each step a call of a publisher; with *ends*, the run may end in the middle."""
    publishers: dict[int, list[Publish]] = {place: [] for place in range(len(PLACES))}
    sizes = (1, 1, 1, 2, 3, 0) if ends else (1, 1, 1, 2, 3)
    for step in steps:
        publishers[step.upto(len(PLACES) - 1)].append(Publish(step.pick((0, 0, 1, 2, 4)), step.pick(sizes)))
    readers = [[_read(digits) for _ in range(1 + digits.upto(3))] for _ in range(1 + digits.upto(2))]
    return Story(publishers, readers)


def _read(digits: Digits) -> Read:
    return Read(digits.upto(len(PLACES) - 1), digits.pick((0, 1, 3, 10)), 1 + digits.upto(6))


#: Makes what a strike of some name does.
Strikes: TypeAlias = Mapping[str, Striking]


async def tell(
    bench: Bench,
    told: Story,
    space: Space,
    *,
    strikes: Strikes | None = None,
    calm: Callable[[], None] = lambda: None,
    outages: bool = False,
) -> History:
    """Let everybody do what the story says, end the run, and return the history.

    Args:
        strikes: What can happen to a call of a publisher, by name.
        calm: Called when all publishers are done, before the run is ended for good.
        outages: Whether the network or the server is struck: then a publisher bears `BackendUnavailable`. That the kit
            killed its process it always does.
    """
    history = History("stream_bridge")
    async with _opened(bench, space) as places:
        readers = [
            asyncio.create_task(_reads(history, f"reader {i + 1}", places, one)) for i, one in enumerate(told.readers)
        ]
        try:
            await _all_of(
                partial(_publishes, bench, history, place, places[place], calls, strikes=strikes or {}, outages=outages)
                for place, calls in told.publishers.items()
            )
            calm()
            await _ended(history, places, outages=outages)
            await bench.soon(asyncio.gather(*readers), PATIENCE_SECONDS)
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
    return history


async def replay(bench: Bench, history: History, space: Space) -> None:
    """Read all of the run through a new instance, now that everything is over."""
    async with bench.open(space) as opened:
        await bench.soon(_reads(history, "afterwards", [opened], [Read(0, 0, 0)]), PATIENCE_SECONDS)


@asynccontextmanager
async def _opened(bench: Bench, space: Space) -> AsyncIterator[list[Any]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(bench.open(space) if place < 2 else bench.rival(space))
            for place in range(len(PLACES))
        ]


async def _all_of(clients: Iterable[Callable[[], Coroutine[Any, Any, None]]]) -> None:
    tasks = [asyncio.create_task(one()) for one in clients]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _publishes(
    bench: Bench,
    history: History,
    place: int,
    opened: Any,
    calls: Sequence[Publish],
    *,
    strikes: Strikes,
    outages: bool,
) -> None:
    """Make a publisher's calls; it stops when the run has ended, or when its process was killed."""
    name = PLACES[place]
    client = history.client(name, opened)
    for number, call in enumerate(calls):
        for _ in range(call.pause):
            await asyncio.sleep(0)
        try:
            await struck(bench, _made(client, name, number, call.size), call.strike, opened, strikes)
        except (StreamEnded, ReplicaDied):
            return
        except BackendUnavailable as error:
            expect(outages, "an answer, since nothing is wrong with the network or the server", repr(error))


def _made(client: Any, name: str, number: int, size: int) -> Coroutine[Any, Any, Any]:
    if not size:
        ending: Coroutine[Any, Any, Any] = client.publish_end(RUN)
        return ending
    # No two events of a story have the same data.
    data = [f"{name} {number}.{part}" for part in range(size)]
    publishing: Coroutine[Any, Any, Any] = (
        client.publish(RUN, "n", data[0]) if size == 1 else client.publish_many(RUN, [("n", one) for one in data])
    )
    return publishing


async def _ended(history: History, places: Sequence[Any], *, outages: bool) -> None:
    """End the run, from two places at once, until one of them has had its way."""
    borne = (ReplicaDied, BackendUnavailable) if outages else (ReplicaDied,)
    while True:
        ends = [history.client(PLACES[place], places[place]).publish_end(RUN) for place in (0, 2)]
        outcomes = await asyncio.gather(*ends, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, borne):
                raise outcome
        if any(outcome is None for outcome in outcomes):
            return
        await asyncio.sleep(0.05)


async def _reads(history: History, name: str, places: Sequence[Any], reads: Sequence[Read]) -> None:
    """Subscribe as *reads* say, each time with the last id seen; the last one reads until the run has ended."""
    cursor: str | None = None
    for number, read in enumerate(reads):
        for _ in range(read.pause):
            await asyncio.sleep(0)
        last = number == len(reads) - 1
        place = read.place
        while True:
            iterator = history.client(name, places[place]).subscribe(RUN, last_event_id=cursor, heartbeat_interval=1.0)
            try:
                cursor, over = await _some(iterator, cursor, None if last else read.events)
            except ReplicaDied:
                place, over = 0, False  # its process was killed: it comes again elsewhere
                cursor = _last_seen(history, name, cursor)
                continue
            if over:
                return
            if not last:
                break


async def _some(iterator: Any, cursor: str | None, events: int | None) -> tuple[str | None, bool]:
    """Read so many events, or with None all; return the last id, and whether END has come."""
    try:
        async for item in iterator:
            if item is END_SENTINEL:
                return cursor, True
            if isinstance(item, StreamGap):
                return item.latest_available_event_id, False
            if item is not HEARTBEAT_SENTINEL and isinstance(item, StreamEvent):
                cursor = item.id
                events = None if events is None else events - 1
                if events == 0:
                    return cursor, False
    finally:
        await _given_back(iterator)
    return cursor, False


async def _given_back(iterator: Any) -> None:
    try:
        await iterator.aclose()
    except ReplicaDied:
        return


def _last_seen(history: History, name: str, cursor: str | None) -> str | None:
    """Return the last id that a subscriber got before its process died."""
    mine = [one for one in history.subscriptions if one.client == name]
    ids = [
        item.id for one in mine for _, item in one.items if isinstance(item, StreamEvent) and item is not END_SENTINEL
    ]
    return ids[-1] if ids else cursor
