"""Subscribers and publishers as clients are, for tests that disturb what they talk to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

import deerflow_redis
from deerflow_backends import MemoryStore, ModelCounters, ThreadIndex
from deerflow_backends.errors import BackendsError
from deerflow_backends.streams import (
    END_SENTINEL,
    HEARTBEAT_SENTINEL,
    StreamBridge,
    StreamEvent,
    StreamGap,
    StreamOptions,
)
from deerflow_conformance.proxies import Proxy, proxy
from redis_servers import PATIENCE_SECONDS, Server


@asynccontextmanager
async def opened_bridge(
    url: str, namespace: str, *, options: StreamOptions | None = None, **settings: Any
) -> AsyncIterator[StreamBridge]:
    """Open a stream bridge over a connection of its own."""
    async with (
        deerflow_redis.connect(url=url, namespace=namespace, **settings) as connection,
        deerflow_redis.open_stream_bridge(connection, options) as bridge,
    ):
        yield bridge


class Capabilities(NamedTuple):
    """All four, over one connection."""

    bridge: StreamBridge
    memory: MemoryStore
    threads: ThreadIndex
    counters: ModelCounters

    async def ping(self) -> None:
        """Ping each of them."""
        for capability in self:
            await capability.ping()


@asynccontextmanager
async def opened(url: str, namespace: str, **settings: Any) -> AsyncIterator[Capabilities]:
    """Open all capabilities over one connection."""
    async with (
        deerflow_redis.connect(url=url, namespace=namespace, **settings) as connection,
        deerflow_redis.open_stream_bridge(connection) as bridge,
        deerflow_redis.open_memory(connection) as memory,
        deerflow_redis.open_thread_index(connection) as threads,
        deerflow_redis.open_counters(connection) as counters,
    ):
        yield Capabilities(bridge, memory, threads, counters)


@asynccontextmanager
async def proxied(server: Server) -> AsyncIterator[tuple[Proxy, str]]:
    """Put a proxy before *server*, and give it with the address to use."""
    address = urlsplit(server.url)
    async with proxy(str(address.hostname), address.port or 6379) as between:
        yield between, between.url(server.url)


class Reader:
    """A client that subscribes to a run in a task of its own.

    Attributes:
        events: What it was given, without heartbeats.
        gaps: The gaps it was given; after each it goes on at its `latest`, if there is one, else it is done.
        heartbeats: How many it got.
        ended: Whether it got END.
        error: What its subscription raised.
    """

    def __init__(
        self,
        bridge: StreamBridge,
        run_id: str = "run",
        *,
        last_event_id: str | None = None,
        heartbeat_interval: float = 0.1,
        reconnect_every: int | None = None,
    ) -> None:
        """Describe it.

        Args:
            bridge: Where it subscribes.
            run_id: To which run.
            last_event_id: Where it begins.
            heartbeat_interval: Seconds.
            reconnect_every: After so many events it leaves, and comes again with the last id.
        """
        self.events: list[StreamEvent] = []
        self.gaps: list[StreamGap] = []
        self.heartbeats = 0
        self.ended = False
        self.error: BackendsError | None = None
        self._bridge, self._run_id, self._last_event_id = bridge, run_id, last_event_id
        self._heartbeat_interval, self._reconnect_every = heartbeat_interval, reconnect_every
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def ids(self) -> list[str]:
        """The ids of its events."""
        return [event.id for event in self.events]

    @property
    def data(self) -> list[Any]:
        """The data of its events."""
        return [event.data for event in self.events]

    @property
    def done(self) -> bool:
        """Whether its subscription is over, for whatever reason."""
        return self._task is not None and self._task.done()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def until(self, condition: Callable[[Reader], bool], seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until *condition* holds of this reader, or its subscription is over; fail if that takes too long."""
        async with asyncio.timeout(seconds):
            while not condition(self) and not self.done:
                self._news.clear()
                await self._news.wait()
        assert condition(self), f"over after {len(self.events)} events, {self.gaps}, {self.error!r}"

    async def until_events(self, count: int, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until it was given so many events."""
        await self.until(lambda reader: len(reader.events) >= count, seconds)

    async def until_heartbeats(self, more: int = 2) -> None:
        """Wait for further heartbeats."""
        wanted = self.heartbeats + more
        await self.until(lambda reader: reader.heartbeats >= wanted)

    async def until_done(self, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until its subscription is over."""
        await self.until(lambda reader: reader.done, seconds)

    async def _run(self) -> None:
        try:
            while await self._subscribe():
                pass
        except BackendsError as error:
            self.error = error
        finally:
            asyncio.get_running_loop().call_soon(self._news.set)

    async def _subscribe(self) -> bool:
        """Subscribe once; whether to do so again."""
        iterator = self._bridge.subscribe(
            self._run_id, last_event_id=self._last_event_id, heartbeat_interval=self._heartbeat_interval
        )
        count = 0
        async for item in iterator:
            self._news.set()
            if item is HEARTBEAT_SENTINEL:
                self.heartbeats += 1
            elif item is END_SENTINEL:
                self.ended = True
            elif isinstance(item, StreamGap):
                self.gaps.append(item)
                self._last_event_id = item.latest_available_event_id
                return self._last_event_id is not None
            else:
                self.events.append(item)
                self._last_event_id = item.id
                count += 1
                if count == self._reconnect_every:
                    await iterator.aclose()  # type: ignore[attr-defined]  # ours has it
                    return True
        return False


def epochs(ids: list[str]) -> list[int]:
    """Return the epochs of ids."""
    return [int(one.partition("-")[0]) for one in ids]


def seqs(ids: list[str]) -> list[int]:
    """Return the places of ids in their streams."""
    return [int(one.partition("-")[2]) for one in ids]
