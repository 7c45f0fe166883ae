"""Checks of what a stream keeps, and how long: S10."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from hypothesis import strategies as st

from deerflow_backends.codec import encode
from deerflow_backends.streams import (
    END_SENTINEL,
    StreamBridge,
    StreamStatus,
)
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check, expect
from deerflow_conformance.stream_steps import (
    RUN,
    epoch_of,
    is_gone,
    status_of,
    until_gone,
)
from deerflow_conformance.subscribers import (
    publish_numbers,
    reading,
    replays,
    two_instances,
)

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
    status = await status_of(bridge, RUN)
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

    async def body(most: int, counts: tuple[int, ...]) -> None:
        async with two_instances(bench, max_events=most) as (a, b):
            await asyncio.gather(*(_last_replay(bench, a, b, most, count) for count in counts))

    bench.run(partial(body, 4, (3, 4, 5, 9)))
    bench.run(partial(body, 100, (100, 101, 207)))


async def _last_replay(bench: Bench, a: StreamBridge, b: StreamBridge, most: int, count: int) -> None:
    await publish_numbers(a, f"singly {count}", range(count))
    for start in range(0, count, most):
        batch = [("n", number) for number in range(count)[start : start + most]]
        await a.publish_many(f"together {count}", batch)
    last = list(range(count))[-most:]
    for run in (f"singly {count}", f"together {count}"):
        status = await status_of(b, run)
        expect(status.length == len(last), f"{len(last)} events retained", status)
        await replays(bench, b, run, None, last)
        await a.publish_end(run)
        async with reading(bench, b, run) as reader:
            await reader.gets(last)  # END takes no event's place
            await reader.ends()


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
            await until_gone(bench, b, RUN)
            await is_gone(a, RUN)
            async with reading(bench, a, RUN) as reader:
                await reader.waits()
            again = await publish_numbers(b, RUN, (3,))
            expect(epoch_of(again[0]) > epoch_of(ids[0]), f"a new stream, its epoch above {ids[0]}", again)
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
                seen.append(await status_of(bridge, RUN))
                if bench.virtual:
                    left = seen[-1].expires_at.timestamp() - space.clock() / 1_000_000
                    expect(abs(left - 600) < 0.01, "600 s until expires_at", left)
                await bench.sleep(0.05)
            moments = [status.expires_at for status in seen]
            expect(moments[0] < moments[1] < moments[2], "expires_at to move on with each write", moments)
            async with reading(bench, bridge, RUN) as reader:
                await reader.rest()
            status = await status_of(bridge, RUN)
            expect(status.expires_at == moments[2], f"expires_at {moments[2]} after a read", status)

    bench.run(body)


@check("S10")
def a_ttl_may_be_weeks(bench: Bench) -> None:
    """A stream that is to be kept for weeks expires weeks later, and is there meanwhile."""
    ttl = 3_000_000.0  # more milliseconds than 31 bits hold

    async def body() -> None:
        space = bench.space(ttl_seconds=ttl)
        async with bench.open(space) as bridge:
            await publish_numbers(bridge, RUN, (1,))
            status = await status_of(bridge, RUN)
            left = status.expires_at.timestamp() - space.clock() / 1_000_000
            # As with epochs: the clock of a server elsewhere may differ from ours by less than an hour.
            expect(abs(left - ttl) < 3_600, f"about {ttl:,} s until expires_at", f"{left:,} s")
        await bench.sleep(0.9 * ttl if bench.virtual else 0)
        async with bench.open(space) as bridge:
            await replays(bench, bridge, RUN, None, [1])

    bench.run(body, virtual_seconds=ttl)
