"""Everything that the in-process backend owns: its tables, by the names under which `Tables` keeps them.

`owned` counts all of it; a new kind of stored thing gets its place here, and with it a way to be freed (G11).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, TypeAlias

from deerflow_backends.buckets import Sums
from deerflow_backends.changes import StoredBody, StoredFact
from deerflow_backends.inprocess.connection import Tables
from deerflow_backends.inprocess.streams import StreamTable
from deerflow_backends.thread_changes import StoredThread
from deerflow_backends.threads import Scope

STREAMS: Final = "stream_bridge"
MEMORY: Final = "memory"
THREADS: Final = "thread_index"
COUNTERS: Final = "counters"

#: Which threads an order holds: a scope, and a status or None for all.
Shelf: TypeAlias = tuple[Scope, str | None]


@dataclass(slots=True)
class StoredUser:
    """One user's memory. It stays when everything in it was cleared, since its revision must never go back (M3).

    Attributes:
        revision: 1 or more.
        updated_at: When it came to be, in microseconds since 1970.
        bodies: By part; absent ones are not here.
        facts: By part and id; a part without facts is not here.
    """

    revision: int
    updated_at: int
    bodies: dict[str | None, StoredBody] = field(default_factory=dict)
    facts: dict[str | None, dict[str, StoredFact]] = field(default_factory=dict)


@dataclass(slots=True)
class MemoryTable:
    """What agents remember, by user."""

    users: dict[str | None, StoredUser] = field(default_factory=dict)


@dataclass(slots=True)
class ThreadTable:
    """Threads by id, and for each shelf their places (`StoredThread.order`) in ascending order (T9)."""

    threads: dict[str, StoredThread] = field(default_factory=dict)
    shelves: dict[Shelf, list[tuple[bool, int, str]]] = field(default_factory=dict)


@dataclass(slots=True)
class CounterTable:
    """Sums of each model, ever and by bucket, and until when each token is remembered (microseconds since 1970)."""

    totals: dict[str, Sums] = field(default_factory=dict)
    buckets: dict[int, dict[str, Sums]] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)


def memory_table(tables: Tables) -> MemoryTable:
    """Return the memory kept under one name and namespace."""
    return tables.table(MEMORY, MemoryTable)


def thread_table(tables: Tables) -> ThreadTable:
    """Return the threads kept under one name and namespace."""
    return tables.table(THREADS, ThreadTable)


def counter_table(tables: Tables) -> CounterTable:
    """Return the counters kept under one name and namespace."""
    return tables.table(COUNTERS, CounterTable)


def owned(tables: Tables, capability: str) -> int:
    """Count what is stored of a capability: what must not grow without bound (G11).

    Raises:
        KeyError: There is no such capability.
    """
    with tables.lock:
        return _COUNT[capability](tables)


def _owned_memory(tables: Tables) -> int:
    users = memory_table(tables).users.values()
    return len(users) + sum(len(user.bodies) + sum(map(len, user.facts.values())) for user in users)


def _owned_threads(tables: Tables) -> int:
    table = thread_table(tables)
    return len(table.threads) + sum(map(len, table.shelves.values()))


def _owned_counters(tables: Tables) -> int:
    table = counter_table(tables)
    return len(table.totals) + sum(map(len, table.buckets.values())) + len(table.tokens)


def _owned_streams(tables: Tables) -> int:
    streams = tables.table(STREAMS, StreamTable).streams.values()
    return sum(1 + len(stream.entries) for stream in streams)


_COUNT: Final = {
    STREAMS: _owned_streams,
    MEMORY: _owned_memory,
    THREADS: _owned_threads,
    COUNTERS: _owned_counters,
}
