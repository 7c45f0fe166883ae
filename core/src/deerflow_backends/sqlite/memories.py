"""The memory store in a SQLite file, for all processes of one host."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Literal, TypeVar

from deerflow_backends.arguments import check_identifier, check_optional_identifier
from deerflow_backends.binding import Binding
from deerflow_backends.changes import applied, check_changes, judge, to_memory
from deerflow_backends.listings import check_fact_listing, check_fact_search
from deerflow_backends.memories import ALL, All, Applied, Change, Fact, FactMatch, Memory, MemoryOptions, Record
from deerflow_backends.paging import Page
from deerflow_backends.records import Part, read_in_chunks, read_part
from deerflow_backends.sqlite import memory_tables as tables
from deerflow_backends.sqlite.connection import Connection, ping
from deerflow_backends.sqlite.database import Database
from deerflow_backends.streams import Reach

T = TypeVar("T")


class SqliteMemoryStore:
    """A `MemoryStore` for the processes of this host."""

    reach: Reach = "host"

    def __init__(self, connection: Connection, database: Database, binding: Binding) -> None:
        self._database, self._binding = database, binding
        self._clock = connection.clock
        self._timeout_seconds = connection.timeout_seconds

    async def load(self, user_id: str | None, *, agent_name: str | None = None) -> Memory:
        """Read one part."""
        self._binding.check()
        check_optional_identifier("user_id", user_id)
        check_optional_identifier("agent_name", agent_name)
        part = await self._read(lambda connection: tables.load(connection, user_id, agent_name))
        return to_memory(user_id, agent_name, (part.revision, part.updated_at), part.body, part.facts)

    async def apply(
        self, user_id: str | None, changes: Sequence[Change], *, expected_revision: int | None = None
    ) -> Applied:
        """Make all changes or none."""
        self._binding.check()
        check_optional_identifier("user_id", user_id)
        checked = check_changes(changes, expected_revision)

        def job(connection: sqlite3.Connection) -> Applied:
            now = self._clock()
            state = tables.state(connection, user_id, checked)
            effects = judge(checked, state, now=now)
            if effects.changed:
                tables.store(connection, user_id, effects, now)
            return applied(checked, state, effects)

        return await self._write(job)

    async def get_fact(self, user_id: str | None, fact_id: str, *, agent_name: str | None) -> Fact | None:
        """Read one fact."""
        self._binding.check()
        check_optional_identifier("user_id", user_id)
        key = (check_optional_identifier("agent_name", agent_name), check_identifier("fact_id", fact_id))
        fact = await self._read(lambda connection: tables.get_fact(connection, user_id, key))
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
        rows = await self._read(
            lambda connection: tables.facts_after(
                connection, user_id, agent_name, category=category, after=listing.after, limit=listing.limit + 1
            )
        )
        return listing.page(rows)

    async def search(
        self, user_id: str | None, query: str, *, agent_name: str | None, category: str | None = None, limit: int = 10
    ) -> list[FactMatch]:
        """Find facts by their text."""
        self._binding.check()
        search = check_fact_search(user_id, query, agent_name=agent_name, category=category, limit=limit)

        def job(connection: sqlite3.Connection) -> list[FactMatch]:
            rows = tables.facts_after(connection, user_id, agent_name, category=category, after=None, limit=-1)
            return search.find(rows)

        return await self._read(job)

    async def agents(self, user_id: str | None) -> list[str]:
        """Name the agents that have a body or facts."""
        self._binding.check()
        check_optional_identifier("user_id", user_id)
        return await self._read(lambda connection: tables.agents(connection, user_id))

    async def clear(self, user_id: str | None, *, agent_name: str | Literal[All.ALL] | None = ALL) -> int:
        """Remove one part, or all parts."""
        self._binding.check()
        check_optional_identifier("user_id", user_id)
        parts = None if agent_name is ALL else (check_optional_identifier("agent_name", agent_name),)
        return await self._write(lambda connection: tables.clear(connection, user_id, parts, self._clock()))

    async def erase(self, user_id: str | None) -> None:
        """Leave no trace of the user.

        The file overwrites what is deleted. Older states leave the write-ahead log as it starts over, at the latest
        when the last process closes the file.
        """
        self._binding.check()
        check_optional_identifier("user_id", user_id)
        await self._write(lambda connection: tables.erase(connection, user_id))

    async def export(self) -> AsyncIterator[Record]:
        """Give everything as records, user by user in order."""
        self._binding.check()
        after: str | None = None
        while True:
            found = await self._read(partial(tables.next_user, after=after))
            if found is None:
                return
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
                self._binding.check()
                restored += await self._restore(parts)
        return restored

    async def _restore(self, parts: list[Part]) -> int:
        count, conflict = await self._write(lambda connection: tables.restore(connection, parts))
        if conflict is not None:
            raise conflict
        return count

    async def ping(self) -> None:
        """Return if the file can be read."""
        self._binding.check()
        await ping(self._database, self._timeout_seconds)

    async def _read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        return await self._database.read(function, timeout_seconds=self._timeout_seconds)

    async def _write(self, function: Callable[[sqlite3.Connection], T]) -> T:
        return await self._database.write(function, timeout_seconds=self._timeout_seconds)


@asynccontextmanager
async def open_memory(connection: Connection, options: MemoryOptions | None = None) -> AsyncIterator[SqliteMemoryStore]:
    """Open the memory store of a connection."""
    binding = Binding("this memory store")
    async with connection.database("memory") as database:
        try:
            yield SqliteMemoryStore(connection, database, binding)
        finally:
            binding.close()
