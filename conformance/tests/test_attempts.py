"""Attempts at writes are judged by what was heard of each: what did otherwise is found, whenever it did so."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from deerflow_backends.errors import BackendUnavailable, Conflict
from deerflow_conformance.attempts import Attempts, make_all
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import Unkept
from deerflow_conformance.networks import Network
from deerflow_conformance.once import lose_later
from deerflow_conformance.promises import Capability
from deerflow_conformance.reference import REFERENCE
from deerflow_conformance.spaces import Space

Way = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]


class Odd:
    """A capability whose calls are all made in some *way*."""

    def __init__(self, opened: Any, way: Way) -> None:
        self._opened, self._way = opened, way

    def __getattr__(self, name: str) -> Any:
        return lambda *positional, **named: self._way(lambda: getattr(self._opened, name)(*positional, **named))


def judge(way: Way, capability: Capability = "counters", turn: int = 0) -> None:
    """Judge attempts of one kind of write that are made in some *way*."""
    (conformance,) = (one for one in REFERENCE if one.capability == capability)
    bench = Bench(conformance)

    async def body() -> None:
        async with bench.open() as observer:
            attempts = Attempts(bench)
            made = await attempts.prepare(observer, "in a test", turn=turn)
            await make_all(Odd(observer, way), made)
            await attempts.judge(observer)

    try:
        bench.run(body)
    finally:
        bench.close()


async def well(call: Callable[[], Awaitable[Any]]) -> Any:
    return await call()


async def unheard(call: Callable[[], Awaitable[Any]]) -> Any:
    await call()
    raise BackendUnavailable("gone", maybe_written=True)


async def unheard_and_undone(call: Callable[[], Awaitable[Any]]) -> Any:
    raise BackendUnavailable("gone", maybe_written=True)


async def failed(call: Callable[[], Awaitable[Any]]) -> Any:
    raise BackendUnavailable("gone")


async def done_twice(call: Callable[[], Awaitable[Any]]) -> Any:
    await call()
    return await call()


async def not_done(call: Callable[[], Awaitable[Any]]) -> Any:
    return None


async def done_though_it_failed(call: Callable[[], Awaitable[Any]]) -> Any:
    await call()
    raise BackendUnavailable("gone")


async def done_twice_unheard(call: Callable[[], Awaitable[Any]]) -> Any:
    await done_twice(call)
    raise BackendUnavailable("gone", maybe_written=True)


_later: set[asyncio.Task[Any]] = set()


def _do_later(call: Callable[[], Awaitable[Any]]) -> None:
    async def late() -> None:
        await asyncio.sleep(0.5)
        await call()

    task = asyncio.create_task(late())
    _later.add(task)
    task.add_done_callback(_later.discard)


async def done_once_more_later(call: Callable[[], Awaitable[Any]]) -> Any:
    answer = await call()
    _do_later(call)
    return answer


async def done_later_though_it_failed(call: Callable[[], Awaitable[Any]]) -> Any:
    _do_later(call)
    raise BackendUnavailable("gone")


async def refused(call: Callable[[], Awaitable[Any]]) -> Any:
    raise Conflict("it exists already")


@pytest.mark.parametrize("way", [well, unheard, unheard_and_undone, failed])
def test_what_does_as_it_says_passes(way: Way) -> None:
    """A write that returned is done, a failed one is not, and of one that may be done either is fine."""
    judge(way)


@pytest.mark.parametrize(
    "way",
    [
        done_twice,
        not_done,
        done_though_it_failed,
        done_twice_unheard,
        done_once_more_later,
        done_later_though_it_failed,
        refused,
    ],
)
def test_what_does_otherwise_is_found(way: Way) -> None:
    """Done twice, not at all, against what was said, or later: none of it passes."""
    with pytest.raises(Unkept):
        judge(way)


async def stuck(call: Callable[[], Awaitable[Any]]) -> Any:
    await asyncio.sleep(3_600)


@pytest.mark.parametrize("way", [refused, stuck])
def test_what_went_wrong_knows_its_place(way: Way) -> None:
    """The finding leads to the line that raised, or at which the call was still waiting."""
    with pytest.raises(Unkept) as found:
        judge(way)
    assert found.value.__cause__ is not None
    assert way.__name__ in [frame.name for frame in traceback.extract_tb(found.value.__cause__.__traceback__)]


@pytest.mark.parametrize(("capability", "turns"), [("stream_bridge", 6), ("memory", 11), ("thread_index", 6)])
def test_a_retry_that_meets_its_own_effect_is_found(capability: Capability, turns: int) -> None:
    """Of kinds that cannot be done twice unnoticed, the second one's answer, or its error, shows that it was one."""
    noticed = 0
    for turn in range(turns):
        judge(well, capability, turn)
        try:
            judge(done_twice, capability, turn)
        except Unkept:
            noticed += 1
    assert noticed >= turns // 2


def test_a_later_request_is_lost() -> None:
    """Of requests that go one after the other exactly that is lost which was asked for, and the server did it."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            heard.append(line)
            writer.write(line)
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        bench = Bench(REFERENCE[0])
        network = Network(bench.space())
        try:
            space: Space = network.space
            there = space.via(f"tcp://{host}:{port}").removeprefix("tcp://").split(":")
            reader, writer = await asyncio.open_connection(there[0], int(there[1]))
            losing = asyncio.create_task(lose_later(network, 1, Network.lose_reply))
            await asyncio.sleep(0)
            writer.write(b"one\n")
            assert await reader.readline() == b"one\n"
            writer.write(b"two\n")
            assert await reader.readline() == b""
            assert (await losing).happened
            assert heard == [b"one\n", b"two\n"]
            writer.close()
        finally:
            await network.close()
            server.close()
            bench.close()

    asyncio.run(main())
