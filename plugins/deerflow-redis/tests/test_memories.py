"""What is particular to memory on Redis: exact numbers, parts within a user's keys, large calls, what goes wrong."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from deerflow_backends import (
    BackendUnavailable,
    Corrupt,
    DeleteFact,
    Fact,
    MemoryStore,
    PutBody,
    PutFact,
    Record,
    RevisionConflict,
)
from deerflow_conformance.proxies import proxy
from deerflow_redis.connection import Connection, connect
from deerflow_redis.layout import MemoryKeys
from deerflow_redis.memories import open_memory
from redis_delays import delayed
from redis_servers import HOST, Cluster, Server

pytestmark = pytest.mark.usefixtures("valkey")

BEFORE_1970 = "1969-12-31T23:59:59.999999+00:00"
LATE = "9000-12-31T23:59:59.999999+00:00"


@pytest.fixture
def namespace() -> str:
    return f"t{uuid.uuid4().hex}"


@asynccontextmanager
async def opened(url: str, namespace: str, **further: Any) -> AsyncIterator[tuple[Connection, MemoryStore]]:
    async with connect(url=url, namespace=namespace, **further) as connection, open_memory(connection) as store:
        yield connection, store


async def every_fact(store: MemoryStore, user_id: str, agent_name: str | None, **further: Any) -> list[Fact]:
    facts: list[Fact] = []
    cursor: str | None = None
    while True:
        page = await store.list_facts(user_id, agent_name=agent_name, cursor=cursor, **further)
        facts += page.items
        cursor = page.next_cursor
        if cursor is None:
            return facts


async def exported(store: MemoryStore) -> list[Record]:
    return [record async for record in store.export()]


def record_of(revision: int, **further: Any) -> Record:
    fact = {"fact_id": "f", "value": {}, "revision": revision, "created_at": BEFORE_1970, "updated_at": LATE}
    return {
        "kind": "memory",
        "contract": "1.0",
        "user_id": "ada",
        "agent_name": None,
        "user_revision": revision,
        "user_updated_at": LATE,
        "body": {},
        "body_revision": revision,
        "facts": [fact],
        **further,
    }


@pytest.mark.parametrize("revision", [1, 9, 10, 1_099, 2**53, 2**53 + 1, 10**18 - 1, 2**61 - 1, 2**61])
def test_revisions_and_times_are_exact(valkey: Server, namespace: str, revision: int) -> None:
    """M3, M12: a revision is raised by exactly 1 also where Lua's numbers are exact no more; creation times stay."""

    async def run() -> None:
        async with opened(valkey.url, namespace) as (_, store):
            record = record_of(revision)
            assert await store.restore([record]) == 1
            assert await exported(store) == [record]
            with pytest.raises(RevisionConflict) as caught:
                await store.apply("ada", [PutFact(None, "f", {"n": 1}, expected=revision + 1)])
            assert (caught.value.where, caught.value.found) == ("fact 'f'", revision)
            fact, body = PutFact(None, "f", {"n": 1}, expected=revision), PutBody(None, {"n": 1}, expected=revision)
            applied = await store.apply("ada", [fact, body], expected_revision=revision)
            assert (applied.revision, applied.facts[0].revision) == (revision + 1, revision + 1)
            memory = await store.load("ada")
            assert (memory.revision, memory.body_revision, memory.facts) == (revision + 1, revision + 1, applied.facts)
            assert applied.facts[0].created_at.isoformat() == BEFORE_1970
            assert await store.clear("ada") == revision + 2

    asyncio.run(run())


def test_a_change_that_changes_nothing_keeps_what_no_clock_of_ours_wrote(valkey: Server, namespace: str) -> None:
    """M3: an unchanged fact is told with the revision and times that are stored."""

    async def body() -> None:
        async with opened(valkey.url, namespace) as (_, store):
            record = record_of(2**61)
            await store.restore([record])
            applied = await store.apply("ada", [PutBody(None, {}), PutFact(None, "f", {}), DeleteFact(None, "g")])
            assert (applied.revision, applied.changed, applied.deleted) == (2**61, False, ())
            assert (applied.facts[0].revision, applied.facts[0].updated_at.isoformat()) == (2**61, LATE)
            assert await exported(store) == [record]

    asyncio.run(body())


def test_parts_do_not_meet_within_a_users_keys(valkey: Server, namespace: str) -> None:
    """G1, M8: agents whose names begin alike, or look like what is encoded, have facts of their own."""
    names = [
        "a",
        "a/",
        "a/b",
        "a-",
        "a0",
        "a%2F",
        "A",
        "a\0",
        "!",
        "%21",
        "}",
        "]",
        "(",
        "[",
        "-",
        "+",
        "é",
        "\U0001f600",
    ]
    ids = ["/", "a/b", "0", "\0", "[", "(", "%", "f", "é", "\uffff", "\U0001f600"]

    async def body() -> None:
        async with opened(valkey.url, namespace) as (_, store):
            parts = [None, *names]
            await store.apply("ada", [PutFact(part, fact_id, {"of": part}) for part in parts for fact_id in ids])
            await store.apply("ada", [PutBody("only a body", {"n": 1})])
            assert await store.agents("ada") == sorted([*names, "only a body"])
            for part in parts:
                facts = await every_fact(store, "ada", part, limit=2)
                assert [(fact.fact_id, fact.value) for fact in facts] == [(name, {"of": part}) for name in sorted(ids)]
                assert (await store.load("ada", agent_name=part)).facts == tuple(facts)
            left = set(names)
            for part in parts:
                await store.clear("ada", agent_name=part)
                left.discard(part or "")
                assert set(await store.agents("ada")) == {*left, "only a body"}

    asyncio.run(body())


def test_ten_thousand_facts(valkey: Server, namespace: str) -> None:
    """M6, M7, M12: one call stores them, and every way to read, copy and remove them has room for them."""
    changes = [
        PutFact("a", f"f{n:05}", {"content": f"fact {n}", "category": "rare" if n % 2_000 == 7 else "common"})
        for n in range(10_000)
    ]

    async def body() -> None:
        async with opened(valkey.url, namespace, timeout_seconds=60.0) as (_, store):
            applied = await store.apply("ada", [*changes, PutBody(None, {"n": 1})])
            assert (applied.revision, len(applied.facts)) == (1, 10_000)
            assert (await store.load("ada", agent_name="a")).facts == applied.facts
            assert await every_fact(store, "ada", "a", limit=1_000) == list(applied.facts)
            rare = [fact for fact in applied.facts if fact.value["category"] == "rare"]
            assert await every_fact(store, "ada", "a", category="rare", limit=2) == rare
            assert len(await store.search("ada", "FACT", agent_name="a", limit=1_000)) == 1_000
            found = await store.search("ada", "fact 999", agent_name="a", limit=3)
            assert [match.fact.fact_id for match in found] == ["f00999", "f01999", "f02999"]
            records = await exported(store)
            await store.erase("ada")
            assert await store.restore(records) == 2
            assert await store.restore(records) == 0
            assert await exported(store) == records
            assert await store.clear("ada", agent_name="a") == 2
            assert (await store.load("ada")).body == {"n": 1}

    asyncio.run(body())


def test_facts_of_megabytes_are_read_one_after_the_other(valkey: Server, namespace: str) -> None:
    """G3, M6: where one step reads less than was asked for, the page is as long as ever."""
    text = "tea " * 500_000

    async def body() -> None:
        async with opened(valkey.url, namespace, timeout_seconds=60.0) as (_, store):
            for fact_id in "abcde":
                await store.apply("ada", [PutFact(None, fact_id, {"content": text, "category": fact_id})])
            page = await store.list_facts("ada", agent_name=None, limit=4)
            assert [fact.fact_id for fact in page.items] == ["a", "b", "c", "d"]
            assert [fact.fact_id for fact in await every_fact(store, "ada", None, limit=4)] == list("abcde")
            assert [fact.fact_id for fact in await every_fact(store, "ada", None, category="d")] == ["d"]
            found = await store.search("ada", "tea", agent_name=None)
            assert [match.fact.fact_id for match in found] == list("abcde")

    asyncio.run(body())


def test_a_user_is_in_one_slot_of_a_cluster(valkey_cluster: Cluster, namespace: str) -> None:
    """G1, M12: each call is one script whatever the user is called, and an export finds the users of all servers."""
    users = [None, "!", "}", "{}", "{a}", "a}b", ":", "*", "é", "\0", *(f"user{n}" for n in range(20))]

    async def body() -> None:
        async with opened(valkey_cluster.url, namespace, topology="cluster", timeout_seconds=30.0) as (_, store):
            for user_id in users:
                await store.apply(user_id, [PutFact("a", "f", {"of": user_id}), PutBody(None, {})])
                assert (await store.load(user_id, agent_name="a")).facts[0].value == {"of": user_id}
                assert await store.agents(user_id) == ["a"]
            records = await exported(store)
            told = [(record["user_id"], record["agent_name"]) for record in records]
            assert len(told) == 2 * len(users)
            assert set(told) == {(user_id, part) for user_id in users for part in (None, "a")}
            for user_id in users:
                await store.clear(user_id, agent_name="a")
                await store.erase(user_id)
            assert await exported(store) == []
            assert await store.restore(records) == len(records)

    asyncio.run(body())
    for server in valkey_cluster.primaries:
        with server.client() as client:
            assert list(client.scan_iter(f"{namespace}:m:*")), "users on each server"


def test_erase_leaves_no_key(valkey: Server, namespace: str) -> None:
    """M8: nothing of the user is on the server any more."""

    async def body() -> None:
        async with opened(valkey.url, namespace) as (_, store):
            await store.apply("ada", [PutFact("a", "f", {}), PutFact(None, "f", {}), PutBody("a", {"n": 1})])
            await store.erase("ada")
            await store.apply("bob", [PutFact("a", "f", {})])

    asyncio.run(body())
    with valkey.client() as client:
        keys = MemoryKeys(namespace).of("bob")
        assert set(client.scan_iter(f"{namespace}:*")) == {keys.user, keys.facts, keys.ids}


def test_a_lost_reply_is_reported_and_nothing_is_sent_twice(valkey: Server, namespace: str) -> None:
    """G5: a write says that it may have happened, and happened once; a read is asked again."""
    address = urlsplit(valkey.url)

    async def body() -> None:
        async with (
            proxy(address.hostname or HOST, address.port or 6379) as between,
            opened(between.url(valkey.url), namespace) as (_, store),
        ):
            await store.apply("ada", [PutFact(None, "f", {"n": 0})])
            between.lose_reply(b"lose this")
            with pytest.raises(BackendUnavailable) as caught:
                await store.apply("ada", [PutFact(None, "f", {"n": "lose this"})])
            assert caught.value.maybe_written
            fact = await store.get_fact("ada", "f", agent_name=None)
            assert fact is not None
            assert (fact.value, fact.revision) == ({"n": "lose this"}, 2)
            for write in (store.clear, store.erase):
                between.lose_reply(b"{ada}")
                with pytest.raises(BackendUnavailable) as caught:
                    await write("ada")
                assert caught.value.maybe_written
            between.lose_reply(b"{ada}")
            assert (await store.load("ada")).revision == 0

    asyncio.run(body())


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("user", ("HSET", "revision", "many")),
        ("user", ("SET", "text")),
        ("facts", ("SET", "text")),
        ("facts", ("HSET", "!/f", "text")),
        ("ids", ("SET", "text")),
        ("bodies", ("SET", "text")),
        ("bodies", ("HSET", "!", "text")),
    ],
)
def test_what_is_not_ours_is_corrupt_and_stays(
    valkey: Server, namespace: str, what: str, words: tuple[str, ...]
) -> None:
    """Where something else has the name of a key or is in it, a write raises `Corrupt`, and leaves all as it was."""
    keys = MemoryKeys(namespace).of("ada")
    key = getattr(keys, what)

    async def body() -> None:
        async with opened(valkey.url, namespace) as (_, store):
            with pytest.raises(Corrupt):
                await store.apply("ada", [PutFact(None, "g", {}), PutBody(None, {"n": 1}), PutFact(None, "f", {})])
            with pytest.raises(Corrupt):
                await store.load("ada")
            if what == "user" or words[0] == "SET":  # where it looks for something to remove
                with pytest.raises(Corrupt):
                    await store.clear("ada")

    with valkey.client() as client:
        client.execute_command(words[0], key, *words[1:])
        before = client.dump(key)
        asyncio.run(body())
        assert list(client.scan_iter(f"{namespace}:*")) == [key]
        assert client.dump(key) == before
        client.delete(key)


@pytest.mark.parametrize("what", ["facts", "ids", "user"])
def test_what_the_server_evicted_is_told_until_it_is_cleared(valkey: Server, namespace: str, what: str) -> None:
    """Where a key of a memory is gone nothing is read or written as if it never was; clearing or erasing mends it."""
    key = getattr(MemoryKeys(namespace).of("ada"), what)
    record = record_of(5)

    async def body() -> None:
        async with opened(valkey.url, namespace) as (_, store):
            for mend in (store.clear, store.erase):
                await store.restore([record])
                await store.apply("ada", [PutFact("a", "g", {}), PutBody(None, {"n": 1})])
                await asyncio.to_thread(valkey.execute, "DEL", key)
                calls = (
                    store.load("ada"),
                    store.list_facts("ada", agent_name=None),
                    store.list_facts("ada", agent_name=None, category="c"),
                    store.search("ada", "x", agent_name="a"),
                    store.apply("ada", [PutFact(None, "h", {})]),
                    store.restore([record]),
                    *([] if what == "user" else [exported(store)]),  # which finds users by that key
                )
                for call in calls:
                    with pytest.raises(Corrupt, match=r"evicted.*noeviction.*clear all of this memory or erase it"):
                        await call
                await mend("ada")
                memory = await store.load("ada")
                assert (memory.body, memory.facts) == ({}, ())
                assert (memory.revision > 0) == (mend == store.clear)
                assert await store.agents("ada") == []
                assert (await store.apply("ada", [PutFact(None, "h", {})])).changed
                assert len(await exported(store)) == 1
                await store.erase("ada")
                assert await exported(store) == []

    asyncio.run(body())


def test_reading_in_portions_waits_no_longer_than_one(valkey: Server, namespace: str) -> None:
    """G7: `timeout_seconds` is for a whole call, however often it asks the server."""
    text = "tea " * 300_000  # so large that each is a portion

    async def body() -> None:
        async with opened(valkey.url, namespace, timeout_seconds=60.0) as (_, store):
            for fact_id in "abcde":
                await store.apply("ada", [PutFact(None, fact_id, {"content": text, "category": "c"})])
        async with delayed(valkey) as delay, opened(delay.url, namespace, timeout_seconds=1.0) as (_, store):
            await store.search("bob", "tea", agent_name=None)
            for reading in (
                store.search("ada", "coffee", agent_name=None),
                store.list_facts("ada", agent_name=None, category="d"),
                store.list_facts("ada", agent_name=None),
            ):
                delay.seconds = 0.4
                with pytest.raises(BackendUnavailable):
                    await reading
                delay.seconds = 0.0
            assert await store.get_fact("ada", "a", agent_name=None)

    asyncio.run(body())


def test_a_full_server_refuses_a_change_whole_and_lets_room_be_made(namespace: str) -> None:
    """M2: where memory has run out nothing is half written; facts can still be deleted, and parts cleared."""

    async def body(server: Server) -> None:
        async with opened(server.url, namespace, timeout_seconds=1.0) as (_, store):
            await store.apply("ada", [PutFact(None, "f", {}), PutFact(None, "g", {}), PutFact("a", "f", {})])
            server.execute("CONFIG", "SET", "maxmemory", "1mb")
            with pytest.raises(BackendUnavailable, match="memory is full") as caught:
                await store.apply("ada", [PutFact(None, "h", {}), PutBody(None, {"n": 1})])
            assert not caught.value.maybe_written
            memory = await store.load("ada")
            assert (memory.revision, memory.body, len(memory.facts)) == (1, {}, 2)
            assert (await store.apply("ada", [DeleteFact(None, "f")])).revision == 2
            assert await store.clear("ada", agent_name="a") == 3
            assert await store.clear("ada") == 4
            await store.erase("ada")

    with Server() as server:
        asyncio.run(body(server))
