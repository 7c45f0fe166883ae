"""What the kit's files in `conformance` share: a server that the kit starts, and how its spaces are opened on it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final

import deerflow_redis
from deerflow_conformance import Space
from deerflow_redis.settings import Tail, Topology
from redis_servers import Cluster, Server

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

    server: Server | Cluster
    topology: Topology = "standalone"
    tail: Tail = "pubsub"

    def start(self) -> None:
        """Start the server: the kit's ``start``."""
        self.server.start()
        os.environ[_ADDRESS] = self.server.url

    def stop(self) -> None:
        """Remove the server: the kit's ``stop``."""
        self.server.close()

    def connect(self, space: Space) -> AbstractAsyncContextManager[deerflow_redis.Connection]:
        """Connect to the namespace that is *space*."""
        return deerflow_redis.connect(
            "redis",
            url=space.via(os.environ[_ADDRESS]),
            namespace=space.name,
            topology=self.topology,
            tail=self.tail,
            timeout_seconds=60.0,  # a busy machine is no fault of the backend; waiting in vain is G7, at level L3
            publish_timeout_seconds=10.0,  # as long, and a little, tokens are kept; the kit waits 50 seconds for that
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
