"""The memory store in LMDB: the contract is told on `deerflow_backends.MemoryStore`, here is only how it is kept."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from itertools import groupby
from typing import Literal, TypeVar

from deerflow_backends import ALL, All, Applied, Change, Fact, FactMatch, Memory, MemoryOptions, Page, Reach, Record
from deerflow_backends.arguments import check_identifier, check_optional_identifier
from deerflow_backends.binding import Binding
from deerflow_backends.changes import (
    Changes,
    Effects,
    State,
    StoredBody,
    StoredFact,
    applied,
    check_changes,
    judge,
    to_memory,
)
from deerflow_backends.clocks import wall_clock
from deerflow_backends.listings import check_fact_listing, check_fact_search
from deerflow_backends.records import Part, read_in_chunks, read_part
from deerflow_lmdb.connection import Connection
from deerflow_lmdb.layout import (
    BODIES,
    FACTS,
    LEAD_BYTES,
    PART_BYTES,
    USERS,
    BodyRow,
    FactRow,
    UserRow,
    digest,
    fact_key,
    part_key,
)
from deerflow_lmdb.transactions import Table, Transaction

R = TypeVar("R")


class LmdbMemoryStore:
    """A `MemoryStore` for the processes of this host."""

    reach: Reach = "host"

    def __init__(self, connection: Connection, binding: Binding) -> None:
        self._connection, self._binding = connection, binding

    async def load(self, user_id: str | None, *, agent_name: str | None = None) -> Memory:
        """Read one part."""
        self._binding.check()
        user_id = check_optional_identifier("user_id", user_id)
        agent_name = check_optional_identifier("agent_name", agent_name)

        def job(tx: Transaction) -> Memory:
            user = _user(tx, user_id)
            facts = _facts(tx, user_id, agent_name)
            return to_memory(
                user_id, agent_name, (user.revision, user.updated_at), _body(tx, user_id, agent_name), facts
            )

        return await self._connection.read(job)

    async def apply(
        self, user_id: str | None, changes: Sequence[Change], *, expected_revision: int | None = None
    ) -> Applied:
        """Make all changes or none."""
        self._binding.check()
        user_id = check_optional_identifier("user_id", user_id)
        checked = check_changes(changes, expected_revision)

        def job(tx: Transaction) -> Applied:
            now = wall_clock()
            state = _state(tx, user_id, checked)
            effects = judge(checked, state, now=now)
            if effects.changed:
                _store(tx, user_id, effects, now)
            return applied(checked, state, effects)

        return await self._connection.write(job)

    async def get_fact(self, user_id: str | None, fact_id: str, *, agent_name: str | None) -> Fact | None:
        """Read one fact."""
        self._binding.check()
        user_id = check_optional_identifier("user_id", user_id)
        key = (check_optional_identifier("agent_name", agent_name), check_identifier("fact_id", fact_id))
        row = await self._connection.read(lambda tx: tx.get(FACTS, fact_key(user_id, *key)))
        return row.fact.to_fact(key) if row else None

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
        return await self._connection.read(
            lambda tx: listing.page(_facts(tx, listing.user_id, listing.agent_name, after=listing.after))
        )

    async def search(
        self, user_id: str | None, query: str, *, agent_name: str | None, category: str | None = None, limit: int = 10
    ) -> list[FactMatch]:
        """Find facts by their text."""
        self._binding.check()
        search = check_fact_search(user_id, query, agent_name=agent_name, category=category, limit=limit)
        return await self._connection.read(lambda tx: search.find(_facts(tx, search.user_id, search.agent_name)))

    async def agents(self, user_id: str | None) -> list[str]:
        """Name the agents that have a body or facts."""
        self._binding.check()
        user_id = check_optional_identifier("user_id", user_id)
        return await self._connection.read(lambda tx: _agents(tx, user_id))

    async def clear(self, user_id: str | None, *, agent_name: str | Literal[All.ALL] | None = ALL) -> int:
        """Remove one part, or all parts."""
        self._binding.check()
        user_id = check_optional_identifier("user_id", user_id)
        if agent_name is ALL:
            prefix = digest(user_id)
        else:
            prefix = part_key(user_id, check_optional_identifier("agent_name", agent_name))
        return await self._connection.write(lambda tx: _clear(tx, user_id, prefix))

    async def erase(self, user_id: str | None) -> None:
        """Leave no trace of the user that can be read; LMDB overwrites what is deleted when it needs the room."""
        self._binding.check()
        user_id = check_optional_identifier("user_id", user_id)

        def job(tx: Transaction) -> None:
            _clear(tx, user_id, digest(user_id))
            tx.delete(USERS, digest(user_id))

        await self._connection.write(job)

    async def export(self) -> AsyncIterator[Record]:
        """Give everything as records, user by user."""
        self._binding.check()
        after = b""
        while found := await self._connection.read(partial(_next_user, after=after)):
            after, parts = found
            for part in parts:
                yield part.to_record()
                self._binding.check()

    async def restore(self, records: Iterable[Record] | AsyncIterable[Record]) -> int:
        """Store exported records."""
        self._binding.check()
        restored = 0
        async with aclosing(read_in_chunks(records, read_part)) as chunks:
            async for parts in chunks:
                for part in parts:
                    self._binding.check()
                    restored += await self._connection.write(partial(_restore, part=part))
        return restored

    async def ping(self) -> None:
        """Return if the namespace can be read."""
        self._binding.check()
        await self._connection.ping()


def _user(tx: Transaction, user_id: str | None) -> UserRow:
    return tx.get(USERS, digest(user_id)) or UserRow(user_id, 0, 0)


def _body(tx: Transaction, user_id: str | None, agent_name: str | None) -> StoredBody | None:
    row = tx.get(BODIES, part_key(user_id, agent_name))
    return row.body if row else None


def _facts(
    tx: Transaction, user_id: str | None, agent_name: str | None, *, after: str | None = None
) -> Iterator[tuple[str, StoredFact]]:
    """Read the facts of a part by id, those after *after* only; no further than somebody asks."""
    part = part_key(user_id, agent_name)
    start = part + (after or "").encode()[:LEAD_BYTES]
    rows = tx.scan(FACTS, start, prefix=part)
    for _, alike in groupby(rows, key=lambda one: one[0][: PART_BYTES + LEAD_BYTES]):
        # As a rule a single one: keys keep the order of ids up to here, the rest is put into order now.
        for _, row in sorted(alike, key=lambda one: one[1].fact_id):
            if after is None or row.fact_id > after:
                yield row.fact_id, row.fact


def _state(tx: Transaction, user_id: str | None, changes: Changes) -> State:
    """Look up what the changes touch, and nothing else (M9)."""
    bodies = {name: body for name in changes.bodies if (body := _body(tx, user_id, name))}
    facts = {key: row.fact for key in changes.facts if (row := tx.get(FACTS, fact_key(user_id, *key)))}
    return State(_user(tx, user_id).revision, bodies, facts)


def _store(tx: Transaction, user_id: str | None, effects: Effects, now: int) -> None:
    """Write what changed, and nothing else (M9)."""
    tx.put(USERS, digest(user_id), UserRow(user_id, effects.revision, now))
    for agent_name, body in effects.bodies.items():
        tx.put(BODIES, part_key(user_id, agent_name), BodyRow(agent_name, body))
    for (agent_name, fact_id), fact in effects.facts.items():
        key = fact_key(user_id, agent_name, fact_id)
        if fact is None:
            tx.delete(FACTS, key)
        else:
            tx.put(FACTS, key, FactRow(agent_name, fact_id, fact))


def _clear(tx: Transaction, user_id: str | None, prefix: bytes) -> int:
    """Remove all whose keys begin so; return the user's revision, raised if anything was there (M8)."""
    user = _user(tx, user_id)
    if not tx.remove(BODIES, prefix) + tx.remove(FACTS, prefix):
        return user.revision
    tx.put(USERS, digest(user_id), UserRow(user_id, user.revision + 1, wall_clock()))
    return user.revision + 1


def _agents(tx: Transaction, user_id: str | None) -> list[str]:
    """Name a user's agents in order."""
    names = {row.agent_name for row in _one_of_each_part(tx, BODIES, user_id)}
    names |= {row.agent_name for row in _one_of_each_part(tx, FACTS, user_id)}
    return sorted(name for name in names if name is not None)


def _one_of_each_part(tx: Transaction, table: Table[R], user_id: str | None) -> Iterator[R]:
    """Read a row of each part that a user has, stepping over the others."""
    start = user = digest(user_id)
    while found := next(tx.scan(table, start, prefix=user), None):
        key, row = found
        yield row
        start = key[:PART_BYTES] + b"\xff"  # a byte that no id has


def _next_user(tx: Transaction, after: bytes) -> tuple[bytes, list[Part]] | None:
    """Read all parts of the next user, the user-wide one first, there or not; None after the last."""
    found = next(tx.scan(USERS, after + b"\0"), None)
    if found is None:
        return None
    key, user = found
    names = (None, *_agents(tx, user.user_id))
    return key, [_part(tx, user, name) for name in names]


def _part(tx: Transaction, user: UserRow, agent_name: str | None) -> Part:
    body, facts = _body(tx, user.user_id, agent_name), dict(_facts(tx, user.user_id, agent_name))
    return Part(user.user_id, agent_name, user.revision, user.updated_at, body, facts)


def _restore(tx: Transaction, part: Part) -> bool:
    """Store a part; False if exactly this one is there."""
    user_id, agent_name = part.user_id, part.agent_name
    user = tx.get(USERS, digest(user_id))
    stored = (user.revision, user.updated_at) if user else None
    if not part.is_new(stored, _body(tx, user_id, agent_name), dict(_facts(tx, user_id, agent_name))):
        return False
    bodies = {} if part.body is None else {agent_name: part.body}
    facts = {(agent_name, fact_id): fact for fact_id, fact in part.facts.items()}
    _store(tx, user_id, Effects(part.user_revision, bodies, dict(facts)), part.user_updated_at)
    return True


@asynccontextmanager
async def open_memory(connection: Connection, options: MemoryOptions | None = None) -> AsyncIterator[LmdbMemoryStore]:
    """Open the memory store of a connection."""
    binding = Binding("this memory store")
    try:
        yield LmdbMemoryStore(connection, binding)
    finally:
        binding.close()
