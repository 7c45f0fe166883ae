"""Checks of subscribers that are cut off: they stay, hear heartbeats, and learn what happened meanwhile (S14, S16)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from random import Random
from typing import Any, Final

from deerflow_backends.streams import END_SENTINEL, StreamEvent, StreamGap
from deerflow_conformance.attempts import TIMEOUT_SECONDS
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check, expect
from deerflow_conformance.disturbed import Disturbed, disturbed, opened_soon, patient, unlogged
from deerflow_conformance.faces import RUN
from deerflow_conformance.faults import FAULTS, Fault, passing
from deerflow_conformance.listeners import Listener, expect_data, listening
from deerflow_conformance.networks import Network
from deerflow_conformance.outages import OUTAGES
from deerflow_conformance.stalls import LongWriter
from deerflow_conformance.subscribers import data_of, publish_numbers

#: How soon a subscriber knows what happened while it was cut off: 15 s (S14), and what a busy machine takes.
_NEWS_SECONDS: Final = 25.0


async def _publish_while(bridge: Any, first: int, task: asyncio.Task[None]) -> int:
    """Publish numbers from *first* on until *task* has ended; return the next."""
    number = first
    while not task.done():
        await bridge.publish(RUN, "n", number)
        number += 1
        await asyncio.sleep(0.05)
    await task
    return number


@check("S16", level="L3")
def a_subscriber_stays_through_every_fault(bench: Bench) -> None:
    """Whatever goes wrong, heartbeats go on, and what was published meanwhile comes once, in order, then END."""

    async def through(how: str, fault: Fault, random: Random, one: Disturbed) -> None:
        ids = await publish_numbers(one.observer, RUN, (0, 1))
        async with listening(bench, one.opened, RUN, f"a subscriber ({how})") as attached:
            await attached.gets(2, _NEWS_SECONDS)
            disturbing = asyncio.create_task(passing(fault, one.network, random))
            await asyncio.sleep(random.uniform(0.0, 0.05))
            late = f"a subscriber that came during the outage ({how})"
            async with listening(bench, one.opened, RUN, late, ids[0]) as coming:
                count = await _publish_while(one.observer, 2, disturbing)
                for listener in (attached, coming):
                    listener.hears_steadily()
                await one.observer.publish_end(RUN)
                await attached.gets(count + 1, _NEWS_SECONDS)
                await coming.gets(count, _NEWS_SECONDS)
                for listener in (attached, coming):
                    listener.hears_steadily()
                expect_data(attached, [*range(count), END_SENTINEL])
                expect_data(coming, [*range(1, count), END_SENTINEL])

    async def body() -> None:
        space = bench.space(timeout_seconds=TIMEOUT_SECONDS, max_events=10_000)
        async with disturbed(bench, space, count=len(FAULTS)) as ones:
            chances = [Random(bench.random.random()) for _ in FAULTS]  # noqa: S311  # nothing secret
            scenarios = zip(FAULTS.items(), chances, ones, strict=True)
            await asyncio.gather(*(through(how, fault, random, one) for (how, fault), random, one in scenarios))

    bench.run(body)


@check("S16", level="L3")
def a_subscriber_stays_beside_a_stopped_writer(bench: Bench) -> None:
    """While a process stands still while it publishes, heartbeats go on; then others' events come, once."""

    async def body() -> None:
        space = bench.space(timeout_seconds=TIMEOUT_SECONDS, publish_timeout_seconds=30.0)
        async with (
            opened_soon(bench, space) as here,
            bench.open(patient(bench, space)) as elsewhere,
            bench.rival(patient(bench, space)) as there,
            listening(bench, here, RUN, "a subscriber beside a process that stopped while it published") as listener,
        ):
            rival = LongWriter(bench, there)
            await rival.rehearse("rehearsal")
            count = 0
            for turn in range(3):
                await rival.write_and(rival.process.stop, f"long {turn}")
                publishing = asyncio.create_task(publish_numbers(elsewhere, RUN, range(count, count + 3)))
                await asyncio.sleep(TIMEOUT_SECONDS)
                rival.process.resume()
                await publishing
                await rival.finish()
                count += 3
            await elsewhere.publish_end(RUN)
            await listener.gets(count + 1, _NEWS_SECONDS)
            listener.hears_steadily()
            expect_data(listener, [*range(count), END_SENTINEL])

    with unlogged():
        bench.run(body)


async def _end(bridge: Any, run_id: str) -> None:
    await bridge.publish_end(run_id)


async def _clean(bridge: Any, run_id: str) -> None:
    await bridge.cleanup(run_id)


async def _clean_when_due(bridge: Any, run_id: str) -> None:
    await bridge.cleanup(run_id, delay=0.2)


async def _end_and_clean(bridge: Any, run_id: str) -> None:
    await bridge.publish_end(run_id)
    await bridge.cleanup(run_id)


async def _begin_anew(bridge: Any, run_id: str) -> None:
    await bridge.cleanup(run_id)
    await bridge.publish(run_id, "n", "new")


async def _trim(bridge: Any, run_id: str) -> None:
    await publish_numbers(bridge, run_id, range(2, 2 + 2 * _RETAINED))
    await bridge.publish_end(run_id)


#: How many events of a run are retained in the checks of what is learnt.
_RETAINED: Final = 4

#: What may happen to a run while a subscriber is cut off that had all of it: it learns an end, or else of a gap.
_ENDINGS: Final[dict[str, Callable[[Any, str], Awaitable[None]]]] = {"ended": _end, "ended and cleaned": _end_and_clean}
_GAPS: Final[dict[str, Callable[[Any, str], Awaitable[None]]]] = {
    "cleaned": _clean,
    "cleaned when due": _clean_when_due,
    "begun anew": _begin_anew,
    "trimmed": _trim,
}


def _forget_connections(network: Network) -> None:
    network.half_open()
    network.release()


@check("S14", level="L3")
def what_happened_to_a_run_meanwhile_is_learnt(bench: Bench) -> None:
    """END, cleanup, expiry, a new beginning: whoever was cut off from it is told in time once that is over."""

    async def through(how: str, goes_away: Callable[[Network], None], one: Disturbed) -> None:
        async with AsyncExitStack() as stack:
            listeners: dict[str, Listener] = {}
            last: dict[str, str] = {}
            happenings = {**_ENDINGS, **_GAPS}
            for name in happenings:
                (last[name],) = await publish_numbers(one.observer, name, (1,))
                what = f"a subscriber of a run that was {name} in an outage ({how})"
                listeners[name] = await stack.enter_async_context(listening(bench, one.opened, name, what))
            await asyncio.gather(*(listener.gets(1, _NEWS_SECONDS) for listener in listeners.values()))
            goes_away(one.network)
            for name, happens in happenings.items():
                await happens(one.observer, name)
            await asyncio.sleep(TIMEOUT_SECONDS)
            one.network.mend()
            await asyncio.gather(*(listener.is_told(_NEWS_SECONDS) for listener in listeners.values()))
            for name, listener in listeners.items():
                _is_told_the_truth(name, listener, last[name])

    async def expiring(one: Disturbed) -> None:
        (last,) = await publish_numbers(one.observer, RUN, (1,))
        async with listening(bench, one.opened, RUN, "a subscriber of a run that expired in an outage") as listener:
            await listener.gets(1, _NEWS_SECONDS)
            OUTAGES["cut, and refused"](one.network)
            await asyncio.sleep(1.5 * bench.short_ttl)
            one.network.mend()
            await listener.gets(2, _NEWS_SECONDS)
            expect_data(listener, [1, StreamGap(last, None, None)])

    async def body() -> None:
        outages = {**OUTAGES, "its connections forgotten": _forget_connections}
        space = bench.space(timeout_seconds=TIMEOUT_SECONDS, max_events=_RETAINED)
        soon_over = bench.space(timeout_seconds=TIMEOUT_SECONDS, ttl_seconds=bench.short_ttl)
        async with disturbed(bench, space, count=len(outages)) as ones, disturbed(bench, soon_over) as [short]:
            scenarios = [
                through(how, goes_away, one) for (how, goes_away), one in zip(outages.items(), ones, strict=True)
            ]
            await asyncio.gather(*scenarios, expiring(short))

    bench.run(body)


def _is_told_the_truth(happened: str, listener: Listener, last: str) -> None:
    """Expect END, or a gap after the last event that it got: of a trimmed run it may have got more, up to the end."""
    *events, told = listener.items[1:]
    ids = [last, *(event.id for event in events if isinstance(event, StreamEvent))]
    is_gap = isinstance(told, StreamGap) and told.requested_event_id == ids[-1]
    if happened in _ENDINGS:
        expect(told is END_SENTINEL and not events, f"END for {listener.what}", listener.items)
    elif happened != "trimmed":
        expect(is_gap and not events, f"a gap after {last} for {listener.what}", listener.items)
    else:
        in_order = data_of(events) == [*range(2, 2 + len(events))]
        whole = len(events) == 2 * _RETAINED and told is END_SENTINEL
        expect(in_order and (is_gap or whole), f"a gap after what {listener.what} got, or all of it", listener.items)
