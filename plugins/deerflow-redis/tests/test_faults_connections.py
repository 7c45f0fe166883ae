"""Connections that are cut, whose replies get lost, or that are dead without anybody having noticed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from deerflow_backends import NewThread, PutFact
from deerflow_backends.errors import BackendUnavailable
from deerflow_conformance.proxies import Proxy
from deerflow_redis.scripts import script
from deerflow_redis.settings import Tail
from redis_readers import Capabilities, Reader, opened, opened_bridge, proxied
from redis_servers import Server

Write = Callable[[Capabilities, int], Awaitable[object]]

tails = pytest.mark.parametrize("tail", ["pubsub", "xread"])


async def put_fact(to: Capabilities, number: int) -> None:
    await to.memory.apply("ada", [PutFact(None, f"f{number}", {"n": number})])


async def create_thread(to: Capabilities, number: int) -> None:
    await to.threads.create(NewThread(f"t{number}", "ada"))


async def count_call(to: Capabilities, number: int) -> None:
    await to.counters.record("m", calls=1, failures=1)


async def facts_of(to: Capabilities) -> tuple[int, set[int]]:
    """Return how often the user's memory was changed, and by which calls."""
    memory = await to.memory.load("ada")
    return memory.revision, {fact.value["n"] for fact in memory.facts}


async def threads_of(to: Capabilities) -> tuple[int, set[int]]:
    page = await to.threads.list("ada", limit=1_000)
    return await to.threads.count("ada"), {int(thread.thread_id[1:]) for thread in page.items}


async def calls_of(to: Capabilities) -> tuple[int, None]:
    counts = await to.counters.totals("m")
    assert counts.calls == counts.failures == (await to.counters.window("m", seconds=600)).calls
    return counts.calls, None


WRITES = pytest.mark.parametrize(
    ("write", "read"), [(put_fact, facts_of), (create_thread, threads_of), (count_call, calls_of)]
)


async def cut_soon(between: Proxy, chance: random.Random) -> None:
    """Reset all connections somewhere in the midst of a call."""
    for _ in range(chance.randrange(25)):
        await asyncio.sleep(0)
    between.cut()


@tails
@pytest.mark.drivers
def test_cut_while_publishing_and_subscribing(valkey: Server, namespace: str, tail: Tail) -> None:
    """However often connections are reset, each event is stored once and read once, and no call fails (G7, S3, S16)."""
    chance = random.Random(4)

    async def main() -> None:
        async with (
            proxied(valkey) as (between, url),
            opened_bridge(url, namespace, tail=tail) as bridge,
            Reader(bridge) as reader,
            Reader(bridge, reconnect_every=3) as restless,
        ):
            ids: list[str] = []
            for number in range(0, 120, 3):
                cutting = asyncio.create_task(cut_soon(between, chance))
                ids.append(await bridge.publish("run", "n", number))
                ids += await bridge.publish_many("run", [("n", number + 1), ("n", number + 2)])
                await cutting
                assert await bridge.stream_exists("run")
            await asyncio.gather(bridge.publish_end("run"), cut_soon(between, chance))
            for one in (reader, restless):
                await one.until_done()
                assert one.ended
                assert not one.gaps
                assert one.ids == ids
                assert one.data == list(range(120))

    asyncio.run(main())


@WRITES
def test_cut_while_writing(
    valkey: Server,
    namespace: str,
    write: Write,
    read: Callable[[Capabilities], Awaitable[tuple[int, set[int] | None]]],
) -> None:
    """A call whose connection is reset is done once, or says truly whether it may have been; reads succeed (G5)."""
    chance = random.Random(5)

    async def main() -> None:
        done: set[int] = set()
        maybe: set[int] = set()
        async with proxied(valkey) as (between, url), opened(url, namespace) as to:
            await write(to, 0)
            for number in range(1, 60):
                cutting = asyncio.create_task(cut_soon(between, chance))
                try:
                    await write(to, number)
                except BackendUnavailable as error:
                    if error.maybe_written:
                        maybe.add(number)
                else:
                    done.add(number)
                await read(to)
                await cutting
            await to.ping()
            count, numbers = await read(to)
        assert maybe
        assert done
        assert len(done) + 1 <= count <= len(done) + len(maybe) + 1
        if numbers is not None:
            assert done <= numbers - {0} <= done | maybe
            assert len(numbers) == count

    asyncio.run(main())


@WRITES
def test_a_lost_reply_to_a_write_is_told(
    valkey: Server,
    namespace: str,
    write: Write,
    read: Callable[[Capabilities], Awaitable[tuple[int, set[int] | None]]],
) -> None:
    """A write whose reply is lost says that it may have happened, has happened, and is not sent again (G5)."""

    async def main() -> None:
        async with proxied(valkey) as (between, url), opened(url, namespace) as to:
            await write(to, 0)
            lost = between.lose_reply(b"EVALSHA")
            with pytest.raises(BackendUnavailable) as caught:
                await write(to, 1)
            assert lost.is_set()
            assert caught.value.maybe_written
            assert (await read(to))[0] == 2
            lost = between.lose_request(b"EVALSHA")
            with pytest.raises(BackendUnavailable) as caught:
                await write(to, 2)
            assert lost.is_set()
            assert caught.value.maybe_written  # nobody here can know
            assert (await read(to))[0] == 2
            await write(to, 3)
            assert (await read(to))[0] == 3

    asyncio.run(main())


@tails
@pytest.mark.drivers
def test_a_lost_reply_to_publishing_is_made_good(valkey: Server, namespace: str, tail: Tail) -> None:
    """Publishing, ending and cleaning up whose replies, or requests, are lost are done once, and unnoticed (G5)."""

    async def main() -> None:
        async with (
            proxied(valkey) as (between, url),
            opened_bridge(url, namespace, tail=tail) as bridge,
            Reader(bridge) as reader,
        ):
            ids = [await bridge.publish("run", "n", 0)]
            for lose in (between.lose_reply, between.lose_request):
                lost = lose(b"once upon")
                ids.append(await bridge.publish("run", "n", "once upon a time"))
                assert lost.is_set()
                lost = lose(b"many upon")
                ids += await bridge.publish_many("run", [("n", "many upon a time"), ("n", "and"), ("n", "so on")])
                assert lost.is_set()
            status = await bridge.status("run")
            assert status is not None
            assert (status.earliest_id, status.latest_id, status.length) == (ids[0], ids[-1], 9)
            await bridge.publish_end("other")
            await bridge.cleanup("other")
            lost = between.lose_reply(script("stream_end").sha.encode())
            await bridge.publish_end("run")
            assert lost.is_set()
            await reader.until_done()
            assert reader.ended
            assert reader.ids == ids
            lost = between.lose_reply(script("stream_clean").sha.encode())
            await bridge.cleanup("run")
            assert lost.is_set()
            assert await bridge.status("run") is None
            async with Reader(bridge, last_event_id=ids[-1]) as late:
                await late.until_done()
                assert late.ended

    asyncio.run(main())


@tails
def test_a_call_under_way_twice_is_answered_once(valkey: Server, namespace: str, tail: Tail) -> None:
    """Of a producer with many calls under way a lost reply makes none come twice or in another order (S1, G5)."""

    async def main() -> None:
        async with (
            proxied(valkey) as (between, url),
            opened_bridge(url, namespace, tail=tail) as bridge,
            Reader(bridge) as reader,
        ):
            await bridge.publish("run", "n", 0)
            between.lose_reply(b"number 7")
            publishing = [asyncio.create_task(bridge.publish("run", "n", f"number {n}")) for n in range(50)]
            ids = await asyncio.gather(*publishing)
            await reader.until_events(51)
            assert reader.ids[1:] == ids
            assert reader.data[1:] == [f"number {n}" for n in range(50)]

    asyncio.run(main())


@tails
def test_dead_without_a_sign(valkey: Server, namespace: str, tail: Tail) -> None:
    """Where connections are dead and nobody was told, subscribers hear of all that is new within 15 s (S14, S16)."""

    async def main() -> None:
        async with AsyncExitStack() as stack:
            between, url = await stack.enter_async_context(proxied(valkey))
            bridge = await stack.enter_async_context(opened_bridge(url, namespace, tail=tail))
            elsewhere = await stack.enter_async_context(opened_bridge(valkey.url, namespace, tail=tail))
            # So many that to look at one after the other takes its time.
            names = ["ended", "cleaned", *(f"told {number}" for number in range(40))]
            for name in names:
                await elsewhere.publish(name, "n", 1)
            readers = [await stack.enter_async_context(Reader(bridge, name)) for name in names]
            for reader in readers:
                await reader.until_events(1)
            between.half_open()
            between.release()  # connections made from now on are well
            ended, cleaned, *told = readers
            async with asyncio.timeout(15):
                await elsewhere.publish_end("ended")
                await elsewhere.cleanup("cleaned")
                for name in names[2:]:
                    await elsewhere.publish(name, "n", 2)
                await ended.until(lambda reader: reader.ended)
                await cleaned.until(lambda reader: bool(reader.gaps))
                for reader in told:
                    await reader.until_events(2)
            assert all(reader.data == [1, 2] and reader.heartbeats for reader in told)
            await elsewhere.publish("told 1", "n", 3)
            await told[1].until_events(3)

    asyncio.run(main())
