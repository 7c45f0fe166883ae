"""One connection to one server, with what waits for it: what gathers while batches are on the way is the next batch."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from deerflow_redis.failures import Lost, NotSent, is_forbidden, is_passing, is_refused
from deerflow_redis.scripts import Script
from deerflow_redis.topologies import IDENTIFY, Address, Servers, disconnect, identify, incarnation_in

#: What one batch holds at most; a larger command goes alone.
MAX_BATCH_COMMANDS: Final = 32
MAX_BATCH_BYTES: Final = 1024 * 1024

#: One batch is prepared and sent while the server is at another.
_BATCHES_ON_THE_WAY: Final = 4

#: What is smaller than this is written at once, without waiting for the connection to take it.
_SMALL_BYTES: Final = 16 * 1024

#: Between tries while servers are unavailable: doubling, with jitter.
FIRST_PAUSE_SECONDS: Final = 0.02
LONGEST_PAUSE_SECONDS: Final = 0.5

#: The incarnation is read again after so long, lest two connections go on seeing different ones.
_INCARNATION_SECONDS: Final = 5.0


def _pack(words: tuple[Any, ...]) -> bytes:
    packed: bytes = hiredis.pack_command(words)
    return packed


class Command:
    """What is sent, and what may be done about it.

    Attributes:
        key: One of its keys, which tells the server; None for any.
        write: Whether it may change something.
        repeatable: Whether sending it again after a lost reply does no harm.
        stamped: Whether the first argument of the script is to be the server's incarnation.
        size: About how many bytes it has.
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
        self.size = sum([len(one) for one in arguments if isinstance(one, bytes)])
        self.sent = False

    def packed(self, incarnation: bytes, *, whole: bool = False) -> bytes:
        """Return what goes over the wire: a script by its name, or *whole*."""
        if self._script is None:
            return _pack(self._arguments)
        stamp = (incarnation,) if self.stamped else ()
        what = (b"EVAL", self._script.source) if whole else (b"EVALSHA", self._script.sha)
        return _pack((*what, len(self._keys), *self._keys, *stamp, *self._arguments))


class _Sending(NamedTuple):
    """One attempt to send a command."""

    command: Command
    whole: bool
    asking: bool
    future: asyncio.Future[Any]

    def take(self, reply: Any) -> None:
        """Hand the reply to whoever waits for it, if anybody does yet."""
        if self.future.done():
            return
        if isinstance(reply, Exception):
            self.future.set_exception(reply)
        else:
            self.future.set_result(reply)

    def fail(self, error: Exception, cause: BaseException | None) -> None:
        """Say that there is no reply."""
        if not self.future.done():
            one = type(error)(*error.args)
            one.__cause__ = cause
            self.future.set_exception(one)


class _Wire:
    """A live connection, and who takes which of the replies that are on the way."""

    def __init__(self, connection: AbstractConnection, incarnation: bytes, timeout_seconds: float) -> None:
        self.incarnation = incarnation
        self.broken = self.retired = False
        self.has_room = asyncio.Event()
        self.has_room.set()
        self._loop = asyncio.get_running_loop()
        self._identified_at = self._heard_at = self._loop.time()
        self._connection, self._timeout_seconds = connection, timeout_seconds
        self._takers: deque[Callable[[Any], None]] = deque()
        self._batches: deque[_Batch] = deque()
        self._watchdog = self._loop.call_later(timeout_seconds, self._watch)
        self._reader = asyncio.create_task(self._read())

    async def send(self, sendings: Sequence[_Sending], wait_replicas: int) -> None:
        """Send a batch; its replies are handed out as they come, or `Lost` if they do not."""
        now = self._loop.time()
        if not self._takers:
            self._heard_at = now
        packed: list[bytes] = []
        before = len(self._takers)
        if now - self._identified_at > _INCARNATION_SECONDS:
            self._identified_at = now
            packed.append(_pack(IDENTIFY))
            self._takers.append(self._identified)
        for sending in sendings:
            if sending.asking:
                packed.append(_pack((b"ASKING",)))
                self._takers.append(_ignore)
            packed.append(sending.command.packed(self.incarnation, whole=sending.whole))
            self._takers.append(sending.take)
            sending.command.sent = True
        if wait_replicas:
            self._wait_too(packed, before, sendings, wait_replicas)
        self._batches.append(_Batch(sendings, len(self._takers) - before))
        if len(self._batches) >= _BATCHES_ON_THE_WAY:
            self.has_room.clear()
        try:
            await self._connection.send_packed_command(b"".join(packed), check_health=False)
        except (RedisError, OSError) as error:
            self.cut(error)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is on the way."""
        return not self._batches and self.is_usable

    @property
    def is_usable(self) -> bool:
        """Whether more may be sent."""
        return not self.broken and not self.retired

    def retire(self) -> None:
        """Send nothing more, and end once the replies that are on the way have come: to refused writes they say so."""
        self.retired = True
        if not self._batches:
            self.cut(None)

    def cut(self, cause: BaseException | None) -> None:
        """Give the connection up; of what is on the way nobody knows what became of it."""
        if self.broken:
            return
        self.broken = True
        self._watchdog.cancel()
        if asyncio.current_task() is not self._reader:  # which disconnects next, and must not be interrupted
            self._reader.cancel()
        self.has_room.set()
        for batch in self._batches:
            for sending in batch.sendings:
                sending.fail(Lost(), cause)

    async def close(self) -> None:
        """Disconnect."""
        self.cut(None)
        await self.ended()

    async def ended(self) -> None:
        """Return when it has ended, which `retire` and `cut` bring about."""
        await asyncio.wait([self._reader])

    async def _read(self) -> None:
        try:
            while not self.broken:
                reply = await _reply(self._connection)
                if not self._takers:
                    raise RedisConnectionError("the server replied to nothing")
                self._heard_at = self._loop.time()
                self._takers.popleft()(reply)
                batch = self._batches[0]
                batch.missing -= 1
                if not batch.missing:
                    self._batches.popleft()
                    self.has_room.set()
                    if self.retired:
                        self.retire()
        except (RedisError, OSError) as error:
            self.cut(error)
        finally:
            await disconnect(self._connection)

    def _watch(self) -> None:
        """See that replies come in time."""
        left = self._heard_at + self._timeout_seconds - self._loop.time() if self._takers else self._timeout_seconds
        if left <= 0:
            self.cut(RedisTimeoutError("no reply in time"))
        else:
            self._watchdog = self._loop.call_later(left, self._watch)

    def _identified(self, reply: Any) -> None:
        try:
            self.incarnation = incarnation_in(reply)
        except RedisError:
            self.retire()

    def _wait_too(self, packed: list[bytes], before: int, sendings: Sequence[_Sending], wait_replicas: int) -> None:
        """Have the replies to writes handed out only when enough replicas have them."""
        if not any(sending.command.write for sending in sendings):
            return
        held: list[tuple[_Sending, Any]] = []
        for place, taker in enumerate(list(self._takers)[before:], before):
            sending = getattr(taker, "__self__", None)
            if isinstance(sending, _Sending) and sending.command.write:
                self._takers[place] = partial(_hold, held, sending)
        packed.append(_pack((b"WAIT", wait_replicas, int(self._timeout_seconds * 500))))
        self._takers.append(partial(_let_go, held, wait_replicas))


class _Batch:
    """What was sent together, and how many of its replies are missing."""

    __slots__ = ("missing", "sendings")

    def __init__(self, sendings: Sequence[_Sending], missing: int) -> None:
        self.sendings, self.missing = sendings, missing


def _ignore(reply: Any) -> None:
    """Take the reply to what was said by the way."""


def _hold(held: list[tuple[_Sending, Any]], sending: _Sending, reply: Any) -> None:
    held.append((sending, reply))


def _let_go(held: list[tuple[_Sending, Any]], wait_replicas: int, confirmed: Any) -> None:
    few = not isinstance(confirmed, int) or confirmed < wait_replicas
    for sending, reply in held:
        if few and not isinstance(reply, Exception):
            sending.fail(Lost(), RedisConnectionError(f"{confirmed} of {wait_replicas} replicas confirmed the write"))
        else:
            sending.take(reply)


class Pipe:
    """The way to one server: a connection, made when there is something to send, and again after it was lost.

    Attributes:
        address: Of the server; None where the topology finds it for each connection.
        trouble: Why there is no connection now.
    """

    def __init__(
        self, servers: Servers, address: Address | None, *, timeout_seconds: float, wait_replicas: int
    ) -> None:
        self.trouble: BaseException | None = None
        self.address = address
        self._servers, self._timeout_seconds, self._wait_replicas = servers, timeout_seconds, wait_replicas
        self._queue: deque[_Sending] = deque()
        self._news = asyncio.Event()
        self._wire: _Wire | None = None
        self._task = asyncio.create_task(self._run())

    async def send(self, command: Command, *, whole: bool = False, asking: bool = False) -> Any:
        """Send a command, at once if nothing else is on the way, and return its reply.

        Cancelled before it is sent, it will not be.

        Raises:
            NotSent, Lost: There is none.
            RedisError: The server's.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        sending = _Sending(command, whole, asking, future)
        if self._wire is not None and self._wire.is_idle and not self._queue and command.size < _SMALL_BYTES:
            await self._wire.send((sending,), self._wait_replicas)
        else:
            self._queue.append(sending)
            self._news.set()
        return await future

    def distrust(self) -> None:
        """Connect anew: the other end is a primary no more."""
        if self._wire is not None:
            self._wire.retire()

    async def close(self) -> None:
        """Disconnect; what waits gets `NotSent` or `Lost`."""
        self._task.cancel()
        await asyncio.wait([self._task])
        if self._wire is not None:
            await self._wire.close()
        self._give_up(NotSent())

    async def _run(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            await self._news.wait()
            self._news.clear()
            while self._has_work():
                try:
                    wire = await self._connected()
                except (RedisError, OSError, TimeoutError) as error:
                    self.trouble = error
                    if is_refused(error) or is_forbidden(error):
                        self._give_up(error)
                    elif self.address is not None:  # somebody else may have its keys by now
                        self._give_up(NotSent())
                    await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  # jitter is no secret
                    pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                    continue
                pause, self.trouble = FIRST_PAUSE_SECONDS, None
                await wire.has_room.wait()
                if wire.is_usable and (batch := self._next_batch()):
                    await wire.send(batch, self._wait_replicas)

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

    async def _connected(self) -> _Wire:
        if self._wire is not None and not self._wire.is_usable:
            await self._wire.ended()
            self._wire = None
        if self._wire is None:
            async with asyncio.timeout(self._timeout_seconds):
                connection = await self._servers.connect(self.address)
                try:
                    incarnation = await identify(connection)
                except BaseException:
                    await disconnect(connection)
                    raise
            self._wire = _Wire(connection, incarnation, self._timeout_seconds)
        return self._wire

    def _give_up(self, error: Exception) -> None:
        for sending in self._queue:
            sending.fail(error, self.trouble)
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
