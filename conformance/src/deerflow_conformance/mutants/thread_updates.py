"""Faults of a thread index that concern changing threads, and the namespace view: T6, T7 and T10."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any
from unittest import mock

from deerflow_backends import codec, thread_changes
from deerflow_backends.errors import Conflict
from deerflow_backends.inprocess import threads
from deerflow_backends.inprocess.threads import InProcessThreadIndex
from deerflow_backends.memories import ANY
from deerflow_backends.namespaces import NamespaceView
from deerflow_backends.thread_changes import StoredThread, ThreadUpdate
from deerflow_backends.threads import ANY_USER, KEEP, NewThread, Thread
from deerflow_conformance.mutants import Patched, mutant
from deerflow_conformance.mutants.threads import with_methods

_update = InProcessThreadIndex.update
_change = ThreadUpdate.__call__
_merged = ThreadUpdate._merged
_check_update = thread_changes.check_update


def _merging(merged: Any) -> Patched:
    return mock.patch.object(ThreadUpdate, "_merged", merged)


# ---------------------------------------------------------------------- T6


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

    return with_methods(update=update)


@mutant("T6", "thread_index", by="metadata_merges_key_by_key")
def other_changes_drop_the_metadata() -> Patched:
    """An update that changes the display name or the status leaves no metadata but what it brings."""

    def change(self: ThreadUpdate, thread: StoredThread, now: int) -> StoredThread:
        changed = _change(self, thread, now)
        only_metadata = self.display_name is KEEP and self.status is KEEP
        return changed if only_metadata else dataclasses.replace(changed, metadata=self.metadata)

    return mock.patch.object(ThreadUpdate, "__call__", change)


@mutant("T6", "thread_index", by="none_is_a_value_and_values_are_whole")
def objects_merge_deeply() -> Patched:
    """An object that is put in place of another one is merged into it."""

    def merged(self: ThreadUpdate, stored: Mapping[str, bytes]) -> Mapping[str, bytes]:
        result = dict(_merged(self, stored))
        for key, value in self.metadata.items():
            before, after = codec.decode(stored.get(key, b"null")), codec.decode(value)
            if isinstance(before, dict) and isinstance(after, dict) and not self.replace:
                result[key] = codec.canonical({**before, **after})
        return result

    return _merging(merged)


@mutant("T6", "thread_index", by="none_is_a_value_and_values_are_whole")
def a_removed_key_is_none() -> Patched:
    """A key that is removed is set to None."""

    def merged(self: ThreadUpdate, stored: Mapping[str, bytes]) -> Mapping[str, bytes]:
        return {**dict.fromkeys(self.remove & stored.keys(), b"null"), **_merged(self, stored)}

    return _merging(merged)


@mutant("T6", "thread_index", by="none_is_a_value_and_values_are_whole")
def replacing_merges() -> Patched:
    """An update that is to replace the metadata merges into it."""

    def merged(self: ThreadUpdate, stored: Mapping[str, bytes]) -> Mapping[str, bytes]:
        return {**stored, **self.metadata} if self.replace else _merged(self, stored)

    return _merging(merged)


@mutant("T6", "thread_index", by="none_is_a_value_and_values_are_whole")
def no_metadata_is_empty_metadata() -> Patched:
    """An update with {} as metadata removes everything."""

    async def update(self: InProcessThreadIndex, thread_id: str, *, user_id: Any, **more: Any) -> Thread | None:
        if more.get("metadata") == {}:
            more["replace"] = True
        return await _update(self, thread_id, user_id=user_id, **more)

    return with_methods(update=update)


@mutant("T6", "thread_index", by="none_is_a_value_and_values_are_whole")
def a_path_reaches_into_objects() -> Patched:
    """A key with a dot is a path: removing it removes what lies within an object."""

    def merged(self: ThreadUpdate, stored: Mapping[str, bytes]) -> Mapping[str, bytes]:
        result = dict(_merged(self, stored))
        for key, (outer, dot, inner) in [(key, key.partition(".")) for key in self.metadata]:
            value = codec.decode(result.get(outer, b"null"))
            if dot and isinstance(value, dict):
                result[outer] = codec.canonical({**value, inner: codec.decode(result.pop(key))})
        return result

    return _merging(merged)


@mutant("T6", "thread_index", by="none_is_a_value_and_values_are_whole")
def what_contradicts_itself_is_taken() -> Patched:
    """A key that is both set and removed is set."""

    def check_update(*, metadata: Any, remove: Any, **more: Any) -> ThreadUpdate:
        if isinstance(metadata, dict) and isinstance(remove, list) and not more["replace"]:
            remove = [key for key in remove if key not in metadata]
        return _check_update(metadata=metadata, remove=remove, **more)

    return mock.patch.object(threads, "check_update", check_update)


@mutant("T6", "thread_index", by="a_hundred_updates_all_land")
def removals_take_what_others_wrote() -> Patched:
    """An update that removes keys reads the metadata, and writes the rest over what others wrote in between."""

    async def update(self: InProcessThreadIndex, thread_id: str, *, user_id: Any, **more: Any) -> Thread | None:
        stored = self._table.threads.get(thread_id)
        if stored is None or not more.get("remove") or not isinstance(more["remove"], list) or more.get("metadata"):
            return await _update(self, thread_id, user_id=user_id, **more)
        rest = {key: value for key, value in stored.to_thread().metadata.items() if key not in more["remove"]}
        await asyncio.sleep(0)
        return await _update(
            self, thread_id, user_id=user_id, **{**more, "remove": (), "metadata": rest, "replace": True}
        )

    return with_methods(update=update)


@mutant("T6", "thread_index", by="thousands_of_keys_merge")
def a_thousand_keys_are_merged() -> Patched:
    """Merged metadata has a thousand keys at most."""

    def merged(self: ThreadUpdate, stored: Mapping[str, bytes]) -> Mapping[str, bytes]:
        return dict(itertools.islice(_merged(self, stored).items(), 1_000))

    return _merging(merged)


@mutant("T6", "thread_index", by="thousands_of_keys_merge")
def a_thousand_keys_are_removed() -> Patched:
    """An update removes a thousand keys at most."""

    def merged(self: ThreadUpdate, stored: Mapping[str, bytes]) -> Mapping[str, bytes]:
        return _merged(dataclasses.replace(self, remove=frozenset(sorted(self.remove)[:1_000])), stored)

    return _merging(merged)


# ---------------------------------------------------------------------- T7


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


@mutant("T7", "thread_index", by="many_touches_at_once_all_grow")
def moving_does_not_touch() -> Patched:
    """A moved thread bears the time that it bore."""
    moved = thread_changes.moved
    return mock.patch.object(
        threads,
        "moved",
        lambda thread, to, now: dataclasses.replace(moved(thread, to, now), updated_at=thread.updated_at),
    )


@mutant("T7", "thread_index", by="a_thread_of_the_future_grows_too")
def a_touch_corrects_a_time_that_is_far_ahead() -> Patched:
    """A touched thread whose time is more than a minute ahead bears the time of the clock."""
    touched = StoredThread.touched

    def corrected(self: StoredThread, now: int) -> int:
        return touched(self, now) if self.updated_at < now + 60_000_000 else now

    return mock.patch.object(StoredThread, "touched", corrected)


@mutant("T7", "thread_index", by="a_thread_of_the_future_grows_too")
def a_move_corrects_a_time_that_is_far_ahead() -> Patched:
    """A moved thread whose time is more than a minute ahead bears the time of the clock."""
    moved = thread_changes.moved

    def moving(thread: StoredThread, to_user_id: str | None, now: int) -> StoredThread:
        changed = moved(thread, to_user_id, now)
        return changed if thread.updated_at < now + 60_000_000 else dataclasses.replace(changed, updated_at=now)

    return mock.patch.object(threads, "moved", moving)


@mutant("T7", "thread_index", by="many_touches_at_once_all_grow")
def a_touch_makes_it_new() -> Patched:
    """A touched thread was created when it was touched."""

    def change(self: ThreadUpdate, thread: StoredThread, now: int) -> StoredThread:
        changed = _change(self, thread, now)
        return dataclasses.replace(changed, created_at=now) if self.touch else changed

    return mock.patch.object(ThreadUpdate, "__call__", change)


@mutant("T7", "thread_index", by="many_touches_at_once_all_grow")
def a_new_status_touches() -> Patched:
    """An update with touch=False touches where it changes the status."""

    def change(self: ThreadUpdate, thread: StoredThread, now: int) -> StoredThread:
        touches = self.touch or self.status is not KEEP
        return _change(dataclasses.replace(self, touch=touches), thread, now)

    return mock.patch.object(ThreadUpdate, "__call__", change)


@mutant("T7", "thread_index", by="many_touches_at_once_all_grow")
def touching_nothing_is_no_touch() -> Patched:
    """An update that changes nothing leaves updated_at as it is."""

    def change(self: ThreadUpdate, thread: StoredThread, now: int) -> StoredThread:
        changed = _change(self, thread, now)
        return thread if dataclasses.replace(changed, updated_at=thread.updated_at) == thread else changed

    return mock.patch.object(ThreadUpdate, "__call__", change)


@mutant("T7", "thread_index", by="a_late_status_is_a_conflict")
def a_guard_is_looked_at_too_early() -> Patched:
    """The expected status is looked at before a wait, and the thread changed after it."""

    async def update(self: InProcessThreadIndex, thread_id: str, *, user_id: Any, **more: Any) -> Thread | None:
        stored = self._table.threads.get(thread_id)
        expected = more.pop("expected_status", ANY)
        if stored is not None and expected not in {ANY, stored.status}:
            raise Conflict(f"the thread {thread_id!r} has another status")
        await asyncio.sleep(0)
        return await _update(self, thread_id, user_id=user_id, **more)

    return with_methods(update=update)


@mutant("T7", "thread_index", by="a_late_status_is_a_conflict")
def a_late_status_is_a_conflict_too_late() -> Patched:
    """An update whose expected status does not hold changes the metadata, and then is a Conflict."""

    async def update(self: InProcessThreadIndex, thread_id: str, *, user_id: Any, **more: Any) -> Thread | None:
        try:
            return await _update(self, thread_id, user_id=user_id, **more)
        except Conflict:
            await _update(self, thread_id, user_id=user_id, metadata=more.get("metadata"))
            raise

    return with_methods(update=update)


@mutant("T7", "thread_index", by="a_late_status_is_a_conflict")
def a_guard_folds() -> Patched:
    """An expected status that differs by case or padding holds."""

    def change(self: ThreadUpdate, thread: StoredThread, now: int) -> StoredThread:
        expected = self.expected_status
        if isinstance(expected, str) and expected.strip().casefold() == thread.status.casefold():
            return _change(dataclasses.replace(self, expected_status=ANY), thread, now)
        return _change(self, thread, now)

    return mock.patch.object(ThreadUpdate, "__call__", change)


# ---------------------------------------------------------------------- T10


def _viewing(**changed: Any) -> Patched:
    patched: Patched = mock.patch.multiple(NamespaceView, **changed)
    return patched


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


@mutant("T10", "thread_index", by="a_namespace_is_the_users_threads")
def a_key_is_anybodys_to_read() -> Patched:
    """Getting a key finds other users' threads."""

    async def get(self: NamespaceView, key: str) -> Any:
        thread = await self._index.get(key, user_id=ANY_USER)
        return thread and thread.metadata

    return _viewing(get=get)


@mutant("T10", "thread_index", by="a_namespace_is_the_users_threads")
def a_key_is_anybodys_to_delete() -> Patched:
    """Deleting a key deletes other users' threads."""

    async def delete(self: NamespaceView, key: str) -> bool:
        return await self._index.delete(key, user_id=ANY_USER)

    return _viewing(delete=delete)


@mutant("T10", "thread_index", by="a_namespace_is_the_users_threads")
def keys_are_everybodys() -> Patched:
    """The keys are those of all users."""

    async def keys(self: NamespaceView) -> Any:
        for thread in (await self._index.list(ANY_USER, limit=1_000)).items:
            yield thread.thread_id

    return _viewing(keys=keys)


@mutant("T10", "thread_index", by="rival_puts_leave_one_whole_value")
def a_rival_put_is_refused() -> Patched:
    """Who puts a new key while the same user does so elsewhere gets a Conflict."""

    async def put(self: NamespaceView, key: str, value: Any) -> None:
        if await self._index.update(key, user_id=self._user_id, metadata=value, replace=True) is None:
            await asyncio.sleep(0)
            await self._index.create(NewThread(key, self._user_id, metadata=value))

    return _viewing(put=put)


@mutant("T10", "thread_index", by="a_namespace_is_the_users_threads")
def a_value_that_is_none_is_empty() -> Patched:
    """Putting None puts {}."""

    async def put(self: NamespaceView, key: str, value: Any) -> None:
        await _put(self, key, {} if value is None else value)

    return _viewing(put=put)


_put = NamespaceView.put
