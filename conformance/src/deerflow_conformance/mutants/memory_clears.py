"""Faults of clearing and erasing a memory store: M3 and M8."""

from __future__ import annotations

from typing import Any

from deerflow_backends.changes import Effects
from deerflow_backends.inprocess.layout import StoredUser
from deerflow_backends.inprocess.memories import InProcessMemoryStore
from deerflow_backends.memories import ALL, Applied
from deerflow_conformance.mutants import Patched, methods, mutant
from deerflow_conformance.mutants.memories import nobody_named, with_methods

_apply = InProcessMemoryStore.apply
_search = InProcessMemoryStore.search
_clear = InProcessMemoryStore.clear
_erase = InProcessMemoryStore.erase
_facts_in_order = InProcessMemoryStore._facts_in_order
_store = InProcessMemoryStore._store


@mutant("M8", "memory", by="clear_takes_one_part")
def clear_takes_every_agent_of_that_prefix() -> Patched:
    """Clearing an agent also removes those whose names begin with its name."""

    async def clear(self: InProcessMemoryStore, user_id: Any, *, agent_name: Any = ALL) -> int:
        if isinstance(agent_name, str):
            for name in self._parts(user_id):
                if name is not None and name != agent_name and name.startswith(agent_name):
                    self._users[user_id].bodies.pop(name, None)
                    self._users[user_id].facts.pop(name, None)
        return await _clear(self, user_id, agent_name=agent_name)

    return with_methods(clear=clear)


@mutant("M8", "memory", by="clear_takes_one_part")
def an_idle_clear_raises_the_revision() -> Patched:
    """Clear raises the user's revision even if there was nothing to remove."""

    async def clear(self: InProcessMemoryStore, user_id: Any, *, agent_name: Any = ALL) -> int:
        before = self._user(user_id).revision
        after = await _clear(self, user_id, agent_name=agent_name)
        if before == after and user_id in self._users:
            self._users[user_id].revision += 1
        return self._user(user_id).revision

    return with_methods(clear=clear)


@mutant("M8", "memory", by=("erase_leaves_no_trace", "clear_and_erase_follow_the_model"))
def erase_keeps_the_revision() -> Patched:
    """Erase clears the user but goes on counting revisions."""

    async def erase(self: InProcessMemoryStore, user_id: Any) -> None:
        await _clear(self, user_id)

    return with_methods(erase=erase)


@mutant("M8", "memory", by="clear_takes_one_part")
def none_clears_everything() -> Patched:
    """Clearing the user-wide part clears those of all agents too."""

    async def clear(self: InProcessMemoryStore, user_id: Any, *, agent_name: Any = ALL) -> int:
        return await _clear(self, user_id, agent_name=ALL if agent_name is None else agent_name)

    return with_methods(clear=clear)


@mutant("M8", "memory", by="clear_takes_one_part")
def all_leaves_the_users_part() -> Patched:
    """Clearing everything of a user clears the agents' parts and leaves the user-wide one."""

    async def clear(self: InProcessMemoryStore, user_id: Any, *, agent_name: Any = ALL) -> int:
        user = self._user(user_id)
        kept = (user.bodies.get(None), user.facts.get(None))
        revision = await _clear(self, user_id, agent_name=agent_name)
        if agent_name is ALL and kept[1]:
            user.facts[None] = kept[1]
        if agent_name is ALL and kept[0]:
            user.bodies[None] = kept[0]
        return revision

    return with_methods(clear=clear)


@mutant("M8", "memory", by="clear_takes_one_part")
def an_agents_clear_takes_the_users_part() -> Patched:
    """Clearing an agent also clears what is the user's."""

    async def clear(self: InProcessMemoryStore, user_id: Any, *, agent_name: Any = ALL) -> int:
        if isinstance(agent_name, str):
            self._user(user_id).facts.pop(None, None)
        return await _clear(self, user_id, agent_name=agent_name)

    return with_methods(clear=clear)


@mutant("M8", "memory", by="clear_takes_one_part")
def clearing_leaves_the_body() -> Patched:
    """Clear removes facts only."""

    async def clear(self: InProcessMemoryStore, user_id: Any, *, agent_name: Any = ALL) -> int:
        bodies = dict(self._user(user_id).bodies)
        revision = await _clear(self, user_id, agent_name=agent_name)
        self._user(user_id).bodies.update(bodies)
        return revision

    return with_methods(clear=clear)


@mutant("M3", "memory", by="times_tell_when_it_changed")
def a_clear_keeps_the_time() -> Patched:
    """Clear raises the user's revision and leaves the time when that came to be."""

    async def clear(self: InProcessMemoryStore, user_id: Any, *, agent_name: Any = ALL) -> int:
        before = self._user(user_id).updated_at
        revision = await _clear(self, user_id, agent_name=agent_name)
        if user_id in self._users:
            self._users[user_id].updated_at = before
        return revision

    return with_methods(clear=clear)


@mutant("M8", "memory", by="clear_takes_one_part")
def clear_tells_the_revision_before() -> Patched:
    """Clear returns the revision that the user had before."""

    async def clear(self: InProcessMemoryStore, user_id: Any, *, agent_name: Any = ALL) -> int:
        before = self._user(user_id).revision
        await _clear(self, user_id, agent_name=agent_name)
        return before

    return with_methods(clear=clear)


@mutant("M8", "memory", by="clear_takes_one_part")
def clear_takes_everybodys_agent() -> Patched:
    """Clearing an agent of one user clears the agent of that name of all users."""

    async def clear(self: InProcessMemoryStore, user_id: Any, *, agent_name: Any = ALL) -> int:
        for other in list(self._users):
            if other != user_id and isinstance(agent_name, str):
                await _clear(self, other, agent_name=agent_name)
        return await _clear(self, user_id, agent_name=agent_name)

    return with_methods(clear=clear)


@mutant("M8", "memory", by="clear_takes_one_part")
def clearing_nobody_clears_the_user_of_that_name() -> Patched:
    """The shared memory is that of a user named None, and is cleared with it."""
    return nobody_named("None")


@mutant("M8", "memory", by="erase_leaves_no_trace")
def erase_goes_by_prefix() -> Patched:
    """Erasing a user erases those whose ids begin with the same."""

    async def erase(self: InProcessMemoryStore, user_id: Any) -> None:
        for other in list(self._users):
            if isinstance(other, str) and isinstance(user_id, str) and other.startswith(user_id):
                await _erase(self, other)

    return with_methods(erase=erase)


@mutant("M8", "memory", by="erase_leaves_no_trace")
def erase_only_hides() -> Patched:
    """An erased user is hidden, and the next write brings everything back."""
    hidden: dict[Any, StoredUser] = {}

    async def erase(self: InProcessMemoryStore, user_id: Any) -> None:
        if user_id in self._users:
            hidden[user_id] = self._users.pop(user_id)

    def store(self: InProcessMemoryStore, user_id: Any, effects: Effects, now: int) -> None:
        if user_id in hidden:
            self._users[user_id] = hidden.pop(user_id)
        _store(self, user_id, effects, now)

    return with_methods(erase=erase, _store=store)


@mutant("M8", "memory", by="erase_leaves_no_trace")
def erased_facts_are_still_found() -> Patched:
    """Erase leaves the search index as it is."""
    indexed: dict[Any, dict[Any, Any]] = {}

    async def apply(self: InProcessMemoryStore, user_id: Any, *arguments: Any, **more: Any) -> Applied:
        applied = await _apply(self, user_id, *arguments, **more)
        indexed[user_id] = {name: dict(facts) for name, facts in self._user(user_id).facts.items()}
        return applied

    async def search(self: InProcessMemoryStore, user_id: Any, query: str, *, agent_name: Any, **more: Any) -> Any:
        rows = sorted(indexed.get(user_id, {}).get(agent_name, {}).items())
        with methods(InProcessMemoryStore, _facts_in_order=lambda *_: rows):
            return await _search(self, user_id, query, agent_name=agent_name, **more)

    return with_methods(apply=apply, search=search)
