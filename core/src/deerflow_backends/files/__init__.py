"""Memory in JSON files, one for each user and agent: what single-process users have, safe for a host's processes."""

from __future__ import annotations

from deerflow_backends.files.connection import Connection, connect
from deerflow_backends.files.memories import open_memory
from deerflow_backends.files.opening import migrate

__all__ = ["Connection", "connect", "migrate", "open_memory"]
