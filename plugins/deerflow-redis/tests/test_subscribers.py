"""Many subscribers over few connections."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from deerflow_backends.streams import END_SENTINEL, StreamBridge, StreamEvent, StreamItem
from deerflow_redis.settings import Tail
from redis_readers import opened
from redis_servers import Server


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test uses."""
    return f"n{uuid.uuid4().hex}"


def connections(server: Server, namespace: str) -> int:
    """Count the connections of a namespace's processes."""
    listed: bytes = server.execute("CLIENT", "LIST")
    return listed.count(b"name=deerflow-%b" % namespace.encode())


async def take(bridge: StreamBridge, run_id: str) -> list[StreamItem]:
    return [item async for item in bridge.subscribe(run_id, heartbeat_interval=600)]


@pytest.mark.parametrize("tail", ["pubsub", "xread"])
def test_ten_thousand_subscribers(valkey: Server, namespace: str, tail: Tail) -> None:
    """Ten thousand subscribers of a process receive everything, over a few connections of the whole process (S15)."""
    runs = [f"run {number}" for number in range(100)]

    async def main() -> None:
        async with opened(valkey.url, namespace, tail=tail, timeout_seconds=30) as to:
            taking = [asyncio.create_task(take(to.bridge, runs[number % 100])) for number in range(10_000)]
            await asyncio.sleep(0)

            async def publish(name: str) -> None:
                for number in range(3):
                    await asyncio.gather(*(to.bridge.publish(run_id, name, [run_id, number]) for run_id in runs))

            await asyncio.gather(publish("a"), publish("b"))
            assert 1 < connections(valkey, namespace) <= 8
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
