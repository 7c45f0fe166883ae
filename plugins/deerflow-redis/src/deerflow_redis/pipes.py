"""The way to one server, with what waits for it: what gathers while batches are on the way is the next batch."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from typing import Any, Final

from deerflow_redis.commands import Command, Sending
from deerflow_redis.failures import NotSent, is_lasting, is_refused
from deerflow_redis.topologies import Address, Servers, connect_to_primary
from deerflow_redis.wires import Wire

#: What one batch holds at most; a larger command goes alone.
MAX_BATCH_COMMANDS: Final = 32
MAX_BATCH_BYTES: Final = 1024 * 1024

#: What is smaller than this is written at once, without waiting for the connection to take it.
_SMALL_BYTES: Final = 16 * 1024

#: Between tries while servers are unavailable: doubling, with jitter.
FIRST_PAUSE_SECONDS: Final = 0.02
LONGEST_PAUSE_SECONDS: Final = 0.5


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
        self._queue: deque[Sending] = deque()
        self._news = asyncio.Event()
        self._wire: Wire | None = None
        self._closing = False
        self._task = asyncio.create_task(self._run())

    async def send(self, command: Command, *, whole: bool = False, asking: bool = False) -> Any:
        """Send a command, at once if nothing else is on the way, and return its reply.

        Cancelled before it is sent, it will not be.

        Raises:
            NotSent, Lost: There is none.
            RedisError: The server's.
        """
        if self._closing:
            raise NotSent
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        sending = Sending(command, whole, asking, future)
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

    async def retire(self) -> None:
        """Send nothing more, and disconnect once the replies that are on the way have come."""
        self._closing = True
        self._give_up(NotSent())
        if self._wire is not None:
            self._wire.retire()
            await self._wire.ended()
        await self.close()

    async def close(self) -> None:
        """Disconnect; what waits gets `NotSent` or `Lost`."""
        self._closing = True
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
                except Exception as error:  # of whatever kind: while this task is gone nothing is sent
                    self.trouble = error
                    if is_refused(error) or is_lasting(error):
                        self._give_up(error)
                    elif self.address is not None:  # somebody else may have its keys by now
                        self._give_up(NotSent())
                    await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  # jitter is no secret
                    pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                    continue
                pause, self.trouble = FIRST_PAUSE_SECONDS, None
                await wire.has_room.wait()
                await wire.identify()
                if wire.is_usable and (batch := self._next_batch()):
                    await wire.send(batch, self._wait_replicas)

    def _has_work(self) -> bool:
        while self._queue and self._queue[0].future.done():
            self._queue.popleft()
        return bool(self._queue)

    def _next_batch(self) -> list[Sending]:
        batch: list[Sending] = []
        size = 0
        while self._has_work() and len(batch) < MAX_BATCH_COMMANDS:
            size += self._queue[0].command.size
            if batch and size > MAX_BATCH_BYTES:
                break
            batch.append(self._queue.popleft())
        return batch

    async def _connected(self) -> Wire:
        if self._wire is not None and not self._wire.is_usable:
            await self._wire.ended()
            self._wire = None
        if self._wire is None:
            connection, incarnation = await connect_to_primary(self._servers, self.address, self._timeout_seconds)
            self._wire = Wire(connection, incarnation, self._timeout_seconds)
        return self._wire

    def _give_up(self, error: Exception) -> None:
        for sending in self._queue:
            sending.fail(error, self.trouble)
        self._queue.clear()
