"""What the capabilities over one namespace share: its environment, calls with a time limit, and the sweeper."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, TypeVar

import lmdb

from deerflow_backends import BackendsError, BackendUnavailable, Finding
from deerflow_backends.blocking import in_thread
from deerflow_lmdb.environment import Environment, Job, acquire, release
from deerflow_lmdb.settings import LmdbSettings
from deerflow_lmdb.transactions import Transaction

T = TypeVar("T")

#: When so much of the map is used, an operator should know.
_NEARLY_FULL: Final = 0.8

logger = logging.getLogger("deerflow_lmdb")


class Connection:
    """A namespace in use by one event loop.

    Attributes:
        sweepers: Each removes some of what has expired, in a write transaction; True if there is more. Called every
            ``sweep_seconds``.
    """

    def __init__(self, environment: Environment, settings: LmdbSettings) -> None:
        self.environment, self.settings = environment, settings
        self.sweepers: list[Callable[[Transaction], bool]] = []

    async def read(self, job: Job[T]) -> T:
        """Do *job* in a read transaction, or raise `BackendUnavailable` when the time is over."""
        return await self._answer(self.environment.read(job), writes=False)

    async def write(self, job: Job[T]) -> T:
        """Do *job* in a write transaction, as `read` does. Cancelled, it happened whole or not at all."""
        return await self._answer(self.environment.write(job), writes=True)

    async def ping(self) -> None:
        """Return if the namespace can be read."""
        await self.read(lambda _: None)

    async def _answer(self, future: Future[T], *, writes: bool) -> T:
        limit = asyncio.timeout(self.settings.timeout_seconds)
        try:
            async with limit:
                return await asyncio.wrap_future(future)
        except TimeoutError:
            if not limit.expired():
                raise
            # What has not begun never will: `cancel` decides that against the thread that would begin it.
            maybe_written = not future.cancel() and writes
            outcome = "the write may still happen" if maybe_written else "nothing was written"
            raise BackendUnavailable(
                f"{self.environment.folder}: no answer within {self.settings.timeout_seconds:g} s (another process "
                f"writes, or the disk is slow); {outcome}",
                maybe_written=maybe_written,
            ) from None

    async def sweep(self) -> None:
        """Free what has expired, every ``sweep_seconds``, until cancelled."""
        while True:
            await asyncio.sleep(self.settings.sweep_seconds)
            try:
                await self.write(lambda _: self.environment.free_dead_readers())
                for sweeper in list(self.sweepers):
                    while await self.write(sweeper):
                        pass
            except BackendsError as error:
                logger.warning("sweep_failed", extra={"folder": str(self.environment.folder), "reason": str(error)})


@asynccontextmanager
async def connect(settings: LmdbSettings) -> AsyncIterator[Connection]:
    """Use a namespace; its environment is opened by the first in this process and closed by the last."""
    arguments = (settings.path, settings.namespace, settings.map_bytes, settings.timeout_seconds)
    # A list, because who is cancelled while a thread is at work does not get what that returned.
    opened: list[Environment] = []
    try:
        await in_thread("deerflow lmdb opening", lambda: opened.append(acquire(*arguments)))
        connection = Connection(opened[0], settings)
        sweeping = asyncio.create_task(connection.sweep())
        try:
            yield connection
        finally:
            sweeping.cancel()
            await asyncio.wait([sweeping])  # unlike awaiting the task, this does not swallow a cancellation of ours
    finally:
        for environment in opened:
            await in_thread("deerflow lmdb closing", partial(release, environment))


async def findings(connection: Connection) -> list[Finding]:
    """Tell what an operator should know, changing nothing."""
    version = ".".join(map(str, lmdb.version()))
    full = await connection.read(lambda _: connection.environment.full())
    told = f"LMDB {version}; the file has grown to {full:.1%} of map_bytes"
    if full > _NEARLY_FULL:
        return [Finding("warning", f"{told}: set it higher, in all processes")]
    return [Finding("info", told)]
