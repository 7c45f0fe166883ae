"""The memory store in dicts: the readable specification of promises M1 to M12.

Every call does its work in one piece, under the lock that all openings of one name share: so it happens whole or not
at all, and every read is of one moment.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Literal

from deerflow_backends.arguments import check_identifier, check_optional_identifier
from deerflow_backends.binding import Binding
from deerflow_backends.changes import Changes, Effects, State, StoredFact, applied, check_changes, judge, to_memory
from deerflow_backends.inprocess.connection import Connection
from deerflow_backends.inprocess.layout import StoredUser, memory_table
from deerflow_backends.listings import check_fact_listing, check_fact_search
from deerflow_backends.memories import ALL, All, Applied, Change, Fact, FactMatch, Memory, MemoryOptions, Record
from deerflow_backends.paging import Page
from deerflow_backends.records import Part, read_in_chunks, read_part
from deerflow_backends.streams import Reach

_NEVER_WRITTEN = StoredUser(revision=0, updated_at=0)


class InProcessMemoryStore:
    """A `MemoryStore` within this process."""

    reach: Reach = "process"

    def __init__(self, connection: Connection, binding: Binding) -> None:
        self._binding = binding
        self._clock = connection.clock
        self._lock = connection.tables.lock
        self._users = memory_table(connection.tables).users

    async def load(self, user_id: str | None, *, agent_name: str | None = None) -> Memory:
        """Read one part."""
        self._binding.check()
        user_id = check_optional_identifier("user_id", user_id)
        agent_name = check_optional_identifier("agent_name", agent_name)
        with self._lock:
            user = self._user(user_id)
            revision, updated_at = user.revision, user.updated_at
            body = user.bodies.get(agent_name)
            facts = self._facts_in_order(user_id, agent_name)
        return to_memory(user_id, agent_name, (revision, updated_at), body, facts)

    async def apply(
        self, user_id: str | None, changes: Sequence[Change], *, expected_revision: int | None = None
    ) -> Applied:
        """Make all changes or none."""
        self._binding.check()
        user_id = check_optional_identifier("user_id", user_id)
        checked = check_changes(changes, expected_revision)
        with self._lock:
            now = self._clock()
            state = self._state(user_id, checked)
            effects = judge(checked, state, now=now)
            if effects.changed:
                self._store(user_id, effects, now)
        return applied(checked, state, effects)

    def _state(self, user_id: str | None, changes: Changes) -> State:
        user = self._user(user_id)
        facts = {}
        for agent_name, fact_id in changes.facts:
            fact = user.facts.get(agent_name, {}).get(fact_id)
            if fact is not None:
                facts[agent_name, fact_id] = fact
        return State(user.revision, {name: user.bodies[name] for name in changes.bodies if name in user.bodies}, facts)

    def _store(self, user_id: str | None, effects: Effects, now: int) -> None:
        user = self._users.setdefault(user_id, StoredUser(0, 0))
        user.revision, user.updated_at = effects.revision, now
        user.bodies.update(effects.bodies)
        for (agent_name, fact_id), fact in effects.facts.items():
            part = user.facts.setdefault(agent_name, {})
            if fact is not None:
                part[fact_id] = fact
            else:
                del part[fact_id]
            if not part:
                del user.facts[agent_name]

    async def get_fact(self, user_id: str | None, fact_id: str, *, agent_name: str | None) -> Fact | None:
        """Read one fact."""
        self._binding.check()
        user_id = check_optional_identifier("user_id", user_id)
        key = (check_optional_identifier("agent_name", agent_name), check_identifier("fact_id", fact_id))
        with self._lock:
            fact = self._user(user_id).facts.get(key[0], {}).get(key[1])
        return fact.to_fact(key) if fact else None

    async def list_facts(
        self,
        user_id: str | None,
        *,
        agent_name: str | None,
        category: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[Fact]:
        """Read facts of one part by id."""
        self._binding.check()
        listing = check_fact_listing(user_id, agent_name=agent_name, category=category, limit=limit, cursor=cursor)
        with self._lock:
            facts = self._facts_in_order(listing.user_id, listing.agent_name)
        start = 0 if listing.after is None else bisect_right(facts, listing.after, key=lambda item: item[0])
        return listing.page(facts[start:])

    async def search(
        self, user_id: str | None, query: str, *, agent_name: str | None, category: str | None = None, limit: int = 10
    ) -> list[FactMatch]:
        """Find facts by their text."""
        self._binding.check()
        search = check_fact_search(user_id, query, agent_name=agent_name, category=category, limit=limit)
        with self._lock:
            facts = self._facts_in_order(search.user_id, search.agent_name)
        return search.find(facts)

    async def agents(self, user_id: str | None) -> list[str]:
        """Name the agents that have a body or facts."""
        self._binding.check()
        user_id = check_optional_identifier("user_id", user_id)
        with self._lock:
            return [name for name in self._parts(user_id) if name is not None]

    async def clear(self, user_id: str | None, *, agent_name: str | Literal[All.ALL] | None = ALL) -> int:
        """Remove one part, or all parts."""
        self._binding.check()
        user_id = check_optional_identifier("user_id", user_id)
        if agent_name is not ALL:
            agent_name = check_optional_identifier("agent_name", agent_name)
        with self._lock:
            user = self._user(user_id)
            cleared = [name for name in self._parts(user_id) if agent_name is ALL or name == agent_name]
            for name in cleared:
                user.bodies.pop(name, None)
                user.facts.pop(name, None)
            if cleared:
                user.revision += 1
                user.updated_at = self._clock()
            return user.revision

    async def erase(self, user_id: str | None) -> None:
        """Leave no trace of the user."""
        self._binding.check()
        user_id = check_optional_identifier("user_id", user_id)
        with self._lock:
            self._users.pop(user_id, None)

    async def export(self) -> AsyncIterator[Record]:
        """Give everything as records."""
        self._binding.check()
        with self._lock:
            user_ids = list(self._users)
        for user_id in user_ids:
            with self._lock:
                names = [None, *(name for name in self._parts(user_id) if name is not None)]
                parts = [self._part(user_id, name) for name in names] if user_id in self._users else []
            for part in parts:
                yield part.to_record()
                self._binding.check()

    async def restore(self, records: Iterable[Record] | AsyncIterable[Record]) -> int:
        """Store exported records."""
        self._binding.check()
        restored = 0
        async with aclosing(read_in_chunks(records, read_part)) as chunks:
            async for parts in chunks:
                self._binding.check()
                for part in parts:
                    restored += self._restore(part)
        return restored

    def _restore(self, part: Part) -> bool:
        with self._lock:
            stored = self._users.get(part.user_id)
            user = self._user(part.user_id)
            body, facts = user.bodies.get(part.agent_name), user.facts.get(part.agent_name, {})
            if not part.is_new((stored.revision, stored.updated_at) if stored else None, body, facts):
                return False
            user = self._users.setdefault(part.user_id, StoredUser(part.user_revision, part.user_updated_at))
            if part.body is not None:
                user.bodies[part.agent_name] = part.body
            if part.facts:
                user.facts[part.agent_name] = dict(part.facts)
            return True

    async def ping(self) -> None:
        """Return if this store is open."""
        self._binding.check()

    def _user(self, user_id: str | None) -> StoredUser:
        return self._users.get(user_id, _NEVER_WRITTEN)

    def _parts(self, user_id: str | None) -> list[str | None]:
        """Name the parts that have a body or facts: the user-wide one first, then the agents by name."""
        user = self._user(user_id)
        return sorted({*user.bodies, *user.facts}, key=lambda name: (name is not None, name or ""))

    def _part(self, user_id: str | None, agent_name: str | None) -> Part:
        user = self._users[user_id]
        facts = dict(user.facts.get(agent_name, {}))
        return Part(user_id, agent_name, user.revision, user.updated_at, user.bodies.get(agent_name), facts)

    def _facts_in_order(self, user_id: str | None, agent_name: str | None) -> list[tuple[str, StoredFact]]:
        return sorted(self._user(user_id).facts.get(agent_name, {}).items())


@asynccontextmanager
async def open_memory(
    connection: Connection, options: MemoryOptions | None = None
) -> AsyncIterator[InProcessMemoryStore]:
    """Open the memory store of *connection*, for this event loop."""
    binding = Binding("this memory store")
    try:
        yield InProcessMemoryStore(connection, binding)
    finally:
        binding.close()
