"""The rivals of the Redis backend: redis-py alone, and a bridge on it as gateways commonly have one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import redis
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from benchmarks.rivals import Naive, Rival
from deerflow_backends import HEARTBEAT_SENTINEL, JSON, BackendUnavailable, StreamEvent, StreamGap
from deerflow_backends.mistakes import scrub, secrets_in

RAW_PREFIX: Final = "deerflow-benchmarks:raw:"
NAIVE_PREFIX: Final = "deerflow-benchmarks:naive:"

#: What every connection is given: releases of redis-py differ in their defaults, also in the protocol that they speak.
#: With a timeout of the driver's, each command would cost a task more, and one of release 8 would end blocking reads.
_CONNECTION: Final = {"protocol": 2, "socket_timeout": None, "socket_connect_timeout": 30.0}

#: A waiting subscriber holds a connection for itself.
_MOST_CONNECTIONS: Final = 9_000

#: As the backend's defaults are.
_MAX_EVENTS: Final = 256
_TTL_SECONDS: Final = 86_400

#: Entries that a subscriber takes in one reply.
_TOGETHER: Final = 64

#: Keys that are deleted by one command.
_DELETED: Final = 500


class Streams:
    """One Redis stream a run, and nothing but the driver's own commands.

    Attributes:
        touched: The keys that were written.
    """

    def __init__(self, client: Redis) -> None:
        self.touched: set[str] = set()
        self._client = client

    async def append(self, run_id: str, event: str, data: JSON) -> None:
        """Add one entry."""
        key = RAW_PREFIX + run_id
        self.touched.add(key)
        await self._client.xadd(key, {"event": event, "data": msgspec.json.encode(data)})

    async def read(self, run_id: str) -> AsyncIterator[tuple[int, str, JSON]]:
        """Read all entries at once."""
        entries: Any = await self._client.xrange(RAW_PREFIX + run_id)
        for number, (_, fields) in enumerate(entries, 1):
            yield number, fields[b"event"].decode(), msgspec.json.decode(fields[b"data"])


class CommonBridge:
    """A bridge as gateways commonly have one: every subscriber reads the server for itself.

    Events are delivered in order, and a subscriber who fell behind what is retained gets a gap. It knows no end of a
    run, and a publish that is repeated is stored twice.

    Attributes:
        touched: The keys that were written.
    """

    def __init__(self, client: Redis) -> None:
        self.touched: set[str] = set()
        self._client = client

    async def publish(self, run_id: str, event: str, data: JSON) -> str:
        """Add one entry, trim the stream and put off its expiry, in one transaction on a connection of the pool."""
        key = NAIVE_PREFIX + run_id
        self.touched.add(key)
        fields: Any = {"event": event, "data": msgspec.json.encode(data)}
        async with self._client.pipeline(transaction=True) as pipeline:
            pipeline.xadd(key, fields, maxlen=_MAX_EVENTS, approximate=False)
            pipeline.expire(key, _TTL_SECONDS)
            entry_id, _ = await pipeline.execute()
        return str(entry_id, "ascii")

    async def subscribe(
        self, run_id: str, *, heartbeat_interval: float = 15.0
    ) -> AsyncIterator[StreamEvent | StreamGap]:
        """Look at what is retained and read on, in one transaction; where that finds nothing new, block and repeat."""
        key, cursor = NAIVE_PREFIX + run_id, "0-0"
        while True:
            first, last, entries = await self._snapshot(key, cursor)
            if cursor != "0-0" and first and _order(cursor) < _order(first):
                yield StreamGap(cursor, first, last)
                return
            for entry_id, fields in entries:
                cursor = str(entry_id, "ascii")
                yield StreamEvent(cursor, str(fields[b"event"], "utf-8"), msgspec.json.decode(fields[b"data"]))
            if entries:
                continue
            # What this returns is left to the next look, which tells whether something was lost meanwhile.
            if not await self._client.xread({key: cursor}, count=1, block=round(heartbeat_interval * 1_000)):
                yield HEARTBEAT_SENTINEL

    async def _snapshot(self, key: str, cursor: str) -> tuple[str | None, str | None, Sequence[Any]]:
        """Return the first and the last id that are retained, and some entries after *cursor*."""
        async with self._client.pipeline(transaction=True) as pipeline:
            pipeline.xrange(key, count=1)
            pipeline.xrevrange(key, count=1)
            pipeline.xread({key: cursor}, count=_TOGETHER)
            oldest, newest, found = await pipeline.execute()
        first, last = (str(entries[0][0], "ascii") if entries else None for entries in (oldest, newest))
        return first, last, found[0][1] if found else ()


def _order(entry_id: str) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number)


@asynccontextmanager
async def open_streams(settings: Mapping[str, str], _folder: Path) -> AsyncIterator[Streams]:
    """Connect; what was written is deleted on leaving."""
    async with _client(settings) as client:
        streams = Streams(client)
        try:
            yield streams
        finally:
            await _delete(client, streams.touched)


@asynccontextmanager
async def open_common(settings: Mapping[str, str]) -> AsyncIterator[CommonBridge]:
    """Connect; what this one wrote is deleted on leaving."""
    async with _client(settings) as client:
        bridge = CommonBridge(client)
        try:
            yield bridge
        finally:
            await _delete(client, bridge.touched)


@asynccontextmanager
async def _client(settings: Mapping[str, str]) -> AsyncIterator[Redis]:
    """Give a client with a pool of its own; nothing is retried, and nothing is connected before it is needed."""
    options = {**_CONNECTION, "retry": Retry(NoBackoff(), 0), "max_connections": _MOST_CONNECTIONS}
    pool = ConnectionPool.from_url(settings["url"], **options)
    try:
        yield Redis(connection_pool=pool)
    finally:
        await pool.aclose()


async def _delete(client: Redis, keys: set[str]) -> None:
    ordered = sorted(keys)
    for start in range(0, len(ordered), _DELETED):
        await client.unlink(*ordered[start : start + _DELETED])


def engine(settings: Mapping[str, str]) -> str:
    """Ask the server what it is.

    Raises:
        BackendUnavailable: It does not answer.
        ValueError: There is more than one.
    """
    if settings.get("topology", "standalone") != "standalone":
        raise ValueError("the rivals of redis know a standalone server alone; leave topology out")
    try:
        with redis.Redis.from_url(settings["url"], protocol=2, socket_timeout=10.0) as client:
            about: dict[str, Any] = {**client.info("server"), **client.info("persistence")}
    except redis.RedisError as error:
        reason = scrub(str(error), secrets_in(settings))
        raise BackendUnavailable(f"the server that --set url names does not answer: {reason}") from error
    version = f"Valkey {about['valkey_version']}" if "valkey_version" in about else f"Redis {about['redis_version']}"
    return f"{version} (append-only file {'on' if about['aof_enabled'] else 'off'})"


RIVAL = Rival(
    does="redis-py with a pool of connections: one bare XADD an event; a read is one XRANGE of everything. The same "
    "JSON. No checks, no ids without holes, no retention, no expiry, nobody is woken.",
    engine=engine,
    open=open_streams,
    drivers=("redis", "hiredis"),
    naive=Naive(
        does="A bridge on redis-py as gateways commonly have one. A publish is XADD with MAXLEN and EXPIRE in one "
        "transaction, over a shared pool. A subscriber reads the first id, the last id and the new entries in one "
        "transaction; when there are none, it waits for some in a blocking XREAD, on a connection that it has for "
        "itself. The same JSON.",
        open=open_common,
    ),
)
