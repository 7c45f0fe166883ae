"""Faults of a thread index that concern who has which threads, in which order: T1 and T2."""

from __future__ import annotations

import dataclasses
from bisect import insort
from functools import partial
from typing import Any
from unittest import mock

from deerflow_backends import codec, thread_changes
from deerflow_backends.inprocess.threads import InProcessThreadIndex
from deerflow_backends.listings import ThreadListing
from deerflow_backends.paging import Page
from deerflow_backends.thread_changes import StoredThread
from deerflow_backends.threads import ANY_USER, PINNED_KEY, Thread
from deerflow_conformance.mutants import Patched, methods, mutant

with_methods = partial(methods, InProcessThreadIndex)

_get = InProcessThreadIndex.get
_list = InProcessThreadIndex.list
_count = InProcessThreadIndex.count
_move = InProcessThreadIndex.move
_delete = InProcessThreadIndex.delete
_select = ThreadListing.select
_check_scope = thread_changes.check_scope
_MONTH_MICROSECONDS = 30 * 86_400 * 1_000_000


# ---------------------------------------------------------------------- T1


@mutant("T1", "thread_index", by="a_replica_lists_at_once")
def a_moved_thread_stays_listed() -> Patched:
    """A moved thread is listed for its new owner and still for the former one."""

    async def move(self: InProcessThreadIndex, thread_id: str, *, user_id: Any, to_user_id: str | None) -> Any:
        before = self._table.threads.get(thread_id)
        moved = await _move(self, thread_id, user_id=user_id, to_user_id=to_user_id)
        if moved is not None and before is not None and before.user_id not in {None, to_user_id}:
            shelf = self._table.shelves.setdefault((before.user_id or "", None), [])
            insort(shelf, self._table.threads[thread_id].order)
        return moved

    return with_methods(move=move)


@mutant("T1", "thread_index", by=("a_replica_lists_at_once", "a_list_is_exactly_the_users_threads"))
def a_list_lags_behind() -> Patched:
    """A list without filters is the one that this instance read before."""
    kept: dict[tuple[Any, Any, int], Page[Thread]] = {}

    async def lagging(self: InProcessThreadIndex, user_id: Any, *, limit: int = 50, **more: Any) -> Page[Thread]:
        page = await _list(self, user_id, limit=limit, **more)
        if any(value is not None for value in more.values()):
            return page
        before = kept.get((self, user_id, limit), page)
        kept[self, user_id, limit] = page
        return before

    return with_methods(list=lagging)


@mutant("T1", "thread_index", by="a_replica_lists_at_once")
def deleted_threads_stay_listed() -> Patched:
    """A deleted thread is gone, and its owner's list still has it."""
    deleted: dict[Any, list[Thread]] = {}

    async def delete(self: InProcessThreadIndex, thread_id: str, *, user_id: Any) -> bool:
        thread = await _get(self, thread_id, user_id=user_id)
        if thread is not None:
            deleted.setdefault(self._lock, []).append(thread)
        return await _delete(self, thread_id, user_id=user_id)

    async def listing(self: InProcessThreadIndex, user_id: Any, **more: Any) -> Page[Thread]:
        page = await _list(self, user_id, **more)
        gone = [one for one in deleted.get(self._lock, ()) if user_id is ANY_USER or one.user_id == user_id]
        return dataclasses.replace(page, items=(*page.items, *gone))

    return with_methods(delete=delete, list=listing)


@mutant("T1", "thread_index", by=("a_list_is_exactly_the_users_threads", "a_replica_lists_at_once"))
def lists_are_of_all_users() -> Patched:
    """A user's list has everybody's threads."""

    async def listing(self: InProcessThreadIndex, user_id: Any, **more: Any) -> Page[Thread]:
        _check_scope("user_id", user_id)
        return await _list(self, ANY_USER, **more)

    return with_methods(list=listing)


@mutant("T1", "thread_index", by="a_list_is_exactly_the_users_threads")
def counts_are_of_every_status() -> Patched:
    """The count of a status is that of all threads."""

    async def count(self: InProcessThreadIndex, user_id: Any, *, status: Any = None) -> int:
        return await _count(self, user_id)

    return with_methods(count=count)


@mutant("T1", "thread_index", by="a_thread_stays_however_long_it_is_idle")
def an_old_thread_is_not_found() -> Patched:
    """A thread that nobody touched for a month is listed, and not found by its id."""
    find = InProcessThreadIndex._find

    def found(self: InProcessThreadIndex, thread_id: str, scope: Any) -> StoredThread | None:
        thread = find(self, thread_id, scope)
        return thread if thread is not None and self._clock() - thread.updated_at < _MONTH_MICROSECONDS else None

    return with_methods(_find=found)


@mutant("T1", "thread_index", by="a_thread_stays_however_long_it_is_idle")
def a_thread_expires() -> Patched:
    """A thread is gone a month after it was last written."""
    put = InProcessThreadIndex._put
    expire_at: dict[tuple[Any, str], int] = {}

    def putting(self: InProcessThreadIndex, thread: StoredThread) -> None:
        put(self, thread)
        expire_at[self._lock, thread.thread_id] = self._clock() + _MONTH_MICROSECONDS

    async def listing(self: InProcessThreadIndex, user_id: Any, **more: Any) -> Page[Thread]:
        page = await _list(self, user_id, **more)
        now = self._clock()
        kept = tuple(one for one in page.items if expire_at[self._lock, one.thread_id] > now)
        return dataclasses.replace(page, items=kept)

    return with_methods(_put=putting, list=listing)


# ---------------------------------------------------------------------- T2


@mutant("T2", "thread_index", by="only_true_pins")
def one_pins_like_true() -> Patched:
    """A thread whose pin is 1 stands above the others, as if it were True."""

    def pinned(self: StoredThread) -> bool:
        return PINNED_KEY in self.metadata and codec.decode(self.metadata[PINNED_KEY]) == 1

    return mock.patch.object(StoredThread, "pinned", property(pinned))


@mutant("T2", "thread_index", by="only_true_pins")
def pins_are_forgotten_after_creation() -> Patched:
    """An update that changes the pin leaves the thread in its place."""

    def order(self: StoredThread) -> tuple[bool, int, str]:
        return self.pinned and self.created_at == self.updated_at, self.updated_at, self.thread_id

    return mock.patch.object(StoredThread, "order", property(order))


@mutant("T2", "thread_index", by=("ties_go_by_bytes_downwards", "pinned_latest_then_id"))
def ties_go_upwards() -> Patched:
    """Threads of one moment are listed by id, the least first, where one page holds them all."""

    def select(self: ThreadListing, rows: Any) -> tuple[list[StoredThread], str | None]:
        found, cursor = _select(self, rows)
        ordered = sorted(found, key=lambda thread: thread.thread_id)
        return sorted(ordered, key=lambda thread: thread.order[:2], reverse=True), cursor

    return mock.patch.object(ThreadListing, "select", select)


@mutant("T2", "thread_index", by=("pinned_latest_then_id", "only_true_pins"))
def pinned_threads_come_last() -> Patched:
    """Pinned threads stand below the others."""

    def order(self: StoredThread) -> tuple[bool, int, str]:
        return not self.pinned, self.updated_at, self.thread_id

    return mock.patch.object(StoredThread, "order", property(order))


@mutant("T2", "thread_index", by=("pinned_latest_then_id", "only_true_pins"))
def threads_order_by_creation() -> Patched:
    """What was created last comes first, whatever was touched."""

    def order(self: StoredThread) -> tuple[bool, int, str]:
        return self.pinned, self.created_at, self.thread_id

    return mock.patch.object(StoredThread, "order", property(order))


@mutant("T2", "thread_index", by="only_true_pins")
def the_oldest_come_first() -> Patched:
    """Among pinned threads, and among the others, the oldest comes first."""

    def order(self: StoredThread) -> tuple[bool, int, str]:
        return self.pinned, -self.updated_at, self.thread_id

    return mock.patch.object(StoredThread, "order", property(order))


@mutant("T2", "thread_index", by="only_true_pins")
def any_pin_will_do() -> Patched:
    """A thread that has the key of pins is pinned, whatever its value."""

    def pinned(self: StoredThread) -> bool:
        return bool(codec.decode(self.metadata.get(PINNED_KEY, b"null")))

    return mock.patch.object(StoredThread, "pinned", property(pinned))


@mutant("T2", "thread_index", by="ties_go_by_bytes_downwards")
def ties_go_by_utf_16() -> Patched:
    """Threads of one moment order by the UTF-16 units of their ids, where one page holds them all."""

    def select(self: ThreadListing, rows: Any) -> tuple[list[StoredThread], str | None]:
        found, cursor = _select(self, rows)
        ordered = sorted(found, key=lambda thread: thread.thread_id.encode("utf-16-be"), reverse=True)
        return sorted(ordered, key=lambda thread: thread.order[:2], reverse=True), cursor

    return mock.patch.object(ThreadListing, "select", select)
