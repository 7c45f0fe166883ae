"""A namespace's LMDB environment: opened once a process, read by one thread and written by another.

What this module knows of LMDB, and a backend over it must:

* Within one process a file is opened once only, so all who want it share it (`acquire`, `release`).
* After a fork the child must neither use nor close what its parent has opened, and cannot open it again.
* A write transaction belongs to the thread that began it.
* LMDB's locks are waited for without an end, even if their holder was stopped. So nobody takes one of them without
  holding `_Turn`, a lock of our own, which is tried again and again and can be given up.
"""

from __future__ import annotations

import fcntl
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, TypeAlias, TypeVar

import lmdb

from deerflow_backends import BackendsError, BackendUnavailable, ConfigError, Corrupt, PluginError
from deerflow_backends.local_folders import REFUSALS, check_folder
from deerflow_lmdb.layout import ABOUT, TABLES, VERSION, AboutRow
from deerflow_lmdb.transactions import Transaction

T = TypeVar("T")

#: What is done in a transaction. What it raises undoes what it wrote.
Job: TypeAlias = Callable[[Transaction], T]

#: How many processes may use a namespace.
_MAX_READERS: Final = 1_000

#: How long to wait before a lock that another process holds is tried again.
_PAUSE_SECONDS: Final = 0.001


class _Turn:
    """A process's turn to use what LMDB locks. The system ends it when the process dies.

    A record lock, and not `flock`: a child that was forked meanwhile would go on holding that.
    """

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def close(self) -> None:
        os.close(self._handle)

    @contextmanager
    def taken(self, wanted: Callable[[], bool]) -> Iterator[bool]:
        """Wait for the turn as long as it is *wanted*; gives whether it came."""
        while wanted():
            try:
                fcntl.lockf(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):  # systems differ in what they say
                time.sleep(_PAUSE_SECONDS * random.uniform(0.5, 1.0))  # noqa: S311  # to keep processes out of step
                continue
            try:
                yield True
            finally:
                fcntl.lockf(self._handle, fcntl.LOCK_UN)
            return
        yield False


class _Thread:
    """Does one thing after the other, in the order asked for. What is cancelled before it begins is never done."""

    def __init__(self, name: str, do: Callable[[Future[Any], Job[Any]], None]) -> None:
        self._do = do
        self._asked: SimpleQueue[tuple[Future[Any], Job[Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def ask(self, job: Job[T]) -> Future[T]:
        future: Future[T] = Future()
        self._asked.put((future, job))
        return future

    def stop(self) -> None:
        self._asked.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (asked := self._asked.get()) is not None:
            self._do(*asked)
            del asked  # or its answer would live until somebody asks again


class Environment:
    """An open environment. Made, used and closed off the event loop, but for `read` and `write`, which never wait."""

    def __init__(self, folder: Path, map_bytes: int, timeout_seconds: float) -> None:
        self.folder, self.users = folder, 0
        with ExitStack() as stack:
            self._turn = _Turn(folder / "turn.lock")
            stack.callback(self._turn.close)
            until = time.monotonic() + timeout_seconds
            with self._turn.taken(lambda: time.monotonic() < until) as taken:
                if not taken:
                    raise BackendUnavailable(
                        f"{folder}: another process has been writing for {timeout_seconds:g} s; open it again later"
                    )
                self._env = lmdb.open(
                    str(folder),
                    map_size=map_bytes,
                    mode=0o700,
                    max_dbs=len(TABLES),
                    max_readers=_MAX_READERS,
                    max_spare_txns=1,
                )
                stack.callback(self._env.close)
                self._prepare()
            self._closing = stack.pop_all()
        self._reader = _Thread(f"{folder.name} reader", self._do_read)
        self._writer = _Thread(f"{folder.name} writer", self._do_write)

    def _prepare(self) -> None:
        with self._env.begin(write=True) as txn:
            self._handles = {table.name: self._env.open_db(table.name.encode(), txn=txn) for table in TABLES}
            transaction = Transaction(txn, self._handles)
            about = transaction.get(ABOUT, b"about")
            if about is None:
                transaction.put(ABOUT, b"about", AboutRow(VERSION))
            elif about.version > VERSION:
                raise PluginError(
                    f"{self.folder} has layout {about.version}, this deerflow-lmdb-example knows {VERSION}: upgrade it"
                )
        self._env.reader_check()
        # The first reader takes a lock to get its place in LMDB's table. It keeps the place (max_spare_txns), so from
        # now on reading, which is done by one thread, takes no lock at all.
        with self._env.begin():
            pass

    def close(self) -> None:
        """Do what was asked for, end both threads, and close the files."""
        self._reader.stop()
        self._writer.stop()
        self._closing.close()

    def read(self, job: Job[T]) -> Future[T]:
        """Do *job* in a read transaction."""
        return self._reader.ask(job)

    def write(self, job: Job[T]) -> Future[T]:
        """Do *job* in a write transaction. The future's ``cancel`` says whether it came before the job began."""
        return self._writer.ask(job)

    def free_dead_readers(self) -> None:
        """Free the places of processes that died reading, or what they read would be kept for ever; as a writer."""
        self._env.reader_check()

    def full(self) -> float:
        """How much of the map is used, 0.0 to 1.0."""
        info = self._env.info()
        return info["last_pgno"] * self._env.stat()["psize"] / info["map_size"]

    def _do_read(self, future: Future[Any], job: Job[Any]) -> None:
        if future.set_running_or_notify_cancel():
            self._settle(future, job, write=False)

    def _do_write(self, future: Future[Any], job: Job[Any]) -> None:
        try:
            with self._turn.taken(lambda: not future.cancelled()) as taken:
                if taken and future.set_running_or_notify_cancel():
                    self._settle(future, job, write=True)
        except OSError as error:  # of the lock; what the job raises is in the future
            if not future.done() and future.set_running_or_notify_cancel():
                future.set_exception(_translated(error, self.folder))

    def _settle(self, future: Future[Any], job: Job[Any], *, write: bool) -> None:
        try:
            value = self._transact(job, write=write)
        except Exception as error:  # it is the caller's
            future.set_exception(error)
        else:
            future.set_result(value)

    def _transact(self, job: Job[T], *, write: bool) -> T:
        committing = False
        try:
            with self._env.begin(write=write) as txn:
                value = job(Transaction(txn, self._handles))
                committing = write
        except lmdb.Error as error:
            raise _translated(error, self.folder, maybe_written=committing) from error
        return value


def _translated(error: lmdb.Error | OSError, folder: Path, *, maybe_written: bool = False) -> BackendsError:
    """Turn what LMDB and the system report into this project's errors: the only place that does."""
    if isinstance(error, lmdb.MapFullError):
        return BackendUnavailable(f"{folder} is full; set the connection's map_bytes higher, in all processes")
    if isinstance(error, lmdb.MapResizedError):
        return BackendUnavailable(f"{folder} has grown past this process's map_bytes; set it as in the others")
    if isinstance(error, lmdb.CorruptedError | lmdb.InvalidError | lmdb.PageNotFoundError | lmdb.VersionMismatchError):
        return Corrupt(f"{folder}: {error}; restore it from a backup or move it away")
    if isinstance(error, OSError) and error.errno in REFUSALS:
        return ConfigError(f"{folder}: {error}; make the folder accessible, or choose another path")
    outcome = "; the write may have happened" if maybe_written else ""
    return BackendUnavailable(f"{folder}: {error}{outcome}", maybe_written=maybe_written)


_shared: dict[Path, Environment] = {}
_guard = threading.Lock()
#: What the process that this one was forked from has opened; kept, since losing it would close it.
_inherited: dict[Path, Environment] = {}


def acquire(path: Path, namespace: str, map_bytes: int, timeout_seconds: float) -> Environment:
    """Open a namespace, or share it with those in this process who have; off the event loop.

    Raises:
        ConfigError: The folder cannot be used, or not by this process.
        PluginError: Newer code wrote it.
        BackendUnavailable, Corrupt: It cannot be opened now, or ever.
    """
    check_folder(path, "LMDB's locks", parents=True)
    folder = Path(os.path.realpath(path)) / namespace
    if folder in _inherited:
        raise ConfigError(
            f"{folder} was open in the process that this one was forked from, and LMDB cannot open it again; fork "
            "before it is opened, or start processes by 'spawn' or 'forkserver'"
        )
    with _guard:
        if folder not in _shared:
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                _shared[folder] = Environment(folder, map_bytes, timeout_seconds)
            except (lmdb.Error, OSError) as error:
                raise _translated(error, folder) from error
        environment = _shared[folder]
        environment.users += 1
        return environment


def release(environment: Environment) -> None:
    """Give back what `acquire` gave; the last one closes it, but not in a forked child; off the event loop."""
    with _guard:
        if _shared.get(environment.folder) is not environment:
            return
        environment.users -= 1
        if not environment.users:
            del _shared[environment.folder]
            environment.close()


def _leave_to_parent() -> None:
    global _guard  # noqa: PLW0603  # somebody may have held it while the process was forked
    _guard = threading.Lock()
    _inherited.update(_shared)
    _shared.clear()


os.register_at_fork(after_in_child=_leave_to_parent)
