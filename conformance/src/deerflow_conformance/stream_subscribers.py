"""Checks of subscribers: heartbeats, coming first, reading slowly, being many (S9, S11, S12, S15)."""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
from contextlib import AsyncExitStack
from typing import Any

from hypothesis import strategies as st

from deerflow_backends.errors import InvalidArgument
from deerflow_backends.streams import (
    HEARTBEAT_SENTINEL,
    StreamBridge,
    StreamEvent,
    StreamGap,
)
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check, expect, unkept
from deerflow_conformance.expectations import until
from deerflow_conformance.isolation import open_handles
from deerflow_conformance.stream_programs import MALFORMED
from deerflow_conformance.stream_steps import (
    NAMED_ALIKE,
    RUN,
    is_gone,
)
from deerflow_conformance.subscribers import (
    Reader,
    data_of,
    publish_numbers,
    reading,
    two_instances,
)

# ---------------------------------------------------------------------------------------------------- S9 heartbeat


@check("S9")
def heartbeats_come_while_waiting(bench: Bench) -> None:
    """Each interval spent waiting gives one heartbeat, at that moment; each subscriber has its own interval."""

    async def body() -> None:
        interval = 5.0 if bench.virtual else 0.05
        async with bench.open() as bridge, reading(bench, bridge, RUN, None, interval) as reader:
            loop = asyncio.get_running_loop()
            for _ in range(3):
                before = loop.time()
                await reader.waits()
                waited = loop.time() - before
                if bench.virtual:
                    expect(abs(waited - interval) < 0.01, f"a heartbeat after {interval} s", f"after {waited} s")
                else:
                    expect(waited >= interval * 0.9, f"no heartbeat before {interval} s", f"after {waited} s")
            await bridge.publish(RUN, "n", 1)
            before = loop.time()
            if await reader.next() is HEARTBEAT_SENTINEL:  # where an event takes as long as that to arrive
                waited = loop.time() - before
                expect(waited >= interval * 0.9, f"no heartbeat before {interval} s of waiting", f"after {waited} s")
                await reader.gets([1])
            await bench.sleep(2 * interval)  # outside of __anext__, which is no waiting
            before = loop.time()
            await reader.waits()
            waited = loop.time() - before
            expect(waited >= interval * 0.9, f"no heartbeat before {interval} s of waiting", f"after {waited} s")

    async def seldom() -> None:
        async with bench.open() as bridge:
            await asyncio.gather(*(_is_first_heard_after(bench, bridge, interval) for interval in (61.0, 1_000.0)))

    bench.run(body)
    if bench.virtual:  # elsewhere it would take as long
        bench.run(seldom, virtual_seconds=2_000)


async def _is_first_heard_after(bench: Bench, bridge: StreamBridge, interval: float) -> None:
    async with reading(bench, bridge, RUN, None, interval) as reader:
        began = asyncio.get_running_loop().time()
        item = await bench.soon(anext(reader.iterator), interval + 15)
        waited = asyncio.get_running_loop().time() - began
        expect(item is HEARTBEAT_SENTINEL, "a heartbeat", item)
        expect(abs(waited - interval) < 0.01, f"a heartbeat after {interval} s", f"after {waited} s")


@check("S9", waits=True)
def each_subscriber_has_its_own_interval(bench: Bench) -> None:
    """Of two subscribers of one run, the one with the shorter interval hears more heartbeats, and both hear some."""

    async def count(reader: Reader, beats: list[int], which: int) -> None:
        while True:
            await reader.waits()
            beats[which] += 1

    async def body() -> None:
        short, long = (1.0, 5.0) if bench.virtual else (0.05, 0.5)
        beats = [0, 0]
        async with (
            bench.open() as bridge,
            reading(bench, bridge, RUN, None, short) as often,
            reading(bench, bridge, RUN, None, long) as seldom,
        ):
            counting = [asyncio.create_task(count(reader, beats, i)) for i, reader in enumerate((often, seldom))]

            async def heard() -> bool:
                return beats[1] >= 2

            await until(bench, heard, 30)
            for task in counting:
                task.cancel()
            await asyncio.wait(counting)
            for task in counting:
                expect(task.cancelled(), "heartbeats until the end", task)
            expect(beats[0] > beats[1], "more heartbeats at the shorter interval", beats)

    bench.run(body)


@check("S9", waits=True)
def other_runs_delay_no_heartbeat(bench: Bench) -> None:
    """While other runs are published to, ended and cleaned up all the time, who waits hears heartbeats nevertheless."""

    async def others(bridge: StreamBridge, interval: float) -> None:
        for number in itertools.count():
            await bridge.publish(f"run {number}", "n", number)
            await bench.sleep(interval / 5)
            await bridge.publish_end(f"run {number}")
            await bridge.cleanup(f"run {number}")

    async def body() -> None:
        interval = 1.0 if bench.virtual else 0.2
        async with two_instances(bench) as (a, b), reading(bench, b, RUN, None, interval) as reader:
            going_on = asyncio.create_task(others(a, interval))
            try:
                for _ in range(3):
                    await reader.waits()
            finally:
                going_on.cancel()
                await asyncio.wait([going_on])
            expect(going_on.cancelled(), "the others to go on", going_on)

    bench.run(body)


@check("S9")
def bad_arguments_are_refused_at_the_first_item(bench: Bench) -> None:
    """subscribe() itself never raises; its first __anext__ raises InvalidArgument for a bad interval or run id."""
    bad: list[tuple[Any, dict[str, Any]]] = [
        *((RUN, {"heartbeat_interval": value}) for value in (0, 0.0, -1, -0.001, math.nan, -math.inf, "15", None)),
        *((value, {}) for value in ("", "x" * 513, "\ud800", 5, None, b"run")),
    ]

    async def body() -> None:
        async with bench.open() as bridge:
            for run_id, arguments in bad:
                try:
                    iterator = bridge.subscribe(run_id, **arguments)
                except InvalidArgument as error:
                    unkept("an error at the first item, not from subscribe() itself", repr(error))
                try:
                    got = await bench.soon(anext(iterator))
                except InvalidArgument:
                    continue
                unkept(f"InvalidArgument for subscribe({run_id!r}, {arguments})", got)

    bench.run(body)


# ------------------------------------------------------------------------------------------- S11 subscribing first


@check("S11")
def subscribing_to_an_unknown_run(bench: Bench) -> None:
    """Without a cursor, or with a malformed one, it waits; a well-formed cursor is an empty gap; nothing is created."""

    async def body() -> None:
        space = bench.space()
        async with bench.open(space) as a, bench.replica(space) as b:
            await a.publish("another run", "n", 1)
            owned = await bench.owned(space)
            async with AsyncExitStack() as stack:
                cursors = (None, "0-0", "malformed", *MALFORMED[:3])
                subscribed = [reading(bench, (a, b)[i % 2], RUN, cursor) for i, cursor in enumerate(cursors)]
                readers = [await stack.enter_async_context(one) for one in subscribed]
                await asyncio.gather(*(reader.waits() for reader in readers))
            for i, cursor in enumerate(("1-1", "0-1", "1-0", "1767225600000-1", f"{10**19 - 1}-{10**19 - 1}")):
                async with reading(bench, (a, b)[i % 2], RUN, cursor) as reader:
                    await reader.is_gap(StreamGap(cursor, None, None))
            for bridge in (a, b):
                await is_gone(bridge, RUN)
            still = await bench.owned(space)
            expect(still == owned, f"as much stored as before, {owned}", still)

    bench.run(body)


@check("S11")
def who_waits_hears_nothing_of_other_runs(bench: Bench) -> None:
    """Who waits for a run that is not there hears nothing of those that are named alike, and gets its own."""

    async def body() -> None:
        async with two_instances(bench) as (a, b), AsyncExitStack() as stack:
            readers = [await stack.enter_async_context(reading(bench, b, run)) for run in NAMED_ALIKE]
            await asyncio.gather(*(reader.waits() for reader in readers))
            await a.publish("run", "n", 1)
            await asyncio.gather(*(reader.waits() for reader in readers))
            await a.publish_end("run")
            await a.cleanup("run")
            await asyncio.gather(*(reader.waits() for reader in readers))
            for run, reader in zip(NAMED_ALIKE, readers, strict=True):
                await a.publish(run, "n", run)
                await reader.gets([run])

    bench.run(body)


@check("S11")
def who_waited_gets_the_stream_from_its_first_event(bench: Bench) -> None:
    """Who subscribed before the run began gets all of it, whichever replica published."""

    async def body() -> None:
        async with (
            two_instances(bench) as (a, b),
            reading(bench, a, RUN) as here,
            reading(bench, b, RUN, "abc") as there,
        ):
            waiting = [asyncio.create_task(reader.item()) for reader in (here, there)]
            await bench.sleep(0.1)
            ids = await b.publish_many(RUN, [("n", 1), ("n", 2)])
            await a.publish(RUN, "n", 3)
            for task, reader in zip(waiting, (here, there), strict=True):
                item = await task
                expect(item == StreamEvent(ids[0], "n", 1), f"the first event, {ids[0]}", item)
                await reader.gets([2, 3])

    bench.run(body)


# -------------------------------------------------------------------------------------------------- S12 slow readers


@check("S12")
def a_slow_reader_delays_nobody(bench: Bench) -> None:
    """While one subscriber reads nothing, the publisher finishes and another gets all; then the slow one goes on."""

    async def body(plan: tuple[int, int, int]) -> None:
        max_events, buffered, count = plan
        async with (
            two_instances(bench, max_events=max_events, max_buffered_events=buffered) as (a, b),
            reading(bench, b, RUN) as slow,
            reading(bench, b, RUN) as quick,
        ):
            ids = await publish_numbers(a, RUN, (0,))
            await slow.gets([0])
            await quick.gets([0])
            for number in range(1, count):
                ids += await bench.soon(publish_numbers(a, RUN, (number,)))
                await quick.gets([number])
            await a.publish_end(RUN)
            await quick.ends()
            *events, last = await slow.rest()
            expect(data_of(events) == list(range(1, len(events) + 1)), "events in order, without a hole", events)
            if isinstance(last, StreamGap):
                expect(len(events) + 1 < count - max_events + 1, "no gap while the next is retained", last)
                expect(last == StreamGap(ids[len(events)], ids[-max_events], ids[-1]), "a true gap", last)
            else:
                expect(len(events) == count - 1, f"{count - 1} events before END", events)

    bench.explore(st.tuples(st.sampled_from((1, 4, 16)), st.sampled_from((1, 4)), st.sampled_from((5, 30))), body)


@check("S12")
def a_reader_that_lags_is_served_from_the_store(bench: Bench) -> None:
    """Who falls behind the buffer, not behind the store, catches up without loss, and then follows the tail."""

    async def body() -> None:
        async with (
            two_instances(bench, max_events=64, max_buffered_events=2) as (a, b),
            reading(bench, a, RUN) as here,
            reading(bench, b, RUN) as there,
        ):
            await a.publish(RUN, "n", 0)
            for reader in (here, there):
                await reader.gets([0])
                await reader.waits()
            await publish_numbers(a, RUN, range(1, 50))
            for reader in (here, there):
                await reader.gets(range(1, 40))
            await publish_numbers(a, RUN, range(50, 60))
            for reader in (here, there):
                await reader.gets(range(40, 60))
                await reader.waits()

    bench.run(body)


@check("S12")
def nothing_is_prefetched_beyond_the_buffer(bench: Bench) -> None:
    """For a subscriber that does not read, no more than the run's buffer is kept: what is gone from both is a gap."""

    async def body() -> None:
        async with bench.open(max_events=2, max_buffered_events=4) as bridge:
            iterator = bridge.subscribe(RUN, heartbeat_interval=0.2)
            reader = Reader(bench, iterator)
            ids = await publish_numbers(bridge, RUN, (0,))
            await reader.gets([0])
            await reader.waits()
            for number in range(1, 60):
                ids += await publish_numbers(bridge, RUN, (number,))
                await bench.sleep(0)
            await reader.is_gap(StreamGap(ids[0], ids[-2], ids[-1]))
            await reader.leave()

    bench.run(body)


# -------------------------------------------------------------------------------------------------- S15 connections


@check("S15")
def handles_do_not_grow_with_subscribers(bench: Bench) -> None:
    """200 subscribers of 50 runs hold as many file handles, sockets and threads of this process as ten of one run."""

    async def body() -> None:
        async with bench.open() as bridge, AsyncExitStack() as stack:
            for run in range(50):
                await bridge.publish(f"run:{run}", "n", run)
            few = await _held(bench, stack, bridge, ["run:0"] * 10)
            many = await _held(bench, stack, bridge, [f"run:{i % 50}" for i in range(190)])
            # A pool opens a connection when it first needs one: that does not grow with subscribers.
            expect(many[0] <= few[0] + 4, f"about {few[0]} file handles, as with 10 subscribers", many[0])
            expect(many[1] <= few[1] + 4, f"about {few[1]} threads, as with 10 subscribers", many[1])

    bench.run(body)


async def _held(bench: Bench, stack: AsyncExitStack, bridge: StreamBridge, runs: list[str]) -> tuple[int, int]:
    """Subscribe to each of *runs* until all wait; return how many file handles and threads there are now."""
    readers = [await stack.enter_async_context(reading(bench, bridge, run, None, 0.2)) for run in runs]

    async def until_waiting(reader: Reader, run: str) -> None:
        await reader.gets([int(run.partition(":")[2])])
        await reader.waits()

    await asyncio.gather(*(until_waiting(reader, run) for reader, run in zip(readers, runs, strict=True)))
    return len(open_handles()), threading.active_count()


@check("S15")
def handles_do_not_grow_with_publishers(bench: Bench) -> None:
    """100 publications in flight, to as many runs, need no more file handles and threads than ten."""

    async def in_flight(bridge: StreamBridge, count: int, name: str) -> tuple[int, int]:
        handles, threads = 0, 0

        async def publish(number: int) -> None:
            nonlocal handles, threads
            await bridge.publish(f"{name}:{number}", "n", number)
            handles, threads = max(handles, len(open_handles())), max(threads, threading.active_count())

        await asyncio.gather(*(publish(number) for number in range(count)))
        return handles, threads

    async def body() -> None:
        async with bench.open() as bridge:
            few = await in_flight(bridge, 10, "few")
            many = await in_flight(bridge, 100, "many")
            expect(many[0] <= few[0] + 4, f"about {few[0]} file handles, as with 10 publishers", many[0])
            expect(many[1] <= few[1] + 4, f"about {few[1]} threads, as with 10 publishers", many[1])

    bench.run(body)


@check("S15")
def subscribers_do_not_starve_publishers(bench: Bench) -> None:
    """With 200 subscribers waiting, publishing, status and cleanup still work, and each subscriber gets its event."""

    async def body() -> None:
        async with bench.open() as bridge, AsyncExitStack() as stack:
            runs = [f"run:{i % 100}" for i in range(200)]
            readers = [await stack.enter_async_context(reading(bench, bridge, run, None, 5.0)) for run in runs]
            waiting = [asyncio.create_task(reader.item(30)) for reader in readers]
            await bench.sleep(0.05)
            for run in dict.fromkeys(runs):
                await bench.soon(bridge.publish(run, "n", run))
            await bench.soon(bridge.status("run:0"))
            await bench.soon(bridge.cleanup("unknown"))
            for run, item in zip(runs, await asyncio.gather(*waiting), strict=True):
                expect(item is not HEARTBEAT_SENTINEL and data_of([item]) == [run], f"the event of {run!r}", item)

    bench.run(body)
