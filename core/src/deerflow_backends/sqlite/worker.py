"""A thread that does calls in transactions of one SQLite connection: all that wait share one (group commit)."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from deerflow_backends.blocking import settle
from deerflow_backends.errors import BackendUnavailable
from deerflow_backends.sqlite.failures import is_busy, translated

T = TypeVar("T")

Synchronous = Literal["FULL", "NORMAL"]

#: How long SQLite itself waits for a lock before we look whether anybody still wants it.
BUSY_SECONDS: Final = 0.05

#: A write-ahead log that a burst blew up shrinks to this when it starts over.
_WAL_BYTES: Final = 64 * 1024 * 1024

#: How many reads share a transaction: more would keep the log from starting over for too long.
READS_AT_ONCE: Final = 32

#: Take the write lock, so that no statement inside can find the database busy.
BEGIN_WRITE: Final = "BEGIN IMMEDIATE"

#: Begin a transaction that a first look makes a snapshot (M11).
BEGIN_READ: Final = "BEGIN DEFERRED"
FIRST_LOOK: Final = "SELECT 1 FROM sqlite_schema LIMIT 1"


@dataclass(frozen=True, slots=True)
class Tuning:
    """How connections to a file behave.

    Attributes:
        synchronous: FULL: an acknowledged write survives a power loss. NORMAL: the last ones may not, but nothing
            is ever half there, and a SIGKILL loses nothing.
        count_work: Count statements and loop turns inside SQLite, for tests.
    """

    synchronous: Synchronous = "FULL"
    count_work: bool = False


def connect_file(path: Path, *, mode: Literal["ro", "rw", "rwc"], immutable: bool = False) -> sqlite3.Connection:
    """Open a file for the calling thread, in autocommit mode. Only ``rwc`` creates it.

    With *immutable* nothing is locked or written, not even beside the file, and a write-ahead log is ignored.
    """
    uri = f"{path.absolute().as_uri()}?mode={mode}{'&immutable=1' if immutable else ''}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_SECONDS, cached_statements=256)


class Call:
    """One function that somebody waits for. `begun` and `dropped` change under the worker's lock only."""

    __slots__ = ("begun", "dropped", "error", "function", "future", "on_commit", "value")

    def __init__(
        self,
        function: Callable[[sqlite3.Connection], Any],
        future: asyncio.Future[Any],
        on_commit: Callable[[Any], object] | None,
    ) -> None:
        self.function, self.future, self.on_commit = function, future, on_commit
        self.begun = self.dropped = False
        self.value: Any = None
        self.error: Exception | None = None


class _Undone(Exception):
    """SQLite has rolled back the whole transaction by itself."""


class _NobodyWaits(Exception):
    """Everybody who wanted a transaction has given up."""


class Worker:
    """A thread with a connection of its own, which it opens again when it fails."""

    def __init__(self, path: Path, tuning: Tuning, secure_delete: str, *, writes: bool) -> None:
        self.writes = writes
        self.work = 0
        self._path, self._tuning, self._secure_delete = path, tuning, secure_delete
        self._loop = asyncio.get_running_loop()
        self._stopped: asyncio.Future[None] = self._loop.create_future()
        self._ready = threading.Condition()
        self._queue: list[Call] = []
        self._stopping = self._abandoned = False
        self._connection: sqlite3.Connection | None = None
        name = f"{path.name} {'writer' if writes else 'reader'}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, call: Call) -> None:
        """Queue a call; what is queued together is done in one transaction."""
        with self._ready:
            self._queue.append(call)
            self._ready.notify()

    def drop(self, call: Call) -> bool:
        """Skip a call that nobody waits for any more; False if it has begun."""
        with self._ready:
            call.dropped = not call.begun
            return call.dropped

    async def stop(self) -> None:
        """Do what is queued, close the connection, end the thread. Cancelled, it drops what has not begun."""
        with self._ready:
            self._stopping = True
            self._ready.notify()
        try:
            await asyncio.shield(self._stopped)
        finally:
            with self._ready:
                self._abandoned = True
            self._thread.join()

    def _run(self) -> None:
        try:
            while batch := self._take():
                self._transact(batch)
                batch.clear()  # or its answers live until the next one comes
        finally:
            self._disconnect()
            with suppress(RuntimeError):  # the loop was closed over our head; nobody waits
                self._loop.call_soon_threadsafe(self._stopped.set_result, None)

    def _take(self) -> list[Call]:
        with self._ready:
            while not self._queue and not self._stopping:
                self._ready.wait()
            count = len(self._queue) if self.writes else READS_AT_ONCE
            batch, self._queue = self._queue[:count], self._queue[count:]
            return batch

    def _transact(self, batch: list[Call]) -> None:
        done: list[Call] = []
        try:
            connection = self._begin(batch)
            for call in batch:
                if self._claim(call):
                    done.append(call)
                    self._perform(connection, call)
                    if not self.writes:
                        self._answer([done.pop()])
            connection.execute("COMMIT")
        except _NobodyWaits:
            pass
        except _Undone:
            self._fail(done, None, maybe_written=False)
        except Exception as error:
            # After a failed commit nobody knows what a restart will find in the log; before, nothing was written.
            maybe_written = self.writes and bool(done)
            done = done or [call for call in batch if self._claim(call)]
            self._fail(done, error, maybe_written=maybe_written)
        finally:
            self._requeue([call for call in batch if not call.begun and not call.dropped])
            self._answer(done)

    def _begin(self, batch: list[Call]) -> sqlite3.Connection:
        """Begin a transaction for the batch, to write for all who came meanwhile too, as long as anybody wants it."""
        while True:
            with self._ready:
                if self.writes:
                    batch += self._queue
                    self._queue.clear()
                for call in batch:
                    call.dropped |= self._abandoned
                batch[:] = [call for call in batch if not call.dropped]  # not kept as long as the lock is
            if not batch:
                raise _NobodyWaits
            try:
                connection = self._connection = self._connection or self._connect()
                connection.execute(BEGIN_WRITE if self.writes else BEGIN_READ)
                if not self.writes:
                    connection.execute(FIRST_LOOK).fetchall()
            except sqlite3.OperationalError as error:
                if not is_busy(error):
                    raise
                self._roll_back()
            else:
                return connection

    def _claim(self, call: Call) -> bool:
        with self._ready:
            call.begun = not call.dropped
            return call.begun

    def _perform(self, connection: sqlite3.Connection, call: Call) -> None:
        if not self.writes:
            try:
                call.value = call.function(connection)
            except Exception as error:  # it is the caller's
                call.error = self._ours(error)
            return
        connection.execute("SAVEPOINT call")
        try:
            call.value = call.function(connection)
        except Exception as error:
            call.error = self._ours(error)
            if not connection.in_transaction:
                raise _Undone from error
            connection.execute("ROLLBACK TO call")
        connection.execute("RELEASE call")

    def _ours(self, error: Exception, *, maybe_written: bool = False) -> Exception:
        if not isinstance(error, sqlite3.Error):
            return error
        return translated(error, self._path, maybe_written=maybe_written) or error

    def _fail(self, calls: list[Call], error: Exception | None, *, maybe_written: bool) -> None:
        """Fail those that have no error of their own, and begin anew with another connection."""
        undone = f"{self._path}: SQLite undid this write together with another one that failed"
        for call in calls:
            if call.error is None and error is None:
                call.error = BackendUnavailable(undone, maybe_written=maybe_written)
            elif call.error is None and error is not None:
                call.error = self._ours(error, maybe_written=maybe_written)
        self._disconnect()

    def _requeue(self, calls: list[Call]) -> None:
        with self._ready:
            self._queue[:0] = calls

    def _answer(self, calls: list[Call]) -> None:
        if calls:
            with suppress(RuntimeError):  # the loop was closed over our head; nobody waits
                self._loop.call_soon_threadsafe(_resolve, calls)

    def _connect(self) -> sqlite3.Connection:
        connection = connect_file(self._path, mode="rw")
        try:
            connection.execute(f"PRAGMA synchronous = {self._tuning.synchronous}")
            connection.execute(f"PRAGMA secure_delete = {self._secure_delete}").fetchall()
            connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}").fetchall()
            connection.execute(f"PRAGMA query_only = {'OFF' if self.writes else 'ON'}")
        except BaseException:
            connection.close()
            raise
        if self._tuning.count_work:
            connection.set_trace_callback(self._count)
            connection.set_progress_handler(self._count, 1)
        return connection

    def _count(self, _statement: str | None = None) -> None:
        self.work += 1

    def _roll_back(self) -> None:
        if self._connection is not None and self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def _disconnect(self) -> None:
        with suppress(sqlite3.Error):
            self._roll_back()
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None


def _resolve(calls: list[Call]) -> None:
    """Answer a transaction's callers, in order; in the event loop."""
    for call in calls:
        if call.error is None and call.on_commit is not None:
            call.on_commit(call.value)
        settle(call.future, call.value, call.error)
