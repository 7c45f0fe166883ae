"""The thread index in dicts and sorted lists: the readable specification of promises T1 to T11.

Every call does its work in one piece, under the lock that all openings of one name share.
"""

from __future__ import annotations

import builtins
from bisect import bisect_left, insort
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Literal

from deerflow_backends.arguments import check_identifier, check_optional_identifier
from deerflow_backends.binding import Binding
from deerflow_backends.codec import JSON
from deerflow_backends.inprocess.connection import Connection
from deerflow_backends.inprocess.layout import Shelf, thread_table
from deerflow_backends.listings import ThreadListing, check_status, check_thread_listing
from deerflow_backends.memories import ANY, Guard, Record
from deerflow_backends.paging import Page
from deerflow_backends.records import read_in_chunks, read_thread, thread_is_new, thread_record
from deerflow_backends.streams import Reach
from deerflow_backends.thread_changes import StoredThread, check_new_thread, check_scope, check_update, moved, taken
from deerflow_backends.threads import ANY_USER, KEEP, Keep, NewThread, Scope, Thread, ThreadOptions


class InProcessThreadIndex:
    """A `ThreadIndex` within this process."""

    reach: Reach = "process"

    def __init__(self, connection: Connection, binding: Binding) -> None:
        self._binding = binding
        self._clock = connection.clock
        self._lock = connection.tables.lock
        self._table = thread_table(connection.tables)

    async def create(self, thread: NewThread) -> Thread:
        """Store a new thread."""
        self._binding.check()
        new = check_new_thread(thread, self._clock())
        with self._lock:
            if new.thread_id in self._table.threads:
                raise taken(new.thread_id)
            self._put(new)
        return new.to_thread()

    async def get(self, thread_id: str, *, user_id: Scope) -> Thread | None:
        """Read one thread."""
        self._binding.check()
        thread_id = check_identifier("thread_id", thread_id)
        scope = check_scope("user_id", user_id)
        with self._lock:
            thread = self._find(thread_id, scope)
        return thread.to_thread() if thread else None

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
        with self._lock:
            found, next_cursor = listing.select(self._following(listing))
        return Page(tuple(thread.to_thread() for thread in found), next_cursor)

    def _following(self, listing: ThreadListing) -> Iterator[StoredThread]:
        """Give the threads after the cursor, one by one as they are asked for, so that none is examined in vain."""
        shelf = self._table.shelves.get((listing.scope, listing.status), [])
        end = len(shelf) if listing.after is None else bisect_left(shelf, listing.after)
        for place in range(end - 1, -1, -1):
            yield self._table.threads[shelf[place][2]]

    async def count(self, user_id: Scope, *, status: str | None = None) -> int:
        """Count the threads in scope."""
        self._binding.check()
        shelf = (check_scope("user_id", user_id), check_status(status))
        with self._lock:
            return len(self._table.shelves.get(shelf, ()))

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
        thread_id = check_identifier("thread_id", thread_id)
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
        with self._lock:
            thread = self._find(thread_id, scope)
            if thread is None:
                return None
            changed = update(thread, self._clock())
            self._put(changed)
        return changed.to_thread()

    async def move(self, thread_id: str, *, user_id: Scope, to_user_id: str | None) -> Thread | None:
        """Give a thread to another owner, or to none."""
        self._binding.check()
        thread_id = check_identifier("thread_id", thread_id)
        scope = check_scope("user_id", user_id)
        to_user_id = check_optional_identifier("to_user_id", to_user_id)
        with self._lock:
            thread = self._find(thread_id, scope)
            if thread is None:
                return None
            changed = moved(thread, to_user_id, self._clock())
            self._put(changed)
        return changed.to_thread()

    async def delete(self, thread_id: str, *, user_id: Scope) -> bool:
        """Remove a thread."""
        self._binding.check()
        thread_id = check_identifier("thread_id", thread_id)
        scope = check_scope("user_id", user_id)
        with self._lock:
            thread = self._find(thread_id, scope)
            if thread is None:
                return False
            self._unshelve(thread)
            del self._table.threads[thread_id]
            return True

    async def can_access(self, thread_id: str, user_id: str, *, require_existing: bool = False) -> bool:
        """Whether the user may use the thread."""
        self._binding.check()
        thread_id = check_identifier("thread_id", thread_id)
        user_id = check_identifier("user_id", user_id)
        with self._lock:
            thread = self._table.threads.get(thread_id)
        return not require_existing if thread is None else thread.user_id in {None, user_id}

    async def export(self) -> AsyncIterator[Record]:
        """Give every thread as a record."""
        self._binding.check()
        with self._lock:
            threads = builtins.list(self._table.threads.values())
        for thread in threads:
            yield thread_record(thread)
            self._binding.check()

    async def restore(self, records: Iterable[Record] | AsyncIterable[Record]) -> int:
        """Store exported threads."""
        self._binding.check()
        restored = 0
        async with aclosing(read_in_chunks(records, read_thread)) as chunks:
            async for threads in chunks:
                self._binding.check()
                for thread in threads:
                    restored += self._restore(thread)
        return restored

    def _restore(self, thread: StoredThread) -> bool:
        with self._lock:
            new = thread_is_new(thread, self._table.threads.get(thread.thread_id))
            if new:
                self._put(thread)
            return new

    async def ping(self) -> None:
        """Return if this index is open."""
        self._binding.check()

    def _find(self, thread_id: str, scope: Scope) -> StoredThread | None:
        thread = self._table.threads.get(thread_id)
        return thread if thread is not None and thread.in_scope(scope) else None

    def _put(self, thread: StoredThread) -> None:
        """Store *thread* on all its shelves, in place of what was there under its id."""
        former = self._table.threads.get(thread.thread_id)
        if former is not None:
            self._unshelve(former)
        self._table.threads[thread.thread_id] = thread
        for shelf in _shelves_of(thread):
            insort(self._table.shelves.setdefault(shelf, []), thread.order)

    def _unshelve(self, thread: StoredThread) -> None:
        for shelf in _shelves_of(thread):
            places = self._table.shelves[shelf]
            del places[bisect_left(places, thread.order)]
            if not places:
                del self._table.shelves[shelf]


def _shelves_of(thread: StoredThread) -> tuple[Shelf, ...]:
    """Name every shelf that holds *thread*; one without owner stands on those of ANY_USER only (T4)."""
    scopes: tuple[Scope, ...] = (ANY_USER,) if thread.user_id is None else (ANY_USER, thread.user_id)
    return tuple((scope, status) for scope in scopes for status in (None, thread.status))


@asynccontextmanager
async def open_thread_index(
    connection: Connection, options: ThreadOptions | None = None
) -> AsyncIterator[InProcessThreadIndex]:
    """Open the thread index of *connection*, for this event loop."""
    binding = Binding("this thread index")
    try:
        yield InProcessThreadIndex(connection, binding)
    finally:
        binding.close()
