"""Publish a run's events and read them back: nothing installed, nothing configured."""

import asyncio

from deerflow_backends import END_SENTINEL, open_backends


async def main() -> None:
    async with open_backends() as backends:
        await backends.stream_bridge.publish("run-1", "messages", {"content": "hello"})
        await backends.stream_bridge.publish_end("run-1")
        async for item in backends.stream_bridge.subscribe("run-1"):
            print("the run has ended" if item is END_SENTINEL else item)


asyncio.run(main())
