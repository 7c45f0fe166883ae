"""One SQLite file, used through two threads: one writes, with group commit, and one reads.

What is done is a plain function of a `sqlite3.Connection`, without transaction statements of its own. Everything
that waits when the writer is free shares one transaction, each call in a savepoint of its own, and nobody is answered
before the commit. Reads have another connection, each call sees one snapshot.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from deerflow_backends.errors import BackendUnavailable
from deerflow_backends.sqlite.worker import Call, Tuning, Worker

T = TypeVar("T")


class Database:
    """An open file."""

    def __init__(self, path: Path, writer: Worker, reader: Worker) -> None:
        self.path = path
        self._writer, self._reader = writer, reader

    async def write(
        self,
        function: Callable[[sqlite3.Connection], T],
        *,
        timeout_seconds: float,
        on_commit: Callable[[T], object] | None = None,
    ) -> T:
        """Do *function* in a write transaction and return what it returned, once that is committed.

        Args:
            timeout_seconds: How long to wait, for other processes' locks too.
            on_commit: Called with the result in the event loop after the commit, before the caller goes on, and
                even if the caller was cancelled or gave up.

        Raises:
            BackendUnavailable: Not done in time, or the file cannot be written; `maybe_written` tells.
            Corrupt: The file is damaged.

        What *function* raises undoes what it did and is raised here. Cancelled, it happened whole or not at all.
        """
        return await self._call(self._writer, function, timeout_seconds, on_commit)

    async def read(self, function: Callable[[sqlite3.Connection], T], *, timeout_seconds: float) -> T:
        """Do *function* in a read transaction: all of it sees one snapshot. Raises as `write` does."""
        return await self._call(self._reader, function, timeout_seconds, None)

    async def _call(
        self,
        worker: Worker,
        function: Callable[[sqlite3.Connection], T],
        timeout_seconds: float,
        on_commit: Callable[[T], object] | None,
    ) -> T:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        call = Call(function, future, on_commit)

        def give_up() -> None:
            maybe_written = not worker.drop(call) and worker.writes
            if not future.done():
                future.set_exception(self._late(timeout_seconds, maybe_written=maybe_written))

        worker.submit(call)
        timer = loop.call_later(timeout_seconds, give_up)
        try:
            return await future
        except asyncio.CancelledError:
            worker.drop(call)
            raise
        finally:
            timer.cancel()

    def _late(self, timeout_seconds: float, *, maybe_written: bool) -> BackendUnavailable:
        outcome = "the write may still happen" if maybe_written else "nothing was written"
        return BackendUnavailable(
            f"{self.path}: no answer within {timeout_seconds:g} s (another process holds its lock, "
            f"the disk is slow, or more is asked of it than it can do); {outcome}",
            maybe_written=maybe_written,
        )

    @property
    def work(self) -> int:
        """Statements and loop turns inside SQLite so far, if they are counted."""
        return self._writer.work + self._reader.work


@asynccontextmanager
async def open_database(path: Path, tuning: Tuning, secure_delete: str = "FAST") -> AsyncIterator[Database]:
    """Open a file that exists and was checked. Leaving does what was accepted, then ends both threads.

    Args:
        secure_delete: ``ON`` overwrites deleted content, ``FAST`` only where that costs no more writing.
    """
    writer = Worker(path, tuning, secure_delete, writes=True)
    reader = Worker(path, tuning, secure_delete, writes=False)
    try:
        yield Database(path, writer, reader)
    finally:
        try:
            await writer.stop()
        finally:
            await reader.stop()
