"""Every capability in SQLite files: the embedded backend for several processes of one host."""

from __future__ import annotations

from deerflow_backends.sqlite.connection import Connection, connect
from deerflow_backends.sqlite.counters import open_counters
from deerflow_backends.sqlite.memories import open_memory
from deerflow_backends.sqlite.migrating import migrate
from deerflow_backends.sqlite.streams import open_stream_bridge
from deerflow_backends.sqlite.threads import open_thread_index

__all__ = [
    "Connection",
    "connect",
    "migrate",
    "open_counters",
    "open_memory",
    "open_stream_bridge",
    "open_thread_index",
]
