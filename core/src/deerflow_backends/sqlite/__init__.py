"""Every capability in SQLite files: the embedded backend for several processes of one host."""

from deerflow_backends.sqlite.connection import Connection, connect
from deerflow_backends.sqlite.streams import open_stream_bridge

__all__ = ["Connection", "connect", "open_stream_bridge"]
