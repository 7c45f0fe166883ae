"""The whole offer of the in-process backend."""
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
    inprocess,
)
from deerflow_backends.inprocess.settings import Settings


@hookimpl
def deerflow_settings() -> type[Settings]:
    return Settings


@hookimpl
def deerflow_connect(name: str, settings: Settings) -> AbstractAsyncContextManager[inprocess.Connection]:
    return inprocess.connect(name, namespace=settings.namespace, sweep_seconds=settings.sweep_seconds)


@hookimpl
async def deerflow_check(connection: inprocess.Connection) -> list[Finding]:
    return [Finding("info", "what is in process is seen by this process only, and lost when it ends")]


@hookimpl
def deerflow_stream_bridge(
    connection: inprocess.Connection, options: StreamOptions
) -> AbstractAsyncContextManager[StreamBridge]:
    return inprocess.open_stream_bridge(connection, options)


@hookimpl
def deerflow_memory(
    connection: inprocess.Connection, options: MemoryOptions
) -> AbstractAsyncContextManager[MemoryStore]:
    return inprocess.open_memory(connection, options)


@hookimpl
def deerflow_thread_index(
    connection: inprocess.Connection, options: ThreadOptions
) -> AbstractAsyncContextManager[ThreadIndex]:
    return inprocess.open_thread_index(connection, options)


@hookimpl
def deerflow_counters(
    connection: inprocess.Connection, options: CounterOptions
) -> AbstractAsyncContextManager[ModelCounters]:
    return inprocess.open_counters(connection, options)
