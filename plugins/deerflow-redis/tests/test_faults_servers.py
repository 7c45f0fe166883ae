"""Servers that stall, are full, were made replicas, are loading, forgot our scripts, or evicted what we keep."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from deerflow_backends import NewThread, PutFact
from deerflow_backends.errors import BackendUnavailable
from deerflow_backends.streams import StreamGap
from deerflow_redis.layout import StreamKeys, is_permanent
from deerflow_redis.settings import Tail
from redis_readers import Capabilities, Reader, epochs, opened, opened_bridge, seqs
from redis_servers import HOST, Server

tails = pytest.mark.parametrize("tail", ["pubsub", "xread"])

#: Waits so long that a test can look at it in peace, and calls do not.
PATIENT: dict[str, Any] = {"timeout_seconds": 1, "publish_timeout_seconds": 60}
HASTY: dict[str, Any] = {"timeout_seconds": 1, "publish_timeout_seconds": 1}


async def run(server: Server, *words: str | bytes | int) -> Any:
    return await asyncio.to_thread(server.execute, *words)


async def write(to: Capabilities, name: str) -> list[BaseException | None]:
    """Write one thing with each capability, all at once, and return what was raised."""
    calls = (
        to.bridge.publish("run", "n", name),
        to.bridge.publish_many("many", [("n", name), ("n", name)]),
        to.memory.apply("ada", [PutFact(None, name, {"n": 1}), PutFact("agent", name, {"n": 1})]),
        to.threads.create(NewThread(name, "ada")),
        to.counters.record("m", calls=1),
    )
    results = await asyncio.gather(*calls, return_exceptions=True)
    return [result if isinstance(result, BaseException) else None for result in results]


async def read(to: Capabilities) -> tuple[int, ...]:
    """Return how much each capability has, as `write` counts."""
    statuses = [await to.bridge.status(run_id) for run_id in ("run", "many")]
    lengths = [0 if status is None else status.length for status in statuses]
    memory, part = await to.memory.load("ada"), await to.memory.load("ada", agent_name="agent")
    assert len(memory.facts) == len(part.facts)
    assert lengths[1] % 2 == 0
    page = await to.threads.list("ada")
    counts = await to.counters.totals("m")
    return lengths[0], lengths[1] // 2, len(memory.facts), len(page.items), counts.calls


@asynccontextmanager
async def paused(server: Server) -> AsyncIterator[None]:
    server.pause()
    try:
        yield
    finally:
        server.resume()


@tails
@pytest.mark.drivers
def test_a_stalled_server(server: Server, namespace: str, tail: Tail) -> None:
    """While a server stalls, calls give up and heartbeats go on; afterwards all works again, and nothing twice (G7)."""

    async def main() -> None:
        async with (
            opened(server.url, namespace, tail=tail, **HASTY) as to,
            opened_bridge(server.url, namespace, tail=tail, **PATIENT) as patient,
            Reader(to.bridge) as reader,
        ):
            assert await write(to, "before") == [None] * 5
            await reader.until_events(1)
            async with paused(server):  # so all that comes until the end of this block is not the server's doing
                publishing = asyncio.create_task(patient.publish("run", "n", "patient"))
                errors = await write(to, "stalled")
                assert all(isinstance(error, BackendUnavailable) and error.maybe_written for error in errors)
                for reading in (read(to), to.ping(), to.bridge.cleanup("many", delay=60)):
                    with pytest.raises(BackendUnavailable):
                        await reading
                await reader.until_heartbeats()
                assert not publishing.done()
            await publishing
            assert await write(to, "after") == [None] * 5
            await to.ping()
            await reader.until(lambda one: "after" in one.data)
            maybe = [*reader.data]
            assert maybe.count("stalled") <= 1
            assert [name for name in maybe if name != "stalled"] == ["before", "patient", "after"]
            assert seqs(reader.ids) == list(range(1, len(maybe) + 1))
            assert all(2 <= count <= 4 for count in await read(to))

    asyncio.run(main())


def test_a_stall_of_ten_seconds(namespace: str) -> None:
    """With the figures that are set unless others are, a stall of 10 s ends calls, but no run and no subscription."""

    async def main(server: Server) -> None:
        async with (
            opened(server.url, namespace) as to,
            Reader(to.bridge) as reader,
            Reader(to.bridge, "waits") as waits,
        ):
            await to.bridge.publish("run", "n", 1)
            await reader.until_events(1)
            async with paused(server):
                stalling = asyncio.create_task(asyncio.sleep(10))
                publishing = [asyncio.create_task(to.bridge.publish("run", "n", number)) for number in (2, 3)]
                calls = (to.memory.load("ada"), to.bridge.ping(), to.threads.create(NewThread("t", "ada")))
                errors = await asyncio.gather(*calls, return_exceptions=True)
                assert all(isinstance(error, BackendUnavailable) for error in errors)
                assert not stalling.done()
                await stalling
                assert not any(one.done() for one in publishing)
            await asyncio.gather(*publishing, to.bridge.publish("waits", "n", 1), to.memory.load("ada"))
            await reader.until_events(3)
            await waits.until_events(1)
            assert reader.data == [1, 2, 3]
            assert reader.heartbeats > 20

    with Server() as server:
        asyncio.run(main(server))


@tails
@pytest.mark.drivers
def test_a_server_that_became_a_replica(server: Server, namespace: str, tail: Tail) -> None:
    """READONLY is waited for: nothing is written and nothing lost, and once it is a primary again the epoch rises."""

    async def main() -> None:
        async with (
            opened(server.url, namespace, tail=tail, **HASTY) as to,
            opened_bridge(server.url, namespace, tail=tail, **PATIENT) as patient,
            Reader(to.bridge) as reader,
        ):
            assert await write(to, "before") == [None] * 5
            await reader.until_events(1)
            await run(server, "REPLICAOF", HOST, server.bus_port)  # where nobody is
            try:
                publishing = asyncio.create_task(patient.publish("run", "n", "patient"))
                errors = await write(to, "refused")
                assert all(isinstance(error, BackendUnavailable) and not error.maybe_written for error in errors)
                assert not publishing.done()
                await reader.until_heartbeats()
            finally:
                await run(server, "REPLICAOF", "NO", "ONE")
            await publishing
            assert await write(to, "after") == [None] * 5
            await reader.until_events(3)
            assert reader.data == ["before", "patient", "after"]
            assert seqs(reader.ids) == [1, 2, 3]
            first, second, third = epochs(reader.ids)
            assert first < second == third
            assert await read(to) == (3, 2, 2, 2, 2)

    asyncio.run(main())


@pytest.mark.drivers
def test_scripts_that_were_flushed(server: Server, namespace: str) -> None:
    """NOSCRIPT is nobody's concern: every call works though the server has forgotten all scripts, each time."""

    async def main() -> None:
        async with opened(server.url, namespace, **HASTY) as to, Reader(to.bridge) as reader:
            for number in range(1, 4):
                await run(server, "SCRIPT", "FLUSH")
                assert await write(to, f"w{number}") == [None] * 5
                await run(server, "SCRIPT", "FLUSH")
                assert await read(to) == (number,) * 5
            await run(server, "SCRIPT", "FLUSH")
            await to.bridge.publish_end("run")
            await to.bridge.cleanup("many")
            await reader.until_done()
            assert reader.data == ["w1", "w2", "w3"]

    asyncio.run(main())


@tails
@pytest.mark.parametrize("first", [True, False], ids=["a new run", "a known run"])
def test_a_full_server(namespace: str, tail: Tail, first: bool) -> None:
    """A server that is full takes nothing, not half of anything, and says so; once it has room all works again."""

    async def main(server: Server) -> None:
        async with (
            opened(server.url, namespace, tail=tail, **HASTY) as to,
            opened_bridge(server.url, namespace, tail=tail, **PATIENT) as patient,
        ):
            counts = (0,) * 5
            if not first:
                assert await write(to, "before") == [None] * 5
                counts = (1,) * 5
            await run(server, "CONFIG", "SET", "maxmemory", "1mb")
            keys = set(await run(server, "KEYS", "*"))
            publishing = asyncio.create_task(patient.publish("run", "n", "patient"))
            errors = await write(to, "refused")
            assert all(isinstance(error, BackendUnavailable) and not error.maybe_written for error in errors)
            assert all("memory is full" in str(error) for error in errors)
            assert await read(to) == counts
            assert set(await run(server, "KEYS", "*")) <= keys
            assert not publishing.done()
            await run(server, "CONFIG", "SET", "maxmemory", 0)
            await publishing
            assert await write(to, "after") == [None] * 5
            assert await read(to) == (counts[0] + 2, *(count + 1 for count in counts[1:]))

    with Server(config={"maxmemory-policy": "noeviction"}) as server:
        asyncio.run(main(server))


@tails
def test_a_server_that_is_loading(namespace: str, tail: Tail) -> None:
    """While a server that was started again loads its data, publishers and subscribers wait, and calls say so."""

    async def main(server: Server) -> None:
        async with (
            opened(server.url, namespace, tail=tail, **HASTY) as to,
            opened_bridge(server.url, namespace, tail=tail, **PATIENT) as patient,
            Reader(to.bridge) as reader,
        ):
            assert await write(to, "before") == [None] * 5
            await reader.until_events(1)
            with server.client() as client, client.pipeline() as pipeline:
                for number in range(3_000):
                    pipeline.set(f"further {number}", "x" * 100, ex=600)
                await asyncio.to_thread(pipeline.execute)
            await run(server, "SAVE")
            server.kill()
            server.config.update({"key-load-delay": "1000", "loading-process-events-interval-bytes": "1024"})
            server.launch()
            publishing = asyncio.create_task(patient.publish("run", "n", "patient"))
            errors = await write(to, "loading")
            assert all(isinstance(error, BackendUnavailable) for error in errors)
            assert any("loading its data" in str(error) for error in errors)
            with pytest.raises(BackendUnavailable):
                await to.memory.load("ada")
            await reader.until_heartbeats()
            assert not publishing.done()
            await asyncio.to_thread(server.wait_until_it_answers)
            await publishing
            assert await write(to, "after") == [None] * 5
            await reader.until_events(3)
            assert reader.data == ["before", "patient", "after"]
            assert await read(to) == (3, 2, 2, 2, 2)

    with Server() as server:
        asyncio.run(main(server))


@tails
def test_a_server_with_too_many_clients(namespace: str, tail: Tail) -> None:
    """While a server accepts no further client calls say so, and once it does all works again, unaided (G7)."""

    async def main(server: Server) -> None:
        async with (
            opened(server.url, namespace, tail=tail, **HASTY) as to,
            opened_bridge(server.url, namespace, tail=tail, **PATIENT) as patient,
            Reader(to.bridge) as reader,
        ):
            await to.bridge.publish("run", "n", "before")
            await reader.until_events(1)
            with server.client() as client:
                client.ping()
                client.config_set("maxclients", 1)
                client.execute_command("CLIENT", "KILL", "SKIPME", "YES")
                publishing = asyncio.create_task(patient.publish("run", "n", "patient"))
                errors = await write(to, "refused")
                assert all(isinstance(error, BackendUnavailable) for error in errors)
                await reader.until_heartbeats()
                assert not publishing.done()
                client.config_set("maxclients", 100)
            await publishing
            assert await write(to, "after") == [None] * 5
            await reader.until(lambda one: "after" in one.data)
            assert [data for data in reader.data if data != "refused"] == ["before", "patient", "after"]

    with Server() as server:
        asyncio.run(main(server))


@tails
@pytest.mark.parametrize("evicted", ["head", "events", "tokens", "both"])
def test_evicted_keys(server: Server, namespace: str, tail: Tail, evicted: str) -> None:
    """Whichever key of a run a server evicts, subscribers go on or get a gap, publishing works, and nothing stays."""

    async def main() -> None:
        async with opened_bridge(server.url, namespace, tail=tail, **HASTY) as bridge, Reader(bridge) as reader:
            before = [await bridge.publish("run", "n", number) for number in range(3)]
            await reader.until_events(3)
            names = StreamKeys(namespace, 0).of("run")
            head, events, tokens = names.keys
            gone = {"head": [head], "events": [events], "tokens": [tokens], "both": [head, events]}[evicted]
            await run(server, "DEL", *gone)
            if evicted in ("head", "both"):
                async with asyncio.timeout(15):
                    await reader.until_done()
                assert reader.gaps == [StreamGap(before[-1], None, None)]
                assert await bridge.status("run") is None
            else:
                status = await bridge.status("run")
                assert status is not None
                assert status.latest_id == before[-1]
                assert status.length == (0 if evicted == "events" else 3)
            after = [await bridge.publish("run", "n", number) for number in range(3, 5)]
            assert not set(before) & set(after)
            status = await bridge.status("run")
            assert status is not None
            assert status.latest_id == after[-1]
            assert status.length == (5 if evicted == "tokens" else 2)
            async with Reader(bridge) as late:
                await late.until_events(status.length)
                assert late.ids == [*before, *after][-status.length :]
            async with Reader(bridge, last_event_id=before[0]) as late:
                await (late.until_events(4) if evicted == "tokens" else late.until(lambda one: bool(one.gaps)))
            if not reader.gaps:
                await reader.until_events(5)
                assert reader.ids == [*before, *after]
            for key in await run(server, "KEYS", f"{namespace}:*"):
                assert is_permanent(key) or await run(server, "PTTL", key) > 0, key

    asyncio.run(main())
