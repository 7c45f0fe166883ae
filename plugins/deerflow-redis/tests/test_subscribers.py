"""Many subscribers over few connections, and few that hear nothing for long."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import AsyncExitStack

import pytest

from deerflow_backends.streams import END_SENTINEL, HEARTBEAT_SENTINEL, StreamBridge, StreamEvent, StreamItem
from deerflow_redis.settings import Tail
from redis_readers import opened, opened_bridge
from redis_servers import Server

#: So long nothing is said to anybody.
SILENCE_SECONDS = 60.0


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test uses."""
    return f"n{uuid.uuid4().hex}"


def connections(server: Server, namespace: str) -> int:
    """Count the connections of a namespace's processes."""
    listed: bytes = server.execute("CLIENT", "LIST")
    return listed.count(b"name=deerflow-%b" % namespace.encode())


async def take(bridge: StreamBridge, run_id: str, *, heartbeat_interval: float = 600.0) -> list[StreamItem]:
    return [item async for item in bridge.subscribe(run_id, heartbeat_interval=heartbeat_interval)]


@pytest.mark.drivers
def test_a_long_silence(valkey: Server, namespace: str) -> None:
    """No default of the driver's ends a subscription: neither many short waits nor a minute of silence.

    One subscriber of each tail gets 240 heartbeats, an hour's at the usual interval, and another two in a minute.
    """

    async def main() -> None:
        async with AsyncExitStack() as stack:
            taking: list[asyncio.Task[list[StreamItem]]] = []
            bridges: list[StreamBridge] = []
            for tail in ("pubsub", "xread"):
                bridge = await stack.enter_async_context(opened_bridge(valkey.url, f"{namespace}_{tail}", tail=tail))
                bridges.append(bridge)
                for interval in (SILENCE_SECONDS / 2 - 1, SILENCE_SECONDS / 300):
                    subscribing = take(bridge, "run", heartbeat_interval=interval)
                    taking.append(asyncio.create_task(subscribing))
            await asyncio.sleep(SILENCE_SECONDS)
            for bridge in bridges:
                await bridge.publish("run", "n", 1)
                await bridge.publish_end("run")
            for number, items in enumerate(await asyncio.gather(*taking)):
                *heartbeats, event, end = items
                assert all(item is HEARTBEAT_SENTINEL for item in heartbeats)
                assert len(heartbeats) >= (2, 240)[number % 2]
                assert isinstance(event, StreamEvent)
                assert event.data == 1
                assert end is END_SENTINEL

    asyncio.run(main())


@pytest.mark.parametrize("tail", ["pubsub", "xread"])
def test_ten_thousand_subscribers(valkey: Server, namespace: str, tail: Tail) -> None:
    """Ten thousand subscribers of a process receive everything, over a few connections of the whole process (S15)."""
    runs = [f"run {number}" for number in range(100)]

    async def main() -> None:
        async with opened(valkey.url, namespace, tail=tail, timeout_seconds=30) as to:
            few = connections(valkey, namespace)
            assert 1 < few <= 8
            taking = [asyncio.create_task(take(to.bridge, runs[number % 100])) for number in range(10_000)]
            await asyncio.sleep(0)

            async def publish(name: str) -> None:
                for number in range(3):
                    await asyncio.gather(*(to.bridge.publish(run_id, name, [run_id, number]) for run_id in runs))

            await asyncio.gather(publish("a"), publish("b"))
            assert connections(valkey, namespace) == few
            await asyncio.gather(*map(to.bridge.publish_end, runs))
            got = await asyncio.gather(*taking)
        for number, items in enumerate(got):
            assert items == got[number % 100]
            assert items[-1] is END_SENTINEL
        for run_id, items in zip(runs, got, strict=False):
            events = [item for item in items[:-1] if isinstance(item, StreamEvent)]
            assert len(events) == len(items) - 1 == 6
            assert [int(event.id.partition("-")[2]) for event in events] == list(range(1, 7))
            for name in "ab":
                assert [one.data for one in events if one.event == name] == [[run_id, n] for n in range(3)]

    asyncio.run(main())
