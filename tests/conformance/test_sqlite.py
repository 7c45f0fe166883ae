"""The SQLite backend against every promise, its work counted inside SQLite and what it keeps counted in its tables."""

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, closing
from typing import Any

from deerflow_backends import sqlite
from deerflow_backends.sqlite import layout
from deerflow_conformance import Space, conform

_opened: list[sqlite.Connection] = []


def _connected(space: Space) -> AbstractAsyncContextManager[sqlite.Connection]:
    return sqlite.connect(
        "sqlite",
        path=space.folder,
        namespace=space.name,
        timeout_seconds=space.timeout_seconds,
        publish_timeout_seconds=space.publish_timeout_seconds,
        sweep_seconds=0.2,
        count_work=True,
    )


def _work() -> int:
    """Statements, and turns of the loop that runs them, inside SQLite over all that was opened here."""
    return sum(connection.work() for connection in _opened)


def _owned(capability: str) -> Callable[[Space], int]:
    def owned(space: Space) -> int:
        path = layout.KIND_OF[capability].path(space.folder, space.name)
        tables = [table for table in layout.TABLES_OF[capability] if table != layout.ONE_ROW_TABLE]
        with closing(sqlite3.connect(path)) as connection:
            counts = [connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables]
        return sum(counts)

    return owned


@conform("stream_bridge", plugin="sqlite", owned=_owned("stream_bridge"), work=_work)
async def stream_bridge(space: Space) -> AsyncIterator[Any]:
    async with _connected(space) as connection, sqlite.open_stream_bridge(connection, space.options) as bridge:
        _opened.append(connection)
        yield bridge


@conform("memory", plugin="sqlite", owned=_owned("memory"), work=_work)
async def memory(space: Space) -> AsyncIterator[Any]:
    async with _connected(space) as connection, sqlite.open_memory(connection, space.options) as store:
        _opened.append(connection)
        yield store


@conform("thread_index", plugin="sqlite", owned=_owned("thread_index"), work=_work)
async def thread_index(space: Space) -> AsyncIterator[Any]:
    async with _connected(space) as connection, sqlite.open_thread_index(connection, space.options) as index:
        _opened.append(connection)
        yield index


@conform("counters", plugin="sqlite", owned=_owned("counters"), work=_work)
async def counters(space: Space) -> AsyncIterator[Any]:
    async with _connected(space) as connection, sqlite.open_counters(connection, space.options) as opened:
        _opened.append(connection)
        yield opened
