"""Every capability on Redis or Valkey: the backend ``redis`` of deerflow-backends."""

from __future__ import annotations

from deerflow_redis.connection import Connection, connect
from deerflow_redis.counters import open_counters
from deerflow_redis.memories import open_memory
from deerflow_redis.settings import Settings
from deerflow_redis.streams import open_stream_bridge
from deerflow_redis.threads import open_thread_index

__all__ = [
    "Connection",
    "Settings",
    "connect",
    "open_counters",
    "open_memory",
    "open_stream_bridge",
    "open_thread_index",
]
