"""The whole offer of deerflow-redis."""
# ruff: noqa: D103  # hookspecs.py documents the hooks

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import deerflow_redis
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
)
from deerflow_redis.checking import findings
from deerflow_redis.connection import open_connection


@hookimpl
def deerflow_settings() -> type[deerflow_redis.Settings]:
    return deerflow_redis.Settings


@hookimpl
def deerflow_connect(
    name: str, settings: deerflow_redis.Settings
) -> AbstractAsyncContextManager[deerflow_redis.Connection]:
    return open_connection(settings)


@hookimpl
async def deerflow_check(connection: deerflow_redis.Connection) -> list[Finding]:
    return await findings(connection)


@hookimpl
def deerflow_stream_bridge(
    connection: deerflow_redis.Connection, options: StreamOptions
) -> AbstractAsyncContextManager[StreamBridge]:
    return deerflow_redis.open_stream_bridge(connection, options)


@hookimpl
def deerflow_memory(
    connection: deerflow_redis.Connection, options: MemoryOptions
) -> AbstractAsyncContextManager[MemoryStore]:
    return deerflow_redis.open_memory(connection, options)


@hookimpl
def deerflow_thread_index(
    connection: deerflow_redis.Connection, options: ThreadOptions
) -> AbstractAsyncContextManager[ThreadIndex]:
    return deerflow_redis.open_thread_index(connection, options)


@hookimpl
def deerflow_counters(
    connection: deerflow_redis.Connection, options: CounterOptions
) -> AbstractAsyncContextManager[ModelCounters]:
    return deerflow_redis.open_counters(connection, options)
