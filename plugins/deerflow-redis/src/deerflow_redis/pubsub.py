"""The tail over pub/sub: one subscriber connection a server, however many runs are watched there.

Messages carry the events. Whether they still arrive is seen by messages of our own, which go the way that events go: a
connection that is half dead, or leads to a server that is the primary no more, hears none of them.
"""

from __future__ import annotations

import asyncio
import copy
import random
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from deerflow_backends.errors import BackendsError, BackendUnavailable
from deerflow_backends.hub import Hub
from deerflow_redis.commands import Command, pack
from deerflow_redis.connection import Connection
from deerflow_redis.failures import code_of, is_cut, is_passing, translated, unavailable
from deerflow_redis.layout import StreamKeys
from deerflow_redis.pipes import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS
from deerflow_redis.topologies import Address, connect_to_primary, disconnect, write
from deerflow_redis.transport import Lane
from deerflow_redis.wire import seen_in

#: How often a connection is tried: with the time that an answer may take it must be found dead within 15 s (S14).
_PROBE_SECONDS: Final = 4.0

#: How many channels one command names at most.
_CHANNELS: Final = 500


_MESSAGE: Final = (b"message", b"smessage")
_SUBSCRIBED: Final = (b"subscribe", b"ssubscribe")


class PubSubTail:
    """Listens on the channels of the watched runs, each at the server that has it."""

    def __init__(self, connection: Connection, hub: Hub, keys: StreamKeys, writing: Lane) -> None:
        self.connection, self.hub, self.keys, self.writing = connection, hub, keys, writing
        self._listeners: dict[Address | None, Listener] = {}
        self._homes: dict[str, Listener] = {}

    async def watch(self, run_id: str) -> None:
        """Return once messages of the run arrive."""
        home = self._homes.get(run_id)
        if home is not None and home.hears(run_id):
            return
        seconds = self.connection.timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                if home is None:
                    home = await self.settle(run_id)
                await home.listen(run_id)
        except (RedisError, OSError, TimeoutError) as error:
            trouble = home.trouble if home is not None else error
            raise unavailable(trouble, self.connection.where, maybe_written=False) from trouble

    async def settle(self, run_id: str) -> Listener:
        """Find the server that has the run's channel, and have it listened to there from now on."""
        address = await self.connection.servers.locate(self.keys.of(run_id).channel)
        home = self._homes[run_id] = await self.listener(address)
        return home

    def forget(self, run_id: str) -> None:
        """Listen to the run no more."""
        home = self._homes.pop(run_id, None)
        if home is not None:
            home.leave(run_id)

    async def listener(self, address: Address | None) -> Listener:
        """Return the one connection to a server."""
        if address not in self._listeners:
            probe = await self.channel_at(address)
            if address not in self._listeners:  # nor made meanwhile: a second one would be left behind
                self._listeners[address] = Listener(self, address, probe)
        return self._listeners[address]

    async def channel_at(self, address: Address | None) -> bytes:
        """Find a channel of ours alone that the server has."""
        servers = self.connection.servers
        while address in await servers.primaries():
            channel = self.keys.probe(secrets.token_hex(8))
            if await servers.locate(channel) == address:
                return channel
        raise RedisConnectionError(f"{address} has no slots any more")

    def dismiss(self, listener: Listener) -> None:
        """Note that a listener ends: its server has no slots any more."""
        if self._listeners.get(listener.address) is listener:
            del self._listeners[listener.address]

    async def close(self) -> None:
        """Disconnect everywhere."""
        listeners = list(self._listeners.values())
        for listener in listeners:
            listener.task.cancel()
        if listeners:
            await asyncio.wait([listener.task for listener in listeners])


class Listener:
    """One subscriber connection, made again whenever it breaks; then all its runs are read again."""

    def __init__(self, tail: PubSubTail, address: Address | None, probe: bytes) -> None:
        self.address = address
        self.trouble: BaseException | None = None
        self._failure: BackendsError | None = None
        self._tail = tail
        self._sharded = tail.connection.topology == "cluster"
        self._runs: dict[bytes, str] = {}  # those wanted, by channel
        self._heard: set[bytes] = set()  # channels that the server has confirmed
        self._unconfirmed: dict[bytes, int] = {}
        self._waiters: dict[bytes, list[asyncio.Future[None]]] = {}
        self._outbox: list[tuple[bool, bytes]] = []  # whether to subscribe, and the channel
        self._outgoing = asyncio.Event()
        self._probe = probe
        self._probed: asyncio.Future[None] | None = None
        self._was_lost = False
        self.task = asyncio.create_task(self._run())

    def hears(self, run_id: str) -> bool:
        """Whether messages of a run arrive."""
        return self._tail.keys.of(run_id).channel in self._heard

    async def listen(self, run_id: str) -> None:
        """Return once messages of a run arrive."""
        channel = self._tail.keys.of(run_id).channel
        if channel not in self._runs:
            self._runs[channel] = run_id
            self._ask(channel, wanted=True)
        await self._confirmed(channel)

    def leave(self, run_id: str) -> None:
        """Want a run's messages no more."""
        channel = self._tail.keys.of(run_id).channel
        if self._runs.pop(channel, None) is not None:
            self._heard.discard(channel)
            self._ask(channel, wanted=False)
            for waiter in self._waiters.pop(channel, ()):
                if not waiter.done():
                    waiter.set_exception(RedisConnectionError("the slot was moved"))

    async def opened(self) -> None:
        """Return once a first message has made its way.

        Raises:
            ConfigError: The user may not publish or subscribe.
            BackendUnavailable: The server does not answer.
        """
        try:
            async with asyncio.timeout(self._tail.connection.timeout_seconds):
                await self._confirmed(self._probe)
            await self._try_once()
        except TimeoutError:
            raise unavailable(self.trouble, self._tail.connection.where, maybe_written=False) from self.trouble

    async def _confirmed(self, channel: bytes) -> None:
        if self._failure is not None:
            raise self._failure
        if channel not in self._heard:
            waiter = asyncio.get_running_loop().create_future()
            waiters = self._waiters.setdefault(channel, [])
            waiters.append(waiter)
            try:
                await waiter
            finally:
                if waiter.cancelled():
                    waiters.remove(waiter)

    async def _try_once(self) -> None:
        """Publish a message to ourselves the way that events go, and return once it has arrived.

        Raises:
            TimeoutError: It has not.
            BackendUnavailable, ConfigError: It could not be published.
        """
        self._probed = asyncio.get_running_loop().create_future()
        words = (b"SPUBLISH" if self._sharded else b"PUBLISH", self._probe, b"")
        async with asyncio.timeout(self._tail.connection.timeout_seconds):
            await self._tail.writing.send(Command(words, keys=(self._probe,), write=True, repeatable=True))
            await self._probed

    def _ask(self, channel: bytes, *, wanted: bool) -> None:
        if wanted:
            self._unconfirmed[channel] = self._unconfirmed.get(channel, 0) + 1
        self._outbox.append((wanted, channel))
        self._outgoing.set()

    async def _run(self) -> None:
        """Connect, converse until that breaks, and again; but not where nothing is left to listen to."""
        pause = FIRST_PAUSE_SECONDS
        seconds = self._tail.connection.timeout_seconds
        while True:
            connection: AbstractConnection | None = None
            try:
                # Of a replica one would miss what is published while that is cut off.
                connection, _ = await connect_to_primary(self._tail.connection.servers, self.address, seconds)
                await self._converse(connection)
            except (RedisError, OSError, TimeoutError, BackendsError) as error:
                self._note(error)
            finally:
                if connection is not None:
                    await disconnect(connection)
            pause = FIRST_PAUSE_SECONDS if self._heard else min(2 * pause, LONGEST_PAUSE_SECONDS)
            self._heard.clear()
            self._was_lost = True
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  # jitter is no secret
            if self._sharded and not await self._still_here():
                return

    def _note(self, error: Exception) -> None:
        """Keep what went wrong; what trying again does not mend, all who wait are told."""
        self.trouble = error
        if isinstance(error, BackendsError):
            self._failure = None if isinstance(error, BackendUnavailable) else error
        elif not is_cut(error) and not is_passing(error) and code_of(error) != "MOVED":
            self._failure = translated(error, self._tail.connection.where)
        if self._failure is not None:
            for waiter in [waiter for waiters in self._waiters.values() for waiter in waiters]:
                if not waiter.done():
                    waiter.set_exception(copy.copy(self._failure))
            self._waiters.clear()
            self._tail.hub.wake_all()

    async def _still_here(self) -> bool:
        """Have runs whose slots went elsewhere listened to there; whether the server has any slots yet."""
        servers = self._tail.connection.servers
        with suppress(RedisError, OSError, TimeoutError):
            await servers.refresh()
            here = self.address in await servers.primaries()
            if here and await servers.locate(self._probe) != self.address:
                self._probe = await self._tail.channel_at(self.address)
            for channel, run_id in list(self._runs.items()):
                if not here or await servers.locate(channel) != self.address:
                    self._tail.forget(run_id)
                    self._tail.hub.wake(run_id)  # before it is read it is listened to
            if not here:
                self._tail.dismiss(self)
            return here
        return True

    async def _converse(self, connection: AbstractConnection) -> None:
        """Subscribe to all that is wanted, receive, and see every now and then that messages do arrive."""
        self._outbox = []
        self._unconfirmed = {}
        for channel in (self._probe, *self._runs):
            self._ask(channel, wanted=True)
        jobs = [self._receive(connection), self._send_out(connection), self._keep_trying()]
        tasks = [asyncio.create_task(job) for job in jobs]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        for task in done:
            task.result()

    async def _send_out(self, connection: AbstractConnection) -> None:
        prefix = b"S" if self._sharded else b""
        while True:
            await self._outgoing.wait()
            self._outgoing.clear()
            outbox, self._outbox = self._outbox, []
            commands: list[list[bytes]] = []
            for wanted, channel in outbox:
                word = prefix + (b"SUBSCRIBE" if wanted else b"UNSUBSCRIBE")
                # The channels of one sharded command must have one slot.
                if self._sharded or not commands or commands[-1][0] != word or len(commands[-1]) > _CHANNELS:
                    commands.append([word])
                commands[-1].append(channel)
            await write(connection, b"".join(pack(tuple(words)) for words in commands))

    async def _keep_trying(self) -> None:
        while True:
            await asyncio.sleep(_PROBE_SECONDS * random.uniform(0.75, 1.25))  # noqa: S311  # jitter is no secret
            await self._try_once()  # what cannot be published here may be elsewhere: then connect anew, too

    async def _receive(self, connection: AbstractConnection) -> None:
        while True:
            kind, channel, content = await connection.read_response(disconnect_on_error=False)
            if kind in _MESSAGE:
                run_id = self._runs.get(channel)
                if run_id is not None:
                    seen = seen_in(content)
                    self._tail.hub.feed(run_id, seen.head, seen.entries)
                elif channel == self._probe and self._probed is not None and not self._probed.done():
                    self._probed.set_result(None)
            elif kind in _SUBSCRIBED:
                self._is_subscribed(channel)
            elif channel in self._heard:
                raise RedisConnectionError("the server has ended a subscription: the slot was moved")

    def _is_subscribed(self, channel: bytes) -> None:
        left = self._unconfirmed.pop(channel, 1) - 1
        if left > 0:
            self._unconfirmed[channel] = left
        elif channel in self._runs or channel == self._probe:
            self._heard.add(channel)
            self._failure = None
            for waiter in self._waiters.pop(channel, ()):
                if not waiter.done():
                    waiter.set_result(None)
            if self._was_lost and channel in self._runs:
                self._tail.hub.wake(self._runs[channel])


@asynccontextmanager
async def open_pubsub_tail(
    connection: Connection, hub: Hub, keys: StreamKeys, writing: Lane
) -> AsyncIterator[PubSubTail]:
    """Open the tail, and see that a message makes its way at every server.

    Raises:
        ConfigError: The user may not publish or subscribe.
        BackendUnavailable: The server does not answer.
    """
    tail = PubSubTail(connection, hub, keys, writing)
    try:
        try:
            async with asyncio.timeout(connection.timeout_seconds):
                # Connected everywhere now, subscribing later leaves nothing behind (G8).
                listeners = [await tail.listener(address) for address in await connection.servers.primaries()]
        except (RedisError, OSError, TimeoutError) as error:
            raise unavailable(error, connection.where, maybe_written=False) from error
        for listener in listeners:
            await listener.opened()
        yield tail
    finally:
        await tail.close()
