"""The memory store in JSON files, for all processes of one host."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Final, Literal, TypeVar

from deerflow_backends.arguments import check_identifier, check_optional_identifier
from deerflow_backends.binding import Binding
from deerflow_backends.changes import Effects, State, applied, check_changes, judge, to_memory
from deerflow_backends.files import users
from deerflow_backends.files.connection import Connection
from deerflow_backends.files.journals import Intent
from deerflow_backends.files.layout import user_name
from deerflow_backends.listings import check_fact_listing, check_fact_search
from deerflow_backends.memories import ALL, All, Applied, Change, Fact, FactMatch, Memory, MemoryOptions, Record
from deerflow_backends.paging import Page
from deerflow_backends.records import read_in_chunks, read_part
from deerflow_backends.streams import Reach

T = TypeVar("T")


class FilesMemoryStore:
    """A `MemoryStore` for the processes of this host.

    Attributes:
        exempt: The promises that do not apply to it, with the reason, for whoever tests or compares backends.
    """

    reach: Reach = "host"
    exempt: Final[Mapping[str, str]] = {"M9": "an apply writes the whole file of each part that it changes"}

    def __init__(self, connection: Connection, binding: Binding) -> None:
        self._connection, self._binding = connection, binding
        self._store, self._clock = connection.store, connection.clock

    async def load(self, user_id: str | None, *, agent_name: str | None = None) -> Memory:
        """Read one part."""
        self._binding.check()
        user_id = check_optional_identifier("user_id", user_id)
        agent_name = check_optional_identifier("agent_name", agent_name)

        def job() -> Memory:
            user, part = users.read_part(self._store, user_id, agent_name)
            return to_memory(user_id, agent_name, (user.revision, user.updated_at), part.body, part.facts.items())

        return await self._read(user_id, job)

    async def apply(
        self, user_id: str | None, changes: Sequence[Change], *, expected_revision: int | None = None
    ) -> Applied:
        """Make all changes or none."""
        self._binding.check()
        user_id = check_optional_identifier("user_id", user_id)
        checked = check_changes(changes, expected_revision)

        def judged(state: State) -> tuple[Effects, int]:
            now = self._clock()
            return judge(checked, state, now=now), now

        def job(intent: Intent) -> Applied:
            state, effects = users.apply(self._store, user_id, checked, judged, intent)
            return applied(checked, state, effects)

        return await self._write(user_id, job)

    async def get_fact(self, user_id: str | None, fact_id: str, *, agent_name: str | None) -> Fact | None:
        """Read one fact."""
        self._binding.check()
        user_id = check_optional_identifier("user_id", user_id)
        key = (check_optional_identifier("agent_name", agent_name), check_identifier("fact_id", fact_id))
        _, part = await self._read(user_id, partial(users.read_part, self._store, user_id, key[0]))
        fact = part.facts.get(key[1])
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

        def job() -> Page[Fact]:
            _, part = users.read_part(self._store, listing.user_id, listing.agent_name)
            after = listing.after
            return listing.page(item for item in part.facts.items() if after is None or item[0] > after)

        return await self._read(listing.user_id, job)

    async def search(
        self, user_id: str | None, query: str, *, agent_name: str | None, category: str | None = None, limit: int = 10
    ) -> list[FactMatch]:
        """Find facts by their text."""
        self._binding.check()
        search = check_fact_search(user_id, query, agent_name=agent_name, category=category, limit=limit)

        def job() -> list[FactMatch]:
            return search.find(users.read_part(self._store, search.user_id, search.agent_name)[1].facts.items())

        return await self._read(search.user_id, job)

    async def agents(self, user_id: str | None) -> list[str]:
        """Name the agents that have a body or facts."""
        self._binding.check()
        user_id = check_optional_identifier("user_id", user_id)
        return await self._read(user_id, partial(users.agents, self._store, user_id))

    async def clear(self, user_id: str | None, *, agent_name: str | Literal[All.ALL] | None = ALL) -> int:
        """Remove one part, or all parts."""
        self._binding.check()
        user_id = check_optional_identifier("user_id", user_id)
        parts = None if agent_name is ALL else (check_optional_identifier("agent_name", agent_name),)
        return await self._write(user_id, lambda intent: users.clear(self._store, user_id, parts, self._clock, intent))

    async def erase(self, user_id: str | None) -> None:
        """Leave no trace of the user: the files are removed. What is in their place on the disk is the system's."""
        self._binding.check()
        user_id = check_optional_identifier("user_id", user_id)
        await self._write(user_id, lambda intent: users.erase(self._store, user_id, intent))

    async def export(self) -> AsyncIterator[Record]:
        """Give everything as records, user by user."""
        self._binding.check()
        for name in await self._connection.read("", partial(users.names, self._store)):
            self._binding.check()
            for part in await self._connection.read(name, partial(users.export, self._store, name)):
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
                    restored += await self._write(part.user_id, partial(users.restore, self._store, part))
        return restored

    async def ping(self) -> None:
        """Return if the folder is there."""
        self._binding.check()
        await self._connection.ping()

    async def _read(self, user_id: str | None, job: Callable[[], T]) -> T:
        return await self._connection.read(user_name(user_id), job)

    async def _write(self, user_id: str | None, job: Callable[[Intent], T]) -> T:
        return await self._connection.write(user_name(user_id), job)


@asynccontextmanager
async def open_memory(connection: Connection, options: MemoryOptions | None = None) -> AsyncIterator[FilesMemoryStore]:
    """Open the memory store of a connection."""
    await connection.prepare()
    binding = Binding("this memory store")
    try:
        yield FilesMemoryStore(connection, binding)
    finally:
        binding.close()
