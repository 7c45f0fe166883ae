"""What becomes of what is stored when the server is killed and comes back with all it had, some of it, or nothing."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from deerflow_backends.streams import StreamBridge, StreamGap, StreamOptions
from deerflow_redis.settings import Tail
from redis_readers import Reader, epochs, opened_bridge, seqs
from redis_servers import Server

pytestmark = pytest.mark.parametrize("tail", ["pubsub", "xread"])

#: What is acknowledged is on the disk.
DURABLE = {"appendonly": "yes", "appendfsync": "always"}


def kill_and_start(server: Server) -> None:
    server.kill()
    server.start()


async def publish_numbers(bridge: StreamBridge, name: str, count: int) -> list[str]:
    """Publish numbers, one by one and some together, and return their ids."""
    ids: list[str] = []
    while len(ids) < count:
        number = len(ids)
        if number % 10 < 3:
            ids += await bridge.publish_many("run", [("n", [name, number + more]) for more in range(3)])
        else:
            ids.append(await bridge.publish("run", "n", [name, number]))
    return ids


def test_nothing_acknowledged_is_lost(tail: Tail) -> None:
    """Killed twice in the midst of publishing and subscribing, a server that syncs each write has each event once.

    No call fails (G7), every subscriber gets every event once and in one order (S1, S3, S16), of the run's seq no
    number is missing or given twice, and the epoch rises with every restart (S2).
    """
    count = 150  # each is waited for until it is on the disk

    async def main(server: Server) -> None:
        async with AsyncExitStack() as stack:
            settings: dict[str, Any] = {"tail": tail, "timeout_seconds": 1, "options": StreamOptions(max_events=10_000)}
            here = await stack.enter_async_context(opened_bridge(server.url, "ns", **settings))
            there = await stack.enter_async_context(opened_bridge(server.url, "ns", **settings))
            readers = [
                await stack.enter_async_context(reader)
                for reader in (Reader(here), Reader(there), Reader(there, reconnect_every=7))
            ]
            publishing = [
                asyncio.create_task(publish_numbers(bridge, name, count))
                for bridge, name in ((here, "a"), (here, "b"), (there, "c"))
            ]
            for reached in (count // 2, count * 3 // 2):
                await readers[0].until_events(reached)
                await asyncio.to_thread(kill_and_start, server)
            acknowledged = await asyncio.gather(*publishing)
            await there.publish_end("run")
            for reader in readers:
                await reader.until_done()
            everything = readers[0].events
            ids = readers[0].ids
            for reader in readers:
                assert reader.ended
                assert not reader.gaps
                assert reader.events == everything
            for name, theirs in zip("abc", acknowledged, strict=True):
                wanted = [(event_id, [name, number]) for number, event_id in enumerate(theirs)]
                assert [(event.id, event.data) for event in everything if event.data[0] == name] == wanted
            assert len(everything) == sum(map(len, acknowledged))
            assert seqs(ids) == list(range(1, len(ids) + 1))
            assert epochs(ids) == sorted(epochs(ids))
            assert len(set(epochs(ids))) == 3

    with Server(config=DURABLE) as server:
        asyncio.run(main(server))


def test_a_server_that_lost_everything(tail: Tail) -> None:
    """Without persistence a restart ends what was read by a gap, and whoever waited goes on; no id comes twice."""

    async def main(server: Server) -> None:
        settings: dict[str, Any] = {"tail": tail, "timeout_seconds": 1}
        async with (
            opened_bridge(server.url, "ns", **settings) as here,
            opened_bridge(server.url, "ns", **settings) as there,
            Reader(there) as reader,
            Reader(there, "other") as waiting,
            Reader(there, "left") as left,
        ):
            before = [await here.publish("run", "n", number) for number in range(5)]
            await here.publish("left", "n", 0)
            await reader.until_events(5)
            await left.until_events(1)
            await waiting.until_heartbeats(1)
            server.kill()
            publishing = asyncio.create_task(here.publish("run", "n", 5))
            await reader.until_heartbeats()
            assert not publishing.done()
            server.start()
            after = [await publishing, await there.publish("run", "n", 6)]
            assert seqs(after) == [1, 2]
            assert min(epochs(after)) > max(epochs(before))
            await there.publish("other", "n", 7)
            await left.until_done()
            assert left.gaps == [StreamGap(left.ids[-1], None, None)]
            await waiting.until_events(1)
            assert waiting.data == [7]
            await reader.until(lambda one: bool(one.gaps))
            gap = reader.gaps[0]
            assert gap.requested_event_id == before[-1]
            assert gap.latest_available_event_id in (None, *after)
            assert gap.earliest_available_event_id in (None, after[0])
            if gap.latest_available_event_id is not None:
                await there.publish("run", "n", 8)
                await reader.until(lambda one: one.data[-1] == 8)
                assert len(set(reader.ids)) == len(reader.ids)

    with Server() as server:
        asyncio.run(main(server))


@pytest.mark.parametrize("further", [0, 1, 2, 3])
def test_a_server_that_lost_the_latest(tail: Tail, further: int) -> None:
    """Who was given events that a restart took gets a gap, however many follow; who was not goes on (S2, S6)."""

    async def main(server: Server) -> None:
        settings: dict[str, Any] = {"tail": tail, "timeout_seconds": 1}
        async with (
            opened_bridge(server.url, "ns", **settings) as here,
            opened_bridge(server.url, "ns", **settings) as there,
        ):
            kept = [await here.publish("run", "n", number) for number in range(3)]
            await asyncio.to_thread(server.execute, "SAVE")
            async with Reader(there) as reader:
                lost = [await here.publish("run", "n", number) for number in range(3, 5)]
                await reader.until_events(5)
                server.kill()
                publishing = [asyncio.create_task(here.publish("run", "n", 5 + number)) for number in range(further)]
                await reader.until_heartbeats(1)
                server.start()
                after = [await one for one in publishing]
                await reader.until(lambda one: bool(one.gaps))
                gap = reader.gaps[0]
                assert gap.requested_event_id == lost[-1]
                assert gap.earliest_available_event_id == kept[0]
                assert gap.latest_available_event_id in (kept[-1], *after)
                after.append(await there.publish("run", "n", "last"))
                await reader.until(lambda one: one.data[-1] == "last")
                assert len(reader.gaps) == 1
                assert len(set(reader.ids)) == len(reader.ids)
            assert seqs(after) == list(range(4, 5 + further))
            assert not set(after) & set(lost)
            assert min(epochs(after)) > max(epochs(kept))
            async with Reader(there, last_event_id=kept[-1]) as reader:
                await reader.until_events(len(after))
                assert reader.ids == after
                assert not reader.gaps
            async with Reader(there, last_event_id=lost[0]) as reader:
                await reader.until(lambda one: bool(one.gaps))

    with Server() as server:
        asyncio.run(main(server))
