"""A live connection to a server, over which batches of commands go while replies to earlier ones are on the way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from deerflow_redis.commands import Command, Sending, pack
from deerflow_redis.failures import Lost, is_passing, is_refused
from deerflow_redis.topologies import IDENTIFY, disconnect, incarnation_in, write

#: While the server is at one batch, others are prepared and sent.
_BATCHES_ON_THE_WAY: Final = 4

#: Nothing is sent to a server that did not say for so long who it is: in between it may have been a replica, and lost
#: what it had acknowledged.
_IDENTITY_SECONDS: Final = 1.0

#: Large batches get time in proportion, on top of the timeout: no link is thought to be slower.
_SLOWEST_BYTES_PER_SECOND: Final = 1024 * 1024


class Wire:
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

    async def send(self, sendings: Sequence[Sending], wait_replicas: int) -> None:
        """Send a batch; its replies are handed out as they come, or `Lost` if they do not."""
        now = self._loop.time()
        if not self._takers:
            self._heard_at = now
        packed: list[bytes] = []
        before = len(self._takers)
        for sending in sendings:
            if sending.asking:
                packed.append(pack((b"ASKING",)))
                self._takers.append(_ignore)
            packed.append(sending.command.packed(self.incarnation, whole=sending.whole))
            self._takers.append(sending.take)
            sending.command.sent = True
        if wait_replicas:
            self._wait_too(packed, before, sendings, wait_replicas)
        self._batches.append(_Batch(sendings, len(self._takers) - before))
        if len(self._batches) >= _BATCHES_ON_THE_WAY:
            self.has_room.clear()
        whole = b"".join(packed)
        self._heard_at += len(whole) / _SLOWEST_BYTES_PER_SECOND
        try:
            await write(self._connection, whole)
        except (RedisError, OSError) as error:
            self.cut(error)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is on the way, and it is known who the other end is."""
        return not self._batches and self.is_usable and not self._is_forgotten

    @property
    def _is_forgotten(self) -> bool:
        return self._loop.time() - self._identified_at > _IDENTITY_SECONDS

    async def identify(self) -> None:
        """Ask the other end who it is, if it did not say so lately; a replica is sent nothing more."""
        if not self._is_forgotten or not self.is_usable:
            return
        asked = Sending(Command(IDENTIFY), whole=False, asking=False, future=self._loop.create_future())
        await self.send((asked,), 0)
        try:
            self.incarnation = incarnation_in(await asked.future)
        except Lost:
            return  # and broken
        except RedisError:
            self.retire()
        self._identified_at = self._loop.time()

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

    def _wait_too(self, packed: list[bytes], before: int, sendings: Sequence[Sending], wait_replicas: int) -> None:
        """Have the replies to writes handed out only when enough replicas have them."""
        if not any(sending.command.write for sending in sendings):
            return
        held: list[tuple[Sending, Any]] = []
        for place, taker in enumerate(list(self._takers)[before:], before):
            sending = getattr(taker, "__self__", None)
            if isinstance(sending, Sending) and sending.command.write:
                self._takers[place] = partial(_hold, held, sending)
        packed.append(pack((b"WAIT", wait_replicas, int(self._timeout_seconds * 500))))
        self._takers.append(partial(_let_go, held, wait_replicas))


class _Batch:
    """What was sent together, and how many of its replies are missing."""

    __slots__ = ("missing", "sendings")

    def __init__(self, sendings: Sequence[Sending], missing: int) -> None:
        self.sendings, self.missing = sendings, missing


def _ignore(reply: Any) -> None:
    """Take the reply to what was said by the way."""


def _hold(held: list[tuple[Sending, Any]], sending: Sending, reply: Any) -> None:
    held.append((sending, reply))


def _let_go(held: list[tuple[Sending, Any]], wait_replicas: int, confirmed: Any) -> None:
    few = not isinstance(confirmed, int) or confirmed < wait_replicas
    for sending, reply in held:
        if few and not isinstance(reply, Exception):
            sending.fail(Lost(), RedisConnectionError(f"{confirmed} of {wait_replicas} replicas confirmed the write"))
        else:
            sending.take(reply)


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
