"""What the kit's files in `conformance` share: a server that the kit starts, and how its spaces are opened on it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Final

import deerflow_redis
from deerflow_conformance import Space, conform
from deerflow_conformance.conformances import Conformance
from deerflow_redis.settings import Tail, Topology
from redis_servers import Cluster, Given, Server

#: Everything is in the file when it is acknowledged, so that no kill of the server loses it; a crash of its host might.
PERSISTENT: Final[Mapping[str, str]] = {"appendonly": "yes", "appendfsync": "no"}
#: How the length of a key's value is asked for, by its type; of any other it is 1.
_LENGTHS: Final[Mapping[bytes, str]] = {
    b"hash": "HLEN",
    b"list": "LLEN",
    b"set": "SCARD",
    b"stream": "XLEN",
    b"zset": "ZCARD",
}
#: Tells the kit's helper processes, which import the file again, where the server is.
_ADDRESS: Final = "DEERFLOW_REDIS_KIT_URL"


@dataclass(frozen=True, slots=True)
class Subject:
    """A server that does not run yet, and how the backend is told to use it.

    Attributes:
        server: What `start` starts.
        topology: The setting of that name.
        tail: The setting of that name.
    """

    server: Server | Cluster | Given
    topology: Topology = "standalone"
    tail: Tail = "pubsub"

    def conform(self, capability: str) -> Callable[[Callable[[Space], AsyncIterator[Any]]], Conformance]:
        """Return the kit's decorator for *capability* on this server."""
        given = isinstance(self.server, Given)
        return conform(
            capability,
            plugin="redis",
            start=None if given else self._start,
            stop=None if given else self._stop,
            durable=isinstance(self.server, Server) and "appendonly" in self.server.config,
            server=self._version,
            owned=self.owned,
        )

    def _start(self) -> None:
        self.server.start()
        os.environ[_ADDRESS] = self.server.url

    def _stop(self) -> None:
        """Kill it: it keeps its addresses, and what it persisted, for the next start."""
        self.server.kill()

    def _version(self) -> str:
        found = self.server.primaries[0].info("server")
        name = "Valkey" if "valkey_version" in found else "Redis"
        return f"{name} {found.get('valkey_version') or found['redis_version']}"

    def connect(self, space: Space) -> AbstractAsyncContextManager[deerflow_redis.Connection]:
        """Connect to the namespace that is *space*."""
        return deerflow_redis.connect(
            "redis",
            url=space.via(os.environ.get(_ADDRESS) or self.server.url),
            namespace=space.name,
            topology=self.topology,
            tail=self.tail,
            timeout_seconds=space.timeout_seconds,
            publish_timeout_seconds=space.publish_timeout_seconds,
        )

    def owned(self, space: Space) -> int:
        """Count the keys of *space*, each with what is in it: the kit's ``owned``. What has expired does not count."""
        return sum(_owned(server, space.name) for server in self.server.primaries)


def _owned(server: Server, namespace: str) -> int:
    with server.client() as client, client.pipeline(transaction=False) as pipeline:
        keys = set(client.scan_iter(match=f"{namespace}:*", count=1_000))
        for key in keys:
            pipeline.type(key)
        kinds = dict(zip(keys, pipeline.execute(), strict=True))
        for key, kind in kinds.items():
            if kind in _LENGTHS:
                pipeline.execute_command(_LENGTHS[kind], key)
        present: int = sum(kind != b"none" for kind in kinds.values())
        return present + sum(map(int, pipeline.execute()))
