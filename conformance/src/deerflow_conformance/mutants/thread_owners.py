"""Faults of a thread index that concern who may see and create what: T4 and T5."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any
from unittest import mock

from deerflow_backends import thread_changes
from deerflow_backends.arguments import check_identifier
from deerflow_backends.errors import Conflict
from deerflow_backends.inprocess import threads
from deerflow_backends.inprocess.threads import InProcessThreadIndex
from deerflow_backends.memories import ANY
from deerflow_backends.thread_changes import StoredThread
from deerflow_backends.threads import ANY_USER, NewThread, Thread
from deerflow_conformance.mutants import Patched, mutant
from deerflow_conformance.mutants.threads import with_methods

_create = InProcessThreadIndex.create
_get = InProcessThreadIndex.get
_move = InProcessThreadIndex.move
_update = InProcessThreadIndex.update
_delete = InProcessThreadIndex.delete
_can_access = InProcessThreadIndex.can_access
_check_scope = thread_changes.check_scope
_shelves_of = threads._shelves_of


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

    return with_methods(can_access=can_access)


@mutant("T4", "thread_index", by="the_whole_table_of_owners")
def a_guard_tells_of_others_threads() -> Patched:
    """An update with an expected status of another user's thread is a Conflict, which tells that it is there."""

    async def update(self: InProcessThreadIndex, thread_id: str, *, user_id: Any, **more: Any) -> Any:
        thread = self._table.threads.get(thread_id)
        expected = more.get("expected_status", ANY)
        if thread is not None and expected not in {ANY, thread.status}:
            raise Conflict(f"the thread {thread_id!r} has another status")
        return await _update(self, thread_id, user_id=user_id, **more)

    return with_methods(update=update)


@mutant("T4", "thread_index", by=("scopes_hold_in_any_program", "the_whole_table_of_owners"))
def anybody_may_read() -> Patched:
    """A thread is read whoever asks."""

    async def get(self: InProcessThreadIndex, thread_id: str, *, user_id: Any) -> Thread | None:
        _check_scope("user_id", user_id)
        return await _get(self, thread_id, user_id=ANY_USER)

    return with_methods(get=get)


@mutant("T4", "thread_index", by="the_whole_table_of_owners")
def anybody_may_update() -> Patched:
    """A thread is updated whoever asks."""

    async def update(self: InProcessThreadIndex, thread_id: str, *, user_id: Any, **more: Any) -> Thread | None:
        _check_scope("user_id", user_id)
        return await _update(self, thread_id, user_id=ANY_USER, **more)

    return with_methods(update=update)


@mutant("T4", "thread_index", by="the_whole_table_of_owners")
def anybody_may_move() -> Patched:
    """A thread is moved whoever asks."""

    async def move(self: InProcessThreadIndex, thread_id: str, *, user_id: Any, to_user_id: Any) -> Thread | None:
        _check_scope("user_id", user_id)
        return await _move(self, thread_id, user_id=ANY_USER, to_user_id=to_user_id)

    return with_methods(move=move)


@mutant("T4", "thread_index", by="the_whole_table_of_owners")
def anybody_may_delete() -> Patched:
    """A thread is deleted whoever asks."""

    async def delete(self: InProcessThreadIndex, thread_id: str, *, user_id: Any) -> bool:
        _check_scope("user_id", user_id)
        return await _delete(self, thread_id, user_id=ANY_USER)

    return with_methods(delete=delete)


@mutant("T4", "thread_index", by="the_whole_table_of_owners")
def anybody_may_have_access() -> Patched:
    """Every user may use every thread."""

    async def can_access(self: InProcessThreadIndex, thread_id: str, user_id: str, **more: Any) -> bool:
        may = await _can_access(self, thread_id, user_id, **more)
        return may or thread_id in self._table.threads

    return with_methods(can_access=can_access)


@mutant("T4", "thread_index", by="the_whole_table_of_owners")
def what_is_missing_may_be_used() -> Patched:
    """Nobody looks whether a thread has to exist."""

    async def can_access(self: InProcessThreadIndex, thread_id: str, user_id: str, **_: Any) -> bool:
        return await _can_access(self, thread_id, user_id)

    return with_methods(can_access=can_access)


@mutant("T4", "thread_index", by="the_whole_table_of_owners")
def what_is_missing_may_not_be_used() -> Patched:
    """A thread that does not exist may be used by nobody."""

    async def can_access(self: InProcessThreadIndex, thread_id: str, user_id: str, **_: Any) -> bool:
        return await _can_access(self, thread_id, user_id, require_existing=True)

    return with_methods(can_access=can_access)


@mutant("T4", "thread_index", by="the_whole_table_of_owners")
def the_name_of_any_user_is_any_user() -> Patched:
    """A user who is called as ANY_USER is written sees everything."""

    def check_scope(place: str, scope: Any) -> Any:
        return ANY_USER if scope == ANY_USER.value else _check_scope(place, scope)

    return mock.patch.object(threads, "check_scope", check_scope)


@mutant("T4", "thread_index", by="the_whole_table_of_owners")
def any_user_is_any_owner() -> Patched:
    """ANY_USER sees the threads of all users, and none without owner."""
    in_scope = StoredThread.in_scope
    return mock.patch.object(
        StoredThread,
        "in_scope",
        lambda self, scope: in_scope(self, scope) and (scope is not ANY_USER or self.user_id is not None),
    )


@mutant("T4", "thread_index", by="the_whole_table_of_owners")
def no_owner_is_listed_for_the_user_called_none() -> Patched:
    """A user who is called None lists the threads without owner, and reads none of them."""

    def shelves_of(thread: StoredThread) -> tuple[Any, ...]:
        shelved = thread if thread.user_id is not None else dataclasses.replace(thread, user_id=str(None))
        return _shelves_of(shelved)

    return mock.patch.object(threads, "_shelves_of", shelves_of)


@mutant("T4", "thread_index", by="the_whole_table_of_owners")
def the_user_called_none_is_no_owner() -> Patched:
    """Everybody may use the threads of a user who is called None."""

    async def can_access(self: InProcessThreadIndex, thread_id: str, user_id: str, **more: Any) -> bool:
        thread = self._table.threads.get(thread_id)
        may = await _can_access(self, thread_id, user_id, **more)
        return may or (thread is not None and thread.user_id == str(None))

    return with_methods(can_access=can_access)


@mutant("T5", "thread_index", by="a_taken_id_is_a_conflict")
def creating_again_gives_the_first() -> Patched:
    """Creating a taken id returns the thread that has it, and no Conflict."""

    async def create(self: InProcessThreadIndex, thread: NewThread) -> Thread:
        try:
            return await _create(self, thread)
        except Conflict:
            return self._table.threads[thread.thread_id].to_thread()

    return with_methods(create=create)


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

    return with_methods(create=create)


@mutant("T5", "thread_index", by="a_taken_id_is_a_conflict")
def creating_replaces() -> Patched:
    """Creating a taken id is a Conflict, and the first thread is replaced all the same."""

    async def create(self: InProcessThreadIndex, thread: NewThread) -> Thread:
        try:
            return await _create(self, thread)
        except Conflict:
            self._put(thread_changes.check_new_thread(thread, self._clock()))
            raise

    return with_methods(create=create)


@mutant("T5", "thread_index", by="a_taken_id_is_a_conflict")
def creating_takes_over() -> Patched:
    """Creating another user's thread makes it one's own."""

    async def create(self: InProcessThreadIndex, thread: NewThread) -> Thread:
        stored = self._table.threads.get(thread.thread_id)
        if stored is not None and stored.user_id != thread.user_id:
            await _delete(self, thread.thread_id, user_id=ANY_USER)
        return await _create(self, thread)

    return with_methods(create=create)


@mutant("T5", "thread_index", by="a_taken_id_is_a_conflict")
def a_deleted_id_stays_taken() -> Patched:
    """The id of a deleted thread cannot be had again."""
    deleted: set[tuple[Any, str]] = set()

    async def delete(self: InProcessThreadIndex, thread_id: str, *, user_id: Any) -> bool:
        gone = await _delete(self, thread_id, user_id=user_id)
        if gone:
            deleted.add((self._lock, thread_id))
        return gone

    async def create(self: InProcessThreadIndex, thread: NewThread) -> Thread:
        if (self._lock, thread.thread_id) in deleted:
            raise thread_changes.taken(thread.thread_id)
        return await _create(self, thread)

    return with_methods(delete=delete, create=create)


@mutant("T5", "thread_index", by="a_taken_id_is_a_conflict")
def a_look_alike_is_taken() -> Patched:
    """An id is taken where another one differs from it by case or padding only."""

    async def create(self: InProcessThreadIndex, thread: NewThread) -> Thread:
        if isinstance(thread.thread_id, str):
            like = {_like(one) for one in self._table.threads}
            if _like(thread.thread_id) in like and thread.thread_id not in self._table.threads:
                raise thread_changes.taken(thread.thread_id)
        return await _create(self, thread)

    return with_methods(create=create)


def _like(thread_id: str) -> str:
    return " ".join(thread_id.strip("\x00").casefold().split())
