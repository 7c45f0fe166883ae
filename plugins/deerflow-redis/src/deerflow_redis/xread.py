"""The tail without pub/sub: one XREAD that blocks over all watched runs of a server, on one connection.

Events wake it by themselves. END and cleanup are no events, so their scripts add to one more stream, which it waits for
too; so does a further one, by which it is told that there is another run to wait for.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from deerflow_backends.errors import BackendsError
from deerflow_backends.hub import Hub
from deerflow_redis.commands import Command, pack
from deerflow_redis.connection import Connection
from deerflow_redis.failures import code_of, is_cut, is_passing, translated
from deerflow_redis.layout import StreamKeys
from deerflow_redis.pipes import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS
from deerflow_redis.scripts import script
from deerflow_redis.topologies import connect_to_primary, disconnect, write
from deerflow_redis.transport import Lane
from deerflow_redis.wire import head_in

#: How long one XREAD blocks, so that a dead connection is noticed.
_BLOCK_MS: Final = 4_000

#: Of one stream so many entries are taken at once.
_ENTRIES: Final = 256

_START: Final = b"0-0"


class XreadTail:
    """Waits for new entries of the watched runs' streams."""

    def __init__(self, connection: Connection, hub: Hub, keys: StreamKeys, reading: Lane, writing: Lane) -> None:
        self._connection, self._hub, self._keys = connection, hub, keys
        self._reading, self._writing = reading, writing
        self._unblock = keys.unblock(secrets.token_hex(8))
        self._places: dict[bytes, bytes] = {}  # by key: the entry after which to read
        self._runs: dict[bytes, str] = {}  # by key of events
        self._channels: dict[bytes, str] = {}  # by what the stream of ends names runs by
        self._failure: BackendsError | None = None
        self._unblocking: asyncio.Task[None] | None = None
        self._added = False  # a run, since the XREAD was last interrupted
        self.task = asyncio.create_task(self._run())

    async def watch(self, run_id: str) -> None:
        """Return once the place in the run's stream is known after which entries wake the hub."""
        if self._failure is not None:
            raise self._failure
        names = self._keys.of(run_id)
        events = names.events
        if events in self._runs:
            return
        stored = await self._reading.send(Command((b"GET", names.head), keys=(names.head,)))
        self._runs[events] = run_id
        self._channels[names.channel] = run_id
        head = None if stored is None else head_in(stored)
        self._places[events] = _START if head is None else str(head.latest).encode()
        self._added = True
        if self._unblocking is None:
            self._unblocking = asyncio.create_task(self._interrupt_if_added())

    def forget(self, run_id: str) -> None:
        """Wait for the run no more, from the next XREAD on."""
        names = self._keys.of(run_id)
        self._runs.pop(names.events, None)
        self._places.pop(names.events, None)
        self._channels.pop(names.channel, None)

    async def close(self) -> None:
        """Disconnect."""
        tasks = [self.task, *([self._unblocking] if self._unblocking else [])]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    async def interrupt(self) -> None:
        """End the XREAD that is under way, if there is one, so that the next waits for all."""
        await self._writing.send(
            Command((), script=script("stream_unblock"), keys=(self._unblock,), write=True, repeatable=True)
        )

    async def _interrupt_if_added(self) -> None:
        try:
            while self._added:
                self._added = False
                with suppress(BackendsError):  # it ends by itself before long
                    await self.interrupt()
        finally:
            self._unblocking = None

    async def _run(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            connection: AbstractConnection | None = None
            try:
                seconds = self._connection.timeout_seconds
                connection, _ = await connect_to_primary(self._connection.servers, None, seconds)
                async with asyncio.timeout(seconds):
                    self._places.setdefault(self._unblock, _START)
                    self._places[self._keys.ends] = await self._last_end(connection)
                self._hub.wake_all()  # ends may have come in between, at the first time too
                pause, self._failure = FIRST_PAUSE_SECONDS, None
                while True:
                    await self._read(connection)
            except (RedisError, OSError, TimeoutError) as error:
                if code_of(error) == "WRONGTYPE":
                    await self._leave_strangers()
                elif not is_cut(error) and not is_passing(error):
                    self._failure = translated(error, self._connection.where)
                    self._hub.wake_all()
            finally:
                if connection is not None:
                    await disconnect(connection)
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  # jitter is no secret
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _leave_strangers(self) -> None:
        """Wait no more for keys that hold something else; whoever reads those runs is told."""
        with suppress(BackendsError):
            for key, run_id in list(self._runs.items()):
                if await self._reading.send(Command((b"TYPE", key), keys=(key,))) not in {b"stream", b"none"}:
                    self._places.pop(key, None)
                    self._hub.wake(run_id)

    async def _last_end(self, connection: AbstractConnection) -> bytes:
        await write(connection, pack((b"XREVRANGE", self._keys.ends, b"+", b"-", b"COUNT", 1)))
        found = await connection.read_response(disconnect_on_error=False)
        return bytes(found[0][0]) if found else _START

    async def _read(self, connection: AbstractConnection) -> None:
        """Wait for entries, and wake the hub for each run that has some."""
        words: list[Any] = [
            b"XREAD",
            b"COUNT",
            _ENTRIES,
            b"BLOCK",
            _BLOCK_MS,
            b"STREAMS",
            *self._places,
            *self._places.values(),
        ]
        async with asyncio.timeout(_BLOCK_MS / 1_000 + self._connection.timeout_seconds):
            await write(connection, pack(tuple(words)))
            found = await connection.read_response(disconnect_on_error=False)
        for key, entries in found or ():
            if key in self._places:
                self._places[key] = entries[-1][0]
            self._wake(key, entries)

    def _wake(self, key: bytes, entries: list[Any]) -> None:
        run_id = self._runs.get(key)
        if run_id is not None:
            self._hub.wake(run_id)
        elif key == self._keys.ends:
            for _, (_, channel) in entries:
                if channel in self._channels:
                    self._hub.wake(self._channels[channel])


@asynccontextmanager
async def open_xread_tail(
    connection: Connection, hub: Hub, keys: StreamKeys, reading: Lane, writing: Lane
) -> AsyncIterator[XreadTail]:
    """Open the tail; it connects by itself, and again whenever that breaks."""
    tail = XreadTail(connection, hub, keys, reading, writing)
    try:
        await tail.interrupt()  # the stream for that is there from the beginning: subscribing creates nothing (S11)
        yield tail
    finally:
        await tail.close()
