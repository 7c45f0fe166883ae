"""How commands reach the servers, and what is done when they do not: the retries are here, and nowhere else.

A `Lane` sends commands over connections of its own, one to each server that it needs, however many callers wait. The
driver's pools, timeouts and retries are not used, since it must not decide what is sent twice.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import Any

from redis.exceptions import RedisError

from deerflow_backends.errors import Closed
from deerflow_redis.commands import Command
from deerflow_redis.failures import Lost, NotSent, code_of, is_cut, is_passing, translated, unavailable
from deerflow_redis.pipes import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Pipe
from deerflow_redis.topologies import Address, Servers, redirected


class Lane:
    """Sends commands to whichever server has their keys, one connection a server.

    Args:
        where: Names the servers in messages.
    """

    def __init__(self, servers: Servers, where: str, *, timeout_seconds: float, wait_replicas: int = 0) -> None:
        self._servers, self.where = servers, where
        self._timeout_seconds, self._wait_replicas = timeout_seconds, wait_replicas
        self._pipes: dict[Address | None, Pipe] = {}
        self._retiring: dict[asyncio.Task[None], Pipe] = {}
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.closed = False

    async def send(self, command: Command, *, timeout_seconds: float | None = None, at: Address | None = None) -> Any:
        """Send a command, again and again where that does no harm, and return its reply.

        Args:
            timeout_seconds: For all of it; the lane's own if None.
            at: The server, if not that of the command's key.

        Raises:
            BackendUnavailable: No answer in time, or the reply to a write that must not be repeated was lost.
            ConfigError, Corrupt, PluginError: As the server's error says.
            Closed: The lane was closed.
        """
        seconds = self._timeout_seconds if timeout_seconds is None else timeout_seconds
        attempt = _Attempt(self, command, at)
        self._active += 1
        self._idle.clear()
        try:
            async with asyncio.timeout(seconds):
                return await attempt.until_answered()
        except TimeoutError:
            raise unavailable(attempt.trouble, self.where, maybe_written=command.write and command.sent) from None
        finally:
            self._active -= 1
            if not self._active:
                self._idle.set()

    async def everywhere(self, *words: Any) -> list[Any]:
        """Send the same to every server that has keys, and return their replies."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                addresses = await self._servers.primaries()
        except (RedisError, OSError, TimeoutError) as error:
            raise unavailable(error, self.where, maybe_written=False) from error
        return await asyncio.gather(*(self.send(Command(words), at=address) for address in addresses))

    async def close(self, drain_seconds: float) -> None:
        """Let what was accepted be done, if that takes no longer than *drain_seconds*, and disconnect."""
        with suppress(TimeoutError):
            async with asyncio.timeout(drain_seconds):
                await self._idle.wait()
        self.closed = True
        pipes = list(self._pipes.values())
        self._pipes.clear()
        for pipe in (*pipes, *self._retiring.values()):
            await pipe.close()
        if self._retiring:
            await asyncio.wait(self._retiring)

    def check(self) -> None:
        """Raise `Closed` if the lane was closed."""
        if self.closed:
            raise Closed(f"the connection to {self.where} is closed")

    async def pipe_of(self, key: bytes | None) -> Pipe:
        """Return the connection to a key's server."""
        return self.pipe_to(await self._servers.locate(key))

    def pipe_to(self, address: Address | None) -> Pipe:
        """Return the connection to a server."""
        self.check()
        pipe = self._pipes.get(address)
        if pipe is None:
            pipe = self._pipes[address] = Pipe(
                self._servers, address, timeout_seconds=self._timeout_seconds, wait_replicas=self._wait_replicas
            )
        return pipe

    async def refresh(self) -> None:
        """Look anew at where the servers are, and part with those that have no keys any more."""
        await self._servers.refresh()
        if len(self._pipes) > 1:
            known = set(await self._servers.primaries())
            for gone in [address for address in self._pipes if address not in known and address is not None]:
                pipe = self._pipes.pop(gone)
                task = asyncio.create_task(pipe.retire())
                self._retiring[task] = pipe
                task.add_done_callback(self._retiring.pop)


class _Attempt:
    """One call of `Lane.send`: what became of the command so far, and what to do next."""

    def __init__(self, lane: Lane, command: Command, at: Address | None) -> None:
        self._lane, self._command, self._at = lane, command, at
        self._heard: BaseException | None = None
        self._pipe: Pipe | None = None
        self._moved_to: Address | None = None
        self._whole = self._asking = self._was_lost = False
        self._pause = FIRST_PAUSE_SECONDS

    @property
    def trouble(self) -> BaseException | None:
        """What was heard last, if it was no good."""
        return self._heard or (self._pipe.trouble if self._pipe is not None else None)

    async def until_answered(self) -> Any:
        """Send the command until its reply comes, resting in between."""
        command = self._command
        while True:
            try:
                if self._pipe is None:
                    at, self._moved_to = self._moved_to or self._at, None
                    self._pipe = self._lane.pipe_to(at) if at else await self._lane.pipe_of(command.key)
                return await self._pipe.send(self._command, whole=self._whole, asking=self._asking)
            except (NotSent, Lost) as error:
                self._heard = error.__cause__
                self._was_lost = self._was_lost or isinstance(error, Lost)
                if self._was_lost and self._command.write and (self._lane.closed or not self._command.repeatable):
                    raise unavailable(self._heard, self._lane.where, maybe_written=True) from self._heard
                self._lane.check()
                again_at_once = await self._look_anew()
            except (RedisError, OSError, TimeoutError) as error:
                again_at_once = await self._understand(error)
            if not again_at_once:
                await asyncio.sleep(self._pause * random.uniform(0.5, 1.5))  # noqa: S311  # jitter is no secret
                self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)

    @property
    def _asked(self) -> Address | None:
        return None if self._pipe is None else self._pipe.address

    async def _understand(self, error: Exception) -> bool:
        """Prepare for what a server's error asks for, or raise ours; it executed nothing. True to send at once."""
        code, self._asking = code_of(error), False
        if not self._was_lost:
            self._command.sent = False  # every reply came, and said that it was not executed
        if code == "NOSCRIPT" and not self._whole:
            self._whole = True
            return True
        if code == "ASK":
            self._asking = True
            self._pipe = self._lane.pipe_to(redirected(str(error), self._asked))
            return True
        self._heard = error
        if code == "MOVED":
            there = redirected(str(error), self._asked)
            await self._look_anew()
            self._moved_to = there
            return False
        if not is_passing(error) and not is_cut(error):
            if self._was_lost and self._command.write:  # what is refused now may have been done before
                raise unavailable(error, self._lane.where, maybe_written=True) from error
            raise translated(error, self._lane.where) from error
        if code == "READONLY" and self._pipe is not None:
            self._pipe.distrust()
        return await self._look_anew()

    async def _look_anew(self) -> bool:
        """Find out where the servers are now, as far as anybody tells."""
        self._pipe, self._asking = None, False
        with suppress(RedisError, OSError):
            await self._lane.refresh()
        return False
