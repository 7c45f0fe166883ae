"""Subscribers that hear nothing for long. Comes first by its name, so that in other processes others run beside it."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import AsyncExitStack

import pytest

from deerflow_backends.streams import END_SENTINEL, HEARTBEAT_SENTINEL, StreamBridge, StreamEvent, StreamItem
from redis_readers import opened_bridge
from redis_servers import Server

#: So long nothing is said to anybody.
SILENCE_SECONDS = 60.0


async def take(bridge: StreamBridge, heartbeat_interval: float) -> list[StreamItem]:
    return [item async for item in bridge.subscribe("run", heartbeat_interval=heartbeat_interval)]


@pytest.mark.drivers
def test_a_long_silence(valkey: Server) -> None:
    """No default of the driver's ends a subscription: neither many short waits nor a minute of silence.

    One subscriber of each tail gets 240 heartbeats, an hour's at the usual interval, and another two in a minute.
    """
    namespace = f"n{uuid.uuid4().hex}"

    async def main() -> None:
        async with AsyncExitStack() as stack:
            taking: list[asyncio.Task[list[StreamItem]]] = []
            bridges: list[StreamBridge] = []
            for tail in ("pubsub", "xread"):
                bridge = await stack.enter_async_context(opened_bridge(valkey.url, f"{namespace}_{tail}", tail=tail))
                bridges.append(bridge)
                for interval in (SILENCE_SECONDS / 2 - 1, SILENCE_SECONDS / 300):
                    subscribing = take(bridge, interval)
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
