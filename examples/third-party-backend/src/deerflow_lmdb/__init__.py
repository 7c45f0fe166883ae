"""Memory and model counters of deerflow-backends in LMDB, for all processes of one host."""

from __future__ import annotations

from deerflow_lmdb.connection import Connection, connect
from deerflow_lmdb.counters import open_counters
from deerflow_lmdb.memories import open_memory
from deerflow_lmdb.settings import LmdbSettings

__all__ = ["Connection", "LmdbSettings", "connect", "open_counters", "open_memory"]
