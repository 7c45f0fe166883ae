"""Frames between a run and its helper process: pickles behind their length, sentinels keeping their identity."""

from __future__ import annotations

import asyncio
import io
import pickle
import struct
from typing import Any, Final

from deerflow_backends.streams import END_SENTINEL, HEARTBEAT_SENTINEL

_LENGTH: Final = struct.Struct("!Q")
_SENTINELS: Final = {"end": END_SENTINEL, "heartbeat": HEARTBEAT_SENTINEL}


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> str | None:
        return next((name for name, sentinel in _SENTINELS.items() if obj is sentinel), None)


class _Unpickler(pickle.Unpickler):
    def persistent_load(self, pid: Any) -> Any:
        return _SENTINELS[pid]


def frame(message: Any) -> bytes:
    """Return *message* as bytes to send."""
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(message)
    return _LENGTH.pack(buffer.tell()) + buffer.getvalue()


async def receive(reader: asyncio.StreamReader) -> Any:
    """Return the next message.

    Raises:
        EOFError: The other side is gone.
    """
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        content = await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise EOFError from error
    # Both ends are ours, on a socket pair that nobody else has.
    return _Unpickler(io.BytesIO(content)).load()
