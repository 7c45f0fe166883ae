"""One connection to one server, with what waits for it: what gathers while a batch is on the wire is the next batch."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from deerflow_redis.failures import Lost, NotSent, is_passing, is_refused
from deerflow_redis.scripts import Script
from deerflow_redis.topologies import Address, Servers, disconnect, identify, is_dead

#: What one batch holds at most; a larger command goes alone.
MAX_BATCH_COMMANDS: Final = 512
MAX_BATCH_BYTES: Final = 1024 * 1024

#: Between tries while servers are unavailable: doubling, with jitter.
FIRST_PAUSE_SECONDS: Final = 0.02
LONGEST_PAUSE_SECONDS: Final = 0.5

#: A connection that was quiet for so long may be dead without our knowing: looked at before it is used.
_QUIET_SECONDS: Final = 1.0

#: The incarnation is read again after so long, lest two connections go on seeing different ones.
_INCARNATION_SECONDS: Final = 5.0


class Command:
    """What is sent, and what may be done about it.

    Attributes:
        key: One of its keys, which tells the server; None for any.
        write: Whether it may change something.
        repeatable: Whether sending it again after a lost reply does no harm.
        stamped: Whether the first argument of the script is to be the server's incarnation.
        sent: Whether it ever was, as far as this process knows.
    """

    __slots__ = ("_arguments", "_keys", "_script", "key", "repeatable", "sent", "size", "stamped", "write")

    def __init__(
        self,
        arguments: tuple[Any, ...],
        *,
        script: Script | None = None,
        keys: tuple[bytes, ...] = (),
        write: bool = False,
        repeatable: bool = False,
        stamped: bool = False,
    ) -> None:
        self._arguments, self._script, self._keys = arguments, script, keys
        self.key = keys[0] if keys else None
        self.write, self.repeatable, self.stamped = write, repeatable or not write, stamped
        self.size = sum(len(one) if isinstance(one, bytes | str) else 8 for one in arguments)
        self.sent = False

    def words(self, incarnation: bytes, *, whole: bool = False) -> tuple[Any, ...]:
        """Return what goes over the wire: a script by its name, or *whole*."""
        stamp = (incarnation,) if self.stamped else ()
        if self._script is None:
            return self._arguments
        what = (b"EVAL", self._script.source) if whole else (b"EVALSHA", self._script.sha)
        return (*what, len(self._keys), *self._keys, *stamp, *self._arguments)


class _Sending(NamedTuple):
    """One attempt to send a command."""

    command: Command
    whole: bool
    asking: bool
    future: asyncio.Future[Any]


class Pipe:
    """One connection to one server, made when there is something to send, and again after it was lost."""

    def __init__(
        self, servers: Servers, address: Address | None, *, timeout_seconds: float, wait_replicas: int
    ) -> None:
        self.trouble: BaseException | None = None
        self._address = address
        self._servers, self._timeout_seconds, self._wait_replicas = servers, timeout_seconds, wait_replicas
        self._queue: deque[_Sending] = deque()
        self._news = asyncio.Event()
        self._connection: AbstractConnection | None = None
        self._incarnation = b""
        self._used_at = self._incarnation_at = 0.0
        self._task = asyncio.create_task(self._run())

    def send(self, command: Command, *, whole: bool = False, asking: bool = False) -> asyncio.Future[Any]:
        """Put a command in the queue.

        Returns:
            What will hold its reply, or the server's error, or `NotSent` or `Lost`. Cancelled before it is sent, it
            will not be.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.append(_Sending(command, whole, asking, future))
        self._news.set()
        return future

    async def close(self) -> None:
        """Disconnect; what waits gets `NotSent` or `Lost`."""
        self._task.cancel()
        await asyncio.wait([self._task])
        await self._drop()
        _fail(self._queue, NotSent())

    async def _run(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            await self._news.wait()
            self._news.clear()
            while self._has_work():
                try:
                    connection = await self._connected()
                except (RedisError, OSError, TimeoutError) as error:
                    self.trouble = error
                    await self._drop()
                    if is_refused(error):
                        self._give_up(error)
                    elif self._address is not None:  # somebody else may have its keys by now
                        self._give_up(NotSent())
                    await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  # jitter is no secret
                    pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                    continue
                pause, self.trouble = FIRST_PAUSE_SECONDS, None
                await self._exchange(connection, self._next_batch())

    def _has_work(self) -> bool:
        while self._queue and self._queue[0].future.done():
            self._queue.popleft()
        return bool(self._queue)

    def _next_batch(self) -> list[_Sending]:
        batch: list[_Sending] = []
        size = 0
        while self._has_work() and len(batch) < MAX_BATCH_COMMANDS:
            size += self._queue[0].command.size
            if batch and size > MAX_BATCH_BYTES:
                break
            batch.append(self._queue.popleft())
        return batch

    async def _connected(self) -> AbstractConnection:
        """Return the connection, looked at if it was quiet, or make it."""
        now = asyncio.get_running_loop().time()
        if self._connection is not None and now - self._used_at > _QUIET_SECONDS and await is_dead(self._connection):
            await self._drop()
        if self._connection is None or now - self._incarnation_at > _INCARNATION_SECONDS:
            async with asyncio.timeout(self._timeout_seconds):
                if self._connection is None:
                    self._connection = await self._servers.connect(self._address)
                self._incarnation = await identify(self._connection)
            self._incarnation_at = now
        return self._connection

    async def _exchange(self, connection: AbstractConnection, batch: list[_Sending]) -> None:
        """Send a batch and hand out the replies as they come."""
        if not batch:
            return
        words: list[tuple[Any, ...]] = []
        for sending in batch:
            if sending.asking:
                words.append((b"ASKING",))
            words.append(sending.command.words(self._incarnation, whole=sending.whole))
            sending.command.sent = True
        writes = [sending for sending in batch if sending.command.write] if self._wait_replicas else []
        if writes:
            words.append((b"WAIT", self._wait_replicas, int(self._timeout_seconds * 500)))
        loop = asyncio.get_running_loop()
        unconfirmed: dict[int, Any] = {}
        try:
            async with asyncio.timeout(self._timeout_seconds) as limit:
                await connection.send_packed_command(connection.pack_commands(words), check_health=False)
                for number, sending in enumerate(batch, 1):
                    if sending.asking:
                        await _reply(connection)
                    reply = await _reply(connection)
                    if number % 32 == 0:
                        limit.reschedule(loop.time() + self._timeout_seconds)
                    if writes and sending.command.write:
                        unconfirmed[id(sending)] = reply
                    else:
                        _resolve(sending.future, reply)
                if writes:
                    self._confirm(writes, unconfirmed, await _reply(connection))
        except (RedisError, OSError, TimeoutError) as error:
            await self._drop()
            _fail(batch, Lost(), error)
        except BaseException:
            _fail(batch, Lost())
            raise
        self._used_at = loop.time()

    def _confirm(self, writes: list[_Sending], replies: dict[int, Any], confirmed: Any) -> None:
        """Hand out the replies of writes, once enough replicas have them."""
        few = not isinstance(confirmed, int) or confirmed < self._wait_replicas
        shortage = RedisConnectionError(f"of {self._wait_replicas} replicas to wait for {confirmed} confirmed")
        for sending in writes:
            reply = replies[id(sending)]
            if few and not isinstance(reply, Exception):
                _fail([sending], Lost(), shortage)
            else:
                _resolve(sending.future, reply)

    def distrust(self) -> None:
        """See before the next batch whether the other end is still a primary."""
        self._incarnation_at = 0.0

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await disconnect(connection)

    def _give_up(self, error: Exception) -> None:
        _fail(self._queue, error, self.trouble)
        self._queue.clear()


async def _reply(connection: AbstractConnection) -> Any:
    """Return the next reply; a server's error as a value."""
    try:
        return await connection.read_response(disconnect_on_error=False)
    except ResponseError as error:
        return error
    except RedisError as error:
        if is_passing(error) or is_refused(error):
            return error
        raise


def _resolve(future: asyncio.Future[Any], reply: Any) -> None:
    if future.done():
        return
    if isinstance(reply, Exception):
        future.set_exception(reply)
    else:
        future.set_result(reply)


def _fail(sendings: Iterable[_Sending], error: Exception, cause: BaseException | None = None) -> None:
    for sending in sendings:
        if not sending.future.done():
            one = type(error)(*error.args)
            one.__cause__ = cause
            sending.future.set_exception(one)
