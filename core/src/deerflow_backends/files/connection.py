"""A namespace's folder in use: calls are done in threads, one at a time for each user."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeVar
from weakref import WeakValueDictionary

from deerflow_backends.blocking import in_thread
from deerflow_backends.clocks import Clock, wall_clock
from deerflow_backends.errors import BackendUnavailable, Closed, ConfigError
from deerflow_backends.files.failures import translating
from deerflow_backends.files.journals import Busy, Intent, recover_all
from deerflow_backends.files.opening import migrate as take_steps
from deerflow_backends.files.opening import store_of

T = TypeVar("T")

#: How many calls, of different users, are in the system at once. None of them waits there for a lock.
_THREADS: Final = 8

#: Pauses before a lock that another process holds is tried again.
_FIRST_PAUSE_SECONDS: Final = 0.0005
_LONGEST_PAUSE_SECONDS: Final = 0.001


class Connection:
    """A folder and a namespace, for one event loop.

    Attributes:
        store: Where the files are.
        import_from: What an empty store begins with.
        clock: Times go by it.
        timeout_seconds: For every call.
    """

    def __init__(
        self,
        path: Path,
        namespace: str,
        executor: ThreadPoolExecutor,
        *,
        import_from: Path | None,
        timeout_seconds: float,
        clock: Clock,
        migrate: bool,
    ) -> None:
        self.path, self.store, self.import_from = path, store_of(path, namespace), import_from
        self.clock, self.timeout_seconds = clock, timeout_seconds
        self._namespace, self._executor, self._migrate = namespace, executor, migrate
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def prepare(self) -> None:
        """Make sure that the folder is ours, and finish or undo what dead writers have left.

        Raises:
            ConfigError: It cannot be used, or is missing and is not to be made.
            PluginError, Corrupt, BackendUnavailable: As `migrate` does.
        """
        due = await take_steps(self.path, self._namespace, import_from=self.import_from, apply=self._migrate)
        if due and not self._migrate:
            raise ConfigError(
                f"{self.store.root} is not set up ({', '.join(due)}); "
                "run 'deerflow-backends migrate' or set the connection's 'migrate' to 'auto'"
            )
        await in_thread("deerflow files recovery", self._recover)

    def _recover(self) -> None:
        with translating():
            recover_all(self.store)

    async def read(self, user: str, job: Callable[[], T]) -> T:
        """Do what may find a user's folder `Busy`, until it is not.

        Args:
            user: The folder's name.
            job: Done in a thread.

        Raises:
            BackendUnavailable: Not done in time, or the files cannot be reached.
        """
        return await self._call(user, job, None)

    async def write(self, user: str, job: Callable[[Intent], T]) -> T:
        """Do what writes to a user's folder, as `read` does. Cancelled, it happened whole or not at all."""
        intent = Intent()
        try:
            return await self._call(user, lambda: job(intent), intent)
        finally:
            intent.give_up()

    async def ping(self) -> None:
        """Return if the folder is there, else raise `BackendUnavailable`."""

        def look() -> None:
            with translating():
                self.store.users.stat()

        await self.read("", look)

    async def _call(self, user: str, job: Callable[[], T], intent: Intent | None) -> T:
        limit = asyncio.timeout(self.timeout_seconds)
        try:
            async with limit, self._turn(user):
                return await self._patiently(job)
        except TimeoutError:
            if not limit.expired():
                raise
            maybe_written = intent is not None and not intent.give_up()
            raise self._late(maybe_written=maybe_written) from None

    async def _patiently(self, job: Callable[[], T]) -> T:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                future = self._executor.submit(job)
            except RuntimeError:
                raise Closed("this memory store was closed while a call waited; open it again") from None
            try:
                return await asyncio.wrap_future(future)
            except Busy:
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # to keep processes out of step
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _turn(self, user: str) -> asyncio.Lock:
        """Who comes first is served first, within this process."""
        turn = self._turns.get(user)
        if turn is None:
            turn = self._turns[user] = asyncio.Lock()
        return turn

    def _late(self, *, maybe_written: bool) -> BackendUnavailable:
        outcome = "the write may still happen" if maybe_written else "nothing was written"
        return BackendUnavailable(
            f"{self.store.root}: no answer within {self.timeout_seconds:g} s (another process holds the user's lock, "
            f"the disk is slow, or more is asked of it than it can do); {outcome}",
            maybe_written=maybe_written,
        )


@asynccontextmanager
async def connect(
    name: str = "files",
    *,
    path: str | Path,
    namespace: str = "deerflow",
    import_from: str | Path | None = None,
    timeout_seconds: float = 5.0,
    clock: Clock = wall_clock,
    migrate: bool = True,
) -> AsyncIterator[Connection]:
    """Use the folder *path*. Leaving waits for the calls that have begun.

    Args:
        name: The connection's name in the configuration; several may use one folder.
        path: The folder; made, with its parents.
        namespace: The folder in it; two namespaces share nothing.
        import_from: A DeerFlow store's folder, read into an empty store once.
        timeout_seconds: How long a call waits, for other processes' locks too.
        clock: Microseconds since 1970; all processes should have the same.
        migrate: Whether opening the memory makes the folder and imports; if not, one that is due is a `ConfigError`.
    """
    executor = ThreadPoolExecutor(_THREADS, thread_name_prefix=f"deerflow {name}")
    try:
        yield Connection(
            Path(path),
            namespace,
            executor,
            import_from=None if import_from is None else Path(import_from),
            timeout_seconds=timeout_seconds,
            clock=clock,
            migrate=migrate,
        )
    finally:
        await in_thread(f"deerflow {name} closing", executor.shutdown)
