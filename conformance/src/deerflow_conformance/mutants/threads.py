"""Faults of a thread index."""

from __future__ import annotations

import asyncio
import dataclasses
from bisect import insort
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from unittest import mock

from deerflow_backends import codec, listings, thread_changes
from deerflow_backends.arguments import check_identifier
from deerflow_backends.errors import Conflict
from deerflow_backends.inprocess import threads
from deerflow_backends.inprocess.threads import InProcessThreadIndex
from deerflow_backends.listings import ThreadListing
from deerflow_backends.memories import ANY
from deerflow_backends.namespaces import NamespaceView
from deerflow_backends.paging import Page
from deerflow_backends.thread_changes import StoredThread, ThreadUpdate
from deerflow_backends.threads import ANY_USER, PINNED_KEY, NewThread, Thread
from deerflow_conformance.mutants import mutant

Patched = AbstractContextManager[Any]

_create = InProcessThreadIndex.create
_list = InProcessThreadIndex.list
_move = InProcessThreadIndex.move
_update = InProcessThreadIndex.update
_can_access = InProcessThreadIndex.can_access
_following = InProcessThreadIndex._following
_select = ThreadListing.select
_change = ThreadUpdate.__call__
_merged = ThreadUpdate._merged


@contextmanager
def _with_methods(**methods: Any) -> Iterator[None]:
    with ExitStack() as patches:
        for name, method in methods.items():
            patches.enter_context(mock.patch.object(InProcessThreadIndex, name, method))
        yield


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

    return _with_methods(move=move)


@mutant("T1", "thread_index", by=("a_replica_lists_at_once", "a_list_is_exactly_the_users_threads"))
def a_list_lags_behind() -> Patched:
    """A list without filters is the one that this instance read before."""
    kept: dict[tuple[int, Any, int], Page[Thread]] = {}

    async def lagging(self: InProcessThreadIndex, user_id: Any, *, limit: int = 50, **more: Any) -> Page[Thread]:
        page = await _list(self, user_id, limit=limit, **more)
        if any(value is not None for value in more.values()):
            return page
        before = kept.get((id(self), user_id, limit), page)
        kept[id(self), user_id, limit] = page
        return before

    return _with_methods(list=lagging)


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


def _after(place: Any) -> Patched:
    """Let listings go on at another place than their cursor says."""

    def following(self: InProcessThreadIndex, listing: ThreadListing) -> Iterator[StoredThread]:
        if listing.after is not None:
            listing = dataclasses.replace(listing, after=place(listing.after))
        return _following(self, listing)

    return _with_methods(_following=following)


@mutant("T3", "thread_index", by="pages_end_exactly")
def a_page_skips_what_is_as_old() -> Patched:
    """The cursor knows the time only, and threads of the same moment are left out."""
    return _after(lambda after: (after[0], after[1], ""))


@mutant("T3", "thread_index", by="pages_end_exactly")
def a_page_repeats_what_is_as_old() -> Patched:
    """The cursor knows the time only, and threads of the same moment come again."""
    return _after(lambda after: (after[0], after[1] + 1, ""))


@mutant("T3", "thread_index", by="pages_visit_every_quiet_thread_once")
def a_cursor_forgets_pins() -> Patched:
    """The cursor does not know whether its thread was pinned."""
    return _after(lambda after: (False, *after[1:]))


@mutant("T3", "thread_index", by="pages_end_exactly")
def a_full_last_page_has_a_cursor() -> Patched:
    """A page that is just full has a cursor, even where nothing can follow."""

    def select(self: ThreadListing, rows: Any) -> tuple[list[StoredThread], str | None]:
        found, cursor = _select(self, rows)
        return found, self._cursor(found[-1]) if len(found) == self.limit else cursor

    return mock.patch.object(ThreadListing, "select", select)


@mutant("T4", "thread_index", by="any_user_is_asked_for_by_name")
def no_scope_is_any_scope() -> Patched:
    """None as a scope sees everything, without being ANY_USER."""
    check_scope = thread_changes.check_scope

    def check(place: str, scope: Any) -> Any:
        return ANY_USER if scope is None else check_scope(place, scope)

    return mock.patch.multiple(threads, check_scope=check)


@mutant("T4", "thread_index", by="the_whole_table_of_owners")
def a_thread_without_owner_is_everybodys() -> Patched:
    """Users see and change threads that have no owner."""
    return mock.patch.object(
        StoredThread, "in_scope", lambda self, scope: scope is ANY_USER or self.user_id in {None, scope}
    )


@mutant("T4", "thread_index", by="the_whole_table_of_owners")
def access_needs_an_owner() -> Patched:
    """A thread without owner may be used by nobody."""

    async def can_access(self: InProcessThreadIndex, thread_id: str, user_id: str, **more: Any) -> bool:
        thread = self._table.threads.get(check_identifier("thread_id", thread_id))
        return await _can_access(self, thread_id, user_id, **more) and (thread is None or thread.user_id is not None)

    return _with_methods(can_access=can_access)


@mutant("T4", "thread_index", by="the_whole_table_of_owners")
def a_guard_tells_of_others_threads() -> Patched:
    """An update with an expected status of another user's thread is a Conflict, which tells that it is there."""

    async def update(self: InProcessThreadIndex, thread_id: str, *, user_id: Any, **more: Any) -> Any:
        thread = self._table.threads.get(thread_id)
        expected = more.get("expected_status", ANY)
        if thread is not None and expected not in {ANY, thread.status}:
            raise Conflict(f"the thread {thread_id!r} has another status")
        return await _update(self, thread_id, user_id=user_id, **more)

    return _with_methods(update=update)


@mutant("T5", "thread_index", by="a_taken_id_is_a_conflict")
def creating_again_gives_the_first() -> Patched:
    """Creating a taken id returns the thread that has it, and no Conflict."""

    async def create(self: InProcessThreadIndex, thread: NewThread) -> Thread:
        try:
            return await _create(self, thread)
        except Conflict:
            return self._table.threads[thread.thread_id].to_thread()

    return _with_methods(create=create)


@mutant("T5", "thread_index", by="one_rival_creates")
def rival_creators_both_win() -> Patched:
    """Create looks whether the id is free, and others create in between."""

    async def create(self: InProcessThreadIndex, thread: NewThread) -> Thread:
        if thread.thread_id in self._table.threads:
            return await _create(self, thread)
        await asyncio.sleep(0)
        new = thread_changes.check_new_thread(thread, self._clock())
        self._put(new)
        return new.to_thread()

    return _with_methods(create=create)


@mutant("T6", "thread_index", by="none_is_a_value_and_values_are_whole")
def metadata_is_replaced() -> Patched:
    """An update's metadata becomes the whole metadata."""

    def merged(self: ThreadUpdate, stored: Mapping[str, bytes]) -> Mapping[str, bytes]:
        return self.metadata or _merged(self, stored)

    return mock.patch.object(ThreadUpdate, "_merged", merged)


@mutant("T6", "thread_index", by="none_is_a_value_and_values_are_whole")
def none_removes_a_key() -> Patched:
    """A key that is set to None is removed."""

    def merged(self: ThreadUpdate, stored: Mapping[str, bytes]) -> Mapping[str, bytes]:
        return {key: value for key, value in _merged(self, stored).items() if value != b"null"}

    return mock.patch.object(ThreadUpdate, "_merged", merged)


@mutant("T6", "thread_index", by="a_hundred_updates_all_land")
def metadata_is_merged_at_the_client() -> Patched:
    """An update reads the thread, merges, and writes all of it, over what others wrote in between."""

    async def update(self: InProcessThreadIndex, thread_id: str, *, user_id: Any, **more: Any) -> Any:
        thread = self._table.threads.get(thread_id)
        metadata = more.get("metadata")
        if thread is None or not isinstance(metadata, dict) or more.get("replace") or more.get("remove"):
            return await _update(self, thread_id, user_id=user_id, **more)
        merged = {**thread.to_thread().metadata, **metadata}
        await asyncio.sleep(0)
        return await _update(self, thread_id, user_id=user_id, **{**more, "metadata": merged, "replace": True})

    return _with_methods(update=update)


@mutant("T7", "thread_index", by="many_touches_at_once_all_grow")
def touches_of_one_moment_are_equal() -> Patched:
    """A touch takes the clock as it is, even if the thread bears that time already."""
    return mock.patch.object(StoredThread, "touched", lambda self, now: max(now, self.updated_at))


@mutant("T7", "thread_index", by=("many_touches_at_once_all_grow", "updated_at_grows_with_each_touch"))
def every_update_touches() -> Patched:
    """An update with touch=False touches all the same."""
    return mock.patch.object(
        ThreadUpdate, "__call__", lambda self, thread, now: _change(dataclasses.replace(self, touch=True), thread, now)
    )


@mutant("T7", "thread_index", by="a_late_status_is_a_conflict")
def a_late_status_wins() -> Patched:
    """The expected status is not looked at."""
    return mock.patch.object(
        ThreadUpdate,
        "__call__",
        lambda self, thread, now: _change(dataclasses.replace(self, expected_status=ANY), thread, now),
    )


def _matching(matches: Any) -> Patched:
    return mock.patch.object(ThreadListing, "_matches", matches)


@mutant("T8", "thread_index", by="look_alikes_are_told_apart")
def filters_compare_as_python_does() -> Patched:
    """A filter for 1 also finds 1.0 and True."""

    def matches(self: ThreadListing, thread: StoredThread) -> bool:
        return all(
            key in thread.metadata and codec.decode(thread.metadata[key]) == codec.decode(value)
            for key, value in self.wanted.items()
        )

    return _matching(matches)


@mutant("T8", "thread_index", by=("look_alikes_are_told_apart", "filters_reach_nothing_else"))
def a_filter_for_none_finds_what_is_absent() -> Patched:
    """A filter for None also finds threads without the key."""

    def matches(self: ThreadListing, thread: StoredThread) -> bool:
        return all(thread.metadata.get(key, b"null") == value for key, value in self.wanted.items())

    return _matching(matches)


@mutant("T8", "thread_index", by="filters_reach_nothing_else")
def a_filter_reaches_columns() -> Patched:
    """A filter for a column's name is a filter on that column."""

    def matches(self: ThreadListing, thread: StoredThread) -> bool:
        columns = {name: codec.canonical(getattr(thread, name)) for name in ("user_id", "status", "thread_id")}
        return all({**columns, **thread.metadata}.get(key) == value for key, value in self.wanted.items())

    return _matching(matches)


@mutant("T8", "thread_index", by="a_rare_match_is_found_by_its_cursor")
def a_filter_examines_everything() -> Patched:
    """A call with a filter looks at all threads until it has found enough."""
    return mock.patch.object(listings, "MAX_EXAMINED", 1_000_000)


@mutant("T9", "thread_index", by="a_page_costs_the_same_for_many")
def every_page_sorts_all_threads() -> Patched:
    """There is no index: a page is found by sorting all threads of the user."""

    def following(self: InProcessThreadIndex, listing: ThreadListing) -> Iterator[StoredThread]:
        rows = [
            thread
            for thread in self._table.threads.values()
            if thread.in_scope(listing.scope) and listing.status in {None, thread.status}
        ]
        rows.sort(key=lambda thread: thread.order, reverse=True)
        return iter([row for row in rows if listing.after is None or row.order < listing.after])

    return _with_methods(_following=following)


@mutant("T9", "thread_index", by="a_page_costs_the_same_for_many")
def a_cursor_walks_from_the_start() -> Patched:
    """A page after a cursor examines every thread before it."""

    def following(self: InProcessThreadIndex, listing: ThreadListing) -> Iterator[StoredThread]:
        for thread in _following(self, dataclasses.replace(listing, after=None)):
            if listing.after is None or thread.order < listing.after:
                yield thread

    return _with_methods(_following=following)


@mutant("T10", "thread_index", by=("a_namespace_is_the_users_threads", "rival_puts_leave_one_whole_value"))
def put_merges() -> Patched:
    """Putting a key that is there merges into its value."""

    async def put(self: NamespaceView, key: str, value: Any) -> None:
        if await self._index.update(key, user_id=self._user_id, metadata=value) is None:
            await self._index.create(NewThread(key, self._user_id, metadata=value))

    return mock.patch.object(NamespaceView, "put", put)


@mutant("T10", "thread_index", by="a_namespace_is_the_users_threads")
def put_takes_keys_over() -> Patched:
    """Putting another user's key moves it here."""

    async def put(self: NamespaceView, key: str, value: Any) -> None:
        await self._index.move(key, user_id=ANY_USER, to_user_id=self._user_id)
        if await self._index.update(key, user_id=self._user_id, metadata=value, replace=True) is None:
            await self._index.create(NewThread(key, self._user_id, metadata=value))

    return mock.patch.object(NamespaceView, "put", put)


@mutant("T10", "thread_index", by="items_come_beyond_one_page")
def a_namespace_is_one_page() -> Patched:
    """The items are the first page of the list, whatever follows."""

    async def items(self: NamespaceView) -> Any:
        for thread in (await self._index.list(self._user_id, limit=1_000)).items:
            yield thread.thread_id, thread.metadata

    return mock.patch.object(NamespaceView, "items", items)


@mutant("T11", "thread_index", by="a_copy_reads_the_same")
def restoring_touches() -> Patched:
    """A restored thread bears the time of the restoring."""

    def restore(self: InProcessThreadIndex, thread: StoredThread) -> bool:
        return _restore(self, dataclasses.replace(thread, updated_at=thread.touched(self._clock())))

    return _with_methods(_restore=restore)


_restore = InProcessThreadIndex._restore


@mutant("T11", "thread_index", by="a_different_record_is_a_conflict")
def a_different_record_is_passed_over() -> Patched:
    """A record that meets a different thread is left out silently."""
    return mock.patch.object(threads, "thread_is_new", lambda _, stored: stored is None)
