"""Checks of the stream bridge: order, ids, cursors, gaps and END (S1 to S8); the others are in `stream_lifetimes`."""

from __future__ import annotations

import asyncio
import itertools
import math
import re
from typing import Any, Final

from hypothesis import strategies as st

from deerflow_backends.errors import InvalidArgument, StreamEnded
from deerflow_backends.streams import (
    END_SENTINEL,
    HEARTBEAT_SENTINEL,
    StreamBridge,
    StreamEvent,
    StreamGap,
    StreamStatus,
)
from deerflow_conformance import stream_lifetimes
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check, expect, unkept
from deerflow_conformance.stream_models import hold_to_the_model
from deerflow_conformance.stream_programs import MALFORMED, StreamProgram, stream_programs
from deerflow_conformance.subscribers import (
    Reader,
    data_of,
    publish_numbers,
    reading,
    replays,
    two_instances,
)

__all__ = ["stream_lifetimes"]  # loading this module registers the checks of both

RUN: Final = "run:1"
_ID = re.compile(r"(0|[1-9][0-9]{0,18})-(0|[1-9][0-9]{0,18})", re.ASCII)


def _split(event_id: str) -> tuple[int, int]:
    """Return epoch and seq of an id."""
    match = _ID.fullmatch(event_id)
    if match is None:
        unkept("an id <epoch>-<seq>, both decimal", event_id)
    return int(match[1]), int(match[2])


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
            expect([_split(i)[1] for i in ids] == [1, 2, 3, 4], "a batch of max_events events", ids)

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
            pairs = sorted(map(_split, acknowledged))
            wanted = [(pairs[0][0], seq) for seq in range(1, len(pairs) + 1)] if pairs else []
            expect(pairs == wanted, f"the ids {wanted}", pairs)
            if pairs:
                status = await b.status(RUN)
                expect(status and _split(status.latest_id) == pairs[-1], f"latest_id {pairs[-1]}", status)

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
                new = [_split(event_id) for event_id in await publish_numbers(bridge, RUN, (1, 2))]
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
            epoch = _split(await bridge.publish(RUN, "n", 1))[0]
            # The clock of a server elsewhere may differ from ours, by less than an hour if anybody looks after it.
            tolerance = 0 if bench.virtual else 3_600_000
            expect(abs(epoch - before) <= tolerance, f"an epoch of about {before} (ms)", epoch)

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


# ---------------------------------------------------------------------------------------------- S4 no cursor


@check("S4")
def no_cursor_gives_everything_retained(bench: Bench) -> None:
    """None and 0-0 give exactly what is retained, from the earliest on, then the live tail, and no gap."""

    async def subscribed(a: StreamBridge, b: StreamBridge, published: int, cursor: str | None) -> None:
        run = f"{published} events, {cursor}"
        await publish_numbers(a, run, range(published))
        async with reading(bench, b, run, cursor) as reader:
            await reader.gets(list(range(published))[-4:])
            await reader.waits()
            await a.publish(run, "n", "live")
            await reader.gets(["live"])

    async def body() -> None:
        async with two_instances(bench, max_events=4) as (a, b):
            cases = itertools.product((1, 3, 4, 5, 9), (None, "0-0"))
            await asyncio.gather(*(subscribed(a, b, published, cursor) for published, cursor in cases))

    bench.run(body)


@check("S4")
def no_gap_before_anything_was_delivered(bench: Bench) -> None:
    """A subscriber without cursor that waits, and then finds the stream trimmed, begins at an event, not a gap."""

    async def body() -> None:
        async with two_instances(bench, max_events=3, max_buffered_events=2) as (a, b):
            for run, bridge, cursor in ((RUN, a, None), ("another run", b, "0-0"), ("a third run", b, None)):
                async with reading(bench, bridge, run, cursor) as reader:
                    await reader.waits()
                    ids = await publish_numbers(a, run, range(10))
                    await a.publish_end(run)
                    # Its first event may come out of a buffer; what follows then may be gone.
                    got = [item.id for item in await reader.rest() if isinstance(item, StreamEvent) and item.id]
                    start = ids.index(got[0]) if got and got[0] in ids else len(ids)
                    expect(got and got == ids[start : start + len(got)], f"a part of {ids} without a hole", got)

    bench.run(body)


# -------------------------------------------------------------------------------------------------- S5 cursor


@check("S5")
def a_retained_cursor_continues_exactly(bench: Bench) -> None:
    """At every retained event, and before the first, a subscriber gets exactly the events after it, then the tail."""

    async def body(plan: tuple[int, int, bool]) -> None:
        published, back, ended = plan
        async with two_instances(bench, max_events=5) as (a, b):
            ids = await publish_numbers(a, RUN, range(1, published + 1))
            epoch, _ = _split(ids[0])
            places = [f"{epoch}-0", *ids] if published <= 5 else ids[-5:]
            cursor = places[-1 - min(back, len(places) - 1)]
            after = list(range(_split(cursor)[1] + 1, published + 1))
            async with reading(bench, b, RUN, cursor) as reader:
                await reader.gets(after)
                if ended:
                    await a.publish_end(RUN)
                    await reader.ends()
                else:
                    await reader.waits()
                    await a.publish(RUN, "n", "live")
                    await reader.gets(["live"])

    bench.explore(st.tuples(st.integers(1, 9), st.integers(0, 6), st.booleans()), body)


@check("S5")
def the_place_before_event_1(bench: Bench) -> None:
    """<epoch>-0 is everything while event 1 is retained, END of an ended stream without events, a gap once trimmed."""

    async def body() -> None:
        async with bench.open(max_events=2) as bridge:
            await bridge.publish_end("empty")
            status = await bridge.status("empty")
            if status is None:
                unkept("an ended, empty stream", status)
            expect(_split(status.latest_id)[1] == 0, "latest_id <epoch>-0 before the first event", status)
            async with reading(bench, bridge, "empty", status.latest_id) as reader:
                await reader.ends()

            ids = await publish_numbers(bridge, RUN, (1, 2))
            start = f"{_split(ids[0])[0]}-0"
            await replays(bench, bridge, RUN, start, [1, 2])
            ids += await publish_numbers(bridge, RUN, (3,))
            async with reading(bench, bridge, RUN, start) as reader:
                await reader.is_gap(StreamGap(start, ids[1], ids[2]))

    bench.run(body)


# ----------------------------------------------------------------------------------------------------- S6 gap


def _cursors_that_are_not_retained(ids: list[str], retained: int) -> list[str]:
    epoch, last = _split(ids[-1])
    return [
        *ids[:-retained],
        f"{epoch}-0",
        f"{epoch}-{last + 1}",
        f"{epoch}-{10**19 - 1}",
        f"{epoch + 1}-{last}",
        f"{epoch + 1}-0",
        f"{epoch - 1}-{last}",
        f"{epoch - 1}-{last - 1}",
        f"{epoch - 1}-0",
        f"0-{last}",
        "1-1",
        f"{10**19 - 1}-{10**19 - 1}",
        f"{2**63}-{2**63}",
        f"{2**63 - 1}-{2**63 - 1}",
        f"0-{10**19 - 1}",
    ]


@check("S6")
def an_unretained_cursor_gives_one_gap(bench: Bench) -> None:
    """A cursor that was trimmed, is beyond the tail, or of another epoch gives one true gap, and no event at all."""

    async def body() -> None:
        async with two_instances(bench, max_events=3) as (a, b):
            ids = await publish_numbers(a, RUN, range(6))
            for ended in (False, True):
                if ended:
                    await a.publish_end(RUN)
                for i, cursor in enumerate(_cursors_that_are_not_retained(ids, 3)):
                    async with reading(bench, (a, b)[i % 2], RUN, cursor) as reader:
                        await reader.is_gap(StreamGap(cursor, ids[-3], ids[-1]))

    bench.run(body)


@check("S6")
def another_streams_cursor_is_a_gap(bench: Bench) -> None:
    """The id of another run's event, or of an earlier stream of this run, gives a gap though its seq is retained."""

    async def body() -> None:
        async with two_instances(bench) as (a, b):
            other = await publish_numbers(a, "another run", range(3))
            await bench.sleep(0.01)
            earlier = await publish_numbers(a, RUN, range(3))
            await a.cleanup(RUN)
            ids = await publish_numbers(b, RUN, range(3))
            for bridge in (a, b):
                for cursor in (*earlier, *other, f"{_split(earlier[0])[0]}-0"):
                    async with reading(bench, bridge, RUN, cursor) as reader:
                        await reader.is_gap(StreamGap(cursor, ids[0], ids[-1]))

    bench.run(body)


@check("S6")
def resuming_at_latest_goes_on(bench: Bench) -> None:
    """Who subscribes at a gap's latest id gets what comes next, END included."""

    async def body() -> None:
        async with two_instances(bench, max_events=2) as (a, b):
            ids = await publish_numbers(a, RUN, range(5))
            async with reading(bench, b, RUN, ids[0]) as reader:
                gap = await reader.item()
            if not isinstance(gap, StreamGap):
                unkept("a gap", gap)
            async with reading(bench, a, RUN, gap.latest_available_event_id) as reader:
                await reader.waits()
                await b.publish(RUN, "n", "next")
                await reader.gets(["next"])
                await b.publish_end(RUN)
                await reader.ends()

    bench.run(body)


@check("S6")
def a_reader_whose_next_event_is_gone_gets_a_gap(bench: Bench) -> None:
    """A subscriber that fell behind both store and buffer gets one gap after its last event, and nothing else."""

    async def body() -> None:
        async with (
            two_instances(bench, max_events=3, max_buffered_events=2) as (a, b),
            reading(bench, a, RUN) as here,
            reading(bench, b, RUN) as there,
        ):
            ids = await publish_numbers(a, RUN, range(1))
            for reader in (here, there):
                await reader.gets([0])
                await reader.waits()  # so it stands at the tail, and nothing is on its way to it
            ids += await publish_numbers(a, RUN, range(1, 40))
            for reader in (here, there):
                await reader.is_gap(StreamGap(ids[0], ids[-3], ids[-1]))

    bench.run(body)


# ------------------------------------------------------------------------------------------- S7 malformed cursor


@check("S7")
def a_malformed_cursor_gives_the_live_tail(bench: Bench) -> None:
    """Whatever text is no id never raises: the subscriber gets what is published from now on, and only that."""

    async def body() -> None:
        async with two_instances(bench) as bridges:
            await publish_numbers(bridges[0], RUN, range(3))
            readers = [
                Reader(bench, bridges[i % 2].subscribe(RUN, last_event_id=text, heartbeat_interval=0.2))
                for i, text in enumerate(MALFORMED)
            ]
            await asyncio.gather(*(reader.waits() for reader in readers))
            await bridges[0].publish(RUN, "n", "live")
            for text, reader in zip(MALFORMED, readers, strict=True):
                got = data_of([await reader.item()])
                expect(got == ["live"], f"the live tail only, at cursor {text!r}", got)
                await reader.leave()

    bench.run(body)


@check("S7")
def a_malformed_cursor_on_an_ended_stream_gives_all_of_it(bench: Bench) -> None:
    """On an ended stream a malformed cursor gives everything retained, then END."""

    async def body() -> None:
        async with two_instances(bench, max_events=2) as bridges:
            await _ended(bridges[0], RUN, 3)
            for i, text in enumerate(MALFORMED):
                async with reading(bench, bridges[i % 2], RUN, text) as reader:
                    rest = await reader.rest()
                    expect(data_of(rest) == [2, 3, END_SENTINEL], f"2, 3 and END at cursor {text!r}", rest)

    bench.run(body)


@check("S7")
def a_malformed_cursor_without_stream_is_no_cursor(bench: Bench) -> None:
    """With no stream there, a malformed cursor waits, and then gets the stream from its first event."""

    async def body() -> None:
        async with two_instances(bench) as bridges:
            readers = [
                Reader(bench, bridges[i % 2].subscribe(RUN, last_event_id=text, heartbeat_interval=0.2))
                for i, text in enumerate(MALFORMED)
            ]
            await asyncio.gather(*(reader.waits() for reader in readers))
            await publish_numbers(bridges[1], RUN, (1, 2))
            for text, reader in zip(MALFORMED, readers, strict=True):
                got = data_of(await reader.events(2))
                expect(got == [1, 2], f"the stream from its first event, at cursor {text!r}", got)
                await reader.leave()

    bench.run(body)


# ----------------------------------------------------------------------------------------------------- S8 END


@check("S8")
def end_comes_once_and_last(bench: Bench) -> None:
    """Present and later subscribers, at any cursor and on any replica, get END once, last, and never more."""

    async def body() -> None:
        async with two_instances(bench) as (a, b), reading(bench, a, RUN) as here, reading(bench, b, RUN) as there:
            first = await a.publish(RUN, "n", 1)
            await here.gets([1])
            await b.publish_end(RUN)
            await b.publish_end(RUN)
            await a.publish_end(RUN)
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
            wanted = [*sorted([*published[0], *published[1]], key=_split), END_SENTINEL.id]
            async with reading(bench, bridges[0], RUN) as late:
                for rest in (await seen, await late.rest()):
                    got = [item.id if isinstance(item, StreamEvent) else item for item in rest]
                    expect(got == wanted, f"what was acknowledged, {wanted[:-1]}, then END", rest)

    bench.explore(st.lists(st.integers(0, 12), min_size=2, max_size=4), body)


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
