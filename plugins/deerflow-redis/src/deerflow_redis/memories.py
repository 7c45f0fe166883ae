"""The memory store on Redis or Valkey: a user's keys have one tag, and a script changes or reads them in one step.

A part's facts are read whole only by `load` and `export`, which show one moment. Listing and searching read them some
at a time by id, as they are when their turn comes, so that nobody waits for a large memory of somebody else.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Final, Literal

from deerflow_backends.arguments import check_identifier, check_optional_identifier
from deerflow_backends.binding import Binding
from deerflow_backends.changes import check_changes, to_memory
from deerflow_backends.listings import check_fact_listing, check_fact_search
from deerflow_backends.memories import ALL, All, Applied, Change, Fact, FactMatch, Memory, MemoryOptions, Record
from deerflow_backends.paging import Page
from deerflow_backends.records import Part, read_in_chunks, read_part
from deerflow_backends.search import rank
from deerflow_backends.streams import Reach
from deerflow_redis import memory_records as stored
from deerflow_redis.connection import Connection
from deerflow_redis.layout import MemoryKeys, decoded

#: What one step of listing or searching reads at most, though always one fact.
_PORTION_FACTS: Final = 1_000
_PORTION_BYTES: Final = 1024 * 1024


class RedisMemoryStore:
    """A `MemoryStore` for all that reach the server."""

    reach: Reach = "network"

    def __init__(self, connection: Connection, binding: Binding) -> None:
        self._connection, self._binding = connection, binding
        self._keys = MemoryKeys(connection.namespace)

    async def load(self, user_id: str | None, *, agent_name: str | None = None) -> Memory:
        """Read one part, in one script however large it is (M9)."""
        self._binding.check()
        keys = self._keys.of(check_optional_identifier("user_id", user_id))
        part = self._keys.part(check_optional_identifier("agent_name", agent_name))
        user, body, facts = stored.read_loaded(await self._connection.read("memory_load", keys, part), part)
        return to_memory(user_id, agent_name, user or (0, 0), body, facts)

    async def apply(
        self, user_id: str | None, changes: Sequence[Change], *, expected_revision: int | None = None
    ) -> Applied:
        """Make all changes or none."""
        self._binding.check()
        keys = self._keys.of(check_optional_identifier("user_id", user_id))
        checked = check_changes(changes, expected_revision)
        words = stored.write_changes(checked, self._keys)
        return stored.read_outcome(await self._connection.write("memory_apply", keys, *words), checked)

    async def get_fact(self, user_id: str | None, fact_id: str, *, agent_name: str | None) -> Fact | None:
        """Read one fact."""
        self._binding.check()
        facts = self._keys.of(check_optional_identifier("user_id", user_id)).facts
        key = (check_optional_identifier("agent_name", agent_name), check_identifier("fact_id", fact_id))
        record = await self._connection.command(b"HGET", facts, self._keys.fact(key), key=facts)
        return None if record is None else stored.read_fact(record).to_fact(key)

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
        most = listing.limit + 1 if category is None else _PORTION_FACTS
        rows: stored.Facts = []
        async with aclosing(self._portions(user_id, agent_name, after=listing.after, most=most)) as portions:
            async for portion in portions:
                rows += portion if category is None else (row for row in portion if stored.is_of(category, row))
                if len(rows) > listing.limit:
                    break
        return listing.page(rows)

    async def search(
        self, user_id: str | None, query: str, *, agent_name: str | None, category: str | None = None, limit: int = 10
    ) -> list[FactMatch]:
        """Find facts by their text."""
        self._binding.check()
        search = check_fact_search(user_id, query, agent_name=agent_name, category=category, limit=limit)
        best: list[FactMatch] = []
        async with aclosing(self._portions(user_id, agent_name)) as portions:
            async for portion in portions:
                best = rank([*best, *search.find(portion)], limit=search.limit)
        return best

    async def _portions(
        self, user_id: str | None, agent_name: str | None, *, after: str | None = None, most: int = _PORTION_FACTS
    ) -> AsyncGenerator[stored.Facts, None]:
        """Read the facts of a part after one, by id, at most *most* at a time."""
        keys, until = self._keys.of(user_id), self._connection.deadline()
        part = self._keys.part(agent_name)
        more, last = True, self._keys.fact((agent_name, after or ""))
        while more:
            reply = await self._connection.read("memory_facts", keys, last, part, most, _PORTION_BYTES, until=until)
            more, last, portion = stored.read_portion(reply, part)
            yield portion

    async def agents(self, user_id: str | None) -> list[str]:
        """Name the agents that have a body or facts."""
        self._binding.check()
        _, bodies, _, ids = self._keys.of(check_optional_identifier("user_id", user_id))
        names = map(decoded, await self._connection.read("memory_agents", (bodies, ids)))
        return sorted({name for name in names if name is not None})

    async def clear(self, user_id: str | None, *, agent_name: str | Literal[All.ALL] | None = ALL) -> int:
        """Remove one part, or all parts."""
        self._binding.check()
        keys = self._keys.of(check_optional_identifier("user_id", user_id))
        part = b"" if agent_name is ALL else self._keys.part(check_optional_identifier("agent_name", agent_name))
        return int(await self._connection.write("memory_clear", keys, part))

    async def erase(self, user_id: str | None) -> None:
        """Leave no trace of the user, but in what the server has saved to its disk before."""
        self._binding.check()
        keys = self._keys.of(check_optional_identifier("user_id", user_id))
        await self._connection.write("memory_erase", keys)

    async def export(self) -> AsyncIterator[Record]:
        """Give everything as records; it looks at all keys of the servers to find the users."""
        self._binding.check()
        seen: set[bytes] = set()
        async with aclosing(self._connection.scan(self._keys.every_user)) as keys:
            async for key in keys:
                if key in seen:
                    continue
                seen.add(key)
                for part in await self._parts(self._keys.user_of(key)):
                    yield part.to_record()
                    self._binding.check()

    async def _parts(self, user_id: str | None) -> list[Part]:
        reply = await self._connection.read("memory_export", self._keys.of(user_id))
        return stored.read_user(reply, user_id)

    async def restore(self, records: Iterable[Record] | AsyncIterable[Record]) -> int:
        """Store exported records, each in a script of its own."""
        self._binding.check()
        restored = 0
        async with aclosing(read_in_chunks(records, read_part)) as chunks:
            async for parts in chunks:
                for part in parts:
                    self._binding.check()
                    restored += await self._restore(part)
        return restored

    async def _restore(self, part: Part) -> bool:
        keys = self._keys.of(part.user_id)
        outcome = await self._connection.write("memory_restore", keys, *stored.write_part(part, self._keys))
        if outcome < 0:
            raise part.conflict()
        return bool(outcome)

    async def ping(self) -> None:
        """Return if the servers answer."""
        self._binding.check()
        await self._connection.ping()


@asynccontextmanager
async def open_memory(connection: Connection, options: MemoryOptions | None = None) -> AsyncIterator[RedisMemoryStore]:
    """Open the memory store of a connection."""
    binding = Binding("this memory store")
    try:
        yield RedisMemoryStore(connection, binding)
    finally:
        binding.close()
