"""Where the servers are: one that stands alone, a primary that sentinels name, or the nodes of a cluster.

Each makes connections of the driver with everything set that a default could change, and tells which server
a key is on.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from redis.asyncio.connection import AbstractConnection
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisError, ResponseError

from deerflow_redis.failures import Misconfigured, is_refused
from deerflow_redis.urls import PORT, SENTINEL_PORT, driver_settings, new_connection

_SLOTS: Final = 16_384


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def parse_node(node: object) -> Address:
    """Read ``host:port``.

    Raises:
        ValueError: It is not that.
    """
    host, _, port = node.rpartition(":") if isinstance(node, str) else ("", "", "")
    # Not shown, since it may be a URL with a password.
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536 or "/" in host or "@" in host:
        raise ValueError("must be host:port each")
    return Address(host.strip("[]"), int(port))


def redirected(said: str, asked: Address | None) -> Address:
    """Read where a cluster's node sends us: ``MOVED 1234 host:port``, ``ASK ...``, or without that word.

    Args:
        asked: That node; one that knows no name for the other leaves the host out, and means its own.
    """
    host, _, port = said.rsplit(" ", maxsplit=1)[-1].rpartition(":")
    return Address(host.strip("[]") or (asked.host if asked else ""), int(port))


class Servers(Protocol):
    """One topology."""

    async def locate(self, key: bytes | None) -> Address | None:
        """Tell the server of a key, or of any; None where there is but one, which `connect` finds itself."""

    async def primaries(self) -> list[Address | None]:
        """Tell all servers that have keys."""

    async def refresh(self) -> None:
        """Look anew at where the servers are.

        Raises:
            RedisError, OSError: Nobody tells.
        """

    async def close(self) -> None:
        """Stop looking."""

    async def connect(self, address: Address | None) -> AbstractConnection:
        """Connect to the primary that is there.

        Raises:
            RedisError, OSError: The driver's, also where a replica answers.
        """


async def _connect(settings: Mapping[str, Any], address: Address | None = None) -> AbstractConnection:
    at = {} if address is None else address._asdict()
    connection = new_connection({**settings, **at})
    try:
        await connection.connect()  # type: ignore[no-untyped-call]  # the driver's
    except BaseException as error:
        await disconnect(connection)
        if isinstance(error, ResponseError) and "DB index" in str(error):
            raise Misconfigured("the server has no database with the url's number; correct it") from error
        raise
    return connection


async def write(connection: AbstractConnection, packed: bytes) -> None:
    """Send what was packed.

    Raises:
        RedisError, OSError: The connection is of no use any more.
    """
    try:
        await connection.send_packed_command(packed, check_health=False)
    except (RedisError, OSError):
        raise
    except Exception as error:  # of asyncio, whose transport is gone: an AttributeError, from Python 3.12 on
        raise RedisConnectionError(f"the connection was lost ({type(error).__name__})") from error


async def disconnect(connection: AbstractConnection) -> None:
    """Close a connection, whatever state it is in; what has not gone out yet does not."""
    writer = getattr(connection, "_writer", None)
    if writer is not None:
        writer.transport.abort()  # closing would wait for a silent peer to take what was written
    with contextlib.suppress(RedisError, OSError):
        await connection.disconnect(nowait=True)


class Standalone:
    """One server at a known address."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings

    async def locate(self, key: bytes | None) -> Address | None:
        """There is but one."""
        return None

    async def primaries(self) -> list[Address | None]:
        """There is but one."""
        return [None]

    async def refresh(self) -> None:
        """It is where it was."""

    async def close(self) -> None:
        """Nothing is under way."""

    async def connect(self, address: Address | None) -> AbstractConnection:
        """Connect to it."""
        return await _connect(self._settings)


class Sentinels(Standalone):
    """The primary that sentinels name, asked for each connection."""

    def __init__(
        self, settings: Mapping[str, Any], sentinels: Sequence[Address], service: str, login: Mapping[str, Any]
    ) -> None:
        super().__init__(settings)
        self._sentinels, self._service, self._login = list(sentinels), service, login

    async def connect(self, address: Address | None) -> AbstractConnection:
        """Ask the sentinels, in random order, and connect to the primary that the first to know it names."""
        random.shuffle(self._sentinels)
        trouble: list[Exception] = []
        for sentinel in self._sentinels:
            try:
                found = await self._ask(sentinel)
            except (RedisError, OSError, TimeoutError) as error:
                trouble.append(error)
            else:
                return await _connect(self._settings, found)
        # One that cannot be reached may be the one to know better.
        raise next((error for error in trouble if not isinstance(error, Misconfigured)), trouble[0])

    async def _ask(self, sentinel: Address) -> Address:
        # One that is stalled must not use up the time for the others.
        async with asyncio.timeout(self._settings["socket_connect_timeout"] / (1 + len(self._sentinels))):
            try:
                connection = await _connect({**self._settings, "db": 0, **self._login}, sentinel)
                try:
                    await connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
                    found = await connection.read_response()
                finally:
                    await disconnect(connection)
            except RedisError as error:
                if "unknown command" in str(error):
                    raise Misconfigured(
                        f"the server at {sentinel} is no sentinel ({error}); correct its address, or the topology"
                    ) from error
                if not is_refused(error):
                    raise
                raise Misconfigured(
                    f"the sentinel at {sentinel} refused sentinel_username or sentinel_password ({error}); correct them"
                ) from error
        if found is None:
            raise Misconfigured(f"the sentinel at {sentinel} knows no sentinel_service {self._service!r}; correct it")
        host, port = found
        return Address(host.decode(), int(port))


class Cluster:
    """The nodes of a cluster; which has which slots is asked of them, and again when one says that it moved."""

    def __init__(self, settings: Mapping[str, Any], seeds: Sequence[Address]) -> None:
        self._settings, self._seeds = settings, list(seeds)
        self._nodes: list[Address] = []
        self._slots: list[Address | None] = [None] * _SLOTS
        self._asking: asyncio.Task[None] | None = None

    async def locate(self, key: bytes | None) -> Address | None:
        """Tell the server of a key's slot; any, if there is no key."""
        slot = random.randrange(_SLOTS) if key is None else key_slot(key)  # noqa: S311  # no secret
        if self._slots[slot] is None:
            await self.refresh()
        if self._slots[slot] is None:
            raise RedisConnectionError(f"no node of the cluster has the slot {slot}")
        return self._slots[slot]

    async def primaries(self) -> list[Address | None]:
        """Tell the nodes that have slots."""
        if not self._nodes:
            await self.refresh()
        return [*self._nodes]

    async def refresh(self) -> None:
        """Ask a node which has which slots; callers that come meanwhile share the answer."""
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask_somebody())
            self._asking.add_done_callback(self._asked)
        asking = self._asking
        await asyncio.wait([asking])
        asking.result()

    def _asked(self, asking: asyncio.Task[None]) -> None:
        self._asking = None
        if not asking.cancelled():
            asking.exception()  # seen, even if whoever asked is gone

    async def _ask_somebody(self) -> None:
        trouble: BaseException = RedisConnectionError("no node of the cluster is known")
        known = [*self._nodes, *(seed for seed in self._seeds if seed not in self._nodes)]
        random.shuffle(known)
        for address in known:
            try:
                await self._ask(address)
            except (RedisError, OSError, TimeoutError) as error:
                trouble = error
            else:
                return
        raise trouble

    async def _ask(self, address: Address) -> None:
        async with asyncio.timeout(self._settings["socket_connect_timeout"]):
            connection = await _connect(self._settings, address)
            try:
                await connection.send_command("CLUSTER", "SLOTS")
                ranges = await connection.read_response()
            finally:
                await disconnect(connection)
        slots: list[Address | None] = [None] * _SLOTS
        nodes: dict[Address, None] = {}
        for first, last, (host, port, *_), *_ in ranges:
            # A node that does not know its own name says nothing: it is the one that was asked.
            node = Address((host or b"").decode() or address.host, port)
            nodes[node] = None
            slots[first : last + 1] = [node] * (last + 1 - first)
        if not nodes:
            raise RedisConnectionError(f"{address} knows of no node with slots")
        self._slots, self._nodes = slots, list(nodes)

    async def close(self) -> None:
        """Stop asking."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])

    async def connect(self, address: Address | None) -> AbstractConnection:
        """Connect to one node."""
        return await _connect(self._settings, address or self._seeds[0])


def servers_of(
    *,
    url: str,
    topology: str,
    nodes: Sequence[str],
    sentinel_service: str,
    sentinel_username: str | None,
    sentinel_password: str | None,
    timeout_seconds: float,
    client_name: str,
) -> Servers:
    """Return the topology that the settings name; nothing connects yet."""
    settings = driver_settings(url, timeout_seconds, client_name)
    port = SENTINEL_PORT if topology == "sentinel" else PORT
    first = Address(settings.get("host", "localhost"), settings.get("port", port))
    seeds = [first, *(parse_node(node) for node in nodes)]
    if topology == "cluster":
        return Cluster(settings, seeds)
    if topology == "sentinel":
        login = {"username": sentinel_username, "password": sentinel_password}
        return Sentinels(settings, seeds, sentinel_service, login)
    return Standalone(settings)


#: What a server is asked to tell which incarnation it is.
IDENTIFY: Final = (b"INFO", b"server", b"replication")


async def identify(connection: AbstractConnection) -> bytes:
    """Ask the server at the other end for its incarnation.

    Raises:
        ReadOnlyError: It is a replica.
        Misconfigured: It has no INFO.
    """
    await connection.send_command(*IDENTIFY)
    try:
        return incarnation_in(await connection.read_response())
    except ResponseError as error:
        if "unknown command" in str(error):
            raise Misconfigured(f"the server has no INFO ({error}); it must not be renamed or disabled") from error
        raise


async def connect_to_primary(
    servers: Servers, address: Address | None, timeout_seconds: float
) -> tuple[AbstractConnection, bytes]:
    """Connect to the primary that is there, in time, and return the connection and the server's incarnation.

    Raises:
        RedisError, OSError, TimeoutError: As `Servers.connect` and `identify`; nothing is left open.
    """
    async with asyncio.timeout(timeout_seconds):
        connection = await servers.connect(address)
        try:
            return connection, await identify(connection)
        except BaseException:  # a cancellation, too
            await disconnect(connection)
            raise


def incarnation_in(reply: bytes | RedisError) -> bytes:
    """Name the history of writes that a server continues, from its reply to `IDENTIFY`: its incarnation (S2).

    A restarted server has another run id; one that was promoted has as ``master_replid2`` the history that it left,
    so that it has another name too when it is promoted a second time without having been restarted.

    Raises:
        ReadOnlyError: It is a replica.
        RedisError: What it replied.
    """
    if isinstance(reply, RedisError):
        raise reply
    lines = reply.decode(errors="replace").splitlines()
    facts = dict(line.partition(":")[::2] for line in lines if ":" in line)
    if facts.get("role", "master") != "master":
        raise ReadOnlyError("a replica answered")
    return f"{facts.get('run_id', '')[:16]}.{facts.get('master_replid2', '')[:16]}".encode()
