"""The thread index on Redis: a hash a thread, and sorted sets in the order of each listing.

All threads of a namespace are in one slot, so that a script changes a thread and every list that it is in at once
(T1, T5). The members of a sorted set have one score, and order by their bytes as the threads do (T2): a page is one
range of them, at any depth (T3, T9).
"""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace as replaced
from typing import Any, Final, Literal

from deerflow_backends.arguments import check_identifier, check_optional_identifier
from deerflow_backends.binding import Binding
from deerflow_backends.codec import JSON, canonical
from deerflow_backends.errors import Corrupt
from deerflow_backends.listings import ThreadListing, check_status, check_thread_listing
from deerflow_backends.memories import ANY, Guard, Record
from deerflow_backends.paging import Page
from deerflow_backends.records import CHUNK_BYTES, read_in_chunks, read_thread, thread_is_new, thread_record
from deerflow_backends.streams import Reach
from deerflow_backends.thread_changes import StoredThread, check_new_thread, check_scope, check_update, moved, taken
from deerflow_backends.threads import ANY_USER, KEEP, Keep, NewThread, Scope, Thread, ThreadOptions
from deerflow_redis import thread_hashes as hashes
from deerflow_redis.connection import Connection
from deerflow_redis.layout import ThreadKeys, encoded

#: How many threads one call of the server looks at: a script lets nobody else work.
_CHUNK: Final = 250

#: How many members of a sorted set it looks at, where it looks no further.
_MEMBERS: Final = 10_000


class RedisThreadIndex:
    """A `ThreadIndex` for all processes that reach the server."""

    reach: Reach = "network"

    def __init__(self, connection: Connection, binding: Binding) -> None:
        self._connection, self._binding = connection, binding
        self._keys = ThreadKeys(connection.namespace)

    async def create(self, thread: NewThread) -> Thread:
        """Store a new thread."""
        self._binding.check()
        new = check_new_thread(thread, 0)
        stored, now, *_ = await self._store([hashes.to_store(new, times=False)], created_now=True)
        if not stored:
            raise taken(new.thread_id)
        return replaced(new, created_at=hashes.microseconds(now), updated_at=hashes.microseconds(now)).to_thread()

    async def get(self, thread_id: str, *, user_id: Scope) -> Thread | None:
        """Read one thread."""
        self._binding.check()
        check_identifier("thread_id", thread_id)
        scope = check_scope("user_id", user_id)
        key = self._keys.thread(thread_id)
        contents = await self._connection.command(b"HGETALL", key, key=key)
        thread = hashes.thread(thread_id, contents) if contents else None
        return thread.to_thread() if thread is not None and thread.in_scope(scope) else None

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
        return listing.page(await self._following(listing))

    async def _following(self, listing: ThreadListing) -> builtins.list[StoredThread]:
        """Read the threads after the cursor, until there are enough for the page."""
        key = self._keys.order(_who(listing.scope), _what(listing.status))
        wanted = [part for name, value in listing.wanted.items() for part in (canonical(name), value)]
        after = b"" if listing.after is None else hashes.member(*listing.after)
        rows: builtins.list[StoredThread] = []
        until = self._connection.deadline()
        matching, complete = 0, False
        while not complete and len(rows) < listing.fetch and matching <= listing.limit:
            many = min(_CHUNK, listing.fetch - len(rows))
            whole = listing.limit + 1 - matching
            complete, found = await self._look(
                key, after, hashes.HEAD_BYTES, many=many, whole=whole, wanted=wanted, until=until
            )
            for member, contents in found:
                thread_id = member[hashes.HEAD_BYTES :].decode()
                thread = hashes.thread(thread_id, contents) if contents else hashes.outline(member)
                if contents and not thread.in_scope(listing.scope):  # the script has seen to it, but nobody else would
                    raise Corrupt(f"the thread {thread_id!r} is listed for a user whose it is not")
                rows.append(thread)
                matching += bool(contents)
                after = member
        return rows

    async def _look(
        self,
        key: bytes,
        after: bytes,
        head_bytes: int,
        *,
        many: int,
        whole: int,
        wanted: Iterable[bytes] = (),
        until: float | None = None,
    ) -> tuple[bool, builtins.list[tuple[bytes, Any]]]:
        """Look at some threads of a sorted set: whether none follow, and members with what their threads hold."""
        keys = (self._keys.prefix, key)
        arguments = (hashes.PINNING, after, head_bytes + 1, many, whole, CHUNK_BYTES, *wanted)
        complete, *reply = await self._connection.read("thread_page", keys, *arguments, until=until)
        return bool(complete), builtins.list(zip(reply[::2], reply[1::2], strict=True))

    async def count(self, user_id: Scope, *, status: str | None = None) -> int:
        """Count the threads in scope."""
        self._binding.check()
        scope, status = check_scope("user_id", user_id), check_status(status)
        key = self._keys.order(_who(scope), _what(status))
        return int(await self._connection.command(b"ZCARD", key, key=key))

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
        return await self._change(thread_id, scope, update, *hashes.to_update(update))

    async def move(self, thread_id: str, *, user_id: Scope, to_user_id: str | None) -> Thread | None:
        """Give a thread to another owner, or to none."""
        self._binding.check()
        check_identifier("thread_id", thread_id)
        scope = check_scope("user_id", user_id)
        check_optional_identifier("to_user_id", to_user_id)
        arguments = hashes.to_move(to_user_id)
        return await self._change(thread_id, scope, lambda thread, now: moved(thread, to_user_id, now), *arguments)

    async def _change(
        self, thread_id: str, scope: Scope, changed: Callable[[StoredThread, int], StoredThread], *arguments: Any
    ) -> Thread | None:
        """Change one thread at the server, which decides as *changed* does and tells what it decided on."""
        keys = (self._keys.prefix,)
        reply = await self._connection.write(
            "thread_change", keys, hashes.PINNING, thread_id.encode(), _who(scope), *arguments
        )
        if reply is None:
            return None
        now, before = reply
        return changed(hashes.thread(thread_id, before), hashes.microseconds(now)).to_thread()

    async def delete(self, thread_id: str, *, user_id: Scope) -> bool:
        """Remove a thread."""
        self._binding.check()
        check_identifier("thread_id", thread_id)
        who = _who(check_scope("user_id", user_id))
        keys = (self._keys.prefix,)
        deleted = await self._connection.write("thread_delete", keys, hashes.PINNING, thread_id.encode(), who)
        return await self._unlist(thread_id, who) if deleted < 0 else bool(deleted)

    async def _unlist(self, thread_id: str, who: bytes) -> bool:
        """Remove what still lists a thread that the server evicted, and tell whether it was in scope.

        Whose it was, and with which status, went with it: this looks through all listings. May be repeated.
        """
        if who != _who(ANY_USER) and not await self._unlist_from(self._keys.order(who, _what(None)), thread_id):
            return False
        async with aclosing(self._connection.scan(self._keys.every_order)) as orders:
            async for order in orders:
                await self._unlist_from(order, thread_id)
        await self._unlist_from(self._keys.ids, thread_id, head_bytes=0)  # last: by this it is known
        return True

    async def _unlist_from(self, key: bytes, thread_id: str, *, head_bytes: int = hashes.HEAD_BYTES) -> bool:
        keys, name = (self._keys.prefix, key), thread_id.encode()
        removed, after, complete = 0, b"", False
        while not complete:
            taken_out, after = await self._connection.write(
                "thread_unlist", keys, hashes.PINNING, name, after, head_bytes + 1, _MEMBERS
            )
            removed, complete = removed + taken_out, not after
        return removed > 0

    async def can_access(self, thread_id: str, user_id: str, *, require_existing: bool = False) -> bool:
        """Whether the user may use the thread."""
        self._binding.check()
        check_identifier("thread_id", thread_id)
        check_identifier("user_id", user_id)
        key = self._keys.thread(thread_id)
        owner = await self._connection.command(b"HGET", key, b"owner", key=key)
        return not require_existing if owner is None else owner in {encoded(None), encoded(user_id)}

    async def export(self) -> AsyncIterator[Record]:
        """Give every thread as a record, the greatest id first."""
        self._binding.check()
        after, complete = b"", False
        while not complete:
            complete, found = await self._look(self._keys.ids, after, 0, many=_CHUNK, whole=_CHUNK)
            for after, contents in found:
                yield thread_record(hashes.thread(after.decode(), contents))
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
        written = [hashes.to_store(thread, times=True) for thread in threads]
        stored, _, position, contents = await self._store(written, created_now=False)
        if position:
            thread = threads[position - 1]
            thread_is_new(thread, hashes.thread(thread.thread_id, contents))
        return int(stored)

    async def _store(self, threads: Sequence[builtins.list[Any]], *, created_now: bool) -> Any:
        """Store threads up to the first that meets another one; of those evicted before nothing is left then."""
        arguments = [argument for thread in threads for argument in thread]
        keys, total = (self._keys.prefix,), 0
        while True:
            stored, now, position, contents = await self._connection.write(
                "thread_store", keys, hashes.PINNING, int(created_now), *arguments
            )
            total += stored
            if position >= 0:
                return total, now, position, contents
            await self._unlist(threads[-position - 1][0].decode(), _who(ANY_USER))

    async def ping(self) -> None:
        """Return if the servers answer."""
        self._binding.check()
        await self._connection.ping()


def _who(scope: Scope) -> bytes:
    return b"*" if scope is ANY_USER else encoded(scope)


def _what(status: str | None) -> bytes:
    return b"*" if status is None else encoded(status)


@asynccontextmanager
async def open_thread_index(
    connection: Connection, options: ThreadOptions | None = None
) -> AsyncIterator[RedisThreadIndex]:
    """Open the thread index of a connection."""
    binding = Binding("this thread index")
    try:
        yield RedisThreadIndex(connection, binding)
    finally:
        binding.close()
