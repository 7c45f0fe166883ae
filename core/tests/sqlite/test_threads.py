"""What is particular to threads in SQLite: cost by index, odd names, rival instances."""

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
from deerflow_backends.errors import Conflict
from deerflow_backends.memories import Record
from deerflow_backends.records import thread_record
from deerflow_backends.sqlite import Connection, thread_tables
from deerflow_backends.sqlite.threads import SqliteThreadIndex
from deerflow_backends.thread_changes import check_new_thread
from deerflow_backends.threads import ANY_USER, MAX_EXAMINED, NewThread, Scope


@asynccontextmanager
async def opened(folder: Path, **connection: Any) -> AsyncIterator[tuple[Connection, SqliteThreadIndex]]:
    async with sqlite.connect(path=folder, **connection) as connected, sqlite.open_thread_index(connected) as index:
        yield connected, index


def records(user_id: str, number: int) -> list[Record]:
    return [
        thread_record(
            check_new_thread(
                NewThread(
                    f"{user_id}-{n:06}", user_id, status=f"s{n % 3}", metadata={"n": n, "deerflow_pinned": n % 7 == 0}
                ),
                1_700_000_000_000_000 + n % 100,
            )
        )
        for n in range(number)
    ]


@pytest.mark.parametrize("status", [None, "s1"])
@pytest.mark.parametrize("scoped", [True, False])
def test_a_page_costs_the_same_anywhere(tmp_path: Path, status: str | None, scoped: bool) -> None:
    """A page of 3,000 threads, first or deep, costs what one of 100 does, for every kind of listing (T3, T9)."""

    async def main() -> None:
        costs = []
        for folder, number in (("small", 100), ("large", 3_000)):
            async with opened(tmp_path / folder, count_work=True) as (connection, index):
                assert await index.restore(records("u", number)) == number
                scope: Scope = "u" if scoped else ANY_USER
                cursor = None
                for page_number in range(3 if number == 100 else 90):
                    before = connection.work()
                    page = await index.list(scope, status=status, limit=10, cursor=cursor)
                    cursor = page.next_cursor
                    assert len(page.items) == 10
                    if page_number in {0, 2, 89}:
                        costs.append(connection.work() - before)
        assert max(costs) <= min(costs) * 1.5

    asyncio.run(main())


def test_every_listing_walks_its_index(tmp_path: Path) -> None:
    """No listing sorts, and none reads another shelf's entries."""

    async def main() -> None:
        async with opened(tmp_path):
            pass

    asyncio.run(main())
    wanted = {
        (True, False): ("threads_by_user ", "user_id=?"),
        (True, True): ("threads_by_user_and_status ", "user_id=? AND status=?"),
        (False, False): ("threads_by_time ", ""),
        (False, True): ("threads_by_status ", "status=?"),
    }
    names = ("user_id", "status", "pinned", "updated_at", "thread_id", "fetch")
    with contextlib.closing(sqlite3.connect(tmp_path / "deerflow.sqlite3")) as connection:
        for shelf, (index, equal) in wanted.items():
            rows = connection.execute(f"EXPLAIN QUERY PLAN {thread_tables.LIST[shelf]}", dict.fromkeys(names, 1))
            plan = " ".join(row[-1] for row in rows)
            assert index in plan
            assert equal in plan
            assert "(pinned,updated_at,thread_id)<(?,?,?)" in plan
            assert "TEMP B-TREE" not in plan
            if shelf != (False, False):
                counting = connection.execute(
                    f"EXPLAIN QUERY PLAN {thread_tables.COUNT[shelf]}", dict.fromkeys(names, 1)
                )
                assert "COVERING INDEX" in " ".join(row[-1] for row in counting)


def test_a_filter_examines_a_bounded_number(tmp_path: Path) -> None:
    """A filter that matches nothing reads no more than its share of a large index, and goes on by cursor (T8)."""

    async def main() -> None:
        async with opened(tmp_path, count_work=True) as (connection, index):
            await index.restore(records("u", 2_500))
            before = connection.work()
            page = await index.list("u", metadata={"n": -1})
            assert connection.work() - before < 25 * MAX_EXAMINED  # reading all would be more than 40
            assert page.items == ()
            found, pages = [], 0
            cursor = None
            while True:
                page = await index.list("u", metadata={"n": 17}, cursor=cursor)
                found += [thread.thread_id for thread in page.items]
                pages += 1
                cursor = page.next_cursor
                if cursor is None:
                    break
            assert found == ["u-000017"]
            assert pages == 3

    asyncio.run(main())


ODD = ["a", "A", "a\0", "a\0b", "\0", "ä", "a\u0308", "%", "' OR 1=1 --", "\U0010ffff", "\uffff"]


def test_odd_names(tmp_path: Path) -> None:
    """Threads, users and statuses with odd names are told apart; equal times order by the bytes of the id (G1, T2)."""

    async def main() -> None:
        async with opened(tmp_path, clock=lambda: 1_700_000_000_000_000) as (_, index):
            for thread_id in ODD:
                await index.create(NewThread(thread_id, "u\0", status=thread_id, display_name="\0", assistant_id="\0"))
            ordered = sorted(ODD, key=str.encode, reverse=True)
            page = await index.list("u\0", limit=4)
            seen = list(page.items)
            while page.next_cursor:
                page = await index.list("u\0", limit=4, cursor=page.next_cursor)
                seen += page.items
            assert [thread.thread_id for thread in seen] == ordered
            assert {(thread.user_id, thread.display_name, thread.assistant_id) for thread in seen} == {
                ("u\0", "\0", "\0")
            }
            assert await index.count("u") == 0
            for odd in ODD:
                assert [thread.thread_id for thread in (await index.list("u\0", status=odd)).items] == [odd]
                assert await index.count(ANY_USER, status=odd) == 1
                assert await index.can_access(odd, "u\0")
                assert not await index.can_access(odd, "u")
                assert await index.delete(odd, user_id="u\0\0") is False
            await index.move("a\0", user_id="u\0", to_user_id=None)
            assert await index.get("a\0", user_id="u\0") is None
            thread = await index.get("a\0", user_id=ANY_USER)
            assert thread is not None
            assert thread.user_id is None

    asyncio.run(main())


def test_rivals_in_two_connections(tmp_path: Path) -> None:
    """Of rival creates through two instances one wins; concurrent updates of different keys all land (T5, T6, T7)."""

    async def main() -> None:
        async with opened(tmp_path) as (_, one), opened(tmp_path) as (_, other):
            outcomes = await asyncio.gather(
                *(index.create(NewThread("t", f"u{i}")) for i, index in enumerate((one, other) * 5)),
                return_exceptions=True,
            )
            assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 9
            updated = await asyncio.gather(
                *(
                    index.update("t", user_id=ANY_USER, metadata={f"k{i}": i})
                    for i, index in enumerate((one, other) * 50)
                )
            )
            times = [thread.updated_at for thread in updated if thread]
            assert len(set(times)) == 100
            thread = await one.get("t", user_id=ANY_USER)
            assert thread is not None
            assert thread.metadata == {f"k{i}": i for i in range(100)}
            assert thread.updated_at == max(times)

    asyncio.run(main())


def test_ten_thousand_are_restored_in_few_transactions(tmp_path: Path) -> None:
    """A large copy is stored in chunks, exported equal, and restoring it again changes nothing (T11)."""

    async def main() -> None:
        async with opened(tmp_path / "from") as (_, index), opened(tmp_path / "to") as (_, target):
            given = records("u", 10_000)
            assert await index.restore(given) == 10_000
            exported = [record async for record in index.export()]
            assert exported == given
            assert await target.restore(index.export()) == 10_000
            assert await target.restore(exported) == 0
            assert await target.list("u") == await index.list("u")

    asyncio.run(main())


def test_restoring_stops_at_a_conflict(tmp_path: Path) -> None:
    """Records before the one that meets another are stored, that one and later ones are not (T11)."""

    async def main() -> None:
        async with opened(tmp_path) as (_, index):
            given = records("u", 10)
            await index.create(NewThread("u-000005", "other"))
            with pytest.raises(Conflict):
                await index.restore(given)
            assert await index.count("u") == 5
            thread = await index.get("u-000005", user_id=ANY_USER)
            assert thread is not None
            assert thread.user_id == "other"

    asyncio.run(main())
