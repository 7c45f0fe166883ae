"""The key-value view of a user's threads (T10)."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from deerflow_backends import (
    ANY_USER,
    Conflict,
    InvalidArgument,
    NamespaceView,
    NewThread,
    Thread,
    inprocess,
    namespace,
)
from deerflow_backends.binding import Binding
from deerflow_backends.inprocess.threads import InProcessThreadIndex


@asynccontextmanager
async def opened() -> AsyncIterator[InProcessThreadIndex]:
    async with (
        inprocess.connect(namespace=f"t{uuid.uuid4().hex}") as connection,
        inprocess.open_thread_index(connection) as index,
    ):
        yield index


async def keys(view: NamespaceView) -> list[str]:
    return [key async for key in view.keys()]  # noqa: SIM118  # a view is no dict


def test_keys_and_values() -> None:
    """T10: put creates or replaces whole values; get, delete, keys and items agree, of this user only."""

    async def test() -> None:
        async with opened() as index:
            mine, theirs = namespace(index, "u"), namespace(index, "v")
            assert await mine.get("k") is None
            await mine.put("k", {"a": 1, "b": None})
            await mine.put("k", {"b": 2})
            await mine.put("l", {})
            assert await mine.get("k") == {"b": 2}
            assert await keys(mine) == ["l", "k"]
            assert [item async for item in mine.items()] == [("l", {}), ("k", {"b": 2})]
            assert await theirs.get("k") is None
            assert [item async for item in theirs.items()] == []
            assert not await theirs.delete("k")
            assert await mine.delete("k")
            assert not await mine.delete("k")
            assert await keys(mine) == ["l"]

    asyncio.run(test())


def test_more_than_a_page() -> None:
    """T10: keys and items go through all pages."""

    async def test() -> None:
        async with opened() as index:
            view = namespace(index, "u")
            for number in range(250):
                await view.put(f"k{number}", {"n": number})
            assert await keys(view) == [f"k{number}" for number in reversed(range(250))]
            assert {key: value async for key, value in view.items()} == {f"k{n}": {"n": n} for n in range(250)}

    asyncio.run(test())


@pytest.mark.parametrize("owner", ["v", None])
def test_a_key_of_somebody_else_is_a_conflict(owner: str | None) -> None:
    """T10: neither another user's thread nor one without owner is taken over."""

    async def test() -> None:
        async with opened() as index:
            before = await index.create(NewThread("k", owner, metadata={"a": 1}))
            with pytest.raises(Conflict, match="'k' is not free"):
                await namespace(index, "u").put("k", {"b": 2})
            assert await index.get("k", user_id=ANY_USER) == before

    asyncio.run(test())


def test_a_thread_keeps_all_but_its_metadata() -> None:
    """T10: the value is the metadata; name, status and creation stay."""

    async def test() -> None:
        async with opened() as index:
            before = await index.create(NewThread("k", "u", "a", "name", "running", {"a": 1}))
            await namespace(index, "u").put("k", {"b": 2})
            after = await index.get("k", user_id="u")
            assert after is not None
            assert (after.assistant_id, after.display_name, after.status) == ("a", "name", "running")
            assert (after.metadata, after.created_at) == ({"b": 2}, before.created_at)

    asyncio.run(test())


class Rival(InProcessThreadIndex):
    """An index in which a rival acts once, just before the next create."""

    act: Callable[[], Any] | None = None

    async def create(self, thread: NewThread) -> Thread:
        if self.act is not None:
            act, self.act = self.act, None
            await act()
        return await super().create(thread)


def test_a_rival_that_creates_the_key_first() -> None:
    """T10: put replaces what a rival of the same user created in between, and refuses what another user did."""

    async def test() -> None:
        async with inprocess.connect(namespace=f"t{uuid.uuid4().hex}") as connection:
            index = Rival(connection, Binding("rival"))
            view = namespace(index, "u")
            index.act = lambda: index.create(NewThread("k", "u", metadata={"rival": True}))
            await view.put("k", {"mine": True})
            assert await view.get("k") == {"mine": True}
            index.act = lambda: index.create(NewThread("l", "v", metadata={"rival": True}))
            with pytest.raises(Conflict):
                await view.put("l", {"mine": True})
            assert await namespace(index, "v").get("l") == {"rival": True}

    asyncio.run(test())


def test_rivals_in_other_tasks() -> None:
    """T10: of rivals that put and delete one key each put succeeds, and one whole value stays."""

    async def test() -> None:
        async with opened() as index:
            views = [namespace(index, "u") for _ in range(10)]
            puts = [view.put("k", {"n": number, str(number): True}) for number, view in enumerate(views)]
            await asyncio.gather(*puts, *(view.delete("k") for view in views))
            await views[3].put("k", {"n": 3})
            assert await views[0].get("k") == {"n": 3}

    asyncio.run(test())


@pytest.mark.parametrize("user_id", [None, "", ANY_USER, 1])
def test_a_view_is_of_one_user(user_id: Any) -> None:
    """T10: there is no view of everybody's keys, nor of nobody's."""

    async def test() -> None:
        async with opened() as index:
            with pytest.raises(InvalidArgument, match="user_id"):
                namespace(index, user_id)

    asyncio.run(test())


def test_bad_keys_and_values_are_refused() -> None:
    """G1, G2: as for threads; nothing is written."""

    async def test() -> None:
        async with opened() as index:
            view = namespace(index, "u")
            bad: Any = None
            for key, value in [("", {}), ("k", bad), ("k", {"a": float("nan")}), (bad, {})]:
                with pytest.raises(InvalidArgument):
                    await view.put(key, value)
            assert await keys(view) == []

    asyncio.run(test())
