"""Faults of copying a memory store: M12."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from typing import Any
from unittest import mock

from deerflow_backends import records
from deerflow_backends.errors import Conflict
from deerflow_backends.inprocess.memories import InProcessMemoryStore
from deerflow_backends.memories import Record
from deerflow_backends.records import Part
from deerflow_conformance.mutants import Patched, mutant
from deerflow_conformance.mutants.memories import with_methods

_export = InProcessMemoryStore.export
_restore = InProcessMemoryStore._restore
_restore_all = InProcessMemoryStore.restore
_is_new = Part.is_new


@mutant("M12", "memory", by="a_copy_reads_the_same")
def restore_forgets_times() -> Patched:
    """Restored facts bear the time of the restoring."""

    def restore(self: InProcessMemoryStore, part: Part) -> bool:
        now = self._clock()
        facts = {fact_id: fact._replace(updated_at=now) for fact_id, fact in part.facts.items()}
        return _restore(self, dataclasses.replace(part, facts=facts))

    return with_methods(_restore=restore)


@mutant("M12", "memory", by="an_emptied_body_keeps_its_revision")
def an_emptied_body_is_not_restored() -> Patched:
    """A body that is {} is taken for none, and its revision is lost."""

    def restore(self: InProcessMemoryStore, part: Part) -> bool:
        emptied = part.body is not None and part.body.body == b"{}"
        return _restore(self, dataclasses.replace(part, body=None) if emptied else part)

    return with_methods(_restore=restore)


@mutant("M12", "memory", by="an_export_bears_writers")
def an_export_ends_at_an_erased_user() -> Patched:
    """An export ends where it comes to a user who was erased since it began."""

    async def export(self: InProcessMemoryStore) -> AsyncIterator[Record]:
        for user_id in list(self._users):
            if user_id not in self._users:
                return
            for part in [self._part(user_id, name) for name in dict.fromkeys([None, *self._parts(user_id)])]:
                yield part.to_record()

    return with_methods(export=export)


@mutant("M12", "memory", by="an_export_bears_writers")
def parts_are_exported_at_moments_of_their_own() -> Patched:
    """An export reads each part of a user when it comes to it."""

    async def export(self: InProcessMemoryStore) -> AsyncIterator[Record]:
        for user_id in list(self._users):
            for name in dict.fromkeys([None, *self._parts(user_id)]):
                if user_id in self._users:
                    yield self._part(user_id, name).to_record()

    return with_methods(export=export)


@mutant("M12", "memory", by="a_different_record_is_a_conflict")
def restore_overwrites() -> Patched:
    """A record that meets a different one replaces it."""

    def is_new(self: Part, *stored: Any) -> bool:
        try:
            return _is_new(self, *stored)
        except Conflict:
            return True

    return mock.patch.object(Part, "is_new", is_new)


@mutant("M12", "memory", by="every_part_is_copied")
def restored_users_start_at_1() -> Patched:
    """A restored user has the revision 1."""

    def restore(self: InProcessMemoryStore, part: Part) -> bool:
        return _restore(self, dataclasses.replace(part, user_revision=1))

    return with_methods(_restore=restore)


@mutant("M12", "memory", by="every_part_is_copied")
def restored_facts_start_at_1() -> Patched:
    """Restored facts have the revision 1."""

    def restore(self: InProcessMemoryStore, part: Part) -> bool:
        facts = {fact_id: fact._replace(revision=1) for fact_id, fact in part.facts.items()}
        return _restore(self, dataclasses.replace(part, facts=facts))

    return with_methods(_restore=restore)


@mutant("M12", "memory", by="every_part_is_copied")
def the_shared_memory_is_not_exported() -> Patched:
    """An export leaves out the memory that belongs to no user."""

    async def export(self: InProcessMemoryStore) -> AsyncIterator[Record]:
        async for record in _export(self):
            if record["user_id"] is not None:
                yield record

    return with_methods(export=export)


@mutant("M12", "memory", by=("every_part_is_copied", "an_emptied_body_keeps_its_revision"))
def agents_without_facts_are_not_exported() -> Patched:
    """An export leaves out agents that have a body and no facts."""

    async def export(self: InProcessMemoryStore) -> AsyncIterator[Record]:
        async for record in _export(self):
            if record["agent_name"] is None or record["facts"]:
                yield record

    return with_methods(export=export)


@mutant("M12", "memory", by="a_copy_reads_the_same")
def restoring_counts_what_was_there() -> Patched:
    """Restore returns how many records it was given."""

    async def restore(self: InProcessMemoryStore, given: Any) -> int:
        count = len(given) if isinstance(given, list) else 0
        return max(count, await _restore_all(self, given))

    return with_methods(restore=restore)


@mutant("M12", "memory", by="a_different_record_is_a_conflict")
def a_conflict_undoes_what_came_before() -> Patched:
    """A record that meets a different one undoes those before it."""

    async def restore(self: InProcessMemoryStore, given: Any) -> int:
        before = dict(self._users)
        try:
            return await _restore_all(self, given)
        except Conflict:
            self._users.clear()
            self._users.update(before)
            raise

    return with_methods(restore=restore)


@mutant("M12", "memory", by="a_different_record_is_a_conflict")
def a_different_record_is_written_in_part() -> Patched:
    """Of a record that meets a different one the facts are written, and then it is a Conflict."""

    def restore(self: InProcessMemoryStore, part: Part) -> bool:
        try:
            return _restore(self, part)
        except Conflict:
            self._users[part.user_id].facts.setdefault(part.agent_name, {}).update(part.facts)
            raise

    return with_methods(_restore=restore)


@mutant("M12", "memory", by="a_different_record_is_a_conflict")
def a_different_record_of_a_memory_is_passed_over() -> Patched:
    """A record that meets a different one is left out silently."""

    def is_new(self: Part, *stored: Any) -> bool:
        try:
            return _is_new(self, *stored)
        except Conflict:
            return False

    return mock.patch.object(Part, "is_new", is_new)


@mutant("M12", "memory", by="what_is_no_record_is_refused")
def surplus_fields_are_ignored() -> Patched:
    """A record may have fields that nobody knows."""
    check = records._check_fields

    def lenient(record: Any, place: str, fields: Any) -> None:
        known = {name: record[name] for name in record if name in fields} if isinstance(record, dict) else record
        check(known, place, fields)

    return mock.patch.object(records, "_check_fields", lenient)
