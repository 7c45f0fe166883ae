"""What is particular to threads in process: sorted shelves, sharing, closing. The kit tests the promises."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deerflow_backends import ANY_USER, Closed, InvalidArgument, NewThread, Thread, inprocess
from deerflow_backends.inprocess import layout
from deerflow_backends.inprocess.connection import Connection
from deerflow_backends.inprocess.threads import InProcessThreadIndex


class Odd(str):
    """Text that is equal to no other text."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return 1


class Turned:
    """A clock that tests turn by hand."""

    def __init__(self) -> None:
        self.now = 1_000_000_000_000_000

    def __call__(self) -> int:
        return self.now


@asynccontextmanager
async def opened(clock: Turned | None = None) -> AsyncIterator[tuple[Connection, InProcessThreadIndex]]:
    async with (
        inprocess.connect(namespace=f"t{uuid.uuid4().hex}", clock=clock or Turned()) as connection,
        inprocess.open_thread_index(connection) as index,
    ):
        yield connection, index


def test_ids_are_kept_as_plain_text() -> None:
    """G2: a subclass of str names what its text names."""

    async def test() -> None:
        async with opened() as (_, index):
            await index.create(NewThread(Odd("t"), Odd("u")))
            assert await index.get(Odd("t"), user_id=Odd("u")) is not None
            assert await index.update(Odd("t"), user_id="u", status=Odd("running")) is not None
            assert await index.count(Odd("u"), status=Odd("running")) == 1
            assert await index.can_access(Odd("t"), Odd("u"), require_existing=True)
            moved = await index.move(Odd("t"), user_id="u", to_user_id=Odd("v"))
            assert moved is not None
            assert type(moved.user_id) is str
            assert await index.count("v") == 1
            assert await index.delete(Odd("t"), user_id=Odd("v"))
            assert await index.count(ANY_USER) == 0

    asyncio.run(test())


steps = st.lists(
    st.tuples(
        st.sampled_from(["create", "update", "pin", "unpin", "move", "delete", "untouched", "tick"]),
        st.sampled_from("abcde"),
        st.sampled_from(["u", "v", None]),
        st.sampled_from(["idle", "running"]),
    ),
    min_size=10,
    max_size=40,
)


async def take(index: InProcessThreadIndex, clock: Turned, step: tuple[str, str, str | None, str]) -> None:
    kind, thread_id, user_id, status = step
    if kind == "tick":
        clock.now += 1
    elif kind == "create":
        if await index.get(thread_id, user_id=ANY_USER) is None:
            await index.create(NewThread(thread_id, user_id, status=status))
    elif kind == "move":
        await index.move(thread_id, user_id=ANY_USER, to_user_id=user_id)
    elif kind == "delete":
        await index.delete(thread_id, user_id=ANY_USER)
    elif kind == "untouched":
        await index.update(thread_id, user_id=ANY_USER, status=status, touch=False)
    else:
        pinned: dict[str, Any] = {} if kind == "update" else {"deerflow_pinned": True if kind == "pin" else 1}
        await index.update(thread_id, user_id=ANY_USER, status=status, metadata=pinned)


def place(thread: Thread) -> tuple[Any, ...]:
    return thread.metadata.get("deerflow_pinned") is True, thread.updated_at, thread.thread_id


@given(steps, st.integers(1, 3))
def test_every_listing_is_the_sorted_selection(program: list[tuple[str, str, str | None, str]], limit: int) -> None:
    """T1 to T3: after any program, each scope and status lists exactly its threads, in order, page by page."""

    async def test() -> None:
        clock = Turned()
        async with opened(clock) as (connection, index):
            for thread_id, user_id in zip("abcde", ["u", "u", "u", "v", None], strict=True):
                await index.create(NewThread(thread_id, user_id))
            for step in program:
                await take(index, clock, step)
            everything = [thread for one in "abcde" if (thread := await index.get(one, user_id=ANY_USER)) is not None]
            everything.sort(key=place, reverse=True)
            scopes: list[Any] = ["u", "v", ANY_USER]
            for scope in scopes:
                for status in (None, "idle", "running"):
                    wanted = [
                        thread
                        for thread in everything
                        if scope in {ANY_USER, thread.user_id} and status in {None, thread.status}
                    ]
                    assert await pages(index, scope, status=status, limit=limit) == wanted
                    for pin in (True, 1, None):
                        chosen = [thread for thread in wanted if same(thread.metadata.get("deerflow_pinned"), pin)]
                        matching = {"deerflow_pinned": pin}
                        assert await pages(index, scope, status=status, limit=limit, metadata=matching) == chosen
                    assert await index.count(scope, status=status) == len(wanted)
            for thread in everything:
                assert await index.delete(thread.thread_id, user_id=ANY_USER)
            assert layout.owned(connection.tables, layout.THREADS) == 0

    asyncio.run(test())


def same(value: object, wanted: object) -> bool:
    """Equality as T8 has it for values that are never stored as null here."""
    return wanted is not None and type(value) is type(wanted) and value == wanted


async def pages(index: InProcessThreadIndex, scope: Any, **arguments: Any) -> list[Thread]:
    threads: list[Thread] = []
    cursor = None
    while True:
        page = await index.list(scope, cursor=cursor, **arguments)
        threads += page.items
        cursor = page.next_cursor
        if cursor is None:
            return threads


def test_a_time_that_stands_still_grows_when_touched() -> None:
    """T7: `updated_at` grows strictly, though the clock does not, and even where it runs backwards."""

    async def test() -> None:
        clock = Turned()
        async with opened(clock) as (_, index):
            times = [(await index.create(NewThread("t", "u"))).updated_at]
            for owner in ("v", "u"):
                moved = await index.move("t", user_id=ANY_USER, to_user_id=owner)
                assert moved is not None
                times.append(moved.updated_at)
                clock.now -= 1_000
            updated = await index.update("t", user_id="u", metadata={})
            assert updated is not None
            times.append(updated.updated_at)
            assert times == sorted(set(times))

    asyncio.run(test())


def record(number: int) -> dict[str, Any]:
    moment = f"2026-01-01T00:00:00.{number:06d}+00:00"
    return {
        "kind": "thread",
        "contract": "1.0",
        "thread_id": f"t{number}",
        "user_id": "u",
        "assistant_id": None,
        "display_name": None,
        "status": "idle",
        "metadata": {"even": number % 2 == 0},
        "created_at": moment,
        "updated_at": moment,
    }


async def calls_of(index: InProcessThreadIndex, **arguments: Any) -> int:
    """Count the Python and C calls of listing one page."""
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    sys.setprofile(count)
    try:
        await index.list("u", limit=10, **arguments)
    finally:
        sys.setprofile(None)
    return calls


def test_a_page_costs_the_same_however_many_threads_there_are() -> None:
    """T9: a page of a user with 10,000 threads examines what one of a user with 100 does, deep in the list too."""

    async def test() -> None:
        costs = []
        for size in (100, 10_000):
            async with opened() as (_, index):
                assert await index.restore(record(number) for number in range(size)) == size
                deep = (await index.list("u", limit=50)).next_cursor
                costs.append((await calls_of(index), await calls_of(index, cursor=deep)))
        few, many = costs
        assert few == many

    asyncio.run(test())


def test_a_filter_examines_at_most_a_thousand() -> None:
    """T8: a filter that matches nothing gives empty pages with cursors, a thousand examined each, until the end."""

    async def test() -> None:
        async with opened() as (_, index):
            await index.restore(record(number) for number in range(2_500))
            page = await index.list("u", metadata={"even": None})
            lengths = [len(page.items)]
            while page.next_cursor is not None:
                page = await index.list("u", metadata={"even": None}, cursor=page.next_cursor)
                lengths.append(len(page.items))
            assert lengths == [0, 0, 0]
            matches = await pages(index, "u", metadata={"even": True}, limit=1_000)
            assert [thread.thread_id for thread in matches] == [f"t{n}" for n in range(2_498, -1, -2)]

    asyncio.run(test())


def test_a_page_that_ends_exactly_at_the_limit_has_no_cursor() -> None:
    """T3: `next_cursor` is None if and only if nothing more can follow, with and without a filter."""

    async def test() -> None:
        async with opened() as (_, index):
            await index.restore(record(number) for number in range(1_000))
            assert (await index.list("u", limit=1_000)).next_cursor is None
            assert (await index.list("u", limit=999)).next_cursor is not None
            assert (await index.list("u", limit=500, metadata={"even": True})).next_cursor is None
            assert (await index.list("u", limit=1_000, metadata={"even": True})).next_cursor is None
            assert (await index.list("u", limit=499, metadata={"even": True})).next_cursor is not None

    asyncio.run(test())


def test_metadata_is_a_snapshot() -> None:
    """G2: neither the writer's object nor a reader's is what is stored."""

    async def test() -> None:
        async with opened() as (_, index):
            metadata: dict[str, Any] = {"tags": ["a"]}
            created = await index.create(NewThread("t", "u", metadata=metadata))
            metadata["tags"].append("writer")
            created.metadata["tags"].append("reader")
            found = await index.get("t", user_id="u")
            assert found is not None
            assert found.metadata == {"tags": ["a"]}

    asyncio.run(test())


@pytest.mark.parametrize(
    "arguments",
    [
        {"metadata": {"a": 1}, "remove": ["a"]},
        {"replace": True},
        {"metadata": {}, "replace": True, "remove": ["a"]},
        {"remove": "key"},
        {"remove": [1]},
        {"remove": ["\ud800"]},
        {"metadata": []},
        {"metadata": {"a": {1: 2}}},
        {"status": None},
        {"display_name": 1},
        {"expected_status": None},
        {"touch": 1},
        {"replace": None, "metadata": {}},
    ],
)
def test_bad_updates_change_nothing(arguments: dict[str, Any]) -> None:
    """T6, T7: what cannot be meant is refused, and the thread is as it was."""

    async def test() -> None:
        async with opened() as (_, index):
            before = await index.create(NewThread("t", "u", metadata={"a": 1}))
            with pytest.raises(InvalidArgument):
                await index.update("t", user_id="u", **arguments)
            assert await index.get("t", user_id="u") == before

    asyncio.run(test())


def test_merged_metadata_to_8_mib() -> None:
    """G3: what would make the whole larger is refused, what makes it smaller never is."""

    async def test() -> None:
        async with opened() as (_, index):
            half = "x" * (4 * 2**20 - 8)
            await index.create(NewThread("t", "u", metadata={"a": half}))
            assert await index.update("t", user_id="u", metadata={"b": half}) is not None
            before = await index.get("t", user_id="u")
            with pytest.raises(InvalidArgument, match="the merged metadata must be at most"):
                await index.update("t", user_id="u", metadata={"c": "x" * 16})
            assert await index.get("t", user_id="u") == before
            assert await index.update("t", user_id="u", metadata={"c": half}, remove=["a"]) is not None

    asyncio.run(test())


def test_after_closing_nothing_works() -> None:
    """G9: every call, and an export that was still open, raises `Closed`."""

    async def test() -> None:
        async with opened() as (_, index):
            await index.create(NewThread("t", "u"))
            export = index.export()
            assert (await anext(export))["thread_id"] == "t"
        with pytest.raises(Closed):
            await anext(export)
        with pytest.raises(Closed):
            await anext(index.export())
        calls = [
            index.create(NewThread("t", "u")),
            index.get("t", user_id="u"),
            index.list("u"),
            index.count("u"),
            index.update("t", user_id="u"),
            index.move("t", user_id="u", to_user_id=None),
            index.delete("t", user_id="u"),
            index.can_access("t", "u"),
            index.restore([]),
            index.ping(),
        ]
        for call in calls:
            with pytest.raises(Closed):
                await call

    asyncio.run(test())
