"""Every capability in plain dicts of this process: the default, and the readable specification."""

from __future__ import annotations

from deerflow_backends.inprocess.connection import Connection, connect
from deerflow_backends.inprocess.counters import open_counters
from deerflow_backends.inprocess.memories import open_memory
from deerflow_backends.inprocess.streams import open_stream_bridge
from deerflow_backends.inprocess.threads import open_thread_index

__all__ = ["Connection", "connect", "open_counters", "open_memory", "open_stream_bridge", "open_thread_index"]
