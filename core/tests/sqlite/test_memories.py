"""What is particular to memory in SQLite: cost in statements, indexes, odd names, what erasing leaves in the file."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from deerflow_backends import sqlite
from deerflow_backends.errors import Conflict, RevisionConflict
from deerflow_backends.memories import ALL, DeleteFact, Memory, PutBody, PutFact
from deerflow_backends.sqlite import Connection, memory_tables
from deerflow_backends.sqlite.memories import SqliteMemoryStore


@asynccontextmanager
async def opened(folder: Path, **connection: Any) -> AsyncIterator[tuple[Connection, SqliteMemoryStore]]:
    async with sqlite.connect(path=folder, **connection) as connected, sqlite.open_memory(connected) as store:
        yield connected, store


def test_cost_does_not_grow_with_the_memory(tmp_path: Path) -> None:
    """`apply`, `get_fact` and a page cost the same in a memory of 10 facts and of 5,000 (M9)."""

    async def main() -> None:
        async with opened(tmp_path, count_work=True) as (connection, store):
            costs = []
            for user_id, size in (("small", 10), ("large", 5_000)):
                facts = [PutFact("a", f"f{n:05}", {"content": "x", "category": f"c{n % 2}"}) for n in range(size)]
                await store.apply(user_id, facts)
                before = connection.work()
                await store.apply(user_id, [PutFact("a", "f00003", {"content": "y"}), PutBody("a", {"x": 1})])
                await store.get_fact(user_id, "f00004", agent_name="a")
                await store.list_facts(user_id, agent_name="a", limit=3)
                await store.list_facts(user_id, agent_name="a", category="c1", limit=3)
                costs.append(connection.work() - before)
            assert costs[1] <= costs[0] * 1.1

    asyncio.run(main())


def test_load_is_three_statements(tmp_path: Path) -> None:
    """However large the part, `load` is three statements in one transaction (M9)."""

    async def main() -> None:
        statements: list[str] = []
        async with opened(tmp_path) as (_, store):
            await store.apply("u", [PutFact(None, f"f{n}", {}) for n in range(1_000)])
            trace = store._database.read
            await trace(lambda connection: connection.set_trace_callback(statements.append), timeout_seconds=5)
            await store.load("u")
        reads = [statement for statement in statements if statement.lstrip().startswith("SELECT")]
        assert len([statement for statement in reads if "memory_" in statement]) == 3

    asyncio.run(main())


def test_every_statement_walks_an_index(tmp_path: Path) -> None:
    """No statement of the memory reads a table from end to end."""

    async def main() -> None:
        async with opened(tmp_path):
            pass

    asyncio.run(main())
    statements = [
        *(memory_tables.USER, memory_tables.BODY, memory_tables.FACTS, memory_tables.FACT),
        *(memory_tables.FACTS_AFTER, memory_tables.FACTS_OF_CATEGORY_AFTER, memory_tables.DELETE_FACT),
        *(*memory_tables.CLEAR_PART, *memory_tables.CLEAR_USER, memory_tables.ERASE_USER, memory_tables.NEXT_USER),
    ]
    names = ("user_id", "agent_name", "fact_id", "after", "category", "limit")
    with contextlib.closing(sqlite3.connect(tmp_path / "deerflow.sqlite3")) as connection:
        for statement in statements:
            rows = connection.execute(f"EXPLAIN QUERY PLAN {statement}", dict.fromkeys(names, "x")).fetchall()
            plan = " ".join(row[-1] for row in rows)
            assert "SEARCH" in plan
            assert "SCAN" not in plan
            assert "TEMP B-TREE" not in plan


ODD = ["a", "A", "a\0", "a\0b", "\0", "ä", "a\u0308", "%", "' OR 1=1", "\U0010ffff", "\uffff"]


def test_odd_names(tmp_path: Path) -> None:
    """Users, agents and facts with odd names are told apart, ordered by their bytes, and paged (G1, M6)."""

    async def main() -> None:
        async with opened(tmp_path) as (_, store):
            for user_id in (None, *ODD):
                for agent_name in (None, *ODD):
                    await store.apply(
                        user_id,
                        [
                            PutBody(agent_name, {"of": [user_id, agent_name]}),
                            *(PutFact(agent_name, fact_id, {"id": fact_id, "category": fact_id}) for fact_id in ODD),
                        ],
                    )
            ordered = sorted(ODD, key=str.encode)
            for user_id in (None, *ODD):
                assert await store.agents(user_id) == ordered
                part = await store.load(user_id, agent_name="a\0b")
                assert part.body == {"of": [user_id, "a\0b"]}
                assert [fact.fact_id for fact in part.facts] == ordered
            paged: list[str] = []
            cursor = None
            while True:
                page = await store.list_facts("\0", agent_name=None, limit=2, cursor=cursor)
                paged += [fact.fact_id for fact in page.items]
                cursor = page.next_cursor
                if cursor is None:
                    break
            assert paged == ordered
            for category in ODD:
                page = await store.list_facts("a", agent_name="A", category=category)
                assert [fact.fact_id for fact in page.items] == [category]
            assert await store.clear("a", agent_name="a\0") == len(ODD) + 2
            assert await store.agents("a") == [name for name in ordered if name != "a\0"]
            await store.erase("A")
            assert (await store.load("A")).revision == 0
            assert (await store.load("a")).revision == len(ODD) + 2

    asyncio.run(main())


def test_a_category_too_long_to_ask_for(tmp_path: Path) -> None:
    """A value may bear any category; one that nobody can ask for costs no index entry."""

    async def main() -> None:
        async with opened(tmp_path) as (_, store):
            await store.apply("u", [PutFact(None, "long", {"category": "x" * 9_000, "content": "c"})])
            await store.apply("u", [PutFact(None, "fits", {"category": "x" * 8_192, "content": "c"})])
            page = await store.list_facts("u", agent_name=None, category="x" * 8_192)
            assert [fact.fact_id for fact in page.items] == ["fits"]
            assert len((await store.load("u")).facts) == 2

    asyncio.run(main())
    with contextlib.closing(sqlite3.connect(tmp_path / "deerflow.sqlite3")) as connection:
        assert connection.execute("SELECT count(*) FROM memory_facts WHERE category IS NULL").fetchone() == (1,)


def test_erased_is_gone_from_the_file(tmp_path: Path) -> None:
    """After `erase` and closing, no file holds any of the user's text."""
    secret = "the owl flies at midnight"

    async def main() -> None:
        async with opened(tmp_path) as (_, store):
            await store.apply(
                "u", [PutFact("a", f"f{n}", {"content": secret * 50, "category": secret}) for n in range(20)]
            )
            await store.apply("u", [PutBody(None, {"text": secret})])
            await store.apply("other", [PutBody(None, {"text": "kept"})])
            assert any(secret.encode() in path.read_bytes() for path in tmp_path.iterdir())
            await store.erase("u")

    asyncio.run(main())
    files = [path.read_bytes() for path in tmp_path.iterdir()]
    assert not any(secret.encode() in content for content in files)
    assert any(b"kept" in content for content in files)


def test_rivals_in_two_connections(tmp_path: Path) -> None:
    """Of two instances applying against one revision one wins, each time; different facts all land (M5)."""

    async def main() -> None:
        async with opened(tmp_path) as (_, one), opened(tmp_path) as (_, other):
            for revision in range(10):
                outcomes = await asyncio.gather(
                    *(
                        store.apply("u", [PutFact(None, f"{i}", {"n": revision})], expected_revision=revision)
                        for i, store in enumerate((one, other, one, other))
                    ),
                    return_exceptions=True,
                )
                assert sum(isinstance(outcome, RevisionConflict) for outcome in outcomes) == 3
            await asyncio.gather(
                *(store.apply("v", [PutFact(None, f"{i}", {})]) for i, store in enumerate((one, other) * 20))
            )
            memory = await other.load("v")
            assert (memory.revision, len(memory.facts)) == (40, 40)

    asyncio.run(main())


def test_restoring_stops_at_a_conflict(tmp_path: Path) -> None:
    """Records before the one that meets another are stored, that one and later ones are not (M12)."""

    async def main() -> None:
        async with opened(tmp_path / "from") as (_, source):
            for user_id in ("a", "b", "c"):
                await source.apply(user_id, [PutBody(None, {"of": user_id}), PutFact("x", "f", {})])
            records = [record async for record in source.export()]
            before = [await source.load(user_id, agent_name="x") for user_id in ("a", "b", "c")]
        async with opened(tmp_path / "to") as (_, target):
            await target.apply("b", [PutBody(None, {"of": "another"})])
            with pytest.raises(Conflict):
                await target.restore(records)
            loaded: list[Memory] = [await target.load(user_id, agent_name="x") for user_id in ("a", "b", "c")]
            assert loaded[0] == before[0]
            assert loaded[1].facts == ()
            assert loaded[2].revision == 0
            await target.erase("b")
            assert await target.restore(records) == 4
            assert [await target.load(user_id, agent_name="x") for user_id in ("a", "b", "c")] == before
            assert await target.restore(records) == 0

    asyncio.run(main())


def test_deleting_and_clearing(tmp_path: Path) -> None:
    """Deleting raises the revision once, deleting nothing not at all; the revision outlives clearing (M3, M8)."""

    async def main() -> None:
        async with opened(tmp_path) as (_, store):
            await store.apply("u", [PutFact(None, "f", {}), PutFact("a", "f", {})])
            assert (await store.apply("u", [DeleteFact(None, "absent")])).revision == 1
            assert (await store.apply("u", [DeleteFact(None, "f")])).revision == 2
            assert await store.clear("u", agent_name=None) == 2
            assert await store.clear("u", agent_name=ALL) == 3
            assert await store.clear("u", agent_name=ALL) == 3
            assert await store.clear("nobody") == 0
            assert (await store.load("u")).revision == 3

    asyncio.run(main())
