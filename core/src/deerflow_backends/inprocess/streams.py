"""The stream bridge in dicts: the readable specification of promises S1 to S16."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from deerflow_backends.arguments import check_identifier, check_seconds
from deerflow_backends.binding import Binding
from deerflow_backends.clocks import MICROSECONDS, to_datetime
from deerflow_backends.codec import JSON
from deerflow_backends.cursors import Entry, EventId, Head, Read
from deerflow_backends.errors import StreamEnded
from deerflow_backends.events import NewEvent, check_event, check_events
from deerflow_backends.hub import Hub
from deerflow_backends.inprocess.connection import Connection
from deerflow_backends.streams import Reach, StreamItem, StreamOptions, StreamStatus


@dataclass(slots=True)
class _Stream:
    """One run's stream, or, once `cleaned`, the trace that is left of it.

    `size` is the bytes of the entries' data; times are in microseconds.
    """

    created: int
    latest: EventId
    expires_at: int
    prior: EventId | None = None
    entries: deque[Entry] = field(default_factory=deque)
    size: int = 0
    ended: bool = False
    cleaned: bool = False
    cleanup_at: int | None = None

    def vanishes_at(self) -> int:
        """When it is cleaned or dropped if nothing else happens."""
        return self.expires_at if self.cleanup_at is None else min(self.expires_at, self.cleanup_at)


class StreamTable:
    """The streams of one namespace, and the hubs that want to hear of changes."""

    def __init__(self) -> None:
        self.streams: dict[str, _Stream] = {}
        self.highest_gone = 0  # the highest epoch of a stream that is gone without trace
        self.hubs: list[Hub] = []

    def feed(self, run_id: str, head: Head, entries: Sequence[Entry]) -> None:
        """Tell every hub what was stored."""
        for hub in tuple(self.hubs):
            self._tell(hub, hub.feed, run_id, head, entries)

    def wake(self, run_id: str) -> None:
        """Tell every hub that a run is to be read again."""
        for hub in tuple(self.hubs):
            self._tell(hub, hub.wake, run_id)

    def _tell(self, hub: Hub, call: Callable[..., None], *arguments: Any) -> None:
        """Call a hub; one of another event loop through its loop, and one whose loop was closed over it no more."""
        if hub.binding.loop is asyncio.get_running_loop():
            call(*arguments)
            return
        try:
            hub.binding.loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:
            self.hubs.remove(hub)


class InProcessStreamBridge:
    """A `StreamBridge` within this process."""

    reach: Reach = "process"

    def __init__(self, connection: Connection, table: StreamTable, binding: Binding, options: StreamOptions) -> None:
        self.hub = Hub(binding, self.read, options, connection.clock)
        self._tables = connection.tables
        self._clock = connection.clock
        self._table = table
        self._binding = binding
        self._options = options
        self._ttl = int(options.ttl_seconds * MICROSECONDS)

    async def publish(self, run_id: str, event: str, data: JSON) -> str:
        """Append one event."""
        self._binding.check()
        return self._publish(run_id, check_event(run_id, event, data))[0]

    async def publish_many(self, run_id: str, events: Sequence[tuple[str, JSON]]) -> list[str]:
        """Append events together."""
        self._binding.check()
        return self._publish(run_id, check_events(run_id, events, self._options))

    def _publish(self, run_id: str, new: Sequence[NewEvent]) -> list[str]:
        with self._tables.lock:
            now = self._clock()
            stream = self._stream_to_write(run_id, now)
            if stream.ended:
                raise StreamEnded(f"run {run_id!r} has ended; nothing was stored")
            entries = self._append(stream, new)
            stream.expires_at = now + self._ttl
            self._table.feed(run_id, _head(stream, now), entries)
        return [str(entry.id) for entry in entries]

    async def publish_end(self, run_id: str) -> None:
        """End the run."""
        self._binding.check()
        check_identifier("run_id", run_id)
        with self._tables.lock:
            now = self._clock()
            stream = self._find(run_id, now) or self._create(run_id, now, None)
            if not stream.ended:
                stream.ended = True
                stream.expires_at = now + self._ttl
                self._table.feed(run_id, _head(stream, now), ())

    def subscribe(
        self, run_id: str, *, last_event_id: str | None = None, heartbeat_interval: float = 15.0
    ) -> AsyncIterator[StreamItem]:
        """Read the run."""
        return self.hub.subscribe(run_id, last_event_id=last_event_id, heartbeat_interval=heartbeat_interval)

    async def status(self, run_id: str) -> StreamStatus | None:
        """Tell about the run's stream."""
        self._binding.check()
        check_identifier("run_id", run_id)
        with self._tables.lock:
            stream = self._find(run_id, self._clock())
            if stream is None or stream.cleaned:
                return None
            earliest = str(stream.entries[0].id) if stream.entries else None
            expires_at = to_datetime(stream.vanishes_at())
            return StreamStatus(earliest, str(stream.latest), len(stream.entries), stream.ended, expires_at)

    async def stream_exists(self, run_id: str) -> bool:
        """Whether there is a stream."""
        return await self.status(run_id) is not None

    async def cleanup(self, run_id: str, *, delay: float = 0) -> None:
        """Hide all events of the run, now or later."""
        self._binding.check()
        check_identifier("run_id", run_id)
        check_seconds("delay", delay, zero=True)
        with self._tables.lock:
            now = self._clock()
            stream = self._find(run_id, now)
            if stream is None or stream.cleaned:
                return
            at = now + int(delay * MICROSECONDS)
            stream.cleanup_at = at if stream.cleanup_at is None else min(at, stream.cleanup_at)
            self._find(run_id, now)  # cleans it if that is now
            self._table.wake(run_id)

    async def ping(self) -> None:
        """Return if the bridge is open."""
        self._binding.check()

    async def read(self, run_id: str, after: int, limit: int, max_bytes: int) -> Read:
        """Answer the hub."""
        with self._tables.lock:
            now = self._clock()
            stream = self._find(run_id, now)
            if stream is None:
                return Read(None)
            return Read(_head(stream, now), _slice(stream.entries, after, limit, max_bytes))

    def sweep(self) -> None:
        """Free what has expired."""
        with self._tables.lock:
            now = self._clock()
            for run_id in tuple(self._table.streams):
                self._find(run_id, now)

    def _find(self, run_id: str, now: int) -> _Stream | None:
        """The run's stream or trace as of *now*: what was due by the clock is done first."""
        stream = self._table.streams.get(run_id)
        if stream is None:
            return None
        if stream.cleanup_at is not None and stream.cleanup_at <= min(now, stream.expires_at):
            stream.entries.clear()
            stream.size = 0
            stream.cleaned = True
            stream.expires_at = stream.cleanup_at + self._ttl
            stream.cleanup_at = None
        if stream.expires_at <= now:
            del self._table.streams[run_id]
            self._table.highest_gone = max(self._table.highest_gone, stream.latest.epoch)
            return None
        return stream

    def _stream_to_write(self, run_id: str, now: int) -> _Stream:
        stream = self._find(run_id, now)
        if stream is None or (stream.cleaned and not stream.ended):
            return self._create(run_id, now, stream)
        return stream

    def _create(self, run_id: str, now: int, trace: _Stream | None) -> _Stream:
        epoch = max(now // 1_000, self._table.highest_gone + 1)
        prior = None
        if trace is not None:
            prior = trace.latest
            epoch = max(epoch, prior.epoch + 1)
        stream = _Stream(epoch, EventId(epoch, 0), now + self._ttl, prior)
        self._table.streams[run_id] = stream
        return stream

    def _append(self, stream: _Stream, new: Sequence[NewEvent]) -> list[Entry]:
        first = stream.latest.seq + 1
        entries = [Entry(EventId(stream.latest.epoch, first + i), event, data) for i, (event, data) in enumerate(new)]
        stream.entries.extend(entries)
        stream.latest = entries[-1].id
        stream.size += sum(len(entry.data) for entry in entries)
        options = self._options
        while len(stream.entries) > options.max_events or (stream.size > options.max_bytes and len(stream.entries) > 1):
            stream.size -= len(stream.entries.popleft().data)
        return entries


def _head(stream: _Stream, now: int) -> Head:
    return Head(
        created=stream.created,
        latest=stream.latest,
        earliest=stream.entries[0].id if stream.entries else None,
        ended=stream.ended,
        cleaned=stream.cleaned,
        prior=stream.prior,
        vanishes_in=(stream.vanishes_at() - now) / MICROSECONDS,
    )


def _slice(entries: deque[Entry], after: int, limit: int, max_bytes: int) -> tuple[Entry, ...]:
    """At most *limit* entries after a seq, and no more than *max_bytes* of data unless the first alone is larger."""
    if not entries or after >= entries[-1].id.seq:
        return ()
    start = max(after + 1 - entries[0].id.seq, 0)  # seqs have no holes
    taken: list[Entry] = []
    size = 0
    for entry in islice(entries, start, start + limit):
        size += len(entry.data)
        if taken and size > max_bytes:
            break
        taken.append(entry)
    return tuple(taken)


@asynccontextmanager
async def open_stream_bridge(
    connection: Connection, options: StreamOptions | None = None
) -> AsyncIterator[InProcessStreamBridge]:
    """Open the stream bridge of a connection; with other bridges of its name and namespace it shares all runs."""
    options = options or StreamOptions()
    table = connection.tables.table("stream_bridge", StreamTable)
    binding = Binding("the in-process stream bridge")
    bridge = InProcessStreamBridge(connection, table, binding, options)
    hub = bridge.hub
    with connection.tables.lock:
        table.hubs.append(hub)
    connection.sweepers.append(bridge.sweep)
    try:
        yield bridge
    finally:
        connection.sweepers.remove(bridge.sweep)
        with connection.tables.lock:
            if hub in table.hubs:
                table.hubs.remove(hub)
        binding.close()
        await hub.close()
