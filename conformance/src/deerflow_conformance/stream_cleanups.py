"""Checks of how a stream goes away: cleanup and disappearance (S13, S14)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from typing import Any, Final

from deerflow_backends.errors import InvalidArgument, StreamEnded
from deerflow_backends.streams import (
    END_SENTINEL,
    HEARTBEAT_SENTINEL,
    StreamBridge,
    StreamGap,
)
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check, expect, unkept
from deerflow_conformance.expectations import until
from deerflow_conformance.stream_steps import (
    RUN,
    epoch_of,
    has_no_status,
    is_gone,
    status_of,
)
from deerflow_conformance.subscribers import (
    Reader,
    publish_numbers,
    reading,
    replays,
    two_instances,
)


def _start_of(event_id: str) -> str:
    return event_id.partition("-")[0] + "-0"


def _news_seconds(bench: Bench) -> float:
    """How long a subscriber may take to learn of a disappearance: real time is not judged to the second."""
    return 3.0 if bench.virtual else 15.0


# ------------------------------------------------------------------------------------------------------ S13 cleanup


@check("S13")
def cleaning_an_ended_run(bench: Bench) -> None:
    """It hides all at once; publishing is refused; no cursor or the last id gives END, every other cursor a gap."""

    async def body() -> None:
        async with two_instances(bench) as bridges:
            for count in (0, 1, 3, 1_203):
                await _cleaned_after_end(bench, bridges, f"run of {count}", count)

    bench.run(body)


async def _cleaned_after_end(bench: Bench, bridges: tuple[StreamBridge, StreamBridge], run: str, count: int) -> None:
    ids: list[str] = []
    for start in range(0, count, 200):
        batch = [("n", number) for number in range(start, min(start + 200, count))]
        ids += await bridges[0].publish_many(run, batch)
    await bridges[0].publish_end(run)
    latest = (await status_of(bridges[0], run)).latest_id
    epoch = epoch_of(latest)
    await bridges[1].cleanup(run)
    for bridge in bridges:
        await is_gone(bridge, run)
        for cursor in (None, "0-0", "malformed", latest):
            async with reading(bench, bridge, run, cursor) as reader:
                await reader.ends()
        beyond = (f"{epoch}-{count + 1}", f"{epoch}-99999")
        for cursor in {*ids[:3], *ids[-3:], f"{epoch}-0", *beyond, f"{epoch + 1}-{count}", "1-1"} - {latest}:
            async with reading(bench, bridge, run, cursor) as reader:
                await reader.is_gap(StreamGap(cursor, None, latest))
        for events in ([("n", 1)], [("n", 1), ("n", 2)]):
            await _is_ended(bridge, run, events)
        await bridge.publish_end(run)
        await bridge.cleanup(run)
        await is_gone(bridge, run)


async def _is_ended(bridge: StreamBridge, run: str, events: list[tuple[str, Any]]) -> None:
    try:
        got: Any = await bridge.publish_many(run, events) if len(events) > 1 else await bridge.publish(run, *events[0])
    except StreamEnded:
        return
    unkept("StreamEnded, for the trace says ended", got)


@check("S13")
def cleaning_a_run_that_has_not_ended(bench: Bench) -> None:
    """Who has no cursor and got nothing, or is at the last id, waits, then gets the new stream; others get a gap."""

    async def body() -> None:
        async with two_instances(bench) as (a, b):
            ids = await publish_numbers(a, RUN, (1, 2, 3))
            async with reading(bench, b, RUN) as attached:
                await attached.gets([1, 2, 3])
                await attached.waits()
                await a.cleanup(RUN)
                await attached.is_gap(StreamGap(ids[-1], None, ids[-1]))
            await is_gone(b, RUN)
            for i, cursor in enumerate((*ids[:-1], _start_of(ids[0]), f"{epoch_of(ids[0]) + 1}-1")):
                async with reading(bench, (a, b)[i % 2], RUN, cursor) as reader:
                    await reader.is_gap(StreamGap(cursor, None, ids[-1]))
            await _waiters_get_the_new_stream(bench, (a, b), ids[-1])

    bench.run(body)


@check("S13")
def a_stream_in_between_is_not_passed_over(bench: Bench) -> None:
    """Who waits at the last id, and looks when the next stream was replaced by another one, gets a gap at its end."""

    async def body() -> None:
        async with two_instances(bench) as (a, b):
            ids = await publish_numbers(a, RUN, (1, 2))
            async with reading(bench, a, RUN, ids[-1]) as here, reading(bench, b, RUN, ids[-1]) as there:
                for reader in (here, there):
                    await reader.waits()
                await a.cleanup(RUN)
                between = await publish_numbers(a, RUN, (3, 4))
                await a.cleanup(RUN)
                after = await publish_numbers(a, RUN, (5, 6))
                for reader in (here, there):
                    *events, gap = await reader.rest()  # those in between may come out of a buffer
                    got = [getattr(event, "id", event) for event in events]
                    expect(got == between[: len(got)], f"none but the first of {between}", events)
                    last = [ids[-1], *between][len(got)]
                    # What there was when it looked: the trace, the first event, or both.
                    seen = [(None, between[-1]), (after[0], after[0]), (after[0], after[1])]
                    expect(gap in [StreamGap(last, *each) for each in seen], StreamGap(last, *after), gap)

    bench.run(body)


async def _waiters_get_the_new_stream(bench: Bench, bridges: tuple[StreamBridge, StreamBridge], last: str) -> None:
    async with AsyncExitStack() as stack:
        waiting = [
            await stack.enter_async_context(reading(bench, bridge, RUN, cursor))
            for bridge in bridges
            for cursor in (None, "0-0", "malformed", last)
        ]
        await asyncio.gather(*(reader.waits() for reader in waiting))
        ids = await bridges[1].publish_many(RUN, [("n", 4), ("n", 5)])
        expect(epoch_of(ids[0]) > epoch_of(last), f"an epoch above that of {last}", ids)
        expect(ids[0].endswith("-1"), "seq 1 in a new stream", ids)
        for reader in waiting:
            events = await reader.gets([4, 5])
            expect([event.id for event in events] == ids, f"the events {ids}", events)
    async with reading(bench, bridges[0], RUN, last) as late:
        await late.is_gap(StreamGap(last, *ids))


@check("S13")
def ending_what_a_cleanup_left(bench: Bench) -> None:
    """publish_end on the trace of an unended run ends it, and makes no stream: who waited gets END, others a gap."""

    async def body() -> None:
        async with two_instances(bench) as (a, b):
            ids = await publish_numbers(a, RUN, (1, 2))
            await a.cleanup(RUN)
            async with reading(bench, a, RUN) as here, reading(bench, b, RUN, ids[-1]) as there:
                for reader in (here, there):
                    await reader.waits()
                await b.publish_end(RUN)
                for reader in (here, there):
                    await reader.ends()
            for bridge in (a, b):
                await _is_ended(bridge, RUN, [("n", 3)])
                await is_gone(bridge, RUN)
                async with reading(bench, bridge, RUN, ids[0]) as reader:
                    await reader.is_gap(StreamGap(ids[0], None, ids[-1]))

    bench.run(body)


@check("S13")
def cleaning_and_writing_at_once(bench: Bench) -> None:
    """A cleanup and an event, an end, or publishers of the next stream at once: as if one came after the other."""

    async def body() -> None:
        async with two_instances(bench) as bridges:
            for turn in range(24):
                order = (*bridges, turn)
                await asyncio.gather(_ends_meanwhile(bench, *order), _publishes_meanwhile(bench, *order))

    bench.run(body)


async def _at_once(turn: int, *calls: Awaitable[Any]) -> list[Any]:
    """Make the calls at once, in one order or the other, some turns of the event loop apart."""

    async def make(call: Awaitable[Any], turns: int) -> Any:
        for _ in range(turns):
            await asyncio.sleep(0)
        return await call

    apart = turn // 2 % 4
    order = (apart, 0) if turn % 2 else (0, apart)
    return await asyncio.gather(*(make(call, turns) for call, turns in zip(calls, order, strict=True)))


async def _ends_meanwhile(bench: Bench, a: StreamBridge, b: StreamBridge, turn: int) -> None:
    run = f"end {turn}"
    ids = await publish_numbers(a, run, (1, 2))
    await _at_once(turn, a.publish_end(run), b.cleanup(run))
    await is_gone(a, run)
    await _is_ended(b, run, [("n", 3)])
    async with reading(bench, a, run) as reader:
        await reader.ends()
    async with reading(bench, b, run, ids[0]) as reader:
        await reader.is_gap(StreamGap(ids[0], None, ids[-1]))


async def _publishes_meanwhile(bench: Bench, a: StreamBridge, b: StreamBridge, turn: int) -> None:
    run = f"publish {turn}"
    ids = await publish_numbers(a, run, (1, 2))
    new, _ = await _at_once(turn, a.publish(run, "n", 3), b.cleanup(run))
    if epoch_of(new) == epoch_of(ids[0]):  # it was there already, and went with the others
        await is_gone(a, run)
        async with reading(bench, b, run, ids[0]) as reader:
            await reader.is_gap(StreamGap(ids[0], None, new))
    else:
        await replays(bench, b, run, None, [3])
    await b.cleanup(run)
    both = await _at_once(turn, a.publish(run, "n", 4), b.publish(run, "n", 5))
    status = await status_of(a, run)
    wanted = [f"{epoch_of(status.latest_id)}-{seq}" for seq in (1, 2)]
    expect(sorted(both) == wanted and epoch_of(new) < epoch_of(both[0]), "two events of one new stream", both)
    expect((status.earliest_id, status.latest_id, status.length) == (*wanted, 2), f"{wanted} retained", status)


@check("S13", waits=True)
def the_earliest_scheduled_cleanup_wins(bench: Bench) -> None:
    """A later schedule, an earlier one, publishing and END do not postpone it; until then all is there."""

    async def body() -> None:
        async with two_instances(bench) as bridges:
            await asyncio.gather(*(_scheduled_twice(bench, bridges, case) for case in _CASES))

    bench.run(body)


_CASES: Final = ("a second, earlier one", "a second, later one", "publishing", "publish_end")


async def _scheduled_twice(bench: Bench, bridges: tuple[StreamBridge, StreamBridge], case: str) -> None:
    """Schedule a cleanup of the run named *case*, do what it is named after, and expect the cleanup when first due."""
    soon, late = (5.0, 25.0) if bench.virtual else (0.6, 30.0)
    a, b = bridges
    started = asyncio.get_running_loop().time()
    ids = await publish_numbers(a, case, (1, 2))
    unscheduled = await status_of(b, case)
    first, second = (late, soon) if case == "a second, earlier one" else (soon, late)
    await a.cleanup(case, delay=first)
    before = await status_of(b, case)
    # A day without the cleanup, half a minute with it.
    wanted = f"expires_at of the scheduled cleanup, long before {unscheduled.expires_at}"
    expect(before.expires_at < unscheduled.expires_at - timedelta(hours=1), wanted, before)
    if case.startswith("a second"):
        await b.cleanup(case, delay=second)
    elif case == "publishing":
        ids += await publish_numbers(b, case, (3,))
    else:
        await b.publish_end(case)
    status = await b.status(case)
    if asyncio.get_running_loop().time() < started + soon:
        expect(status and status.length == len(ids), f"all {len(ids)} events until the cleanup is due", status)
    if status is not None:
        expect(status.expires_at <= before.expires_at, f"expires_at {before.expires_at} or earlier", status)
    await bench.sleep(soon)
    await until(bench, lambda: has_no_status(b, case), 10 if bench.virtual else 15)
    await is_gone(a, case)
    async with reading(bench, a, case, ids[0]) as reader:  # the trace is of what the stream was last
        await reader.is_gap(StreamGap(ids[0], None, ids[-1]))
    if case == "publish_end":
        async with reading(bench, b, case) as reader:
            await reader.ends()


@check("S13", waits=True)
def cleaning_again_with_0_does_it_at_once(bench: Bench) -> None:
    """A scheduled cleanup does not keep an immediate one from happening at once, nor harms the stream after it."""

    async def body() -> None:
        delay = 5.0 if bench.virtual else 0.5
        async with two_instances(bench) as (a, b):
            await publish_numbers(a, RUN, (1,))
            await a.cleanup(RUN, delay=3600)
            await b.cleanup(RUN, delay=delay)
            await b.cleanup(RUN)
            await is_gone(a, RUN)
            await publish_numbers(a, RUN, (2, 3))
            await replays(bench, b, RUN, None, [2, 3])
            await bench.sleep(2 * delay)
            status = await status_of(b, RUN)
            expect(status.length == 2, "the new stream untouched by the earlier one's schedule", status)

    bench.run(body)


@check("S13", waits=True)
def a_scheduled_cleanup_needs_nobody(bench: Bench) -> None:
    """The backend does it when due, though who asked is closed, and though nothing was open at that moment."""

    async def body() -> None:
        delay = 5.0 if bench.virtual else 0.5
        space = bench.space()
        async with bench.open(space) as a:
            await publish_numbers(a, RUN, (1, 2))
            await publish_numbers(a, "run:2", (1,))
            async with bench.replica(space) as b:
                await b.cleanup(RUN, delay=delay)
                await b.cleanup("run:2", delay=2 * delay)
            async with reading(bench, a, RUN) as reader:
                ids = [event.id for event in await reader.gets([1, 2])]
                await reader.is_gap(StreamGap(ids[-1], None, ids[-1]), delay + _news_seconds(bench))
            await is_gone(a, RUN)
        await bench.sleep(2 * delay)
        async with bench.open(space) as c:
            await until(bench, lambda: has_no_status(c, "run:2"))
            async with reading(bench, c, RUN, ids[0]) as reader:
                await reader.is_gap(StreamGap(ids[0], None, ids[-1]))

    bench.run(body)


@check("S13", waits=True)
def the_trace_lasts_for_the_ttl(bench: Bench) -> None:
    """A trace refuses publishers, and answers subscribers, for ttl_seconds after the cleanup; then it is gone."""

    async def body() -> None:
        ttl = bench.short_ttl
        async with two_instances(bench, ttl_seconds=ttl) as (a, b):
            ids = await publish_numbers(a, RUN, (1, 2))
            await a.publish_end(RUN)
            await bench.sleep(0.6 * ttl)
            sent_at = asyncio.get_running_loop().time()
            await a.cleanup(RUN)
            await bench.sleep(0.6 * ttl)  # longer than the ttl since END, shorter since the cleanup
            refused = await _publish_refused(b)
            if asyncio.get_running_loop().time() < sent_at + ttl:
                expect(refused, "StreamEnded, for the trace is still there", "an event stored")
            if refused:

                async def accepted() -> bool:
                    return not await _publish_refused(b)

                await until(bench, accepted, ttl + 15)
            async with reading(bench, a, RUN, ids[0]) as reader:
                gap = await reader.item()
                expect(isinstance(gap, StreamGap), "a gap for a cursor of the earlier stream", gap)
            await replays(bench, a, RUN, None, ["again"])

    bench.run(body)


async def _publish_refused(bridge: StreamBridge) -> bool:
    try:
        await bridge.publish(RUN, "n", "again")
    except StreamEnded:
        return True
    return False


@check("S13")
def cleaning_an_unknown_run_does_nothing(bench: Bench) -> None:
    """On a run without stream, cleanup does nothing and leaves nothing; a bad delay is refused and cleans nothing."""

    async def body() -> None:
        space = bench.space()
        async with bench.open(space) as bridge:
            for delay in (0, 0.0, 5, 3600.5):
                await bridge.cleanup(RUN, delay=delay)
            await is_gone(bridge, RUN)
            async with reading(bench, bridge, RUN, "1-1") as reader:
                await reader.is_gap(StreamGap("1-1", None, None))
            await publish_numbers(bridge, RUN, (1,))
            bad: list[Any] = [-1, -0.001, math.nan, -math.inf, "1", None]
            for delay in bad:
                try:
                    await bridge.cleanup(RUN, delay=delay)
                except InvalidArgument:
                    continue
                unkept(f"InvalidArgument for delay={delay!r}", "no error")
            await replays(bench, bridge, RUN, None, [1])

    bench.run(body)


# ------------------------------------------------------------------------------------------------ S14 disappearance


@check("S14", waits=True)
def waiting_subscribers_learn_of_a_cleanup(bench: Bench) -> None:
    """A subscriber that waits after something was delivered learns in time that its stream was cleaned up."""

    async def body(delay: float) -> None:
        async with two_instances(bench) as (a, b):
            ids = await publish_numbers(a, RUN, (1, 2))
            async with AsyncExitStack() as stack:
                waiting = await _waiting(bench, stack, (a, b), ids)
                await a.cleanup(RUN, delay=delay)
                await _all_told(bench, waiting, StreamGap(ids[-1], None, ids[-1]), delay)

    for delay in (0.0, 7.0 if bench.virtual else 0.5):
        bench.run(partial(body, delay))


async def _waiting(
    bench: Bench, stack: AsyncExitStack, bridges: tuple[StreamBridge, StreamBridge], ids: list[str]
) -> list[Reader]:
    """Subscribers on both instances that were given something, and stand at the tail."""
    readers = []
    for bridge in bridges:
        for cursor, data in ((None, [1, 2]), (ids[0], [2])):
            reader = await stack.enter_async_context(reading(bench, bridge, RUN, cursor, 0.2))
            await reader.gets(data)
            readers.append(reader)
    await asyncio.gather(*(reader.waits() for reader in readers))
    return readers


async def _all_told(bench: Bench, readers: list[Reader], gap: StreamGap, after_seconds: float) -> None:
    told = (reader.is_gap(gap, after_seconds + _news_seconds(bench)) for reader in readers)
    await asyncio.gather(*told)


@check("S14", waits=True)
def a_cleanup_during_a_read_is_noticed(bench: Bench) -> None:
    """Who is cleaned up after while it subscribes, at whatever moment, and got an event, learns in time of that."""

    async def subscribed(a: StreamBridge, b: StreamBridge, number: int) -> None:
        run, turns = f"run {number}", number % 12
        ids = await publish_numbers(a, run, (1,))
        async with reading(bench, b, run, None, 0.2) as reader:
            first = asyncio.create_task(reader.next())
            for _ in range(turns):
                await asyncio.sleep(0)
            await a.cleanup(run)
            if await first is not HEARTBEAT_SENTINEL:  # then it subscribed first
                await reader.is_gap(StreamGap(ids[0], None, ids[0]), _news_seconds(bench))

    async def body() -> None:
        async with two_instances(bench) as (a, b):
            await asyncio.gather(*(subscribed((a, b)[number // 36], b, number) for number in range(72)))

    bench.run(body)


@check("S14", waits=True)
def waiting_subscribers_learn_of_expiry(bench: Bench) -> None:
    """A subscriber that waits after something was delivered learns in time that its stream expired without trace."""

    async def body() -> None:
        ttl = bench.short_ttl
        async with two_instances(bench, ttl_seconds=ttl) as (a, b):
            ids = await publish_numbers(a, RUN, (1, 2))
            async with AsyncExitStack() as stack:
                waiting = await _waiting(bench, stack, (a, b), ids)
                await _all_told(bench, waiting, StreamGap(ids[-1], None, None), ttl)

    bench.run(body)


@check("S14", waits=True)
def every_waiting_subscriber_learns_of_the_end(bench: Bench) -> None:
    """Every waiting subscriber, one that got nothing too, learns in time that the run ended, and gets END."""

    async def body(cleaned: bool) -> None:
        async with two_instances(bench) as (a, b):
            ids = await publish_numbers(a, RUN, (1,))
            async with AsyncExitStack() as stack:
                waiting = []
                for bridge in (a, b):
                    for run, cursor in ((RUN, ids[0]), (RUN, "malformed"), ("unknown", None), ("unknown", "malformed")):
                        waiting.append(await stack.enter_async_context(reading(bench, bridge, run, cursor, 0.2)))
                await asyncio.gather(*(reader.waits() for reader in waiting))
                told = [asyncio.create_task(reader.item(_news_seconds(bench))) for reader in waiting]
                await bench.sleep(0.01)
                for run in (RUN, "unknown"):
                    await a.publish_end(run)
                    if cleaned:
                        await a.cleanup(run)
                for item in await asyncio.gather(*told):
                    expect(item is END_SENTINEL, "END_SENTINEL", item)

    for cleaned in (False, True):
        bench.run(partial(body, cleaned))
