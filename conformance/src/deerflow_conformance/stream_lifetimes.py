"""Checks of the stream bridge: waiting, retention, cleanup, disappearance and connections (S9 to S15)."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final

from hypothesis import strategies as st

from deerflow_backends.codec import encode
from deerflow_backends.errors import InvalidArgument, StreamEnded
from deerflow_backends.streams import (
    END_SENTINEL,
    HEARTBEAT_SENTINEL,
    StreamBridge,
    StreamEvent,
    StreamGap,
    StreamStatus,
)
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check, expect, unkept
from deerflow_conformance.isolation import open_handles
from deerflow_conformance.stream_programs import MALFORMED
from deerflow_conformance.subscribers import (
    Reader,
    data_of,
    publish_numbers,
    reading,
    replays,
    two_instances,
)

RUN: Final = "run:1"


def _start_of(event_id: str) -> str:
    return event_id.partition("-")[0] + "-0"


def _epoch_of(event_id: str) -> int:
    return int(event_id.partition("-")[0])


def _news_seconds(bench: Bench) -> float:
    """How long a subscriber may take to learn of a disappearance: real time is not judged to the second."""
    return 3.0 if bench.virtual else 15.0


async def _status(bridge: StreamBridge, run_id: str) -> StreamStatus:
    status = await bridge.status(run_id)
    if status is None:
        unkept(f"a stream of {run_id!r}", status)
    return status


async def _is_gone(bridge: StreamBridge, run_id: str) -> None:
    status, exists = await bridge.status(run_id), await bridge.stream_exists(run_id)
    expect(status is None and exists is False, f"{run_id!r}: status None, stream_exists False", (status, exists))


async def _until(bench: Bench, condition: Callable[[], Awaitable[bool]], seconds: float = 15.0) -> None:
    """Wait until *condition* holds: what is due at the server happens then, not at our moment."""

    async def holding() -> None:
        while not await condition():
            await bench.sleep(0.02)

    await bench.soon(holding(), seconds)


async def _until_gone(bench: Bench, bridge: StreamBridge, run_id: str) -> None:
    await _until(bench, lambda: _has_no_status(bridge, run_id), bench.short_ttl + 15)


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
            await reader.gets([1])
            await reader.waits()

    bench.run(body)


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

            await _until(bench, heard, 30)
            for task in counting:
                task.cancel()
            await asyncio.wait(counting)
            for task in counting:
                expect(task.cancelled(), "heartbeats until the end", task)
            expect(beats[0] > beats[1], "more heartbeats at the shorter interval", beats)

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
                iterator = bridge.subscribe(run_id, **arguments)
                try:
                    got = await bench.soon(anext(iterator))
                except InvalidArgument:
                    continue
                unkept(f"InvalidArgument for subscribe({run_id!r}, {arguments})", got)

    bench.run(body)


# ---------------------------------------------------------------------------------------------------- S10 retention


@check("S10")
def exactly_what_fits_is_retained(bench: Bench) -> None:
    """Exactly the longest tail within max_events and max_bytes replays, at least one event; END does not count."""

    async def body(plan: tuple[int, int, list[int], bool]) -> None:
        max_events, max_bytes, sizes, batched = plan
        async with two_instances(bench, max_events=max_events, max_bytes=max_bytes) as (a, b):
            data = [str(i % 10) * (size - 2) for i, size in enumerate(sizes)]  # with its quotes, *size* bytes
            if batched:
                for start in range(0, len(data), max_events):
                    await a.publish_many(RUN, [("n", one) for one in data[start : start + max_events]])
            else:
                for one in data:
                    await a.publish(RUN, "n", one)
            kept = _fitting(data, max_events, max_bytes)
            await _retains(bench, b, kept)
            await a.publish_end(RUN)
            await _retains(bench, b, kept, END_SENTINEL)

    sizes = st.lists(st.sampled_from((2, 3, 9, 10, 11, 40)), min_size=1, max_size=8)
    bench.explore(st.tuples(st.integers(1, 4), st.sampled_from((1, 20, 30)), sizes, st.booleans()), body)


def _fitting(data: list[str], max_events: int, max_bytes: int) -> list[str]:
    kept = data[-max_events:]
    while len(kept) > 1 and sum(len(encode(one)) for one in kept) > max_bytes:
        kept = kept[1:]
    return kept


async def _retains(bench: Bench, bridge: StreamBridge, data: list[str], *then: Any) -> None:
    status = await _status(bridge, RUN)
    expect(status.length == len(data), f"{len(data)} events retained", status)
    async with reading(bench, bridge, RUN) as reader:
        events = await reader.gets(data)
        expect(status.earliest_id == events[0].id, f"earliest_id {events[0].id}", status)
        if then:
            await reader.ends()
        else:
            await reader.waits()


@check("S10")
def the_last_max_events_replay(bench: Bench) -> None:
    """Of more than max_events events, published singly or together, exactly the last max_events replay."""

    async def body() -> None:
        async with two_instances(bench, max_events=4) as (a, b):
            await asyncio.gather(*(_last_four_replay(bench, a, b, count) for count in (3, 4, 5, 9)))

    bench.run(body)


async def _last_four_replay(bench: Bench, a: StreamBridge, b: StreamBridge, count: int) -> None:
    await publish_numbers(a, f"singly {count}", range(count))
    for start in range(0, count, 4):
        batch = [("n", number) for number in range(count)[start : start + 4]]
        await a.publish_many(f"together {count}", batch)
    for run in (f"singly {count}", f"together {count}"):
        status = await _status(b, run)
        expect(status.length == min(count, 4), f"{min(count, 4)} events retained", status)
        await replays(bench, b, run, None, list(range(count))[-4:])


@check("S10")
def bytes_count_as_encoded(bench: Bench) -> None:
    """max_bytes counts the data as the codec encodes it: text as UTF-8, not characters, and no names."""

    async def body() -> None:
        async with bench.open(max_bytes=24) as bridge:
            for text in ("é" * 5, "ü" * 5):  # 12 bytes each with their quotes: together exactly max_bytes
                await bridge.publish(RUN, "a long name that does not count" * 10, text)
            await replays(bench, bridge, RUN, None, ["é" * 5, "ü" * 5])
            await bridge.publish("run:2", "n", "é" * 5)
            await bridge.publish("run:2", "n", "ü" * 5 + "u")
            await replays(bench, bridge, "run:2", None, ["ü" * 5 + "u"])

    bench.run(body)


@check("S10", waits=True)
def a_stream_expires_whole(bench: Bench) -> None:
    """ttl_seconds after its last write a stream is gone, whole; until then each event stays, however old."""

    async def body() -> None:
        ttl = bench.short_ttl
        space = bench.space(ttl_seconds=ttl)
        async with bench.open(space) as a, bench.replica(space) as b:
            ids = await publish_numbers(a, RUN, (1,))
            await bench.sleep(0.7 * ttl)
            sent_at = asyncio.get_running_loop().time()
            ids += await publish_numbers(a, RUN, (2,))
            await bench.sleep(0.7 * ttl)  # event 1 is older than the ttl, the stream's last write is not
            status = await b.status(RUN)
            if asyncio.get_running_loop().time() < sent_at + ttl:
                expect(status and status.earliest_id == ids[0], "both events: single events never expire", status)
            expect(status is None or status.length == 2, "a whole stream or none", status)
            await _until_gone(bench, b, RUN)
            await _is_gone(a, RUN)
            async with reading(bench, a, RUN) as reader:
                await reader.waits()
            again = await publish_numbers(b, RUN, (3,))
            expect(_epoch_of(again[0]) > _epoch_of(ids[0]), f"a new stream, its epoch above {ids[0]}", again)
            await replays(bench, a, RUN, None, [3])

    bench.run(body)


@check("S10")
def expires_at_moves_with_writes(bench: Bench) -> None:
    """expires_at is ttl_seconds after the last write: each event and END move it on, reading does not."""

    async def body() -> None:
        space = bench.space(ttl_seconds=600)
        async with bench.open(space) as bridge:
            seen: list[StreamStatus] = []
            for write in (bridge.publish(RUN, "n", 1), bridge.publish(RUN, "n", 2), bridge.publish_end(RUN)):
                await write
                seen.append(await _status(bridge, RUN))
                if bench.virtual:
                    left = seen[-1].expires_at.timestamp() - space.clock() / 1_000_000
                    expect(abs(left - 600) < 0.01, "600 s until expires_at", left)
                await bench.sleep(0.05)
            moments = [status.expires_at for status in seen]
            expect(moments[0] < moments[1] < moments[2], "expires_at to move on with each write", moments)
            async with reading(bench, bridge, RUN) as reader:
                await reader.rest()
            status = await _status(bridge, RUN)
            expect(status.expires_at == moments[2], f"expires_at {moments[2]} after a read", status)

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
                await _is_gone(bridge, RUN)
            still = await bench.owned(space)
            expect(still == owned, f"as much stored as before, {owned}", still)

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


# ------------------------------------------------------------------------------------------------------ S13 cleanup


@check("S13")
def cleaning_an_ended_run(bench: Bench) -> None:
    """It hides all at once; publishing is refused; no cursor or the last id gives END, every other cursor a gap."""

    async def body() -> None:
        async with two_instances(bench) as bridges:
            for count in (0, 1, 3):
                await _cleaned_after_end(bench, bridges, f"run of {count}", count)

    bench.run(body)


async def _cleaned_after_end(bench: Bench, bridges: tuple[StreamBridge, StreamBridge], run: str, count: int) -> None:
    ids = await publish_numbers(bridges[0], run, range(count))
    await bridges[0].publish_end(run)
    latest = (await _status(bridges[0], run)).latest_id
    epoch = _epoch_of(latest)
    await bridges[1].cleanup(run)
    for bridge in bridges:
        await _is_gone(bridge, run)
        for cursor in (None, "0-0", "malformed", latest):
            async with reading(bench, bridge, run, cursor) as reader:
                await reader.ends()
        for cursor in {*ids, f"{epoch}-0", f"{epoch}-99", f"{epoch + 1}-{count}", "1-1"} - {latest}:
            async with reading(bench, bridge, run, cursor) as reader:
                await reader.is_gap(StreamGap(cursor, None, latest))
        for events in ([("n", 1)], [("n", 1), ("n", 2)]):
            await _is_ended(bridge, run, events)
        await bridge.publish_end(run)
        await bridge.cleanup(run)
        await _is_gone(bridge, run)


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
            await _is_gone(b, RUN)
            for i, cursor in enumerate((*ids[:-1], _start_of(ids[0]), f"{_epoch_of(ids[0]) + 1}-1")):
                async with reading(bench, (a, b)[i % 2], RUN, cursor) as reader:
                    await reader.is_gap(StreamGap(cursor, None, ids[-1]))
            await _waiters_get_the_new_stream(bench, (a, b), ids[-1])

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
        expect(_epoch_of(ids[0]) > _epoch_of(last), f"an epoch above that of {last}", ids)
        expect(ids[0].endswith("-1"), "seq 1 in a new stream", ids)
        for reader in waiting:
            events = await reader.gets([4, 5])
            expect([event.id for event in events] == ids, f"the events {ids}", events)
    async with reading(bench, bridges[0], RUN, last) as late:
        await late.is_gap(StreamGap(last, *ids))


@check("S13")
def ending_what_a_cleanup_left(bench: Bench) -> None:
    """publish_end on the trace of an unended run ends it: who waited there gets END, and publishing is refused."""

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
            await _is_ended(a, RUN, [("n", 3)])

    bench.run(body)


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
    await publish_numbers(a, case, (1, 2))
    first, second = (late, soon) if case == "a second, earlier one" else (soon, late)
    await a.cleanup(case, delay=first)
    before = await _status(b, case)
    count = 2
    if case.startswith("a second"):
        await b.cleanup(case, delay=second)
    elif case == "publishing":
        await publish_numbers(b, case, (3,))
        count = 3
    else:
        await b.publish_end(case)
    status = await b.status(case)
    if asyncio.get_running_loop().time() < started + soon:
        expect(status and status.length == count, f"all {count} events until the cleanup is due", status)
    if status is not None:
        expect(status.expires_at <= before.expires_at, f"expires_at {before.expires_at} or earlier", status)
    await bench.sleep(soon)
    await _until(bench, lambda: _has_no_status(b, case), 10 if bench.virtual else 15)
    await _is_gone(a, case)


async def _has_no_status(bridge: StreamBridge, run_id: str) -> bool:
    return await bridge.status(run_id) is None


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
            await _is_gone(a, RUN)
            await publish_numbers(a, RUN, (2, 3))
            await replays(bench, b, RUN, None, [2, 3])
            await bench.sleep(2 * delay)
            status = await _status(b, RUN)
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
            await _is_gone(a, RUN)
        await bench.sleep(2 * delay)
        async with bench.open(space) as c:
            await _until(bench, lambda: _has_no_status(c, "run:2"))
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

                await _until(bench, accepted, ttl + 15)
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
            await _is_gone(bridge, RUN)
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
