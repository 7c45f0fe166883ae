"""Checks of streams under load, in counts alone: S2, S3, S8, S12 and S15."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import astuple, dataclass
from typing import Final

from deerflow_backends.streams import StreamBridge, StreamGap
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check, expect
from deerflow_conformance.crowds import CROWD_SECONDS, crowd
from deerflow_conformance.faces import RUN
from deerflow_conformance.meters import Held, held, memory_blocks, metered
from deerflow_conformance.networks import Network
from deerflow_conformance.stream_steps import split_id
from deerflow_conformance.subscribers import Reader, data_of, publish_numbers, reading

#: How many subscribers make a crowd, by reach: in one process they cost nothing but memory.
_CROWD: Final = {"process": 5_000, "host": 1_000, "network": 1_000}


@dataclass(frozen=True, slots=True)
class _Traffic:
    """What went through a network so far, and its differences."""

    round_trips: int
    bytes: int
    connections: int

    @staticmethod
    def through(network: Network) -> _Traffic:
        return _Traffic(network.requests, network.passed_bytes, network.made)

    def since(self, before: _Traffic) -> _Traffic:
        return _Traffic(*(now - then for now, then in zip(astuple(self), astuple(before), strict=True)))

    def expect_same(self, many: _Traffic, what: str) -> None:
        """Fail the check if *many* took more than this, which one took; signs of life go on meanwhile."""
        for name, few, now, aside in zip(self.__slots__, astuple(self), astuple(many), (20, 10_000, 4), strict=True):
            expect(now <= few * 1.5 + aside, f"about {few:,} {name} for {what}, as for one", f"{now:,}")


# -------------------------------------------------------------------------------------------------------- S15


@check("S15", level="load")
def a_crowd_needs_no_more_connections(bench: Bench) -> None:
    """A crowd of subscribers over 100 runs, with 200 publishers, holds no more than ten subscribers do; all get all."""
    subscribers = bench.volume(_CROWD[bench.reach])
    runs = 100

    async def body() -> None:
        async with bench.open() as bridge:
            few = await _crowded(bench, bridge, [f"few {number}" for number in range(5)] * 2)
            crowded = [f"many {number % runs}" for number in range(subscribers)]
            many = await _crowded(bench, bridge, crowded)
            few.expect_no_more(many, f"{subscribers:,} subscribers and {2 * runs} publishers")

    bench.run(body)


async def _crowded(bench: Bench, bridge: StreamBridge, runs: Sequence[str]) -> Held:
    """Have each of *runs* read, and published to by two at once; return the most that was held meanwhile."""
    names = [*dict.fromkeys(runs)]
    await asyncio.gather(*(bridge.publish(run, "n", 0) for run in names))
    async with crowd(bench, bridge, runs) as readers:
        await readers.began()
        most = held()

        async def publish(run: str, number: int) -> None:
            nonlocal most
            await bridge.publish(run, "n", number)
            most = most.or_more(held())

        publishing = [publish(run, number) for run in names for number in (1, 2)]
        await bench.soon(asyncio.gather(*publishing), CROWD_SECONDS)
        await bench.soon(asyncio.gather(*map(bridge.publish_end, names)), CROWD_SECONDS)
        await readers.ended()
        readers.expect_all(range(3))
    return most


@check("S15", level="load")
def publishing_to_a_crowd_is_no_more_to_ask(bench: Bench) -> None:
    """Publishing to a run with a crowd of subscribers takes as many round trips, bytes and connections as for one."""
    subscribers = bench.volume(100)
    events = 30

    async def body() -> None:
        async with bench.network(bench.space()) as network, bench.open(network.space) as bridge:
            taken = []
            for name, count in (("one", 1), ("many", subscribers)):
                async with crowd(bench, bridge, [name] * count) as readers:
                    await bridge.publish(name, "n", 0)
                    await readers.began()
                    before = _Traffic.through(network)
                    await publish_numbers(bridge, name, range(1, events))
                    await bridge.publish_end(name)
                    await readers.ended()
                    taken.append(_Traffic.through(network).since(before))
                    readers.expect_all(range(events))
            one, many = taken
            one.expect_same(many, f"{subscribers:,} subscribers")

    bench.run(body)


@check("S15", level="load")
def a_crowd_that_waits_is_quiet(bench: Bench) -> None:
    """While nothing happens, a crowd of subscribers asks its store no more than a tenth of them, of the same runs."""
    runs = [f"run {number}" for number in range(100)]
    seconds = 20.0 if bench.virtual else 1.2

    async def body() -> None:
        async with metered(bench, bench.space()) as meter, bench.open(meter.space) as bridge:
            await asyncio.gather(*(bridge.publish(run, "n", 0) for run in runs))
            taken = []
            for turns in (1, bench.volume(10)):
                async with crowd(bench, bridge, runs * turns) as readers:
                    await readers.began()
                    await bench.sleep(0.3)
                    taken.append(await meter.cost(lambda: bench.sleep(seconds)))
            meter.expect_same("waiting", *taken, aside=50)

    bench.run(body)


# -------------------------------------------------------------------------------------------------------- S12


@check("S12", level="load")
def nothing_is_kept_for_those_who_do_not_read(bench: Bench) -> None:
    """Two thousand events leave no memory, handle or thread behind for subscribers that do not read them."""
    events = bench.volume(2_000)

    async def body() -> None:
        async with bench.open(max_events=8, max_buffered_events=16) as bridge, AsyncExitStack() as stack:
            ids = await publish_numbers(bridge, RUN, (0,))
            slow = [await stack.enter_async_context(reading(bench, bridge, RUN, None, 60.0)) for _ in range(100)]
            await asyncio.gather(*(reader.gets([0]) for reader in slow))
            ids += await _publish(bridge, 1, 200)
            few, blocks = held(), memory_blocks()
            ids += await _publish(bridge, 200, 200 + events)
            kept = memory_blocks() - blocks - events  # the ids that came back are the check's own
            few.expect_no_more(held(), f"{events:,} events that nobody read")
            expect(kept < events, "no more memory with every event that is not read", f"{kept:,} pieces more")
            for reader in slow:
                await _is_left_behind(reader, ids)

    bench.run(body)


async def _publish(bridge: StreamBridge, first: int, end: int) -> list[str]:
    """Publish numbers eight at a time, and return the ids."""
    found: list[str] = []
    for start in range(first, end, 8):
        found += await bridge.publish_many(RUN, [("n", number) for number in range(start, min(start + 8, end))])
    return found


async def _is_left_behind(reader: Reader, ids: list[str]) -> None:
    """Expect what the run's buffer may still have held, at most, and then a gap that tells what is retained."""
    *events, gap = await reader.rest()
    expect(len(events) <= 16, "at most 16 events from the run's buffer", events)
    expect(gap == StreamGap(ids[len(events)], ids[-8], ids[-1]), "a true gap", gap)


@check("S12", level="load")
def nothing_is_kept_for_those_who_left(bench: Bench) -> None:
    """A thousand events that subscribers got are in no memory once they have left, were dropped, or got END."""
    runs = range(bench.volume(45))
    events = 30

    async def body() -> None:
        async with bench.open(max_events=1) as bridge:  # what is kept for replays does not grow
            for turn in range(2):
                blocks = memory_blocks()  # the second time: what is made when first needed is there
                coming = (_comes_and_goes(bench, bridge, number, turn, events) for number in runs)
                # One event after the other: where each is late as allowed, that takes minutes.
                await bench.soon(asyncio.gather(*coming), 240.0 if bench.virtual else CROWD_SECONDS)
            await _until_fewer(bench, blocks + len(runs) * events // 2)

    bench.run(body)


async def _comes_and_goes(bench: Bench, bridge: StreamBridge, number: int, turn: int, events: int) -> None:
    """Subscribe to a run, get so many events as they come, and go in one of three ways."""
    way = ("leaves", "is dropped", "gets the end")[number % 3]
    run = f"run {number}, {turn}" if way == "gets the end" else f"run {number}"
    reader = Reader(bench, bridge.subscribe(run, heartbeat_interval=60.0))
    for published in range(events):
        await bridge.publish(run, "n", published)
        await reader.gets([published])
    if way == "leaves":
        await reader.leave()
    elif way == "gets the end":
        await bridge.publish_end(run)
        await reader.ends()


async def _until_fewer(bench: Bench, blocks: int) -> None:
    """Expect fewer pieces of memory than *blocks*; a run may be watched a moment longer than it is read."""
    for _ in range(30):
        if memory_blocks() < blocks:
            return
        await bench.sleep(0.5)
    expect(False, f"fewer than {blocks:,} pieces of memory, as before the subscribers came", f"{memory_blocks():,}")


@check("S12", level="load")
def nothing_is_fetched_for_those_who_do_not_read(bench: Bench) -> None:
    """Publishing takes as many round trips and bytes with a crowd that reads nothing as with one; then all catch up."""
    subscribers = bench.volume(50)
    events = 60

    async def body() -> None:
        space = bench.space(max_events=2 * events, max_buffered_events=4)
        async with bench.network(space) as network, bench.open(network.space) as bridge, AsyncExitStack() as stack:
            taken = []
            for run, count in (("one", 1), ("many", subscribers)):
                await bridge.publish(run, "n", 0)
                slow = [await stack.enter_async_context(reading(bench, bridge, run, None, 60.0)) for _ in range(count)]
                await asyncio.gather(*(reader.gets([0]) for reader in slow))
                before = _Traffic.through(network)
                await publish_numbers(bridge, run, range(1, events))
                taken.append(_Traffic.through(network).since(before))
                await asyncio.gather(*(reader.gets(range(1, events)) for reader in slow))
            one, many = taken
            one.expect_same(many, f"{subscribers} that read nothing")

    bench.run(body)


# -------------------------------------------------------------------------------------------------------- S2, S3, S8


@check("S2", level="load")
def thousands_of_ids_count_in_one_epoch(bench: Bench) -> None:
    """Of two thousand events, published in batches and one by one, each has the next seq, and all are of one epoch."""
    batches = bench.volume(100)

    async def body() -> None:
        async with bench.open() as bridge:
            ids = [await bridge.publish(RUN, "n", 0)]
            for _ in range(batches):
                ids += await bridge.publish_many(RUN, [("n", number) for number in range(19)])
                ids.append(await bridge.publish(RUN, "n", 19))
            pairs = list(map(split_id, ids))
            wanted = [(pairs[0][0], seq) for seq in range(1, 20 * batches + 2)]
            expect(len(pairs) == len(wanted), f"{len(wanted):,} ids", f"{len(pairs):,}")
            for due, got in zip(wanted, pairs, strict=True):
                expect(due == got, f"the id {due[0]}-{due[1]}: no server was started anew", f"{got[0]}-{got[1]}")

    bench.run(body)


@check("S3", level="load")
def ten_thousand_events_arrive_once(bench: Bench) -> None:
    """Of ten thousand events, published one by one and in batches by many, each subscriber gets each exactly once."""
    events = bench.volume(10_000)

    async def body() -> None:
        space = bench.space(max_events=events)
        async with bench.open(space) as here, bench.open(space) as second, bench.replica(space) as there:
            await here.publish(RUN, "n", 0)
            async with crowd(bench, here, [RUN] * 2) as readers, crowd(bench, second, [RUN]) as others:
                await readers.began()
                await others.began()
                await bench.soon(_publish_together((here, there), events), CROWD_SECONDS)
                await here.publish_end(RUN)
                for some in (readers, others):
                    await some.ended()
                    some.expect_all(range(events))
                expect(data_of(readers.seen[0]) == data_of(others.seen[0]), "one order for both instances", "two")

    bench.run(body)


async def _publish_together(bridges: Sequence[StreamBridge], events: int) -> None:
    """Publish 1 to *events* once each: nine tenths in batches by four publishers, the rest one by one by twenty."""
    numbers = range(1, events)
    one_by_one = len(numbers) // 10
    batched = numbers[one_by_one:]

    async def publish(bridge: StreamBridge, some: Sequence[int]) -> None:
        for number in some:
            await bridge.publish(RUN, "n", number)

    async def publish_many(bridge: StreamBridge, some: Sequence[int]) -> None:
        for start in range(0, len(some), 100):
            await bridge.publish_many(RUN, [("n", number) for number in some[start : start + 100]])

    await asyncio.gather(
        *(publish(bridges[part % 2], numbers[:one_by_one][part::20]) for part in range(20)),
        *(publish_many(bridges[part % 2], batched[part::4]) for part in range(4)),
    )


@check("S8", level="load")
def a_thousand_runs_end_once(bench: Bench) -> None:
    """A thousand runs are ended at once, each from two instances, and each of their subscribers gets END once, last."""
    runs = [f"run {number}" for number in range(bench.volume(1_000))]

    async def body() -> None:
        space = bench.space()
        async with bench.open(space) as here, bench.open(space) as there:
            await bench.soon(asyncio.gather(*(here.publish(run, "n", 0) for run in runs)), CROWD_SECONDS)
            async with crowd(bench, here, runs) as readers, crowd(bench, there, runs) as others:
                await readers.began()
                await others.began()
                ending = [bridge.publish_end(run) for run in runs for bridge in (here, there)]
                await bench.soon(asyncio.gather(*ending), CROWD_SECONDS)
                for some in (readers, others):
                    await some.ended()
                    some.expect_all([0])

    bench.run(body)
