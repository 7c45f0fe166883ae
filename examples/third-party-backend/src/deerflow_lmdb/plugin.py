"""The whole offer: a capability is offered exactly if its hook is here. `deerflow_backends.hookspecs` explains them."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from deerflow_backends import CounterOptions, Finding, MemoryOptions, MemoryStore, ModelCounters, hookimpl
from deerflow_lmdb.connection import Connection, connect, findings
from deerflow_lmdb.counters import open_counters
from deerflow_lmdb.memories import open_memory
from deerflow_lmdb.settings import LmdbSettings


@hookimpl
def deerflow_settings() -> type[LmdbSettings]:
    return LmdbSettings


@hookimpl
def deerflow_connect(settings: LmdbSettings) -> AbstractAsyncContextManager[Connection]:
    return connect(settings)


@hookimpl
async def deerflow_check(connection: Connection) -> list[Finding]:
    return await findings(connection)


@hookimpl
def deerflow_memory(connection: Connection, options: MemoryOptions) -> AbstractAsyncContextManager[MemoryStore]:
    return open_memory(connection, options)


@hookimpl
def deerflow_counters(connection: Connection, options: CounterOptions) -> AbstractAsyncContextManager[ModelCounters]:
    return open_counters(connection, options)
