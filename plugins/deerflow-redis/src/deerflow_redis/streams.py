"""The stream bridge on Redis Streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from deerflow_backends.arguments import check_identifier, check_seconds
from deerflow_backends.binding import Binding
from deerflow_backends.clocks import to_datetime
from deerflow_backends.codec import JSON
from deerflow_backends.cursors import EventId, Head, Read
from deerflow_backends.events import check_event, check_events
from deerflow_backends.hub import Hub
from deerflow_backends.streams import Reach, StreamItem, StreamOptions, StreamStatus
from deerflow_redis.commands import Command
from deerflow_redis.connection import Connection
from deerflow_redis.layout import StreamKeys
from deerflow_redis.publishing import Publisher
from deerflow_redis.scripts import script
from deerflow_redis.tails import Tail, open_tail
from deerflow_redis.transport import Lane
from deerflow_redis.wire import Seen, StoredHead, head_in, seen_in


class RedisStreamBridge:
    """A `StreamBridge` for all that reach the server."""

    reach: Reach = "network"

    tail: Tail

    def __init__(
        self,
        lane: Lane,
        publisher: Publisher,
        keys: StreamKeys,
        binding: Binding,
        options: StreamOptions,
        *,
        clustered: bool,
    ) -> None:
        self.hub = Hub(binding, self._read, options, look=self._look, forget=self._forget)
        self._lane, self._publisher, self._keys = lane, publisher, keys
        self._binding, self._options = binding, options
        self._clustered = clustered

    async def publish(self, run_id: str, event: str, data: JSON) -> str:
        """Append one event."""
        self._binding.check()
        return (await self._publisher.publish(run_id, check_event(run_id, event, data)))[0]

    async def publish_many(self, run_id: str, events: Sequence[tuple[str, JSON]]) -> list[str]:
        """Append events together."""
        self._binding.check()
        return await self._publisher.publish(run_id, check_events(run_id, events, self._options))

    async def publish_end(self, run_id: str) -> None:
        """End the run."""
        self._binding.check()
        await self._publisher.end(check_identifier("run_id", run_id))

    def subscribe(
        self, run_id: str, *, last_event_id: str | None = None, heartbeat_interval: float = 15.0
    ) -> AsyncIterator[StreamItem]:
        """Read the run."""
        return self.hub.subscribe(run_id, last_event_id=last_event_id, heartbeat_interval=heartbeat_interval)

    async def status(self, run_id: str) -> StreamStatus | None:
        """Tell about the run's stream."""
        self._binding.check()
        check_identifier("run_id", run_id)
        seen = await self._see(run_id, 0, 0, 0)
        if seen is None or seen.head.cleaned:
            return None
        head, earliest = seen.head, seen.head.earliest
        return StreamStatus(
            earliest_id=None if earliest is None else str(earliest),
            latest_id=str(head.latest),
            length=0 if earliest is None else head.latest.seq - earliest.seq + 1,
            ended=head.ended,
            expires_at=to_datetime(seen.vanishes_at * 1_000),
        )

    async def stream_exists(self, run_id: str) -> bool:
        """Whether there is a stream."""
        return await self.status(run_id) is not None

    async def cleanup(self, run_id: str, *, delay: float = 0) -> None:
        """Hide all events of the run, now or later."""
        self._binding.check()
        check_identifier("run_id", run_id)
        await self._publisher.clean_up(run_id, check_seconds("delay", delay, zero=True))

    async def ping(self) -> None:
        """Return if the server answers."""
        self._binding.check()
        await self._lane.everywhere(b"PING")

    async def _read(self, run_id: str, after: int, limit: int, max_bytes: int) -> Read:
        """Answer the hub, once wake-ups of the run arrive."""
        await self.tail.watch(run_id)
        seen = await self._see(run_id, after, limit, max_bytes)
        return Read(None) if seen is None else Read(seen.head, seen.entries)

    async def _see(self, run_id: str, after: int, limit: int, max_bytes: int) -> Seen | None:
        keys = self._keys.of(run_id).keys[:2]
        blob = await self._lane.send(Command((after, limit, max_bytes), script=script("stream_read"), keys=keys))
        return None if blob is None else seen_in(blob)

    def _forget(self, run_id: str) -> None:
        self.tail.forget(run_id)

    async def _look(self, run_ids: Sequence[str]) -> list[Head | None]:
        """Tell the hub the heads of many runs."""
        keys = [self._keys.of(run_id).head for run_id in run_ids]
        if self._clustered:
            texts = await asyncio.gather(*(self._lane.send(Command((b"GET", key), keys=(key,))) for key in keys))
        else:
            texts = await self._lane.send(Command((b"MGET", *keys)))
        return [None if text is None else _as_known(head_in(text)) for text in texts]


def _as_known(head: StoredHead | None) -> Head:
    """Give a head to the hub; with a cleanup, due or not, as cleaned: the server will tell, and so if it is damaged."""
    if head is None:
        return Head(created=-1, latest=EventId(-1, 0))
    return Head(created=head.created, latest=head.latest, ended=head.ended, cleaned=head.cleanup is not None)


@asynccontextmanager
async def open_stream_bridge(
    connection: Connection, options: StreamOptions | None = None
) -> AsyncIterator[RedisStreamBridge]:
    """Open the stream bridge of a connection, over connections to the server of its own.

    Raises:
        ConfigError: The user may not use pub/sub, and ``tail`` is not ``xread``.
        BackendUnavailable: The server does not answer.
    """
    options = options or StreamOptions()
    binding = Binding("the Redis stream bridge")
    keys = StreamKeys(connection.namespace, connection.database)
    seconds = connection.timeout_seconds
    async with AsyncExitStack() as stack:
        reading, writing = connection.lane(), connection.lane()
        stack.push_async_callback(reading.close, 0)
        stack.push_async_callback(writing.close, seconds)
        publisher = Publisher(connection, writing, keys, options)
        stack.push_async_callback(publisher.close, seconds)
        for lane in (reading, writing):  # connect now: later calls, a ping above all, find their connections there
            await lane.everywhere(b"PING")
        bridge = RedisStreamBridge(
            reading, publisher, keys, binding, options, clustered=connection.topology == "cluster"
        )
        bridge.tail = await stack.enter_async_context(open_tail(connection, bridge.hub, keys, reading, writing))
        stack.push_async_callback(bridge.hub.close)
        stack.callback(binding.close)
        yield bridge
