"""A way to a server that takes its time, for what a call does that asks more than once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from redis_servers import HOST, Server


@dataclass(slots=True)
class Delay:
    """What `delayed` gives.

    Attributes:
        url: Goes that way.
        seconds: How long every request waits before the server gets it, 0 at first.
    """

    url: str
    seconds: float = 0.0


@asynccontextmanager
async def delayed(server: Server) -> AsyncIterator[Delay]:
    """Pass on what clients send to *server*, later than they sent it."""
    ways: set[asyncio.Task[None]] = set()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, requests: bool) -> None:
        try:
            while chunk := await reader.read(1 << 20):
                if requests:
                    await asyncio.sleep(delay.seconds)
                writer.write(chunk)
                await writer.drain()
        finally:
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection(HOST, server.port)
        for way in (pass_on(reader, to_server, requests=True), pass_on(from_server, writer, requests=False)):
            ways.add(asyncio.create_task(way))

    async with await asyncio.start_server(serve, HOST, 0) as listening:
        delay = Delay(f"redis://{HOST}:{listening.sockets[0].getsockname()[1]}/0")
        yield delay
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
