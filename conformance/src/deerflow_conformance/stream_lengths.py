"""Checks of long runs: ids of more digits than one, batches and replays longer than one read (S1 to S3, S5, S6)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from deerflow_backends.streams import END_SENTINEL, StreamBridge, StreamGap
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check, expect, unkept
from deerflow_conformance.crowds import differences
from deerflow_conformance.stream_steps import RUN, split_id, status_of
from deerflow_conformance.subscribers import data_of, publish_numbers, reading, two_instances

#: What all subscribers of one check together may take, in seconds.
_SECONDS: Final = 45.0


async def _publish_batches(bridge: StreamBridge, run: str, numbers: range, size: int) -> list[str]:
    """Publish events whose data are these numbers, *size* at once, and return their ids."""
    ids: list[str] = []
    for start in range(0, len(numbers), size):
        ids += await bridge.publish_many(run, [("n", number) for number in numbers[start : start + size]])
    return ids


# ---------------------------------------------------------------------------------------------------- S1 order


@check("S1")
def a_large_batch_stays_together(bench: Bench) -> None:
    """Batches of hundreds of events, published by rivals on two replicas, lie whole one after the other."""
    sizes = {"one": 101, "two": 256, "three": 257, "four": 1_000}

    async def singly(bridge: StreamBridge) -> None:
        for number in range(20):
            await bridge.publish(RUN, "single", number)
            await asyncio.sleep(0)

    async def body() -> None:
        async with two_instances(bench, max_events=2_000) as (a, b), reading(bench, b, RUN) as present:
            seen = asyncio.create_task(bench.soon(present.rest(), _SECONDS))
            batches = [
                (a, b)[number % 2].publish_many(RUN, [(name, part) for part in range(size)])
                for number, (name, size) in enumerate(sizes.items())
            ]
            await asyncio.gather(singly(a), singly(b), *batches)
            await a.publish_end(RUN)
            *events, _ = await seen
            for name, size in sizes.items():
                places = [place for place, event in enumerate(events) if getattr(event, "event", None) == name]
                whole = places == list(range(places[0], places[0] + size)) if places else False
                expect(whole, f"the {size} events of one batch together", f"events at the places {places}")
                parts = data_of(events[places[0] : places[0] + size])
                expect(parts == list(range(size)), "the events of a batch in its order", parts)

    bench.run(body)


# ------------------------------------------------------------------------------------------------------- S2 ids


@check("S2")
def a_long_run_counts_on(bench: Bench) -> None:
    """Through more than a thousand events, one by one and in batches, one epoch and seq without holes."""

    async def body() -> None:
        async with two_instances(bench, max_events=300) as (a, b):
            ids: list[str] = []
            for number in range(150):
                ids += await publish_numbers((a, b)[number % 2], RUN, (number,))
            for number, size in enumerate((255, 256, 257, 100)):
                ids += await _publish_batches((a, b)[number % 2], RUN, range(size), size)
            epoch = split_id(ids[0])[0]
            for wanted, event_id in zip(range(1, len(ids) + 1), ids, strict=True):
                expect(split_id(event_id) == (epoch, wanted), f"the id {epoch}-{wanted}", event_id)
            for bridge in (a, b):
                status = await status_of(bridge, RUN)
                got = (status.earliest_id, status.latest_id, status.length)
                expect(got == (ids[-300], ids[-1], 300), f"{ids[-300]} to {ids[-1]}, 300 events", status)

    bench.run(body)


# --------------------------------------------------------------------------------- S3 nothing lost, nothing twice


@check("S3")
def a_replay_of_any_length_is_whole(bench: Bench) -> None:
    """Whether fewer events are waiting than one read takes, as many, or more: each comes once, then what is new."""
    count = 1_100
    # As many as a store or a client may read at once, one less and one more; and ids that get a digit more there.
    waiting = (count, 1_025, 1_024, 1_001, 1_000, 513, 512, 257, 256, 255, 101, 100, 1, 0)

    async def body() -> None:
        async with two_instances(bench, max_events=2 * count) as bridges:
            ids = await _publish_batches(bridges[0], RUN, range(count), 220)
            cursors = [ids[-1 - left] if left < count else None for left in waiting]
            tasks = [
                asyncio.create_task(_data_at(bench, bridges[number % 2], cursor))
                for number, cursor in enumerate(cursors)
            ]
            for number in range(count, count + 20):
                await publish_numbers(bridges[number % 2], RUN, (number,))
                await asyncio.sleep(0)
            await bridges[1].publish_end(RUN)
            for got, left in zip(await asyncio.gather(*tasks), waiting, strict=True):
                wanted = [*range(count - left, count + 20), END_SENTINEL]
                if got != wanted:
                    what = f"the events from number {wanted[0]} on, and END"
                    unkept(what, differences(wanted, got))

    bench.run(body)


async def _data_at(bench: Bench, bridge: StreamBridge, cursor: str | None) -> list[Any]:
    """Read from *cursor* to the end, with one deadline for all, and return the data, and what else there was."""
    async with reading(bench, bridge, RUN, cursor, _SECONDS + 15) as reader:

        async def read() -> list[Any]:
            return [item async for item in reader.iterator]

        return data_of(await bench.soon(read(), _SECONDS))


@check("S3")
def large_events_replay_among_small_ones(bench: Bench) -> None:
    """Events that are as large as what is read at once, larger, or just larger together, replay whole and in order."""
    kib = 1_024
    sizes = (10, 64 * kib, 64 * kib, 128 * kib, 9, 256 * kib, 256 * kib, 9, 256 * kib + 1, 600 * kib, 9, 1_024 * kib, 9)

    async def body() -> None:
        async with two_instances(bench) as (a, b):
            ids = [await a.publish(RUN, "n", "x" * (size - 2)) for size in sizes]  # with its quotes, *size* bytes
            for bridge in (a, b):
                for start in (0, 1, 4, 6, 9):
                    async with reading(bench, bridge, RUN, ids[start - 1] if start else None) as reader:
                        events = await reader.events(len(sizes) - start)
                        got = [len(event.data) + 2 for event in events]
                        expect(got == list(sizes[start:]), f"events of {sizes[start:]} bytes", f"events of {got}")
                        await reader.waits()

    bench.run(body)


# ------------------------------------------------------------------------------------------- S5 and S6 cursors

#: Lengths at which what is retained has ids of more digits than one kind, and how much is.
_LENGTHS: Final = (15, 105, 1_005)
_RETAINED: Final = 10


async def _grown(bridge: StreamBridge, ids: list[str], length: int) -> None:
    ids += await _publish_batches(bridge, RUN, range(len(ids), length), _RETAINED)


@check("S5")
def cursors_go_by_number(bench: Bench) -> None:
    """Where ids get a digit more, each that is retained continues exactly, and the tail is followed across it."""

    async def body() -> None:
        ids: list[str] = []
        async with two_instances(bench, max_events=_RETAINED) as (a, b):
            for length in _LENGTHS:
                nines = length - 6  # 9, 99, 999
                await _grown(a, ids, nines)
                async with reading(bench, b, RUN, ids[-1]) as follows:
                    await follows.waits()
                    await _grown(a, ids, length)
                    await follows.gets(range(nines, length))
                for seq in range(length - _RETAINED + 1, length + 1):
                    async with reading(bench, (a, b)[seq % 2], RUN, ids[seq - 1]) as reader:
                        await reader.gets(range(seq, length))
                        await reader.waits()

    bench.run(body)


@check("S6")
def gaps_go_by_number(bench: Bench) -> None:
    """Where ids get a digit more, each that is not retained is a gap, whatever its text has in common with others."""

    async def body() -> None:
        ids: list[str] = []
        async with two_instances(bench, max_events=_RETAINED) as (a, b):
            for length in _LENGTHS:
                await _grown(a, ids, length)
                earliest = length - _RETAINED + 1
                for seq in _not_retained(length, earliest):
                    cursor = f"{split_id(ids[0])[0]}-{seq}"
                    async with reading(bench, (a, b)[seq % 2], RUN, cursor) as reader:
                        await reader.is_gap(StreamGap(cursor, ids[earliest - 1], ids[-1]))

    bench.run(body)


def _not_retained(length: int, earliest: int) -> Sequence[int]:
    """Seqs before *earliest* and after *length* whose digits are the beginning of, or begin with, those between."""
    near = (earliest - 1, 1, 2, earliest // 10, length // 10, 9, 10, 99, 100, length + 1, 10 * length, 10 * earliest)
    return [seq for seq in dict.fromkeys(near) if not earliest <= seq <= length]


@check("S6")
def a_replay_that_is_overtaken_ends_in_a_gap(bench: Bench) -> None:
    """Who is so slow that what it is reading is trimmed gets what was read already, then one gap, and no hole."""
    count = 600

    async def body() -> None:
        async with two_instances(bench, max_events=count, max_buffered_events=50) as (a, b):
            ids = await _publish_batches(a, RUN, range(count), 200)
            async with reading(bench, b, RUN) as first, reading(bench, b, RUN, ids[9]) as later:
                readers = ((first, 10, 0), (later, 300, 10))
                for reader, taken, start in readers:
                    await reader.gets(range(start, start + taken))
                ids += await _publish_batches(a, RUN, range(count, 2 * count), 200)
                await a.publish_end(RUN)
                for reader, taken, start in readers:
                    *events, last = await reader.rest()
                    got = start + taken + len(events)
                    expect(data_of(events) == list(range(start + taken, got)), "events without a hole", events)
                    gap = StreamGap(ids[got - 1], ids[count], ids[-1])
                    expect(last == (END_SENTINEL if got == 2 * count else gap), gap, last)

    bench.run(body)
