"""Faults of a memory store that keeps only so much, or only so long: M1, M7, M8 and M12."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

from deerflow_backends.inprocess.connection import Connection
from deerflow_backends.inprocess.layout import StoredUser
from deerflow_backends.inprocess.memories import InProcessMemoryStore
from deerflow_backends.memories import Applied, Change, Memory, Record
from deerflow_backends.records import Part
from deerflow_conformance.mutants import Patched, mutant
from deerflow_conformance.mutants.memories import with_methods

_init = InProcessMemoryStore.__init__
_load = InProcessMemoryStore.load
_apply = InProcessMemoryStore.apply
_search = InProcessMemoryStore.search
_clear = InProcessMemoryStore.clear
_erase = InProcessMemoryStore.erase
_export = InProcessMemoryStore.export
_restore = InProcessMemoryStore._restore
_user = InProcessMemoryStore._user
_list_facts = InProcessMemoryStore.list_facts
_facts_in_order = InProcessMemoryStore._facts_in_order

_BOUND = 1_000
_HOUR_MICROSECONDS = 3600 * 1_000_000


@mutant("M1", "memory", by="many_facts_are_read_as_applied")
def a_load_ends_at_1000() -> Patched:
    """Load gives the first 1,000 facts of a part."""

    async def load(self: InProcessMemoryStore, *arguments: Any, **more: Any) -> Memory:
        memory = await _load(self, *arguments, **more)
        return dataclasses.replace(memory, facts=memory.facts[:_BOUND])

    return with_methods(load=load)


@mutant("M1", "memory", by="many_facts_are_read_as_applied")
def a_listing_ends_at_1000() -> Patched:
    """Pages are cut from the first 1,000 facts of a part."""

    async def list_facts(self: InProcessMemoryStore, *arguments: Any, **more: Any) -> Any:
        with with_methods(_facts_in_order=lambda *part: _facts_in_order(*part)[:_BOUND]):
            return await _list_facts(self, *arguments, **more)

    return with_methods(list_facts=list_facts)


@mutant("M1", "memory", by="many_facts_are_read_as_applied")
def an_apply_ends_at_1000() -> Patched:
    """Of the changes of one apply the first 1,000 are made."""

    async def apply(self: InProcessMemoryStore, user_id: Any, changes: Sequence[Change], **more: Any) -> Applied:
        return await _apply(self, user_id, changes[:_BOUND], **more)

    return with_methods(apply=apply)


@mutant("M1", "memory", by="an_idle_year_changes_nothing")
def an_idle_user_is_forgotten() -> Patched:
    """A user whom nobody wrote for an hour is gone."""

    def user(self: InProcessMemoryStore, user_id: Any) -> StoredUser:
        if self._clock() - _user(self, user_id).updated_at > _HOUR_MICROSECONDS:
            self._users.pop(user_id, None)
        return _user(self, user_id)

    return with_methods(_user=user)


@mutant("M1", "memory", by="an_idle_year_changes_nothing")
def idle_users_are_swept_away() -> Patched:
    """A user whom nobody wrote for an hour is freed by the sweeper."""

    def init(self: InProcessMemoryStore, connection: Connection, binding: Any) -> None:
        _init(self, connection, binding)
        connection.sweepers.append(partial(_sweep, self))

    return with_methods(__init__=init)


def _sweep(store: InProcessMemoryStore) -> None:
    for user_id, user in list(store._users.items()):
        if store._clock() - user.updated_at > _HOUR_MICROSECONDS:
            del store._users[user_id]


@mutant("M7", "memory", by="many_facts_are_searched")
def a_search_ends_at_1000() -> Patched:
    """Search looks at the first 1,000 facts of a part."""

    async def search(self: InProcessMemoryStore, *arguments: Any, **more: Any) -> Any:
        with with_methods(_facts_in_order=lambda *part: _facts_in_order(*part)[:_BOUND]):
            return await _search(self, *arguments, **more)

    return with_methods(search=search)


def _left_of(self: InProcessMemoryStore, user_id: Any) -> dict[Any, Any]:
    """Return the facts of each part that come after the first 1,000."""
    parts = {name: dict(list(facts.items())[_BOUND:]) for name, facts in _user(self, user_id).facts.items()}
    return {name: facts for name, facts in parts.items() if facts}


@mutant("M8", "memory", by="many_facts_are_removed")
def a_clear_ends_at_1000() -> Patched:
    """Clear removes the first 1,000 facts of a part."""

    async def clear(self: InProcessMemoryStore, user_id: Any, **more: Any) -> int:
        left = _left_of(self, user_id)
        revision = await _clear(self, user_id, **more)
        _user(self, user_id).facts.update(left)
        return revision

    return with_methods(clear=clear)


@mutant("M8", "memory", by="many_facts_are_removed")
def an_erase_ends_at_1000() -> Patched:
    """Erase removes the first 1,000 facts of each part."""

    async def erase(self: InProcessMemoryStore, user_id: Any) -> None:
        left = _left_of(self, user_id)
        await _erase(self, user_id)
        if left:
            self._users[user_id] = StoredUser(1, self._clock(), facts=left)

    return with_methods(erase=erase)


@mutant("M12", "memory", by="much_is_copied_whole")
def an_export_ends_at_100_users() -> Patched:
    """An export has the first 100 users."""

    async def export(self: InProcessMemoryStore) -> AsyncIterator[Record]:
        users = set()
        async for record in _export(self):
            users.add(record["user_id"])
            if len(users) > 100:
                return
            yield record

    return with_methods(export=export)


@mutant("M12", "memory", by="much_is_copied_whole")
def facts_are_restored_up_to_1000() -> Patched:
    """Of a part the first 1,000 facts are restored."""

    def restore(self: InProcessMemoryStore, part: Part) -> bool:
        return _restore(self, dataclasses.replace(part, facts=dict(list(part.facts.items())[:_BOUND])))

    return with_methods(_restore=restore)
