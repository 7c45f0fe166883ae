"""Faults of copying a thread index: T11."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from typing import Any
from unittest import mock

from deerflow_backends import records
from deerflow_backends.errors import Conflict
from deerflow_backends.inprocess import threads
from deerflow_backends.inprocess.threads import InProcessThreadIndex
from deerflow_backends.memories import Record
from deerflow_backends.thread_changes import StoredThread
from deerflow_conformance.mutants import Patched, mutant
from deerflow_conformance.mutants.threads import with_methods

_export = InProcessThreadIndex.export
_restore = InProcessThreadIndex._restore
_restore_all = InProcessThreadIndex.restore


@mutant("T11", "thread_index", by="a_copy_reads_the_same")
def restoring_touches() -> Patched:
    """A restored thread bears the time of the restoring."""

    def restore(self: InProcessThreadIndex, thread: StoredThread) -> bool:
        return _restore(self, dataclasses.replace(thread, updated_at=thread.touched(self._clock())))

    return with_methods(_restore=restore)


@mutant("T11", "thread_index", by="a_different_record_is_a_conflict")
def a_different_record_is_passed_over() -> Patched:
    """A record that meets a different thread is left out silently."""
    return mock.patch.object(threads, "thread_is_new", lambda _, stored: stored is None)


@mutant("T11", "thread_index", by="every_thread_is_copied")
def threads_without_owner_are_not_exported() -> Patched:
    """An export leaves out threads that belong to nobody."""

    async def export(self: InProcessThreadIndex) -> AsyncIterator[Record]:
        async for record in _export(self):
            if record["user_id"] is not None:
                yield record

    return with_methods(export=export)


@mutant("T11", "thread_index", by="a_copy_made_while_others_write_is_whole")
def an_export_is_of_a_thousand() -> Patched:
    """An export ends after a thousand threads."""

    async def export(self: InProcessThreadIndex) -> AsyncIterator[Record]:
        left = 1_000
        async for record in _export(self):
            if (left := left - 1) >= 0:
                yield record

    return with_methods(export=export)


@mutant("T11", "thread_index", by="ten_thousand_threads_are_copied")
def an_export_is_of_ten_thousand() -> Patched:
    """An export ends after ten thousand threads."""

    async def export(self: InProcessThreadIndex) -> AsyncIterator[Record]:
        left = 10_000
        async for record in _export(self):
            if (left := left - 1) >= 0:
                yield record

    return with_methods(export=export)


@mutant("T11", "thread_index", by="a_copy_made_while_others_write_is_whole")
def an_export_skips_where_a_thread_is_deleted() -> Patched:
    """An export goes by the place in a list, which is another where a thread before it was deleted."""

    async def export(self: InProcessThreadIndex) -> AsyncIterator[Record]:
        place = 0
        while place < len(self._table.threads):
            yield records.thread_record(list(self._table.threads.values())[place])
            place += 1

    return with_methods(export=export)


@mutant("T11", "thread_index", by="a_copy_made_while_others_write_is_whole")
def an_export_ends_where_a_thread_is_deleted() -> Patched:
    """An export goes on after the thread that it gave last, and ends if that one was deleted."""

    async def export(self: InProcessThreadIndex) -> AsyncIterator[Record]:
        names = list(self._table.threads)
        for name in names:
            if (thread := self._table.threads.get(name)) is None:
                return
            yield records.thread_record(thread)

    return with_methods(export=export)


@mutant("T11", "thread_index", by="a_copy_made_while_others_write_is_whole")
def an_export_has_what_is_touched_twice() -> Patched:
    """A thread that is touched while an export is under way comes again, as it is then."""

    async def export(self: InProcessThreadIndex) -> AsyncIterator[Record]:
        given: dict[str, StoredThread] = {}
        while rows := [one for name, one in self._table.threads.items() if given.get(name) != one]:
            given[rows[0].thread_id] = rows[0]
            yield records.thread_record(rows[0])

    return with_methods(export=export)


@mutant("T11", "thread_index", by="every_thread_is_copied")
def restored_threads_are_new() -> Patched:
    """A restored thread was created when it was last touched."""

    def restore(self: InProcessThreadIndex, thread: StoredThread) -> bool:
        return _restore(self, dataclasses.replace(thread, created_at=thread.updated_at))

    return with_methods(_restore=restore)


@mutant("T11", "thread_index", by="every_thread_is_copied")
def an_empty_name_is_none() -> Patched:
    """A display name that is empty is none in a copy."""

    def restore(self: InProcessThreadIndex, thread: StoredThread) -> bool:
        return _restore(self, dataclasses.replace(thread, display_name=thread.display_name or None))

    return with_methods(_restore=restore)


@mutant("T11", "thread_index", by="a_copy_reads_the_same")
def restoring_counts_threads_that_were_there() -> Patched:
    """Restore returns how many records it was given."""

    async def restore(self: InProcessThreadIndex, given: Any) -> int:
        count = len(given) if isinstance(given, list) else 0
        return max(count, await _restore_all(self, given))

    return with_methods(restore=restore)


@mutant("T11", "thread_index", by="a_different_record_is_a_conflict")
def a_conflict_undoes_the_threads_before() -> Patched:
    """A record that meets a different thread undoes those before it."""

    async def restore(self: InProcessThreadIndex, given: Any) -> int:
        before = set(self._table.threads)
        try:
            return await _restore_all(self, given)
        except Conflict:
            for thread_id in set(self._table.threads) - before:
                self._unshelve(self._table.threads.pop(thread_id))
            raise

    return with_methods(restore=restore)


@mutant("T11", "thread_index", by="a_different_record_is_a_conflict")
def a_different_thread_is_overwritten() -> Patched:
    """A record that meets a different thread replaces it, and is a Conflict."""

    def restore(self: InProcessThreadIndex, thread: StoredThread) -> bool:
        try:
            return _restore(self, thread)
        except Conflict:
            self._put(thread)
            raise

    return with_methods(_restore=restore)


@mutant("T11", "thread_index", by="what_is_no_record_is_refused")
def surplus_fields_of_threads_are_ignored() -> Patched:
    """A record may have fields that nobody knows."""
    check = records._check_fields

    def lenient(record: Any, place: str, fields: Any) -> None:
        known = {name: record[name] for name in record if name in fields} if isinstance(record, dict) else record
        check(known, place, fields)

    return mock.patch.object(records, "_check_fields", lenient)
