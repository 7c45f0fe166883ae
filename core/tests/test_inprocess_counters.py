"""What is particular to counters in process: the clock, sweeping, sharing, closing. The kit tests the promises."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from deerflow_backends import Closed, CounterOptions, Counts, InvalidArgument, Recorded, inprocess
from deerflow_backends.inprocess import layout
from deerflow_backends.inprocess.connection import Connection
from deerflow_backends.inprocess.counters import InProcessModelCounters

OPTIONS = CounterOptions(bucket_seconds=10, keep_buckets=3, token_seconds=5)


class Odd(str):
    """Text that is equal to no other text."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return 1


class Turned:
    """A clock that tests turn by hand."""

    def __init__(self) -> None:
        self.now = 1_000_000_000_000_000

    def __call__(self) -> int:
        return self.now

    def turn(self, seconds: float) -> None:
        self.now += round(seconds * 1_000_000)


@asynccontextmanager
async def opened(
    clock: Turned, namespace: str | None = None, *, sweep_seconds: float = 60.0
) -> AsyncIterator[tuple[Connection, InProcessModelCounters]]:
    namespace = namespace or f"t{uuid.uuid4().hex}"
    async with (
        inprocess.connect(namespace=namespace, clock=clock, sweep_seconds=sweep_seconds) as connection,
        inprocess.open_counters(connection, OPTIONS) as counters,
    ):
        yield connection, counters


def test_windows_move_with_the_clock() -> None:
    """C4: each bucket leaves a window when the window no longer intersects it; totals keep everything."""

    async def test() -> None:
        clock = Turned()
        async with opened(clock) as (_, counters):
            await counters.record("m", calls=1)
            seen = []
            for _ in range(5):
                seen.append([(await counters.window("m", seconds=seconds)).calls for seconds in (1, 10, 30)])
                clock.turn(9.999999)
            assert seen == [[1, 1, 1], [1, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 1]]
            clock.turn(1)
            assert await counters.all_windows(seconds=30) == {}
            assert await counters.all_totals() == {"m": Counts(calls=1)}

    asyncio.run(test())


def test_windows_end_now_also_after_the_clock_went_back() -> None:
    """C4: a bucket that lies in the future is in no window before its time comes."""

    async def test() -> None:
        clock = Turned()
        async with opened(clock) as (_, counters):
            await counters.record("m", calls=1)
            clock.turn(-10)
            await counters.record("m", calls=10)
            assert await counters.window("m", seconds=30) == Counts(calls=10)
            assert await counters.all_windows(seconds=30) == {"m": Counts(calls=10)}
            clock.turn(10)
            assert await counters.window("m", seconds=30) == Counts(calls=11)

    asyncio.run(test())


def test_names_are_kept_as_plain_text() -> None:
    """G2: a subclass of str names what its text names."""

    async def test() -> None:
        async with opened(Turned()) as (_, counters):
            for _ in range(2):
                await counters.record(Odd("m"), calls=1, token=Odd("t"))
            assert await counters.totals(Odd("m")) == await counters.window(Odd("m"), seconds=1) == Counts(calls=1)
            assert [type(name) for name in await counters.all_totals()] == [str]
            await counters.reset(Odd("m"))
            assert await counters.all_totals() == {}

    asyncio.run(test())


def test_a_token_is_remembered_for_its_time() -> None:
    """C2: the same token counts once within ``token_seconds``, for whatever models, and again afterwards."""

    async def test() -> None:
        clock = Turned()
        async with opened(clock) as (_, counters):
            await counters.record("m", calls=1, token="t")
            clock.turn(4.999999)
            await counters.record("m", calls=1, token="t")
            await counters.record_many([Recorded("n", calls=1)], token="t")
            assert await counters.all_totals() == {"m": Counts(calls=1)}
            clock.turn(0.000001)
            await counters.record("m", calls=1, token="t")
            assert await counters.totals("m") == Counts(calls=2)

    asyncio.run(test())


def test_what_has_expired_is_freed() -> None:
    """G11: old buckets, forgotten tokens and what a reset left are swept; totals stay."""

    async def test() -> None:
        clock = Turned()
        async with opened(clock, sweep_seconds=0.001) as (connection, counters):
            for number in range(20):
                await counters.record("m", calls=1, token=str(number))
                await counters.record("n", calls=1)
                clock.turn(10)
            clock.turn(40)
            async with asyncio.timeout(30):
                while layout.owned(connection.tables, layout.COUNTERS) > 2:
                    await asyncio.sleep(0.001)
            assert await counters.all_totals() == {"m": Counts(calls=20), "n": Counts(calls=20)}
            await counters.record("m", calls=1)
            for name in ("m", "n"):
                await counters.reset(name)
            async with asyncio.timeout(30):
                while connection.tables.by_capability[layout.COUNTERS].buckets:
                    await asyncio.sleep(0.001)
            assert layout.owned(connection.tables, layout.COUNTERS) == 0

    asyncio.run(test())


def test_what_is_still_reached_is_not_swept() -> None:
    """C4: sweeping takes nothing that a window or a token still needs."""

    async def test() -> None:
        clock = Turned()
        async with opened(clock) as (_, counters):
            await counters.record("m", calls=1, token="t")
            clock.turn(4)
            counters.sweep()
            await counters.record("m", calls=1, token="t")
            clock.turn(35)
            counters.sweep()
            assert await counters.window("m", seconds=30) == Counts(calls=1)

    asyncio.run(test())


def test_a_closed_opening_sweeps_no_more() -> None:
    """G9: nothing of it stays with the connection."""

    async def test() -> None:
        async with inprocess.connect(namespace=f"t{uuid.uuid4().hex}") as connection:
            async with inprocess.open_counters(connection):
                assert len(connection.sweepers) == 1
            assert connection.sweepers == []

    asyncio.run(test())


def test_writers_in_several_event_loops_are_summed() -> None:
    """C1: openings in threads of their own count into the same sums."""
    namespace, clock = f"t{uuid.uuid4().hex}", Turned()

    async def write() -> None:
        async with opened(clock, namespace) as (_, counters):
            for _ in range(500):
                await counters.record("m", calls=1, successes=1, positive=-1)

    async def read() -> Counts:
        async with opened(clock, namespace) as (_, counters):
            return await counters.totals("m")

    writers = [threading.Thread(target=lambda: asyncio.run(write())) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert asyncio.run(read()) == Counts(calls=2_000, successes=2_000)


def test_a_bad_window_or_token_is_refused() -> None:
    """C2, C4: a window longer than what is kept, and a token that is none."""

    async def test() -> None:
        async with opened(Turned()) as (_, counters):
            with pytest.raises(InvalidArgument, match="seconds must be at most 30"):
                await counters.window("m", seconds=31)
            with pytest.raises(InvalidArgument, match="seconds"):
                await counters.all_windows(seconds=0)
            for token in ("", "x" * 65):
                with pytest.raises(InvalidArgument, match="token"):
                    await counters.record("m", calls=1, token=token)
            assert await counters.all_totals() == {}

    asyncio.run(test())


def test_after_closing_nothing_works() -> None:
    """G9: every call raises `Closed`."""

    async def test() -> None:
        async with opened(Turned()) as (_, counters):
            pass
        calls = [
            counters.record("m"),
            counters.record_many([]),
            counters.totals("m"),
            counters.all_totals(),
            counters.window("m", seconds=1),
            counters.all_windows(seconds=1),
            counters.reset("m"),
            counters.ping(),
        ]
        for call in calls:
            with pytest.raises(Closed):
                await call

    asyncio.run(test())
