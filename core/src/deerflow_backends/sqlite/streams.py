"""The stream bridge in a SQLite file, for all processes of one host."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from deerflow_backends.arguments import check_identifier, check_seconds
from deerflow_backends.binding import Binding
from deerflow_backends.codec import JSON
from deerflow_backends.cursors import Read
from deerflow_backends.events import NewEvent, check_event, check_events
from deerflow_backends.hub import Hub
from deerflow_backends.sqlite.connection import Connection, ping
from deerflow_backends.sqlite.database import Database
from deerflow_backends.sqlite.stream_tables import Stored, StreamTables, incarnation
from deerflow_backends.sqlite.watching import Watcher, watching
from deerflow_backends.streams import Reach, StreamItem, StreamOptions, StreamStatus


class SqliteStreamBridge:
    """A `StreamBridge` for the processes of this host."""

    reach: Reach = "host"

    def __init__(
        self, connection: Connection, database: Database, tables: StreamTables, binding: Binding, options: StreamOptions
    ) -> None:
        self.hub = Hub(binding, self._read, options, connection.clock)
        self.watcher: Watcher | None = None
        self._database, self._tables, self._binding, self._options = database, tables, binding, options
        self._timeout_seconds = connection.timeout_seconds
        self._publish_timeout_seconds = connection.publish_timeout_seconds

    async def publish(self, run_id: str, event: str, data: JSON) -> str:
        """Append one event."""
        self._binding.check()
        return (await self._publish(run_id, check_event(run_id, event, data)))[0]

    async def publish_many(self, run_id: str, events: Sequence[tuple[str, JSON]]) -> list[str]:
        """Append events together."""
        self._binding.check()
        return await self._publish(run_id, check_events(run_id, events, self._options))

    async def _publish(self, run_id: str, new: list[NewEvent]) -> list[str]:
        stored = await self._database.write(
            lambda connection: self._tables.publish(connection, run_id, new),
            timeout_seconds=self._publish_timeout_seconds,
            on_commit=lambda stored: self._feed(run_id, stored),
        )
        return [str(entry.id) for entry in stored.entries]

    async def publish_end(self, run_id: str) -> None:
        """End the run."""
        self._binding.check()
        check_identifier("run_id", run_id)
        await self._database.write(
            lambda connection: self._tables.end(connection, run_id),
            timeout_seconds=self._publish_timeout_seconds,
            on_commit=lambda stored: self._feed(run_id, stored),
        )

    def subscribe(
        self, run_id: str, *, last_event_id: str | None = None, heartbeat_interval: float = 15.0
    ) -> AsyncIterator[StreamItem]:
        """Read the run."""
        return self.hub.subscribe(run_id, last_event_id=last_event_id, heartbeat_interval=heartbeat_interval)

    async def status(self, run_id: str) -> StreamStatus | None:
        """Tell about the run's stream."""
        self._binding.check()
        check_identifier("run_id", run_id)
        return await self._database.read(
            lambda connection: self._tables.status(connection, run_id), timeout_seconds=self._timeout_seconds
        )

    async def stream_exists(self, run_id: str) -> bool:
        """Whether there is a stream."""
        return await self.status(run_id) is not None

    async def cleanup(self, run_id: str, *, delay: float = 0) -> None:
        """Hide all events of the run, now or later."""
        self._binding.check()
        check_identifier("run_id", run_id)
        delay = check_seconds("delay", delay, zero=True)
        await self._database.write(
            lambda connection: self._tables.clean_up(connection, run_id, delay),
            timeout_seconds=self._timeout_seconds,
            on_commit=lambda stored: self._feed(run_id, stored),
        )

    async def ping(self) -> None:
        """Return if the file can be read."""
        self._binding.check()
        await ping(self._database, self._timeout_seconds)

    async def _read(self, run_id: str, after: int, limit: int, max_bytes: int) -> Read:
        """Answer the hub, and look for other processes' changes from now on: somebody subscribes."""
        if self.watcher is not None:
            self.watcher.watch()
        return await self._database.read(
            lambda connection: self._tables.read(connection, run_id, after, limit, max_bytes),
            timeout_seconds=self._timeout_seconds,
        )

    def _feed(self, run_id: str, stored: Stored | None) -> None:
        if stored is not None and self.watcher is not None:
            self.watcher.made(stored.change)
            self.hub.feed(run_id, stored.head, stored.entries)


@asynccontextmanager
async def open_stream_bridge(
    connection: Connection, options: StreamOptions | None = None
) -> AsyncIterator[SqliteStreamBridge]:
    """Open the stream bridge of a connection."""
    options = options or StreamOptions()
    binding = Binding("the SQLite stream bridge")
    tables = StreamTables(connection.clock, options, incarnation())
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(connection.database("stream_bridge"))
        bridge = SqliteStreamBridge(connection, database, tables, binding, options)
        bridge.watcher = await stack.enter_async_context(watching(database.path, bridge.hub, tables))
        await stack.enter_async_context(connection.sweeping(database, tables.sweep))
        stack.push_async_callback(bridge.hub.close)
        stack.callback(binding.close)
        yield bridge
