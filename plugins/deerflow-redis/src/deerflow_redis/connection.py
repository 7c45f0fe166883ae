"""What the capabilities over one connection share: where the servers are, and the way there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, cast
from urllib.parse import urlsplit

from deerflow_backends.errors import ConfigError
from deerflow_backends.mistakes import Mistake, refuse
from deerflow_backends.settings import connection_settings
from deerflow_redis.commands import Command
from deerflow_redis.scripts import script
from deerflow_redis.settings import Settings, Tail, Topology
from deerflow_redis.topologies import Address, Servers, servers_of
from deerflow_redis.transport import Lane
from deerflow_redis.urls import PORT, SENTINEL_PORT, parse_url

#: The oldest servers that have all that the scripts use.
_OLDEST: Final = {"valkey_version": (8, 0), "redis_version": (7, 0)}

#: How many keys an export asks a server to look at in one step.
_SCAN_COUNT: Final = 1_000


class Connection:
    """A server, or several that act as one, and a namespace there, for one event loop.

    Attributes:
        namespace: Begins every key.
        database: Its number.
        tail: How new events are heard of.
        topology: What stands there.
        where: Names it in messages, without a secret.
        timeout_seconds: For every call but publishing.
        publish_timeout_seconds: For publishing.
        calls: For all but streams, which have lanes of their own.
    """

    def __init__(self, settings: Settings) -> None:
        url = settings.url.get_secret_value()
        password = settings.sentinel_password
        self.namespace, self.tail, self.topology = settings.namespace, settings.tail, settings.topology
        self.database = int(parse_url(url).get("db") or 0)
        self.where = _where(url, settings.topology)
        self.timeout_seconds = settings.timeout_seconds
        self.publish_timeout_seconds = settings.publish_timeout_seconds
        self.servers: Servers = servers_of(
            url=url,
            topology=settings.topology,
            nodes=settings.nodes,
            sentinel_service=settings.sentinel_service,
            sentinel_username=settings.sentinel_username,
            sentinel_password=password.get_secret_value() if password else None,
            timeout_seconds=settings.timeout_seconds,
            client_name=f"deerflow-{settings.namespace}",
        )
        self._wait_replicas = settings.wait_replicas
        self.calls = self.lane()

    def lane(self) -> Lane:
        """Make a further lane, with connections of its own, which whoever asked closes."""
        return Lane(self.servers, self.where, timeout_seconds=self.timeout_seconds, wait_replicas=self._wait_replicas)

    def deadline(self) -> float:
        """When a call that begins now has waited long enough, on the clock of the event loop."""
        return asyncio.get_running_loop().time() + self.timeout_seconds

    async def read(self, name: str, keys: tuple[bytes, ...], *arguments: Any, until: float | None = None) -> Any:
        """Run the script *name*, which changes nothing, and return its reply; tried again if that is lost.

        Args:
            until: The `deadline` of a call that reads more than once; None if this is all of it.

        Raises:
            BackendUnavailable: No answer in time.
            ConfigError, Corrupt, PluginError: As the server's error says.
        """
        left = None if until is None else until - asyncio.get_running_loop().time()
        return await self.calls.send(Command(arguments, script=script(name), keys=keys), timeout_seconds=left)

    async def write(self, name: str, keys: tuple[bytes, ...], *arguments: Any) -> Any:
        """Run the script *name* at most once, and return its reply.

        Raises:
            BackendUnavailable: No answer in time; `maybe_written` tells.
            ConfigError, Corrupt, PluginError: As the server's error says; nothing was written.
        """
        return await self.calls.send(Command(arguments, script=script(name), keys=keys, write=True))

    async def command(self, *words: Any, key: bytes | None = None) -> Any:
        """Send one command that changes nothing, to the server of *key* or to any."""
        return await self.calls.send(Command(words, keys=() if key is None else (key,)))

    async def scan(self, pattern: bytes) -> AsyncGenerator[bytes, None]:
        """Give every key of every server that matches the glob *pattern*; one may come twice.

        For exports and tests alone: it looks at all keys of the servers, step by step.
        """
        for address in await self.servers.primaries():
            cursor = b"0"
            while True:
                words = (b"SCAN", cursor, b"MATCH", pattern, b"COUNT", _SCAN_COUNT)
                cursor, keys = await self.calls.send(Command(words), at=address)
                for key in keys:
                    yield key
                if cursor == b"0":
                    break

    async def ping(self) -> None:
        """Return if every server with keys answers, else raise `BackendUnavailable`."""
        await self.calls.everywhere(b"PING")

    async def facts(self, address: Address | None = None) -> dict[str, str]:
        """Return what a server tells of itself (INFO)."""
        text = (await self.calls.send(Command((b"INFO",)), at=address)).decode(errors="replace")
        return {key: value for key, _, value in (line.partition(":") for line in text.splitlines()) if value}


def _where(url: str, topology: Topology) -> str:
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or "localhost"
    port = parts.port or (SENTINEL_PORT if topology == "sentinel" else PORT)
    return parts.path if parts.scheme == "unix" else f"Redis at {host}:{port}"


def too_old(facts: dict[str, str]) -> str | None:
    """Return what a server is that lacks what the scripts need, None if it has it."""
    kind = "valkey_version" if "valkey_version" in facts else "redis_version"
    version = facts.get(kind, "0")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    return None if numbers >= _OLDEST[kind] else f"{kind.removesuffix('_version').capitalize()} {version}"


@asynccontextmanager
async def connect(
    name: str = "redis",
    *,
    url: str,
    namespace: str = "deerflow",
    topology: Topology = "standalone",
    tail: Tail = "pubsub",
    timeout_seconds: float = 5.0,
    publish_timeout_seconds: float = 60.0,
    **further: Any,
) -> AsyncIterator[Connection]:
    """Use the server at *url*.

    Args:
        name: The connection's name in the configuration.
        url: As in `Settings`, as all that follows.

    Raises:
        ConfigError: An argument is wrong, the server does not accept the user, or is too old.
        BackendUnavailable: It does not answer.
    """
    values = {
        "url": url,
        "namespace": namespace,
        "topology": topology,
        "tail": tail,
        "timeout_seconds": timeout_seconds,
        "publish_timeout_seconds": publish_timeout_seconds,
        **further,
    }
    settings = connection_settings(Settings, values, ("connections", name))
    if isinstance(settings, list):
        refuse([Mistake(".".join(place), "arguments", problem) for place, problem in settings])
    async with open_connection(cast("Settings", settings)) as connection:
        yield connection


@asynccontextmanager
async def open_connection(settings: Settings) -> AsyncIterator[Connection]:
    """Use the server that *settings* name; as `connect`."""
    connection = Connection(settings)
    try:
        old = too_old(await connection.facts())
        if old:
            raise ConfigError(f"{connection.where} is {old}; deerflow-redis needs Redis 7.0 or Valkey 8.0, or later")
        await connection.ping()  # connects everywhere now: later calls, a ping above all, find their connections there
        yield connection
    finally:
        await connection.calls.close(settings.timeout_seconds)
        await connection.servers.close()
