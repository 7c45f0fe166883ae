"""The whole offer of the SQLite backend."""
# ruff: noqa: D103  # hookspecs.py documents the hooks

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from deerflow_backends import (
    CounterOptions,
    Finding,
    MemoryOptions,
    MemoryStore,
    ModelCounters,
    StreamBridge,
    StreamOptions,
    ThreadIndex,
    ThreadOptions,
    hookimpl,
    sqlite,
)
from deerflow_backends.sqlite.checking import findings
from deerflow_backends.sqlite.settings import Settings


@hookimpl
def deerflow_settings() -> type[Settings]:
    return Settings


@hookimpl
async def deerflow_migrate(settings: Settings, capabilities: frozenset[str], apply: bool) -> list[str]:
    return await sqlite.migrate(settings.path, settings.namespace, capabilities, apply=apply)


@hookimpl
def deerflow_connect(name: str, settings: Settings) -> AbstractAsyncContextManager[sqlite.Connection]:
    return sqlite.connect(name, **settings.model_dump(exclude={"migrate"}), migrate=False)


@hookimpl
async def deerflow_check(connection: sqlite.Connection) -> list[Finding]:
    return findings(connection)


@hookimpl
def deerflow_stream_bridge(
    connection: sqlite.Connection, options: StreamOptions
) -> AbstractAsyncContextManager[StreamBridge]:
    return sqlite.open_stream_bridge(connection, options)


@hookimpl
def deerflow_memory(connection: sqlite.Connection, options: MemoryOptions) -> AbstractAsyncContextManager[MemoryStore]:
    return sqlite.open_memory(connection, options)


@hookimpl
def deerflow_thread_index(
    connection: sqlite.Connection, options: ThreadOptions
) -> AbstractAsyncContextManager[ThreadIndex]:
    return sqlite.open_thread_index(connection, options)


@hookimpl
def deerflow_counters(
    connection: sqlite.Connection, options: CounterOptions
) -> AbstractAsyncContextManager[ModelCounters]:
    return sqlite.open_counters(connection, options)
