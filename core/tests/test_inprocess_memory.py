"""What is particular to memory in process: sharing between openings and loops, values as snapshots, closing."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from deerflow_backends import (
    ABSENT,
    Closed,
    Conflict,
    DeleteFact,
    InvalidArgument,
    PutBody,
    PutFact,
    RevisionConflict,
    inprocess,
)
from deerflow_backends.inprocess import layout
from deerflow_backends.inprocess.connection import Connection
from deerflow_backends.inprocess.memories import InProcessMemoryStore


class Odd(str):
    """Text that is equal to no other text."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return 1


@asynccontextmanager
async def opened(namespace: str) -> AsyncIterator[tuple[Connection, InProcessMemoryStore]]:
    async with inprocess.connect(namespace=namespace) as connection, inprocess.open_memory(connection) as store:
        yield connection, store


@pytest.fixture
def namespace() -> str:
    return f"t{uuid.uuid4().hex}"


def test_openings_of_one_name_share_their_data_until_the_process_ends(namespace: str) -> None:
    """G6: also after everything was closed, and in another event loop; another namespace sees nothing."""

    async def write() -> None:
        async with opened(namespace) as (_, one), opened(namespace) as (_, two):
            await one.apply("u", [PutFact(None, "f", {"n": 1})])
            assert (await two.load("u")).facts[0].value == {"n": 1}

    async def read(name: str) -> int:
        async with opened(name) as (_, store):
            return len((await store.load("u")).facts)

    asyncio.run(write())
    assert asyncio.run(read(namespace)) == 1
    assert asyncio.run(read(f"{namespace}x")) == 0


def test_rivals_in_several_event_loops(namespace: str) -> None:
    """M5: of writers in threads of their own, guarded by the revision, each wins in turn and none is lost."""

    async def write(name: str) -> None:
        async with opened(namespace) as (_, store):
            for number in range(20):
                while True:
                    revision = (await store.load("u")).revision
                    try:
                        await store.apply("u", [PutFact(None, f"{name}{number}", {})], expected_revision=revision)
                    except RevisionConflict:
                        continue
                    break

    async def read() -> tuple[int, int]:
        async with opened(namespace) as (_, store):
            memory = await store.load("u")
            return memory.revision, len(memory.facts)

    writers = [threading.Thread(target=lambda name=name: asyncio.run(write(name))) for name in "abcd"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert asyncio.run(read()) == (80, 80)


def test_values_are_snapshots(namespace: str) -> None:
    """G2: neither the writer's object nor a reader's is what is stored."""

    async def test() -> None:
        async with opened(namespace) as (_, store):
            value: dict[str, Any] = {"tags": ["a"]}
            applied = await store.apply("u", [PutFact(None, "f", value), PutBody(None, value)])
            value["tags"].append("writer")
            applied.facts[0].value["tags"].append("reader")
            (await store.load("u")).body["tags"].append("reader")
            memory = await store.load("u")
            assert memory.body == memory.facts[0].value == {"tags": ["a"]}

    asyncio.run(test())


def test_ids_are_kept_as_plain_text(namespace: str) -> None:
    """G2: a subclass of str names what its text names."""

    async def test() -> None:
        async with opened(namespace) as (_, store):
            for number in range(2):
                await store.apply(Odd("u"), [PutFact(Odd("a"), Odd("f"), {"content": f"x {number}"})])
            memory = await store.load(Odd("u"), agent_name=Odd("a"))
            assert (memory.revision, type(memory.user_id), type(memory.agent_name)) == (2, str, str)
            fact = await store.get_fact(Odd("u"), Odd("f"), agent_name=Odd("a"))
            assert fact == memory.facts[0]
            assert (type(fact.agent_name), type(fact.fact_id)) == (str, str)
            assert (await store.list_facts(Odd("u"), agent_name=Odd("a"))).items == (fact,)
            assert len(await store.search(Odd("u"), "x", agent_name=Odd("a"))) == 1
            assert [type(name) for name in await store.agents(Odd("u"))] == [str]
            assert [type(record["user_id"]) for record in [record async for record in store.export()]] == [str, str]
            assert await store.clear(Odd("u"), agent_name=Odd("a")) == 3
            await store.erase(Odd("u"))
            assert (await store.load("u")).revision == 0

    asyncio.run(test())


def test_arguments_are_checked_in_the_order_of_their_places(namespace: str) -> None:
    """G1: of two wrong ones the same is named by every backend."""
    wrong: Any = None

    async def test() -> None:
        async with opened(namespace) as (_, store):
            with pytest.raises(InvalidArgument) as caught:
                await store.get_fact("u", wrong, agent_name="")
            assert caught.value.place == "agent_name"

    asyncio.run(test())


def test_an_imported_revision_can_be_raised_and_expected(namespace: str) -> None:
    """M5, M12: the greatest that can be restored leaves room to grow."""

    async def test() -> None:
        async with opened(namespace) as (_, store), opened(f"{namespace}x") as (_, copy):
            await store.apply("u", [PutBody(None, {"a": 1})])
            (record,) = [record async for record in store.export()]
            record |= {"user_revision": 2**61 - 1, "body_revision": 2**61 - 1}
            assert await store.restore([record | {"user_id": "v"}]) == 1
            applied = await store.apply("v", [PutBody(None, {"a": 2})], expected_revision=2**61 - 1)
            assert applied.revision == 2**61
            assert await copy.restore(store.export()) == 2
            await copy.apply("v", [PutBody(None, {"a": 3}, expected=2**61)], expected_revision=2**61)
            await copy.apply("v", [PutBody(None, {"a": 4}, expected=2**61 + 1)], expected_revision=2**61 + 1)

    asyncio.run(test())


def test_a_failed_apply_leaves_no_trace(namespace: str) -> None:
    """M2, M4: not even of the changes before the one that failed, nor of the user."""

    async def test() -> None:
        async with opened(namespace) as (connection, store):
            before = layout.owned(connection.tables, layout.MEMORY)
            with pytest.raises(RevisionConflict):
                await store.apply("u", [PutFact(None, "f", {}), PutFact("a", "g", {}, expected=1)])
            with pytest.raises(InvalidArgument):
                await store.apply("u", [PutFact(None, "f", {}), PutFact(None, "f", {})])
            assert layout.owned(connection.tables, layout.MEMORY) == before == 0
            assert (await store.load("u")).revision == 0

    asyncio.run(test())


def test_clearing_and_erasing_free_what_was_stored(namespace: str) -> None:
    """G11, M8: after a clear only the revision is kept, after an erase nothing."""

    async def test() -> None:
        async with opened(namespace) as (connection, store):
            await store.apply("u", [PutFact(None, "f", {}), PutFact("a", "f", {}), PutBody("b", {"x": 1})])
            assert layout.owned(connection.tables, layout.MEMORY) == 4
            assert await store.agents("u") == ["a", "b"]
            assert await store.clear("u", agent_name="a") == 2
            assert await store.clear("u", agent_name="a") == 2
            assert await store.agents("u") == ["b"]
            assert await store.clear("u") == 3
            assert layout.owned(connection.tables, layout.MEMORY) == 1
            await store.erase("u")
            assert layout.owned(connection.tables, layout.MEMORY) == 0

    asyncio.run(test())


def test_an_agent_whose_last_fact_is_deleted_is_gone(namespace: str) -> None:
    """G11, M8: no empty part stays behind, and clearing it changes nothing."""

    async def test() -> None:
        async with opened(namespace) as (connection, store):
            await store.apply("u", [PutFact("a", "f", {})])
            await store.apply("u", [DeleteFact("a", "f")])
            assert await store.agents("u") == []
            assert await store.clear("u") == 2
            assert layout.owned(connection.tables, layout.MEMORY) == 1

    asyncio.run(test())


def test_an_export_of_cleared_memory_keeps_its_revision(namespace: str) -> None:
    """M12: a user of whom only the revision is left is one record, restored once."""

    async def test() -> None:
        async with opened(namespace) as (_, store), opened(f"{namespace}x") as (_, copy):
            await store.apply(None, [PutFact("a", "f", {})])
            await store.clear(None)
            assert await copy.restore(store.export()) == 1
            assert await copy.restore(store.export()) == 0
            assert await copy.load(None) == await store.load(None)
            await copy.apply(None, [PutFact("a", "f", {}, expected=ABSENT)])
            with pytest.raises(Conflict):
                await copy.restore(store.export())

    asyncio.run(test())


def test_records_before_a_bad_one_are_restored(namespace: str) -> None:
    """M12: a record that is none stops the restore, those before it were written."""

    async def test() -> None:
        async with opened(namespace) as (_, store), opened(f"{namespace}x") as (_, copy):
            for user_id in ("u", "v"):
                await store.apply(user_id, [PutFact(None, "f", {})])
            records = [record async for record in store.export()]
            with pytest.raises(InvalidArgument, match=r"records\[1\]"):
                await copy.restore([records[0], {}, records[1]])
            assert [record async for record in copy.export()] == records[:1]

    asyncio.run(test())


def test_after_closing_nothing_works(namespace: str) -> None:
    """G9: every call, and an export that was still open, raises `Closed`."""

    async def test() -> None:
        async with opened(namespace) as (_, store):
            await store.apply("u", [PutFact(None, "f", {})])
            export = store.export()
            assert (await anext(export))["user_id"] == "u"
        with pytest.raises(Closed):
            await anext(export)
        with pytest.raises(Closed):
            await anext(store.export())
        calls = [
            store.load("u"),
            store.apply("u", []),
            store.get_fact("u", "f", agent_name=None),
            store.list_facts("u", agent_name=None),
            store.search("u", "x", agent_name=None),
            store.agents("u"),
            store.clear("u"),
            store.erase("u"),
            store.restore([]),
            store.ping(),
        ]
        for call in calls:
            with pytest.raises(Closed):
                await call

    asyncio.run(test())
