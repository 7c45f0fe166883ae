"""Parting with servers: silent ones, ones without keys, and who held a way to them: what a review found, mended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from redis.asyncio.connection import AbstractConnection

import deerflow_redis
from deerflow_redis import wires
from deerflow_redis.commands import Command
from deerflow_redis.failures import NotSent
from deerflow_redis.pipes import Pipe
from deerflow_redis.topologies import Address
from deerflow_redis.transport import Lane
from redis_readers import opened_bridge
from redis_servers import PATIENCE_SECONDS, Server


@pytest.fixture(scope="module")
def other_server() -> Iterator[Server]:
    """One more."""
    with Server() as started:
        yield started


async def until(condition: Callable[[], bool]) -> None:
    """Look until *condition* holds."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def freezable(server: Server) -> AsyncIterator[tuple[str, Callable[[], None]]]:
    """Put a relay before *server*; the function makes present connections silent for good, and takes nothing more."""
    generation = [asyncio.Event()]
    generation[0].set()
    tasks: set[asyncio.Task[Any]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flowing: asyncio.Event) -> None:
        while chunk := await reader.read(4_096):
            await flowing.wait()
            writer.write(chunk)
            await writer.drain()
        writer.close()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(relay(reader, writer, generation[0])))

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flowing: asyncio.Event) -> None:
        there = await asyncio.open_connection("127.0.0.1", server.port, limit=4_096)
        try:
            with suppress(ConnectionError):
                await asyncio.gather(pump(reader, there[1], flowing), pump(there[0], writer, flowing))
        finally:
            for one in (writer, there[1]):
                one.transport.abort()

    def freeze() -> None:
        generation[0].clear()
        generation[0] = asyncio.Event()
        generation[0].set()

    listening = await asyncio.start_server(connected, "127.0.0.1", 0, limit=4_096)
    try:
        yield f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}", freeze
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def test_a_large_batch_to_a_silent_peer(server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a host that has gone silent does not take any more keeps nobody from connecting anew and writing (G7)."""
    monkeypatch.setattr(wires, "_SLOWEST_BYTES_PER_SECOND", 2**26)  # large batches get little further time

    async def main() -> None:
        async with (
            freezable(server) as (url, freeze),
            opened_bridge(url, namespace, timeout_seconds=1, publish_timeout_seconds=PATIENCE_SECONDS) as bridge,
        ):
            await bridge.publish("run", "n", 0)
            freeze()
            large = [asyncio.create_task(bridge.publish(f"large{n}", "n", "x" * 3_000_000)) for n in range(3)]
            await asyncio.sleep(0.1)
            await bridge.publish("run", "n", 1)
            await asyncio.gather(*large)
            for run_id, count in (("run", 2), ("large0", 1), ("large1", 1), ("large2", 1)):
                assert server.execute("XLEN", f"{namespace}:s:{{{run_id}}}:events") == count

    asyncio.run(main())


def test_a_pipe_that_was_closed(server: Server, namespace: str) -> None:
    """Who still has a pipe that somebody closed is told at once, and can look for another way (G7)."""

    async def main() -> None:
        async with deerflow_redis.connect(url=server.url, namespace=namespace) as connection:
            for part in (Pipe.close, Pipe.retire):
                pipe = Pipe(connection.servers, None, timeout_seconds=5, wait_replicas=0)
                assert await pipe.send(Command((b"PING",))) == b"PONG"
                await part(pipe)
                async with asyncio.timeout(PATIENCE_SECONDS):
                    with pytest.raises(NotSent):
                        await pipe.send(Command((b"PING",)))

    asyncio.run(main())


class _Moved:
    """Servers of which the first has all keys by now."""

    def __init__(self, by_address: dict[Address, deerflow_redis.Connection]) -> None:
        self._by_address = by_address
        self._home = next(iter(by_address))

    async def locate(self, key: bytes | None) -> Address | None:
        return self._home

    async def primaries(self) -> list[Address | None]:
        return [self._home]

    async def refresh(self) -> None:
        await asyncio.sleep(0)

    async def close(self) -> None:
        pass

    async def connect(self, address: Address | None) -> AbstractConnection:
        assert address is not None
        return await self._by_address[address].servers.connect(None)


@asynccontextmanager
async def moved(server: Server, gone: Server, namespace: str) -> AsyncIterator[tuple[Lane, Address]]:
    """Give a lane to two servers of which the second has no keys any more, and that one's address."""
    async with (
        deerflow_redis.connect(url=server.url, namespace=namespace) as to_server,
        deerflow_redis.connect(url=gone.url, namespace=namespace) as to_gone,
    ):
        here, there = Address("127.0.0.1", server.port), Address("127.0.0.1", gone.port)
        lane = Lane(_Moved({here: to_server, there: to_gone}), "here", timeout_seconds=PATIENCE_SECONDS)
        try:
            await asyncio.gather(*(lane.send(Command((b"PING",)), at=at) for at in (here, there)))
            yield lane, there
        finally:
            await lane.close(0)


def _clients(server: Server) -> int:
    """How many there are besides the one that asks."""
    return int(server.info("clients")["connected_clients"]) - 1


def test_a_node_that_lost_its_keys_is_parted_with_after_its_replies(
    server: Server, other_server: Server, namespace: str
) -> None:
    """A write that is on the way to a node which is gone from the cluster gets its reply, and then it is left (G5)."""

    async def main() -> None:
        async with moved(server, other_server, namespace) as (lane, there):
            before = _clients(other_server)
            waiting = asyncio.create_task(lane.send(Command((b"BLPOP", f"{namespace}:list", 0), write=True), at=there))
            await until(lambda: other_server.info("clients")["blocked_clients"] == 1)
            await lane.refresh()
            other_server.execute("RPUSH", f"{namespace}:list", "value")
            assert (await waiting)[1] == b"value"
            await until(lambda: _clients(other_server) == before - 1)

    asyncio.run(main())


@pytest.mark.parametrize("steps", range(6))
def test_a_refresh_that_is_cancelled(server: Server, other_server: Server, namespace: str, steps: int) -> None:
    """Cancelled at whatever moment, it leaves no connection to a node that is gone, once the lane is closed (G8)."""

    async def main() -> None:
        before = _clients(other_server)
        async with moved(server, other_server, namespace) as (lane, _):
            refreshing = asyncio.create_task(lane.refresh())
            for _ in range(steps):
                await asyncio.sleep(0)
            refreshing.cancel()
            with suppress(asyncio.CancelledError):
                await refreshing
        await until(lambda: _clients(other_server) == before)

    asyncio.run(main())
