"""How a process hears of new events: over pub/sub, or by one blocking XREAD. Hints, never truth: the hub reads."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from deerflow_backends.hub import Hub
from deerflow_redis.connection import Connection
from deerflow_redis.layout import StreamKeys
from deerflow_redis.pubsub import open_pubsub_tail
from deerflow_redis.transport import Lane
from deerflow_redis.xread import open_xread_tail


class Tail(Protocol):
    """Wakes a hub."""

    async def watch(self, run_id: str) -> None:
        """Return once the hub will be woken by all that is written to a run from then on.

        Raises:
            BackendUnavailable: Not in time.
            ConfigError: The user may not.
        """

    def forget(self, run_id: str) -> None:
        """Wake the hub no more for a run."""


def open_tail(
    connection: Connection, hub: Hub, keys: StreamKeys, reading: Lane, writing: Lane
) -> AbstractAsyncContextManager[Tail]:
    """Open the tail that the connection's settings name.

    Args:
        reading: To look where a run's stream stands.
        writing: The way that events go, too: what is sent there must be heard here.
    """
    if connection.tail == "xread":
        return open_xread_tail(connection, hub, keys, reading, writing)
    return open_pubsub_tail(connection, hub, keys, writing)
