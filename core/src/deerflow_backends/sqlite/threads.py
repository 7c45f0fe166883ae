"""The thread index in a SQLite file, for all processes of one host."""

from __future__ import annotations

import builtins
import sqlite3
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Final, Literal, TypeVar

from deerflow_backends.arguments import check_identifier, check_optional_identifier
from deerflow_backends.binding import Binding
from deerflow_backends.codec import JSON
from deerflow_backends.listings import check_status, check_thread_listing
from deerflow_backends.memories import ANY, Guard, Record
from deerflow_backends.paging import Page
from deerflow_backends.records import read_in_chunks, read_thread, thread_record
from deerflow_backends.sqlite import thread_tables as tables
from deerflow_backends.sqlite.connection import Connection, ping
from deerflow_backends.sqlite.database import Database
from deerflow_backends.streams import Reach
from deerflow_backends.thread_changes import StoredThread, check_new_thread, check_scope, check_update, moved
from deerflow_backends.threads import KEEP, Keep, NewThread, Scope, Thread, ThreadOptions

T = TypeVar("T")

#: How many threads an export reads, and a restore writes, at a time.
_CHUNK: Final = 500


class SqliteThreadIndex:
    """A `ThreadIndex` for the processes of this host."""

    reach: Reach = "host"

    def __init__(self, connection: Connection, database: Database, binding: Binding) -> None:
        self._database, self._binding = database, binding
        self._clock = connection.clock
        self._timeout_seconds = connection.timeout_seconds

    async def create(self, thread: NewThread) -> Thread:
        """Store a new thread."""
        self._binding.check()
        new = check_new_thread(thread, self._clock())
        return (await self._write(lambda connection: tables.create(connection, new))).to_thread()

    async def get(self, thread_id: str, *, user_id: Scope) -> Thread | None:
        """Read one thread."""
        self._binding.check()
        check_identifier("thread_id", thread_id)
        scope = check_scope("user_id", user_id)
        return _shown(await self._read(lambda connection: tables.find(connection, thread_id, scope)))

    async def list(
        self,
        user_id: Scope,
        *,
        status: str | None = None,
        metadata: Mapping[str, JSON] | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Thread]:
        """Read threads, pinned first, then the latest touched."""
        self._binding.check()
        listing = check_thread_listing(user_id, status=status, metadata=metadata, limit=limit, cursor=cursor)
        found, next_cursor = await self._read(lambda connection: tables.page(connection, listing))
        return Page(tuple(thread.to_thread() for thread in found), next_cursor)

    async def count(self, user_id: Scope, *, status: str | None = None) -> int:
        """Count the threads in scope."""
        self._binding.check()
        scope, status = check_scope("user_id", user_id), check_status(status)
        return await self._read(lambda connection: tables.count(connection, scope, status))

    async def update(
        self,
        thread_id: str,
        *,
        user_id: Scope,
        display_name: str | Literal[Keep.KEEP] | None = KEEP,
        status: str | Literal[Keep.KEEP] = KEEP,
        metadata: Mapping[str, JSON] | None = None,
        remove: Iterable[str] = (),
        replace: bool = False,
        expected_status: str | Literal[Guard.ANY] = ANY,
        touch: bool = True,
    ) -> Thread | None:
        """Change one thread."""
        self._binding.check()
        check_identifier("thread_id", thread_id)
        scope = check_scope("user_id", user_id)
        update = check_update(
            display_name=display_name,
            status=status,
            metadata=metadata,
            remove=remove,
            replace=replace,
            expected_status=expected_status,
            touch=touch,
        )
        return await self._change(thread_id, scope, lambda thread: update(thread, self._clock()))

    async def move(self, thread_id: str, *, user_id: Scope, to_user_id: str | None) -> Thread | None:
        """Give a thread to another owner, or to none."""
        self._binding.check()
        check_identifier("thread_id", thread_id)
        scope = check_scope("user_id", user_id)
        check_optional_identifier("to_user_id", to_user_id)
        return await self._change(thread_id, scope, lambda thread: moved(thread, to_user_id, self._clock()))

    async def delete(self, thread_id: str, *, user_id: Scope) -> bool:
        """Remove a thread."""
        self._binding.check()
        check_identifier("thread_id", thread_id)
        scope = check_scope("user_id", user_id)
        return await self._write(lambda connection: tables.delete(connection, thread_id, scope))

    async def can_access(self, thread_id: str, user_id: str, *, require_existing: bool = False) -> bool:
        """Whether the user may use the thread."""
        self._binding.check()
        check_identifier("thread_id", thread_id)
        check_identifier("user_id", user_id)
        return await self._read(
            lambda connection: tables.can_access(connection, thread_id, user_id, require_existing=require_existing)
        )

    async def export(self) -> AsyncIterator[Record]:
        """Give every thread as a record, by id."""
        self._binding.check()
        after = ""
        while True:
            threads = await self._read(partial(tables.threads_after, after=after, limit=_CHUNK))
            if not threads:
                return
            after = threads[-1].thread_id
            for thread in threads:
                yield thread_record(thread)
                self._binding.check()

    async def restore(self, records: Iterable[Record] | AsyncIterable[Record]) -> int:
        """Store exported threads."""
        self._binding.check()
        restored = 0
        async with aclosing(read_in_chunks(records, read_thread, size=_CHUNK)) as chunks:
            async for threads in chunks:
                self._binding.check()
                restored += await self._restore(threads)
        return restored

    async def _restore(self, threads: builtins.list[StoredThread]) -> int:
        count, conflict = await self._write(lambda connection: tables.restore(connection, threads))
        if conflict is not None:
            raise conflict
        return count

    async def ping(self) -> None:
        """Return if the file can be read."""
        self._binding.check()
        await ping(self._database, self._timeout_seconds)

    async def _change(
        self, thread_id: str, scope: Scope, changed: Callable[[StoredThread], StoredThread]
    ) -> Thread | None:
        return _shown(await self._write(lambda connection: tables.change(connection, thread_id, scope, changed)))

    async def _read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        return await self._database.read(function, timeout_seconds=self._timeout_seconds)

    async def _write(self, function: Callable[[sqlite3.Connection], T]) -> T:
        return await self._database.write(function, timeout_seconds=self._timeout_seconds)


def _shown(thread: StoredThread | None) -> Thread | None:
    return None if thread is None else thread.to_thread()


@asynccontextmanager
async def open_thread_index(
    connection: Connection, options: ThreadOptions | None = None
) -> AsyncIterator[SqliteThreadIndex]:
    """Open the thread index of a connection."""
    binding = Binding("this thread index")
    async with connection.database("thread_index") as database:
        try:
            yield SqliteThreadIndex(connection, database, binding)
        finally:
            binding.close()
