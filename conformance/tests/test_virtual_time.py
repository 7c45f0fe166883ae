"""Virtual time: waiting costs nothing, and what would wait for ever says so."""

import asyncio
from collections.abc import Iterator

import pytest

from deerflow_conformance.virtual_time import START_MICROSECONDS, START_SECONDS, Deadlock, VirtualTimeLoop


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        yield runner


def test_time_jumps_to_the_next_timer(runner: asyncio.Runner) -> None:
    """Timers fire in the order of their times, each exactly at its time, and days of waiting are over at once."""
    loop = runner.get_loop()
    assert isinstance(loop, VirtualTimeLoop)

    async def body() -> list[tuple[str, float]]:
        fired: list[tuple[str, float]] = []

        async def wait(name: str, seconds: float) -> None:
            await asyncio.sleep(seconds)
            fired.append((name, loop.time() - START_SECONDS))

        await asyncio.gather(wait("c", 86_400 * 2.5), wait("a", 0.25), wait("b", 3_600))
        return fired

    assert runner.run(body()) == [("a", 0.25), ("b", 3_600), ("c", 216_000)]


def test_the_clock_goes_with_the_time(runner: asyncio.Runner) -> None:
    """The clock shows microseconds since 1970, stands still while code runs, and moves by what is waited."""
    loop = runner.get_loop()
    assert isinstance(loop, VirtualTimeLoop)

    async def body() -> list[int]:
        seen = [loop.clock(), loop.clock()]
        await asyncio.sleep(1.5)
        return [*seen, loop.clock()]

    start = START_MICROSECONDS + int(START_SECONDS) * 1_000_000
    assert runner.run(body()) == [start, start, start + 1_500_000]


def test_timeouts_work(runner: asyncio.Runner) -> None:
    """A timeout ends what takes longer, and nothing that takes less."""

    async def body() -> None:
        async with asyncio.timeout(10):
            await asyncio.sleep(9.99)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await asyncio.sleep(10.01)

    runner.run(body())


def test_ready_work_comes_before_time(runner: asyncio.Runner) -> None:
    """As long as something is ready, time stands still."""

    async def body() -> float:
        loop = asyncio.get_running_loop()
        timer = asyncio.ensure_future(asyncio.sleep(0.001))
        for _ in range(1_000):
            await asyncio.sleep(0)
        assert not timer.done()
        await timer
        return loop.time() - START_SECONDS

    assert runner.run(body()) == pytest.approx(0.001)


def test_waiting_for_nothing_is_a_deadlock(runner: asyncio.Runner) -> None:
    """With nothing ready and no timer the loop raises instead of hanging."""

    async def body() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Deadlock, match="no timer"):
        runner.run(body())


def test_threads_are_refused(runner: asyncio.Runner) -> None:
    """A thread lives in real time, so starting one raises and says what to do."""

    async def body() -> None:
        await asyncio.to_thread(print)

    with pytest.raises(RuntimeError, match="virtual_time=False"):
        runner.run(body())
