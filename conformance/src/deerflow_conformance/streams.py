"""Checks of the stream bridge: order, ids, nothing lost, END (S1 to S3, S8)."""

from __future__ import annotations

import asyncio
import math
from contextlib import AsyncExitStack
from typing import Any

from hypothesis import strategies as st

from deerflow_backends.errors import InvalidArgument, StreamEnded
from deerflow_backends.streams import (
    END_SENTINEL,
    HEARTBEAT_SENTINEL,
    StreamBridge,
    StreamEvent,
    StreamStatus,
)
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check, expect, unkept
from deerflow_conformance.expectations import accepted
from deerflow_conformance.stream_models import hold_to_the_model
from deerflow_conformance.stream_programs import StreamProgram, stream_programs
from deerflow_conformance.stream_steps import (
    NAMED_ALIKE,
    RUN,
    split_id,
)
from deerflow_conformance.subscribers import (
    data_of,
    publish_numbers,
    reading,
    two_instances,
)

# ---------------------------------------------------------------------------------------------------- S1 order


@check("S1")
def a_subscriber_gets_what_was_published(bench: Bench) -> None:
    """A subscriber gets the events published before and after it came, here and on a replica, then END."""

    async def body() -> None:
        async with two_instances(bench) as (a, b), reading(bench, a, RUN) as here, reading(bench, b, RUN) as there:
            first = await a.publish(RUN, "metadata", {"run_id": RUN})
            for reader in (here, there):
                got = await reader.events(1)
                expect(got == [StreamEvent(first, "metadata", {"run_id": RUN})], f"the event {first}", got)
            ids = await b.publish_many(RUN, [("values", [1]), ("end", None)])
            await a.publish_end(RUN)
            wanted = [StreamEvent(ids[0], "values", [1]), StreamEvent(ids[1], "end", None), END_SENTINEL]
            for reader in (here, there):
                rest = await reader.rest()
                expect(rest == wanted, wanted, rest)

    bench.run(body)


@check("S1")
def all_see_one_order(bench: Bench) -> None:
    """Whoever publishes through whichever replica, all subscribers see one order, and each publisher's own in it."""

    async def publisher(bridge: StreamBridge, name: str, sizes: tuple[int, ...]) -> list[list[str]]:
        batches, number = [], 0
        for size in sizes:
            events = [(name, number + i) for i in range(size)]
            batches.append(
                [await bridge.publish(RUN, *events[0])] if size == 1 else await bridge.publish_many(RUN, events)
            )
            number += size
            await asyncio.sleep(0)
        return batches

    async def body(plans: list[tuple[int, ...]]) -> None:
        async with two_instances(bench) as (a, b), reading(bench, a, RUN) as here, reading(bench, b, RUN) as there:
            rests = [asyncio.create_task(reader.rest()) for reader in (here, there)]
            batches = await asyncio.gather(
                *(publisher((a, b)[i % 2], f"publisher {i}", sizes) for i, sizes in enumerate(plans))
            )
            await b.publish_end(RUN)
            seen, seen_there = await asyncio.gather(*rests)
            expect(seen == seen_there, "one order on both replicas", (seen, seen_there))
            ids = [item.id for item in seen if isinstance(item, StreamEvent) and item is not END_SENTINEL]
            _every_batch_is_whole(ids, [batch for of_one in batches for batch in of_one])
            for i, sizes in enumerate(plans):
                own = [item.data for item in seen if isinstance(item, StreamEvent) and item.event == f"publisher {i}"]
                expect(own == list(range(sum(sizes))), f"publisher {i}'s events in its own order", own)

    sizes = st.lists(st.integers(1, 4), min_size=1, max_size=5).map(tuple)
    bench.explore(st.lists(sizes, min_size=2, max_size=4), body)


def _every_batch_is_whole(ids: list[str], batches: list[list[str]]) -> None:
    expect(sorted(ids) == sorted(i for batch in batches for i in batch), "exactly the acknowledged ids", ids)
    for batch in batches:
        start = ids.index(batch[0])
        expect(ids[start : start + len(batch)] == batch, f"the batch {batch} together", ids)


@check("S1")
def a_batch_is_all_or_nothing(bench: Bench) -> None:
    """publish_many with a bad event, with none, or with more than max_events stores nothing at all."""
    bad_batches: list[Any] = [
        [],
        [("n", i) for i in range(5)],
        [("n", 1), ("n", math.nan)],
        [("n", 1), ("", 2)],
        [("n", 1), ("n" * 513, 2)],
        [("n", 1), ("n\ud800", 2)],
        [("n", 1), ("n",)],
        [("n", 1), "n2"],
        5,
    ]

    async def body() -> None:
        async with bench.open(max_events=4) as bridge:
            for batch in bad_batches:
                try:
                    got = await bridge.publish_many(RUN, batch)
                except InvalidArgument:
                    status = await bridge.status(RUN)
                    expect(status is None, f"nothing stored of {batch!r}", status)
                else:
                    unkept(f"InvalidArgument for {batch!r}", got)
            ids = await bridge.publish_many(RUN, [("n", i) for i in range(4)])
            expect([split_id(i)[1] for i in ids] == [1, 2, 3, 4], "a batch of max_events events", ids)

    bench.run(body)


# ------------------------------------------------------------------------------------------------------ S2 ids


@check("S2")
def ids_count_without_holes(bench: Bench) -> None:
    """One epoch, and seq 1, 2, 3 without holes, through refused calls, batches and rivals on two replicas."""

    async def body(plan: list[str]) -> None:
        async with two_instances(bench) as (a, b):
            acknowledged: list[str] = []
            for i, step in enumerate(plan):
                bridge = (a, b)[i % 2]
                if step == "bad":
                    await _is_refused(bridge)
                elif step == "rivals":
                    acknowledged += await asyncio.gather(*((a, b)[n % 2].publish(RUN, "n", n) for n in range(6)))
                elif step == "many":
                    acknowledged += await bridge.publish_many(RUN, [("n", 1), ("n", 2), ("n", 3)])
                else:
                    acknowledged.append(await bridge.publish(RUN, "n", i))
            pairs = sorted(map(split_id, acknowledged))
            wanted = [(pairs[0][0], seq) for seq in range(1, len(pairs) + 1)] if pairs else []
            expect(pairs == wanted, f"the ids {wanted}", pairs)
            if pairs:
                status = await b.status(RUN)
                expect(status and split_id(status.latest_id) == pairs[-1], f"latest_id {pairs[-1]}", status)

    bench.explore(st.lists(st.sampled_from(["one", "many", "bad", "rivals"]), min_size=1, max_size=8), body)


async def _is_refused(bridge: StreamBridge) -> None:
    try:
        got: Any = await bridge.publish_many(RUN, [("n", 1), ("n", {"a": math.inf})])
    except InvalidArgument:
        return
    unkept("InvalidArgument", got)


@check("S2")
def each_stream_has_a_higher_epoch(bench: Bench) -> None:
    """A run cleaned up and published to again, at once and on any replica, gets a higher epoch and seq 1."""

    async def body() -> None:
        async with two_instances(bench) as (a, b):
            seen: list[tuple[int, int]] = []
            for i in range(6):
                bridge = (a, b)[i % 2]
                new = [split_id(event_id) for event_id in await publish_numbers(bridge, RUN, (1, 2))]
                expect([seq for _, seq in new] == [1, 2], "seq 1, 2 in a new stream", new)
                expect(not seen or new[0][0] > seen[-1][0], f"an epoch above that of {seen[-1:]}", new)
                seen += new
                await (b, a)[i % 2].cleanup(RUN)

    bench.run(body)


@check("S2")
def the_epoch_is_the_servers_milliseconds(bench: Bench) -> None:
    """A run's first epoch is the server's time in milliseconds."""

    async def body() -> None:
        space = bench.space()
        async with bench.open(space) as bridge:
            before = space.clock() // 1_000
            epoch = split_id(await bridge.publish(RUN, "n", 1))[0]
            after = space.clock() // 1_000
            # The clock of a server elsewhere may differ from ours, by less than an hour if anybody looks after it.
            tolerance = 0 if bench.virtual else 3_600_000
            expect(before - tolerance <= epoch <= after + tolerance, f"an epoch of about {before} (ms)", epoch)

    bench.run(body)


# ---------------------------------------------------------------------------- S3 nothing lost, nothing twice


@check("S3")
def programs_agree_with_the_model(bench: Bench) -> None:
    """Whatever is published, trimmed, cleaned and read in any order through two replicas, each gets what it should."""

    async def body(program: StreamProgram) -> None:
        await hold_to_the_model(bench, program)

    bench.explore(stream_programs(timed=bench.virtual), body)


@check("S3")
def nothing_is_lost_over_reconnects(bench: Bench) -> None:
    """However reads, writes and reconnects between replicas interleave, every event arrives exactly once, then END."""

    async def publisher(bridges: tuple[StreamBridge, StreamBridge], pauses: tuple[int, ...]) -> list[str]:
        ids = []
        for number, pause in enumerate(pauses):
            for _ in range(pause):
                await asyncio.sleep(0)
            ids.append(await bridges[number % 2].publish(RUN, "n", number))
        await bridges[0].publish_end(RUN)
        return ids

    async def reader(bridges: tuple[StreamBridge, StreamBridge], chunks: tuple[int, ...]) -> list[str]:
        seen: list[str] = []
        turn = 0
        while True:
            async with reading(bench, bridges[turn % 2], RUN, seen[-1] if seen else None) as subscription:
                for _ in range(chunks[turn % len(chunks)]):
                    item = await subscription.item()
                    if item is END_SENTINEL:
                        return seen
                    if not isinstance(item, StreamEvent):
                        unkept("events until END", [*seen, item])
                    seen.append(item.id)
            turn += 1

    async def body(plan: tuple[tuple[int, ...], list[tuple[int, ...]]]) -> None:
        pauses, readers = plan
        async with two_instances(bench) as bridges:
            published, *seen = await asyncio.gather(
                publisher(bridges, pauses), *(reader(bridges, chunks) for chunks in readers)
            )
            for one in seen:
                expect(one == published, f"each of {published} once", one)

    pauses = st.lists(st.integers(0, 4), min_size=1, max_size=20).map(tuple)
    chunks = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)
    bench.explore(st.tuples(pauses, st.lists(chunks, min_size=1, max_size=3)), body)


@check("S3")
def what_comes_during_a_read_is_not_lost(bench: Bench) -> None:
    """An event that is published while a subscriber is reading what was there before, at whatever moment, arrives."""

    async def body() -> None:
        async with two_instances(bench) as bridges:
            for bridge in bridges:
                for turns in range(12):
                    run = f"{turns} turns, {bridges.index(bridge)}"
                    await bridges[0].publish(run, "n", 1)
                    async with reading(bench, bridge, run) as reader:
                        both = asyncio.create_task(reader.gets([1, 2]))
                        for _ in range(turns):
                            await asyncio.sleep(0)
                        await bridges[0].publish(run, "n", 2)
                        await both

    bench.run(body)


@check("S3")
def subscribing_begins_with_the_first_item(bench: Bench) -> None:
    """What is published between subscribe() and the first __anext__ comes before the live tail, not in it."""

    async def body() -> None:
        async with bench.open() as bridge:
            await bridge.publish(RUN, "n", 1)
            async with reading(bench, bridge, RUN, "malformed") as reader:
                await bridge.publish(RUN, "n", 2)
                await reader.waits()
                await bridge.publish(RUN, "n", 3)
                await reader.gets([3])

    bench.run(body)


async def _ended(bridge: StreamBridge, run_id: str, count: int) -> list[str]:
    """Publish *count* events and END; return the ids."""
    ids = await publish_numbers(bridge, run_id, range(1, count + 1))
    await bridge.publish_end(run_id)
    return ids


async def _refused_as_ended(bridge: StreamBridge, run_id: str) -> None:
    for events in ([("late", 1)], [("late", 1), ("late", 2)]):
        try:
            got: Any = await (
                bridge.publish(run_id, *events[0]) if len(events) == 1 else bridge.publish_many(run_id, events)
            )
        except StreamEnded:
            continue
        unkept("StreamEnded", got)


# ----------------------------------------------------------------------------------------------------- S8 END


@check("S8")
def end_comes_once_and_last(bench: Bench) -> None:
    """Present and later subscribers, at any cursor and on any replica, get END once, last, and never more."""

    async def body() -> None:
        async with two_instances(bench) as (a, b), reading(bench, a, RUN) as here, reading(bench, b, RUN) as there:
            first = await a.publish(RUN, "n", 1)
            await here.gets([1])
            for bridge in (b, b, a):
                await accepted(bridge.publish_end(RUN), "publish_end, whether the run has ended or not")
            await here.ends()
            rest = await there.rest()
            expect(data_of(rest) == [1, END_SENTINEL], "1, END", rest)
            for cursor, data in ((None, [1]), ("0-0", [1]), (first, []), ("malformed", [1])):
                for bridge in (a, b):
                    async with reading(bench, bridge, RUN, cursor) as reader:
                        rest = await reader.rest()
                        expect(data_of(rest) == [*data, END_SENTINEL], f"{data} and END at cursor {cursor!r}", rest)

    bench.run(body)


@check("S8")
def end_on_an_unknown_run(bench: Bench) -> None:
    """publish_end on an unknown run makes an ended, empty stream; its subscribers get END and nothing else."""

    async def body() -> None:
        async with two_instances(bench) as (a, b), reading(bench, b, RUN) as waiting:
            await waiting.waits()
            await a.publish_end(RUN)
            status = await b.status(RUN)
            wanted = (None, 0, True)
            got = status and (status.earliest_id, status.length, status.ended)
            expect(got == wanted, f"status (earliest, length, ended) {wanted}", status)
            await waiting.ends()
            async with reading(bench, a, RUN) as late:
                await late.ends()

    bench.run(body)


@check("S8")
def publishing_after_end_stores_nothing(bench: Bench) -> None:
    """Publishing to an ended run raises StreamEnded on every replica, and changes nothing that can be read."""

    async def body() -> None:
        async with two_instances(bench) as (a, b):
            for count in (0, 1, 3):
                run = f"run of {count}"
                await _ended(a, run, count)
                before = await a.status(run)
                for bridge in (b, a):
                    await _refused_as_ended(bridge, run)
                    after = await bridge.status(run)
                    expect(_without_expiry(after) == _without_expiry(before), before, after)
                async with reading(bench, b, run) as reader:
                    rest = await reader.rest()
                    expect(data_of(rest) == [*range(1, count + 1), END_SENTINEL], f"{count} events and END", rest)

    bench.run(body)


def _without_expiry(status: StreamStatus | None) -> Any:
    return status and (status.earliest_id, status.latest_id, status.length, status.ended)


@check("S8")
def replicas_may_end_at_once(bench: Bench) -> None:
    """Of publishers and several replicas that end the run at once, everything acknowledged comes before one END."""

    async def publishing(bridge: StreamBridge) -> list[str]:
        ids: list[str] = []
        try:
            for number in range(8):
                ids.append(await bridge.publish(RUN, "n", number))
                await asyncio.sleep(0)
        except StreamEnded:
            pass
        return ids

    async def ending(bridge: StreamBridge, pause: int) -> None:
        for _ in range(pause):
            await asyncio.sleep(0)
        await bridge.publish_end(RUN)

    async def body(pauses: list[int]) -> None:
        async with two_instances(bench) as bridges, reading(bench, bridges[1], RUN) as present:
            seen = asyncio.create_task(present.rest())
            endings = [asyncio.create_task(ending(bridges[i % 2], pause)) for i, pause in enumerate(pauses)]
            published = await asyncio.gather(*(publishing(bridge) for bridge in bridges))
            await asyncio.gather(*endings)
            wanted = [*sorted([*published[0], *published[1]], key=split_id), END_SENTINEL.id]
            async with reading(bench, bridges[0], RUN) as late:
                for rest in (await seen, await late.rest()):
                    got = [item.id if isinstance(item, StreamEvent) else item for item in rest]
                    expect(got == wanted, f"what was acknowledged, {wanted[:-1]}, then END", rest)

    bench.explore(st.lists(st.integers(0, 12), min_size=2, max_size=4), body)


@check("S8")
def ending_one_leaves_the_others(bench: Bench) -> None:
    """A run ends alone, whatever its name has in common with others: their subscribers wait, and publishers go on."""

    async def body() -> None:
        async with two_instances(bench) as (a, b), AsyncExitStack() as stack:
            others = []
            for run in (*NAMED_ALIKE, "run"):
                await a.publish(run, "n", 1)
                others.append(await stack.enter_async_context(reading(bench, b, run)))
                await others[-1].gets([1])
            last = others.pop()
            await a.publish_end("run")
            await last.ends()
            for run, other in zip(NAMED_ALIKE, others, strict=True):
                await other.waits()
                await accepted(a.publish(run, "n", 2), f"an event of {run!r}, which has not ended")
                await other.gets([2])

    bench.run(body)


@check("S8")
def end_is_durable(bench: Bench) -> None:
    """END, with what came before it, is there after every opening of the space was closed."""

    async def body() -> None:
        space = bench.space()
        async with bench.open(space) as bridge:
            await _ended(bridge, RUN, 2)
            await bridge.publish_end("empty")
        async with bench.open(space) as bridge:
            for run, data in ((RUN, [1, 2]), ("empty", [])):
                async with reading(bench, bridge, run) as reader:
                    rest = await reader.rest()
                    expect(data_of(rest) == [*data, END_SENTINEL], f"{data} and END", rest)
                await _refused_as_ended(bridge, run)

    bench.run(body)


@check("S8")
def an_event_named_like_a_sentinel_is_an_event(bench: Bench) -> None:
    """Events named __end__, __heartbeat__ or end are events: they end nothing, and are no sentinel."""
    names = (END_SENTINEL.event, HEARTBEAT_SENTINEL.event, "end", "StreamGap", "error")

    async def body() -> None:
        async with two_instances(bench) as (a, b):
            for name in names:
                async with reading(bench, b, f"run of {name}") as reader:
                    event_id = await a.publish(f"run of {name}", name, None)
                    item = await reader.next()
                    while item is HEARTBEAT_SENTINEL:
                        item = await reader.next()
                    expect(item is not END_SENTINEL and item == StreamEvent(event_id, name, None), f"{name!r}", item)
                    await reader.waits()
                    status = await a.status(f"run of {name}")
                    expect(status and not status.ended, "a stream that has not ended", status)

    bench.run(body)
