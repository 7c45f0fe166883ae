"""Checks of where a subscriber begins: without cursor, at one, at one that is gone or malformed (S4 to S7)."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable
from typing import TypeVar

from hypothesis import strategies as st

from deerflow_backends.streams import (
    END_SENTINEL,
    StreamBridge,
    StreamEvent,
    StreamGap,
)
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check, expect, unkept
from deerflow_conformance.expectations import accepted
from deerflow_conformance.stream_programs import MALFORMED
from deerflow_conformance.stream_steps import (
    RUN,
    split_id,
)
from deerflow_conformance.subscribers import (
    Reader,
    data_of,
    publish_numbers,
    reading,
    replays,
    two_instances,
)

T = TypeVar("T")

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
            epoch, _ = split_id(ids[0])
            places = [f"{epoch}-0", *ids] if published <= 5 else ids[-5:]
            cursor = places[-1 - min(back, len(places) - 1)]
            after = list(range(split_id(cursor)[1] + 1, published + 1))
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
            expect(split_id(status.latest_id)[1] == 0, "latest_id <epoch>-0 before the first event", status)
            async with reading(bench, bridge, "empty", status.latest_id) as reader:
                await reader.ends()

            ids = await publish_numbers(bridge, RUN, (1, 2))
            start = f"{split_id(ids[0])[0]}-0"
            await replays(bench, bridge, RUN, start, [1, 2])
            ids += await publish_numbers(bridge, RUN, (3,))
            async with reading(bench, bridge, RUN, start) as reader:
                await reader.is_gap(StreamGap(start, ids[1], ids[2]))

    bench.run(body)


# ----------------------------------------------------------------------------------------------------- S6 gap


def _cursors_that_are_not_retained(ids: list[str], retained: int) -> list[str]:
    epoch, last = split_id(ids[-1])
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
                for cursor in (*earlier, *other, f"{split_id(earlier[0])[0]}-0"):
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


async def _taken(text: str, reading: Awaitable[T]) -> T:
    """What a subscriber at that cursor reads; a malformed one never raises."""
    return await accepted(reading, f"the malformed cursor {text!r:.100}")


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
            await asyncio.gather(
                *(_taken(text, reader.waits()) for text, reader in zip(MALFORMED, readers, strict=True))
            )
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
            await publish_numbers(bridges[0], RUN, (1, 2, 3))
            await bridges[0].publish_end(RUN)
            for i, text in enumerate(MALFORMED):
                async with reading(bench, bridges[i % 2], RUN, text) as reader:
                    rest = await _taken(text, reader.rest())
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
            await asyncio.gather(
                *(_taken(text, reader.waits()) for text, reader in zip(MALFORMED, readers, strict=True))
            )
            await publish_numbers(bridges[1], RUN, (1, 2))
            for text, reader in zip(MALFORMED, readers, strict=True):
                got = data_of(await reader.events(2))
                expect(got == [1, 2], f"the stream from its first event, at cursor {text!r}", got)
                await reader.leave()

    bench.run(body)
