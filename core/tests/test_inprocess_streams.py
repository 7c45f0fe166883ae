"""What is particular to streams in process: sharing between event loops, the clock, sweeping."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from deerflow_backends.errors import Closed
from deerflow_backends.inprocess.connection import connect
from deerflow_backends.inprocess.streams import InProcessStreamBridge, open_stream_bridge
from deerflow_backends.streams import END_SENTINEL, HEARTBEAT_SENTINEL, StreamEvent, StreamOptions


class Turned:
    """A clock that tests turn by hand."""

    def __init__(self) -> None:
        self.now = 1_000_000_000_000_000

    def __call__(self) -> int:
        return self.now

    def turn(self, seconds: float) -> None:
        self.now += int(seconds * 1_000_000)


@asynccontextmanager
async def opened(
    namespace: str, clock: Turned | None = None, *, sweep_seconds: float = 60.0, **options: float
) -> AsyncIterator[InProcessStreamBridge]:
    async with (
        connect(namespace=namespace, clock=clock or Turned(), sweep_seconds=sweep_seconds) as connection,
        open_stream_bridge(connection, StreamOptions(**options)) as bridge,  # type: ignore[arg-type]
    ):
        yield bridge


@pytest.fixture
def namespace() -> str:
    return f"t{uuid.uuid4().hex}"


def test_other_event_loops_of_the_process_share_the_runs(namespace: str) -> None:
    """A run published in one thread's event loop is read live in another's (G6)."""
    reading = threading.Event()
    got: list[object] = []

    async def read() -> None:
        async with opened(namespace) as bridge:
            async for item in bridge.subscribe("run", heartbeat_interval=0.01):
                reading.set()
                if item is not HEARTBEAT_SENTINEL:
                    got.append(item.data if isinstance(item, StreamEvent) and item is not END_SENTINEL else item)

    async def write() -> None:
        async with opened(namespace) as bridge:
            for i in range(100):
                await bridge.publish("run", "e", i)
            await bridge.publish_end("run")

    thread = threading.Thread(target=asyncio.run, args=(read(),))
    thread.start()
    assert reading.wait(10)
    asyncio.run(write())
    thread.join(10)
    assert got == [*range(100), END_SENTINEL]


def test_data_stays_until_the_process_ends(namespace: str) -> None:
    """Closing every opening and opening again finds the run (G6), unless it is another namespace (G4)."""

    async def publish() -> str:
        async with opened(namespace) as bridge:
            return await bridge.publish("run", "e", 1)

    async def look(where: str) -> bool:
        async with opened(where) as bridge:
            return await bridge.stream_exists("run")

    asyncio.run(publish())
    assert asyncio.run(look(namespace))
    assert not asyncio.run(look(namespace + "x"))


def test_the_clock_decides(namespace: str) -> None:
    """Expiry, delayed cleanup and epochs go by the clock that was given (G10, S10, S13)."""

    async def body() -> None:
        clock = Turned()
        async with opened(namespace, clock, ttl_seconds=10) as bridge:
            first = await bridge.publish("run", "e", 1)
            assert first == "1000000000000-1"
            await bridge.cleanup("run", delay=5)
            clock.turn(4)
            assert await bridge.stream_exists("run")
            clock.turn(1)
            assert not await bridge.stream_exists("run")
            clock.now -= 60_000_000  # a clock set back: the next epoch is above the trace's all the same
            assert await bridge.publish("run", "e", 2) == "1000000000001-1"
            clock.turn(10)
            assert await bridge.status("run") is None

    asyncio.run(body())


def test_what_has_expired_is_freed(namespace: str) -> None:
    """The sweeper frees expired streams and traces that nobody asks for (G11)."""

    async def body() -> None:
        clock = Turned()
        async with connect(namespace=namespace, clock=clock, sweep_seconds=0.01) as connection:
            async with open_stream_bridge(connection, StreamOptions(ttl_seconds=10)) as bridge:
                for i in range(5):
                    await bridge.publish(f"run {i}", "e", 1)
                await bridge.cleanup("run 0")
                streams = connection.tables.by_capability["stream_bridge"].streams
                assert len(streams) == 5
                clock.turn(11)
                deadline = time.monotonic() + 10
                while streams and time.monotonic() < deadline:
                    await asyncio.sleep(0.01)
                assert not streams
            assert not connection.sweepers

    asyncio.run(body())


def test_bound_to_its_event_loop(namespace: str) -> None:
    """Used from another event loop it says so, instead of breaking either (architecture: life cycle)."""

    async def body() -> None:
        async with opened(namespace) as bridge:
            with pytest.raises(Closed, match="another event loop"):
                await asyncio.to_thread(asyncio.run, bridge.publish("run", "e", 1))

    asyncio.run(body())


def test_bound_to_its_process(namespace: str) -> None:
    """Used after a fork it says so (architecture: life cycle)."""

    async def body() -> None:
        async with opened(namespace) as bridge:
            pid = os.fork()
            if pid == 0:
                try:
                    await bridge.publish("run", "e", 1)
                except Closed:
                    os._exit(7)
                os._exit(1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7

    asyncio.run(body())


def test_a_clock_set_back_gives_no_id_twice(namespace: str) -> None:
    """After a stream expired, the next one has a higher epoch, whatever the clock says by then (S2)."""

    async def body() -> None:
        clock = Turned()
        async with opened(namespace, clock, ttl_seconds=1) as bridge:
            first = await bridge.publish("run", "e", 1)
            clock.turn(1)
            assert await bridge.status("run") is None
            clock.turn(-1)
            assert await bridge.publish("run", "e", 2) != first

    asyncio.run(body())


def test_an_event_loop_closed_over_its_bridge_harms_no_other(namespace: str) -> None:
    """A publish that was stored does not fail because another thread's event loop went away (G5)."""
    kept = opened(namespace)

    async def left_open() -> None:
        await kept.__aenter__()

    async def publish() -> str:
        async with opened(namespace) as bridge:
            await bridge.publish("run", "e", 1)
            await bridge.publish_end("run")
            return str(await bridge.status("run"))

    loop = asyncio.new_event_loop()
    loop.run_until_complete(left_open())
    for task in asyncio.all_tasks(loop):
        task.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.close()
    assert "ended=True" in asyncio.run(publish())
