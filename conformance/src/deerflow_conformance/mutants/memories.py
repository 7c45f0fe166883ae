"""Faults of a memory store that concern reading what was written, and whole applies: M1 and M2."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

from deerflow_backends import changes
from deerflow_backends.changes import Effects, check_changes
from deerflow_backends.clocks import to_datetime
from deerflow_backends.errors import InvalidArgument
from deerflow_backends.inprocess.layout import StoredUser
from deerflow_backends.inprocess.memories import InProcessMemoryStore
from deerflow_backends.memories import Applied, Change, Fact, Memory, PutBody
from deerflow_conformance.mutants import Patched, methods, mutant

with_methods = partial(methods, InProcessMemoryStore)

_load = InProcessMemoryStore.load
_apply = InProcessMemoryStore.apply
_get_fact = InProcessMemoryStore.get_fact
_agents = InProcessMemoryStore.agents
_search = InProcessMemoryStore.search
_facts_in_order = InProcessMemoryStore._facts_in_order
_store = InProcessMemoryStore._store
_user = InProcessMemoryStore._user


# ---------------------------------------------------------------------- M1


@mutant("M1", "memory", by=("the_next_read_has_what_was_applied", "a_replica_reads_what_was_applied"))
def loads_come_from_a_cache() -> Patched:
    """An instance that loaded a part shows it unchanged until it writes itself."""
    kept: dict[tuple[Any, Any, Any], Memory] = {}

    async def load(self: InProcessMemoryStore, user_id: Any, *, agent_name: Any = None) -> Memory:
        key = (self, user_id, agent_name)
        if key not in kept:
            kept[key] = await _load(self, user_id, agent_name=agent_name)
        return kept[key]

    async def apply(self: InProcessMemoryStore, *arguments: Any, **more: Any) -> Applied:
        for key in [key for key in kept if key[0] == self]:
            del kept[key]
        return await _apply(self, *arguments, **more)

    return with_methods(load=load, apply=apply)


def nobody_named(name: str) -> Patched:
    """Keep the memory of no user as that of the user *name*."""

    def user(self: InProcessMemoryStore, user_id: Any) -> StoredUser:
        return _user(self, name if user_id is None else user_id)

    def store(self: InProcessMemoryStore, user_id: Any, effects: Effects, now: int) -> None:
        _store(self, name if user_id is None else user_id, effects, now)

    return with_methods(_user=user, _store=store)


@mutant("M1", "memory", by="reading_creates_nothing")
def nobody_reads_the_user_of_that_name() -> Patched:
    """The shared memory is that of a user named None."""
    return nobody_named("None")


@mutant("M1", "memory", by="reading_creates_nothing")
def reading_makes_a_user() -> Patched:
    """Loading the memory of a user who never wrote stores that user."""

    async def load(self: InProcessMemoryStore, user_id: Any, *, agent_name: Any = None) -> Memory:
        self._users.setdefault(user_id, StoredUser(1, 0))
        return await _load(self, user_id, agent_name=agent_name)

    return with_methods(load=load)


@mutant("M1", "memory", by="a_replica_reads_what_was_applied")
def facts_come_from_a_cache() -> Patched:
    """An instance that read a fact shows it unchanged until it writes itself."""
    kept: dict[tuple[Any, Any, str, Any], Fact | None] = {}

    async def get_fact(self: InProcessMemoryStore, user_id: Any, fact_id: str, *, agent_name: Any) -> Fact | None:
        key = (self, user_id, fact_id, agent_name)
        if kept.get(key) is None:
            kept[key] = await _get_fact(self, user_id, fact_id, agent_name=agent_name)
        return kept[key]

    async def apply(self: InProcessMemoryStore, *arguments: Any, **more: Any) -> Applied:
        for key in [key for key in kept if key[0] == self]:
            del kept[key]
        return await _apply(self, *arguments, **more)

    return with_methods(get_fact=get_fact, apply=apply)


@mutant("M1", "memory", by="a_replica_reads_what_was_applied")
def the_search_index_lags() -> Patched:
    """A search finds what was there at the search before."""
    indexed: dict[tuple[Any, Any], list[Any]] = {}

    async def search(self: InProcessMemoryStore, user_id: Any, query: str, *, agent_name: Any, **more: Any) -> Any:
        rows = indexed.get((user_id, agent_name), [])
        indexed[user_id, agent_name] = _facts_in_order(self, user_id, agent_name)
        with methods(InProcessMemoryStore, _facts_in_order=lambda *_: rows):
            return await _search(self, user_id, query, agent_name=agent_name, **more)

    return with_methods(search=search)


@mutant("M1", "memory", by="a_replica_reads_what_was_applied")
def new_agents_are_not_named() -> Patched:
    """An instance names the agents that it has written itself."""
    written: dict[Any, set[str | None]] = {}

    async def apply(self: InProcessMemoryStore, user_id: Any, changes: Sequence[Change], **more: Any) -> Applied:
        written.setdefault(self, set()).update(change.agent_name for change in changes)
        return await _apply(self, user_id, changes, **more)

    async def agents(self: InProcessMemoryStore, user_id: Any) -> list[str]:
        return [name for name in await _agents(self, user_id) if name in written.get(self, ())]

    return with_methods(apply=apply, agents=agents)


@mutant("M1", "memory", by="reading_creates_nothing")
def an_absent_part_reads_as_the_users() -> Patched:
    """Loading a part that is not there gives the user-wide one."""

    async def load(self: InProcessMemoryStore, user_id: Any, *, agent_name: Any = None) -> Memory:
        present = agent_name in self._parts(user_id)
        return await _load(self, user_id, agent_name=agent_name if present else None)

    return with_methods(load=load)


@mutant("M1", "memory", by="reading_creates_nothing")
def an_absent_part_has_revision_0() -> Patched:
    """Loading a part that is not there gives the revision 0, whatever the user's is."""

    async def load(self: InProcessMemoryStore, user_id: Any, *, agent_name: Any = None) -> Memory:
        memory = await _load(self, user_id, agent_name=agent_name)
        return memory if agent_name in self._parts(user_id) else dataclasses.replace(memory, revision=0)

    return with_methods(load=load)


@mutant("M1", "memory", by="reading_creates_nothing")
def who_never_wrote_has_a_time() -> Patched:
    """The memory of a user who never wrote bears the time of the reading."""

    async def load(self: InProcessMemoryStore, user_id: Any, *, agent_name: Any = None) -> Memory:
        memory = await _load(self, user_id, agent_name=agent_name)
        return dataclasses.replace(memory, updated_at=memory.updated_at or to_datetime(self._clock()))

    return with_methods(load=load)


@mutant("M1", "memory", by="reading_creates_nothing")
def who_is_read_is_named() -> Patched:
    """Reading an agent's part makes it one of the agents."""
    read: set[str] = set()

    async def load(self: InProcessMemoryStore, user_id: Any, *, agent_name: Any = None) -> Memory:
        if agent_name is not None:
            read.add(agent_name)
        return await _load(self, user_id, agent_name=agent_name)

    async def agents(self: InProcessMemoryStore, user_id: Any) -> list[str]:
        return sorted({*await _agents(self, user_id), *read})

    return with_methods(load=load, agents=agents)


# ---------------------------------------------------------------------- M2


@mutant("M2", "memory", by="one_bad_change_undoes_all")
def changes_are_stored_one_by_one() -> Patched:
    """Each change is judged and stored before the next one is looked at."""

    async def apply(
        self: InProcessMemoryStore, user_id: Any, changes: Sequence[Change], *, expected_revision: Any = None
    ) -> Applied:
        applied = await _apply(self, user_id, changes[:1], expected_revision=expected_revision)
        for change in changes[1:]:
            one = await _apply(self, user_id, [change])
            applied = Applied(one.revision, applied.facts + one.facts, applied.deleted + one.deleted, True)
        return applied

    return with_methods(apply=apply)


@mutant("M2", "memory", by="one_thing_twice_is_refused")
def the_last_of_two_changes_wins() -> Patched:
    """A fact or body that is changed twice in one apply takes the last change, and nobody is told."""

    async def apply(self: InProcessMemoryStore, user_id: Any, changes: Sequence[Change], **more: Any) -> Applied:
        last = {
            (change.agent_name, None if isinstance(change, PutBody) else change.fact_id): change for change in changes
        }
        return await _apply(self, user_id, list(last.values()), **more)

    return with_methods(apply=apply)


@mutant("M2", "memory", by="one_bad_change_undoes_all")
def what_is_no_json_is_found_late() -> Patched:
    """The changes before one that is invalid are made."""

    async def apply(self: InProcessMemoryStore, user_id: Any, changes: Sequence[Change], **more: Any) -> Applied:
        try:
            check_changes(changes)
        except InvalidArgument:
            good = [change for change in changes if _is_valid(change)]
            await _apply(self, user_id, good, **more)
        return await _apply(self, user_id, changes, **more)

    return with_methods(apply=apply)


def _is_valid(change: Change) -> bool:
    try:
        return bool(check_changes([change]))
    except InvalidArgument:
        return False


@mutant("M2", "memory", by="one_thing_twice_is_refused")
def one_id_in_two_parts_is_one_fact() -> Patched:
    """Facts of one id in two agents' parts are taken for the same fact twice."""

    async def apply(self: InProcessMemoryStore, user_id: Any, changes: Sequence[Change], **more: Any) -> Applied:
        ids = [None if isinstance(change, PutBody) else change.fact_id for change in changes]
        if len(set(ids)) < len(ids):
            raise InvalidArgument("changes", "changes one fact twice")
        return await _apply(self, user_id, changes, **more)

    return with_methods(apply=apply)


@mutant("M2", "memory", by="nobody_reads_half_an_apply")
def facts_are_stored_one_by_one() -> Patched:
    """The facts of one apply are stored one after the other, with readers in between."""

    async def apply(self: InProcessMemoryStore, user_id: Any, given: Sequence[Change], **more: Any) -> Applied:
        checked = check_changes(given, **more)
        state = self._state(user_id, checked)
        effects = changes.judge(checked, state, now=self._clock())
        for key, fact in effects.facts.items():
            self._store(user_id, Effects(effects.revision, {}, {key: fact}), self._clock())
            await asyncio.sleep(0)
        if effects.changed:
            self._store(user_id, Effects(effects.revision, effects.bodies), self._clock())
        return changes.applied(checked, state, effects)

    return with_methods(apply=apply)
