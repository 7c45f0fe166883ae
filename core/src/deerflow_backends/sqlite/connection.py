"""What the capabilities over one folder share: its two files, opened when the first of them needs one."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from deerflow_backends.clocks import Clock, wall_clock
from deerflow_backends.errors import BackendsError, ConfigError
from deerflow_backends.sqlite.database import Database, open_database
from deerflow_backends.sqlite.layout import KIND_OF, Kind
from deerflow_backends.sqlite.migrating import migrate as take_steps
from deerflow_backends.sqlite.worker import FIRST_LOOK, Synchronous, Tuning

#: Free pages up to this many are kept for what will be written next, and so many are given back at a time.
SPARE_PAGES: Final = 1_000

logger = logging.getLogger("deerflow_backends")

#: Removes some of what has expired, in a write transaction; True if there is more.
Sweep = Callable[[sqlite3.Connection], bool]


class _OpenFile:
    """A file in use by some capabilities."""

    def __init__(self, database: Database, closing: AsyncExitStack) -> None:
        self.database, self.closing, self.users = database, closing, 0


class Connection:
    """A folder and a namespace, for one event loop.

    Attributes:
        clock: Expiry, ordering and windows go by it.
        timeout_seconds: For every call but publishing.
        publish_timeout_seconds: For publishing.
    """

    def __init__(
        self,
        path: Path,
        namespace: str,
        tuning: Tuning,
        *,
        timeout_seconds: float,
        publish_timeout_seconds: float,
        sweep_seconds: float,
        clock: Clock,
        migrate: bool,
    ) -> None:
        self.path, self.namespace, self.tuning, self.clock = path, namespace, tuning, clock
        self.timeout_seconds, self.publish_timeout_seconds = timeout_seconds, publish_timeout_seconds
        self._sweep_seconds, self._migrate = sweep_seconds, migrate
        self._files: dict[Kind, _OpenFile] = {}
        self._lock = asyncio.Lock()
        self._work_of_closed = 0

    @asynccontextmanager
    async def database(self, capability: str) -> AsyncIterator[Database]:
        """Open the file with a capability's tables, or use it with others; the last one to leave closes it.

        Raises:
            ConfigError: The file cannot be used, or the tables are missing and are not to be made.
            PluginError, Corrupt, BackendUnavailable: As `migrate` does. The file is as it was.
        """
        kind = KIND_OF[capability]
        async with self._lock:
            await self._prepare(capability, check=kind not in self._files)
            if kind not in self._files:
                self._files[kind] = await self._open(kind)
            file = self._files[kind]
            file.users += 1
        try:
            yield file.database
        finally:
            file.users -= 1
            if not file.users:
                del self._files[kind]
                await file.closing.aclose()
                self._work_of_closed += file.database.work

    async def _prepare(self, capability: str, *, check: bool) -> None:
        due = await take_steps(self.path, self.namespace, {capability}, apply=self._migrate, check=check)
        if due and not self._migrate:
            raise ConfigError(
                f"{self.path} lacks the tables of {capability} ({', '.join(due)}); "
                "run 'deerflow-backends migrate' or set the connection's 'migrate' to 'auto'"
            )

    async def _open(self, kind: Kind) -> _OpenFile:
        async with AsyncExitStack() as stack:
            opened = open_database(kind.path(self.path, self.namespace), self.tuning, kind.secure_delete)
            database = await stack.enter_async_context(opened)
            await ping(database, self.timeout_seconds)
            return _OpenFile(database, stack.pop_all())

    @asynccontextmanager
    async def sweeping(self, database: Database, sweep: Sweep) -> AsyncIterator[None]:
        """Do *sweep* every ``sweep_seconds`` while inside, in portions that let others write in between."""
        task = asyncio.create_task(self._sweep(database, sweep))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])  # unlike awaiting the task, this does not swallow a cancellation of ours

    async def _sweep(self, database: Database, sweep: Sweep) -> None:
        while True:
            await asyncio.sleep(self._sweep_seconds)
            try:
                while await database.write(
                    lambda connection: sweep(connection) | _give_back(connection),
                    timeout_seconds=self.timeout_seconds,
                ):
                    pass
            except BackendsError as error:
                logger.warning("sqlite_sweep_failed", extra={"file": str(database.path), "reason": str(error)})

    def files(self) -> list[Path]:
        """The files open now."""
        return [file.database.path for file in self._files.values()]

    def work(self) -> int:
        """How many statements and loop turns SQLite has made for this connection, if ``count_work`` was given."""
        return self._work_of_closed + sum(file.database.work for file in self._files.values())


def _give_back(connection: sqlite3.Connection) -> bool:
    """Give some free pages back to the file system, if there are many; True if there are more."""
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    for _ in range(min(free - SPARE_PAGES, SPARE_PAGES)):
        connection.execute("PRAGMA incremental_vacuum")  # Python's driver does one page at a time, whatever is asked
    return bool(free > 2 * SPARE_PAGES)


async def ping(database: Database, timeout_seconds: float) -> None:
    """Return if the file can be read, else raise `BackendUnavailable`."""
    await database.read(lambda connection: connection.execute(FIRST_LOOK).fetchall(), timeout_seconds=timeout_seconds)


@asynccontextmanager
async def connect(
    name: str = "sqlite",
    *,
    path: str | Path,
    namespace: str = "deerflow",
    synchronous: Synchronous = "FULL",
    timeout_seconds: float = 5.0,
    publish_timeout_seconds: float = 60.0,
    sweep_seconds: float = 60.0,
    clock: Clock = wall_clock,
    migrate: bool = True,
    count_work: bool = False,
) -> AsyncIterator[Connection]:
    """Use the folder *path*; capabilities opened on the connection open their files.

    Args:
        name: The connection's name in the configuration; several may use one folder.
        path: The folder; made if its parent exists.
        namespace: Begins the files' names; two namespaces share nothing.
        synchronous: What an acknowledged write survives (`settings.Settings`).
        timeout_seconds: How long a call waits, for other processes' locks too.
        publish_timeout_seconds: The same for publishing.
        sweep_seconds: How often what has expired is freed.
        clock: Microseconds since 1970; all processes should have the same.
        migrate: Whether opening a capability makes its tables; if not, a file without them is a `ConfigError`.
        count_work: Whether `Connection.work` counts; costs time.
    """
    yield Connection(
        Path(path),
        namespace,
        Tuning(synchronous, count_work),
        timeout_seconds=timeout_seconds,
        publish_timeout_seconds=publish_timeout_seconds,
        sweep_seconds=sweep_seconds,
        clock=clock,
        migrate=migrate,
    )
