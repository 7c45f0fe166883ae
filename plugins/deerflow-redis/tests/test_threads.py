"""What is particular to threads on Redis: listings that are keys, times beyond numbers of Lua, all or nothing."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from deerflow_backends import (
    ANY_USER,
    BackendUnavailable,
    Conflict,
    Corrupt,
    InvalidArgument,
    NewThread,
    Record,
    Thread,
    ThreadIndex,
    codec,
)
from deerflow_backends.clocks import to_datetime
from deerflow_backends.records import CHUNK_BYTES
from deerflow_conformance.proxies import proxy
from deerflow_redis import threads
from deerflow_redis.connection import connect
from deerflow_redis.layout import ThreadKeys, is_permanent
from deerflow_redis.threads import open_thread_index
from redis_delays import delayed
from redis_servers import HOST, Cluster, Server

ODD = ["x", "x:y", "x%3Ay", "y", "*", "!", "%21", "%2A", "*:*", ":", "}", "{threads}", "é", "e\u0301", "\0", "X", "\n"]
RECORD: Record = {
    "kind": "thread",
    "contract": "1.0",
    "thread_id": "t",
    "user_id": "ada",
    "assistant_id": None,
    "display_name": None,
    "status": "idle",
    "metadata": {},
    "created_at": "2026-01-31T12:00:00.000000+00:00",
    "updated_at": "2026-01-31T12:00:00.000000+00:00",
}


@pytest.fixture
def namespace() -> str:
    return f"t{uuid.uuid4().hex}"


@asynccontextmanager
async def opened(url: str, namespace: str, **further: Any) -> AsyncIterator[ThreadIndex]:
    async with connect(url=url, namespace=namespace, **further) as connection, open_thread_index(connection) as index:
        yield index


async def every_thread(index: ThreadIndex, user_id: Any, **further: Any) -> list[Thread]:
    page = await index.list(user_id, **further)
    threads = list(page.items)
    while page.next_cursor is not None:
        page = await index.list(user_id, cursor=page.next_cursor, **further)
        threads += page.items
    return threads


def ids_of(threads: list[Thread]) -> list[str]:
    return [thread.thread_id for thread in threads]


async def exported(index: ThreadIndex) -> list[Record]:
    return [record async for record in index.export()]


def keys_of(server: Server, namespace: str) -> set[bytes]:
    with server.client() as client:
        return set(client.scan_iter(match=f"{namespace}:*", count=1_000))


def dump(server: Server, namespace: str) -> dict[bytes, Any]:
    """Return all that is kept."""
    with server.client() as client:
        return {key: client.dump(key) for key in keys_of(server, namespace)}


def calls(server: Server) -> int:
    """How many scripts the server was asked to run."""
    return sum(command["calls"] for name, command in server.info("commandstats").items() if "eval" in name)


def test_listings_of_odd_names_do_not_meet(valkey: Server, namespace: str) -> None:
    """G1, T1: whatever users and statuses are called, each listing has its own threads, and none is left behind."""

    async def body() -> None:
        async with opened(valkey.url, namespace) as index:
            pairs = [(user_id, status) for user_id in ODD for status in ODD]
            for user_id, status in pairs:
                await index.create(NewThread(f"{user_id}/{status}", user_id, status=status))
            for user_id in ODD:
                assert await index.count(user_id) == len(ODD)
                assert await index.count(ANY_USER, status=user_id) == len(ODD)
            for user_id, status in pairs:
                assert ids_of(await every_thread(index, user_id, status=status)) == [f"{user_id}/{status}"]
            assert all(map(is_permanent, await asyncio.to_thread(keys_of, valkey, namespace)))
            for user_id, status in pairs:
                await index.update(f"{user_id}/{status}", user_id=user_id, status="z")
                await index.move(f"{user_id}/{status}", user_id=user_id, to_user_id=None)
            assert len(await every_thread(index, ANY_USER, status="z", limit=7)) == len(pairs)
            for user_id, status in pairs:
                assert await index.delete(f"{user_id}/{status}", user_id=ANY_USER)

    asyncio.run(body())
    assert keys_of(valkey, namespace) == set()


def test_times_far_away(valkey: Server, namespace: str) -> None:
    """T2, T7, T11: times before 1970 and after 2255, where Lua's numbers are inexact, are kept, order and grow by 1."""
    times = [
        "0001-01-01T00:00:00.000000+00:00",
        "1969-12-31T23:59:59.999999+00:00",
        "2026-01-31T12:00:00.000000+00:00",
        "8999-12-31T23:59:59.999998+00:00",
        "8999-12-31T23:59:59.999999+00:00",
    ]

    async def body() -> None:
        async with opened(valkey.url, namespace) as index:
            records = [{**RECORD, "thread_id": time, "created_at": time, "updated_at": time} for time in times]
            assert await index.restore(records) == len(times)
            assert sorted(await exported(index), key=lambda record: record["thread_id"]) == records
            assert ids_of(await every_thread(index, "ada", limit=1)) == times[::-1]
            for microsecond in range(5):
                touched = await index.update(times[-1], user_id="ada")
                assert touched is not None
                assert (
                    touched.updated_at.isoformat()
                    == f"9000-01-01T00:00:00{f'.{microsecond:06}' * (microsecond > 0)}+00:00"
                )
                assert await index.get(times[-1], user_id="ada") == touched
            edge = to_datetime(2**57 - 1)  # where one half of a stored time is full
            await index.restore([{**RECORD, "thread_id": "edge", "user_id": "bob", "updated_at": edge.isoformat()}])
            touched = await index.update("edge", user_id="bob")
            assert touched is not None
            assert touched.updated_at == to_datetime(2**57)
            assert await index.get("edge", user_id="bob") == touched
            for time in times[:2]:
                touched = await index.move(time, user_id="ada", to_user_id="ada")
                assert touched is not None
                assert touched.created_at.isoformat(timespec="microseconds") == time
            assert ids_of(await every_thread(index, "ada", limit=1)) == [*times[:2:-1], times[1], times[0], times[2]]

    asyncio.run(body())


@pytest.mark.parametrize("key", ["k", "", '"', "a\nb", "\0", "é", "\U0001f600", "\\"])
def test_the_limit_is_exact(valkey: Server, namespace: str, key: str) -> None:
    """G3: merged metadata is accepted to the last byte of 8 MiB as JSON, not one more, and then nothing is changed."""
    half = "x" * (codec.MAX_BYTES // 2)

    async def body() -> None:
        async with opened(valkey.url, namespace, timeout_seconds=60.0) as index:
            await index.create(NewThread("t", "ada", "agent", "Name", metadata={"half": half, "gone": 1}))
            room = codec.MAX_BYTES - len(codec.canonical({"half": half, key: ""}))
            before = await index.get("t", user_id="ada")
            with pytest.raises(InvalidArgument, match=f"not {codec.MAX_BYTES + 1}"):
                await index.update("t", user_id="ada", status="s", metadata={key: "x" * (room + 1)}, remove=["gone"])
            with pytest.raises(InvalidArgument):
                await index.update("t", user_id="ada", metadata={key: "x" * room})
            assert await index.get("t", user_id="ada") == before
            for remove in (["gone", "absent"], []):
                full = await index.update("t", user_id="ada", metadata={key: "x" * room}, remove=remove)
            assert full is not None
            assert len(codec.canonical(full.metadata)) == codec.MAX_BYTES
            assert await index.get("t", user_id="ada") == full
            replaced = await index.update("t", user_id="ada", metadata={key: "x" * room, "n": 1}, replace=True)
            assert replaced is not None
            assert replaced.metadata.keys() == {key, "n"}
            assert await index.get("t", user_id="ada") == replaced

    asyncio.run(body())


def test_ten_thousand_keys(valkey: Server, namespace: str) -> None:
    """T6: so many keys of metadata are set, merged, removed and replaced in one call."""
    first, second = ({f"{name}{n}": n for n in range(10_000)} for name in "ab")

    async def body() -> None:
        async with opened(valkey.url, namespace, timeout_seconds=60.0) as index:
            await index.create(NewThread("t", "ada", "agent", "Name", metadata=first))
            for change, wanted in (
                ({"metadata": second}, {**first, **second}),
                ({"remove": list(first)}, second),
                ({"metadata": {**first, "deerflow_pinned": True}, "replace": True}, {**first, "deerflow_pinned": True}),
                ({"metadata": {}, "replace": True, "display_name": None}, {}),
            ):
                thread = await index.update("t", user_id="ada", **change)
                assert thread is not None
                assert thread.metadata == wanted
                assert await index.get("t", user_id="ada") == thread
                assert (await index.list("ada")).items == (thread,)
            last = await index.get("t", user_id="ada")
            assert last is not None
            assert (last.assistant_id, last.display_name) == ("agent", None)

    asyncio.run(body())


def test_ten_thousand_threads(valkey: Server, namespace: str) -> None:
    """T9, T11: a copy takes a call of the server for hundreds, and a page one, whatever is listed."""

    async def body() -> None:
        async with opened(valkey.url, namespace, timeout_seconds=60.0) as index:
            records = [{**RECORD, "thread_id": f"t{n:05}", "user_id": f"u{n % 7 // 6}"} for n in range(10_000)]
            before = await asyncio.to_thread(calls, valkey)
            assert await index.restore(records) == 10_000
            assert await index.restore(records) == 0
            assert await exported(index) == records[::-1]
            assert await asyncio.to_thread(calls, valkey) - before <= 150
            assert await index.count("u0") + await index.count("u1") == await index.count(ANY_USER) == 10_000
            pages = [await index.list("u0", limit=200)]
            for _ in range(10):
                pages.append(await index.list("u0", limit=200, cursor=pages[-1].next_cursor))
            before = await asyncio.to_thread(calls, valkey)
            for page in pages:
                await index.list("u0", limit=200, cursor=page.next_cursor)
            assert await asyncio.to_thread(calls, valkey) - before == len(pages)

    asyncio.run(body())


def test_a_filter_fetches_only_what_matches(valkey: Server, namespace: str) -> None:
    """T8: what a filter passes over stays at the server, pinned or not, and large threads come one after the other."""
    large = {"text": "x" * 200_000}

    def sent() -> int:
        return int(valkey.info("stats")["total_net_output_bytes"])

    async def body() -> None:
        async with opened(valkey.url, namespace, timeout_seconds=60.0) as index:
            for number in range(60):
                pinned = {"deerflow_pinned": True} if number % 3 == 0 else {}
                metadata = {**large, **pinned, "n": number, "odd": number % 2 == 1}
                await index.create(NewThread(f"t{number:02}", "ada", metadata=metadata))
            before = await asyncio.to_thread(sent)
            assert ids_of(await every_thread(index, "ada", metadata={"n": 7})) == ["t07"]
            assert (await index.list("ada", metadata={"n": 7.0, "deerflow_pinned": True})).items == ()
            assert await asyncio.to_thread(sent) - before < 1_000_000
            before = await asyncio.to_thread(sent)
            assert len((await index.list("ada", metadata={"odd": True}, limit=1)).items) == 1
            assert await asyncio.to_thread(sent) - before < 1_000_000
            before = await asyncio.to_thread(calls, valkey)
            await index.list("ada", limit=50)
            assert await asyncio.to_thread(calls, valkey) - before >= 50 * 200_000 // CHUNK_BYTES
            everything = await every_thread(index, "ada", limit=50)
            order = sorted(range(60), key=lambda number: (number % 3 == 0, number), reverse=True)
            assert ids_of(everything) == [f"t{number:02}" for number in order]
            filters = ({"odd": True}, {"deerflow_pinned": True}, {"odd": False, "deerflow_pinned": True})
            for wanted_metadata in filters:
                wanted = [thread for thread in everything if wanted_metadata.items() <= thread.metadata.items()]
                for limit in (1, 4, 1_000):
                    assert await every_thread(index, "ada", metadata=wanted_metadata, limit=limit) == wanted

    asyncio.run(body())


def test_a_cursor_may_stand_at_a_thread_that_was_passed_over(valkey: Server, namespace: str) -> None:
    """T3, T8: a page may end at a thread that does not match, pinned or not, and what follows is found."""

    async def body() -> None:
        async with opened(valkey.url, namespace) as index:
            for pinned in (False, True):
                for name in ("z", "a"):
                    number = 1 if name == "a" else 1_200
                    metadata = {"deerflow_pinned": pinned, "name": name}
                    ids = (f"{name} {pinned} {n}" for n in range(number))
                    await index.restore({**RECORD, "thread_id": one, "metadata": metadata} for one in ids)
            assert (await index.list("ada", metadata={"name": "a"})).items == ()
            assert ids_of(await every_thread(index, "ada", metadata={"name": "a"})) == ["a True 0", "a False 0"]

    asyncio.run(body())


def test_a_record_that_says_less_is_a_different_one(valkey: Server, namespace: str) -> None:
    """T11: where the stored thread has all that a record has and more besides, they differ."""
    full = {**RECORD, "assistant_id": "agent", "display_name": "", "metadata": {"a": 1, "b": None}}

    async def body() -> None:
        async with opened(valkey.url, namespace) as index:
            await index.restore([full])
            lesser: list[Record] = [{"assistant_id": None}, {"display_name": None}, {"metadata": {"a": 1}}]
            for less in lesser:
                with pytest.raises(Conflict):
                    await index.restore([{**full, **less}])
            assert await exported(index) == [full]
            assert await index.restore([full]) == 0

    asyncio.run(body())


def test_a_lost_reply_is_reported_and_nothing_is_sent_twice(valkey: Server, namespace: str) -> None:
    """G5: a write says that it may have happened, and happened once; a read is asked again."""

    async def body() -> None:
        async with proxy(HOST, valkey.port) as between, opened(between.url(valkey.url), namespace) as index:
            await index.restore([{**RECORD, "thread_id": "late", "updated_at": "8000-01-01T00:00:00.000000+00:00"}])
            # The server has all scripts from here on: a lost answer is that of one that ran.
            await index.update("late", user_id="ada", touch=False)
            await index.delete("absent", user_id="ada")
            record = {**RECORD, "thread_id": "restored"}
            writes: list[Callable[[], Awaitable[Any]]] = [
                lambda: index.create(NewThread("created", "ada")),
                lambda: index.restore([record]),
                lambda: index.update("late", user_id="ada"),
                lambda: index.move("late", user_id="ada", to_user_id="bob"),
                lambda: index.delete("restored", user_id="ada"),
            ]
            for write in writes:
                between.lose_reply(b"EVALSHA")
                with pytest.raises(BackendUnavailable) as caught:
                    await write()
                assert caught.value.maybe_written
            with pytest.raises(Conflict):
                await index.create(NewThread("created", "ada"))
            for read in (index.get("late", user_id="bob"), index.list("bob"), index.count("bob")):
                between.lose_reply(namespace.encode())
                assert await read
            late = await index.get("late", user_id="bob")
            assert late is not None
            assert late.updated_at.isoformat() == "8000-01-01T00:00:00.000002+00:00"
            assert await index.count("ada") == 1

    asyncio.run(body())


@pytest.mark.parametrize("foreign", ["thread", "ids", "order"])
def test_a_foreign_key_refuses_the_whole_write(valkey: Server, namespace: str, foreign: str) -> None:
    """Where a key of ours holds something of another type it is Corrupt, and nothing is written."""
    keys = ThreadKeys(namespace)

    async def body() -> None:
        async with opened(valkey.url, namespace) as index:
            await index.create(NewThread("t", "ada", status="idle"))
            await index.create(NewThread("t2", "ada", status="idle"))
            name = {
                "thread": keys.thread("new"),
                "ids": keys.ids,
                "order": keys.order(b"bob", b"idle"),
            }[foreign]
            await asyncio.to_thread(valkey.execute, "SET", name, "foreign")
            before = await asyncio.to_thread(dump, valkey, namespace)
            writes: list[Callable[[], Awaitable[Any]]] = [
                lambda: index.create(NewThread("new", "bob")),
                lambda: index.restore([{**RECORD, "thread_id": "new", "user_id": "bob"}]),
            ]
            if foreign != "thread":
                writes.append(lambda: index.move("t", user_id="ada", to_user_id="bob"))
            if foreign == "ids":
                writes.append(lambda: index.delete("t", user_id="ada"))
            for write in writes:
                with pytest.raises(Corrupt, match="another type"):
                    await write()
                assert await asyncio.to_thread(dump, valkey, namespace) == before
            await asyncio.to_thread(valkey.execute, "DEL", name)

    asyncio.run(body())


def test_a_thread_that_the_server_evicted_is_told_until_it_is_deleted(valkey: Server, namespace: str) -> None:
    """A listed thread that is not there is Corrupt, never passed over; whose it was can remove it for good."""

    async def body() -> None:
        async with opened(valkey.url, namespace) as index:
            for owner, scope in (("ada", "ada"), (None, ANY_USER)):
                await index.create(NewThread("kept", owner))
                await index.create(NewThread("t", owner, status="busy", metadata={"deerflow_pinned": True}))
                await asyncio.to_thread(valkey.execute, "DEL", ThreadKeys(namespace).thread("t"))
                for metadata in (None, {"k": 1}):
                    with pytest.raises(Corrupt, match=r"thread t is not stored.*maxmemory-policy.*delete the thread"):
                        await index.list(scope, metadata=metadata)
                with pytest.raises(Corrupt, match="maxmemory-policy"):
                    await exported(index)
                assert not await index.delete("t", user_id="bob")
                with pytest.raises(Corrupt, match="maxmemory-policy"):
                    await index.list(scope, status="busy")
                assert await index.delete("t", user_id=scope)
                assert not await index.delete("t", user_id=scope)
                assert ids_of(await every_thread(index, scope)) == ["kept"]
                assert [record["thread_id"] for record in await exported(index)] == ["kept"]
                assert await index.delete("kept", user_id=scope)

    asyncio.run(body())
    assert keys_of(valkey, namespace) == set()


def test_an_evicted_threads_id_can_be_used_again(
    valkey: Server, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G4: who creates or restores a thread with the id of one that was evicted is the only one who sees it."""
    monkeypatch.setattr(threads, "_MEMBERS", 2)
    others = [{**RECORD, "thread_id": f"t{number}", "user_id": "bob"} for number in range(5)]

    async def body() -> None:
        async with opened(valkey.url, namespace) as index:
            for thread_id in ("t0", "t1", "t2", "t3", "new", "kept"):
                await index.create(NewThread(thread_id, "ada", status="s"))
            for thread_id in ("t1", "t3", "new"):
                await asyncio.to_thread(valkey.execute, "DEL", ThreadKeys(namespace).thread(thread_id))
            for thread_id in ("t0", "t2"):
                assert await index.delete(thread_id, user_id="ada")
            await index.create(NewThread("new", "bob", status="s"))
            assert await index.restore(others) == 5
            assert await index.restore(others) == 0
            for status in ("s", None):
                assert ids_of(await every_thread(index, "ada", status=status)) == ["kept"]
            assert ids_of(await every_thread(index, "bob", status="s")) == ["new"]
            assert len(await every_thread(index, "bob")) == await index.count("bob") == 6
            assert len(await every_thread(index, ANY_USER)) == await index.count(ANY_USER) == 7
            assert len(await exported(index)) == 7

    asyncio.run(body())


@pytest.mark.parametrize(
    "change", [{"owner": "bob"}, {"status": "other"}, {"updated": "12345678"}, {'"deerflow_pinned"': "true"}]
)
def test_no_thread_is_given_that_is_not_as_listed(valkey: Server, namespace: str, change: dict[str, str]) -> None:
    """G4: a listing gives nobody a thread that is stored as another user's, or is not where it would be listed."""

    async def body() -> None:
        async with opened(valkey.url, namespace) as index:
            await index.create(NewThread("t", "ada", status="s", metadata={"k": 1}))
            for field, value in change.items():
                await asyncio.to_thread(valkey.execute, "HSET", ThreadKeys(namespace).thread("t"), field, value)
            for metadata in (None, {"k": 1}, {"k": 2}):
                with pytest.raises(Corrupt, match="not stored as it is listed"):
                    await index.list("ada", status="s", metadata=metadata)

    asyncio.run(body())


def test_a_page_in_steps_waits_no_longer_than_one(valkey: Server, namespace: str) -> None:
    """G7: `timeout_seconds` is for a whole call, however often it asks the server."""

    async def body() -> None:
        async with opened(valkey.url, namespace) as index:
            for number in range(5):  # each too large for another beside it
                await index.create(NewThread(f"t{number}", "ada", metadata={"k": "x" * (CHUNK_BYTES + 1)}))
        async with delayed(valkey) as delay, opened(delay.url, namespace, timeout_seconds=1.0) as index:
            await index.list("bob")
            delay.seconds = 0.4
            with pytest.raises(BackendUnavailable):
                await index.list("ada")
            delay.seconds = 0.0
            assert await index.count("ada") == 5

    asyncio.run(body())


def test_a_full_server_takes_nothing_and_deletes() -> None:
    """A server whose memory is full refuses each write as a whole, and still removes a thread."""

    async def body(server: Server) -> None:
        async with opened(server.url, "full", timeout_seconds=0.5) as index:
            await index.create(NewThread("t", "ada", metadata={"k": 1}))
            await asyncio.to_thread(server.execute, "CONFIG", "SET", "maxmemory", "1mb")
            before = await asyncio.to_thread(dump, server, "full")
            for write in (
                index.create(NewThread("new", "ada")),
                index.update("t", user_id="ada", metadata={"k": 2}),
                index.update("t", user_id="ada", metadata={"k": 2}, replace=True, touch=False),
                index.update("t", user_id="ada", remove=["k"], touch=False),
                index.move("t", user_id="ada", to_user_id="bob"),
                index.restore([RECORD | {"thread_id": "new"}]),
            ):
                with pytest.raises(BackendUnavailable, match="memory is full") as caught:
                    await write
                assert not caught.value.maybe_written
                assert await asyncio.to_thread(dump, server, "full") == before
            assert await index.delete("t", user_id="ada")
            assert await asyncio.to_thread(keys_of, server, "full") == set()

    with Server() as server:
        asyncio.run(body(server))


def test_all_is_on_one_node(valkey_cluster: Cluster, namespace: str) -> None:
    """On a cluster all keys of a namespace are in one slot, whatever threads, users and statuses are called."""

    async def body() -> None:
        async with opened(valkey_cluster.url, namespace, topology="cluster", timeout_seconds=30.0) as index:
            for name in ODD:
                await index.create(NewThread(name, name, status=name))
                await index.update(name, user_id=name, metadata={name: name})
                await index.move(name, user_id=name, to_user_id=None)
                assert await index.get(name, user_id=ANY_USER)
            assert await index.count(ANY_USER) == len(ODD)
            records = await exported(index)
            assert await index.restore(records) == 0
            assert await index.delete(ODD[0], user_id=ANY_USER)
            assert await index.restore(records) == 1

    asyncio.run(body())
    slots = {
        node.execute("CLUSTER", "KEYSLOT", key) for node in valkey_cluster.primaries for key in keys_of(node, namespace)
    }
    assert len(slots) == 1
