"""Connections whose replies get lost, or that are dead without anybody having noticed.

What holds of every backend while connections are cut is the kit's to test, at level L3.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from deerflow_redis.scripts import script
from deerflow_redis.settings import Tail
from redis_readers import Reader, opened_bridge, proxied
from redis_servers import Server

tails = pytest.mark.parametrize("tail", ["pubsub", "xread"])


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
