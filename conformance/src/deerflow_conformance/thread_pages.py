"""Checks of what a thread index lists: T3, T8 and T9."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from deerflow_backends.errors import InvalidArgument
from deerflow_backends.paging import Page
from deerflow_backends.threads import ANY_USER, MAX_EXAMINED, PINNED_KEY, NewThread, Scope, Thread, ThreadIndex
from deerflow_conformance.bench import Bench
from deerflow_conformance.change_models import in_scope, thread_order
from deerflow_conformance.checks import check, expect, unkept
from deerflow_conformance.expectations import every_page, expect_same, exported, refused, work
from deerflow_conformance.paging_programs import PagingProgram, paging_programs
from deerflow_conformance.programs import KEYS, LOOKALIKES, USERS, same
from deerflow_conformance.thread_programs import metadata_lists
from deerflow_conformance.thread_steps import (
    Threads,
    listed,
    renamed,
)

# ---------------------------------------------------------------------- T3


@check("T3")
def pages_visit_every_quiet_thread_once(bench: Bench) -> None:
    """Whatever is created, touched, pinned or deleted between pages, each thread that was not comes exactly once."""

    async def body(program: PagingProgram) -> None:
        async with bench.open() as index:
            model: Threads = {}
            for number in program.present:
                metadata = {PINNED_KEY: True} if number % 4 == 0 else {}
                thread = await index.create(NewThread(f"t{number}", "ann", metadata=metadata))
                model[thread.thread_id] = thread
                if number % 3:
                    await bench.sleep(0.001)
            await index.create(NewThread("other", "Ann"))
            between, visited = list(program.between), list[str]()
            async for page in every_page(lambda cursor: index.list("ann", limit=program.limit, cursor=cursor)):
                visited += [thread.thread_id for thread in page.items]
                if page.items:
                    last = thread_order(page.items[-1])
                    more = any(thread_order(thread) < last for thread in model.values())
                    expect((page.next_cursor is not None) == more, f"a cursor: {more}, after {last}", page)
                for action in between.pop(0) if between and page.next_cursor else ():
                    await _disturb(index, action.kind, f"t{action.index}", model)
            quiet = [f"t{number}" for number in program.present if number not in program.disturbed]
            counts = {thread_id: visited.count(thread_id) for thread_id in quiet}
            expect(set(counts.values()) <= {1}, "every thread that nobody touched exactly once", (counts, visited))

    bench.explore(paging_programs(), body)


async def _disturb(index: ThreadIndex, kind: str, thread_id: str, model: Threads) -> None:
    if kind == "remove":
        await index.delete(thread_id, user_id="ann")
        model.pop(thread_id, None)
    elif thread_id in model:
        pinned = model[thread_id].metadata.get(PINNED_KEY) is True
        thread = await index.update(thread_id, user_id="ann", metadata={PINNED_KEY: pinned ^ (kind == "create")})
        if thread is None:
            unkept(f"{thread_id} to be there", thread)
        model[thread_id] = thread
    elif kind == "create":
        model[thread_id] = await index.create(NewThread(thread_id, "ann"))


@check("T3")
def pages_end_exactly(bench: Bench) -> None:
    """Threads of one moment page completely, and the last page has no cursor, even when it is just full."""

    async def body() -> None:
        async with bench.open() as source, bench.open() as index:
            await source.create(NewThread("template", "ann"))
            (record,) = await exported(source)
            await index.restore([renamed(record, f"t{n}", status=("idle", "running")[n % 2]) for n in range(12)])
            for scope, status, size in (
                ("ann", None, 12),
                (ANY_USER, None, 12),
                ("ann", "running", 6),
                ("Ann", None, 0),
            ):
                for limit in (1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 1_000):
                    sizes = list[int]()
                    read = _listing(index, scope, status=status, limit=limit)
                    async for page in every_page(read):
                        sizes.append(len(page.items))
                        done = sum(sizes) == size
                        got = page.next_cursor
                        expect((got is None) == done, f"a cursor: {not done}, after {sizes} of {size}", got)

    bench.run(body)


def _listing(index: ThreadIndex, scope: Scope, **more: Any) -> Callable[[str | None], Awaitable[Page[Thread]]]:
    return lambda cursor: index.list(scope, cursor=cursor, **more)


@check("T3")
def bad_pages_are_refused(bench: Bench) -> None:
    """Limits outside 1 to 1,000, damaged cursors and those of another listing are InvalidArgument."""

    async def body() -> None:
        async with bench.open() as index:
            for user_id in USERS[:2]:
                for number in range(3):
                    await index.create(NewThread(f"{user_id}{number}", user_id, metadata={"k": 1}))
            for limit in (0, -1, 1_001, True, "10", 1.0):
                await refused(index.list("ann", limit=limit), InvalidArgument, f"limit {limit!r}")
            cursor = (await index.list("ann", limit=1)).next_cursor
            expect(isinstance(cursor, str), "a cursor after one thread of three", cursor)
            for bad in ("", "x", cursor[:-1], cursor + "A", cursor.swapcase(), cursor + "\x00", "é", 7, b"x"):
                await refused(index.list("ann", limit=1, cursor=bad), InvalidArgument, f"the cursor {bad!r}")
            others: list[tuple[Scope, str | None, dict[str, Any] | None]] = [
                ("Ann", None, None),
                (ANY_USER, None, None),
                ("ann", "idle", None),
                ("ann", None, {"k": 1}),
            ]
            for scope, status, metadata in others:
                call = index.list(scope, status=status, metadata=metadata, cursor=cursor)
                await refused(call, InvalidArgument, f"ann's cursor in {scope!r}, {status!r}, {metadata!r}")
            filtered = (await index.list("ann", metadata={"k": 1}, limit=1)).next_cursor
            call = index.list("ann", metadata={"k": True}, limit=1, cursor=filtered)
            await refused(call, InvalidArgument, "the cursor of another filter")

    bench.run(body)


# ---------------------------------------------------------------------- T8


@check("T8")
def filters_match_exactly(bench: Bench) -> None:
    """For any metadata, filtering by one or two of its entries finds exactly the threads that have just these."""

    async def body(metadatas: list[dict[str, Any]]) -> None:
        async with bench.open() as index:
            model: Threads = {}
            for number, metadata in enumerate(metadatas):
                owner = "ann" if number % 4 else "Ann"
                thread = await index.create(NewThread(f"t{number}", owner, metadata=metadata))
                model[thread.thread_id] = thread
            for metadata in metadatas:
                entries = list(metadata.items())
                for wanted in [dict(entries[:1]), dict(entries[:2]), dict(entries[1:2])]:
                    await _expect_filtered(index, model, wanted)

    bench.explore(metadata_lists(), body)


async def _expect_filtered(index: ThreadIndex, model: Threads, wanted: dict[str, Any]) -> None:
    for scope in ("ann", ANY_USER):
        matching = [
            thread
            for thread in sorted(model.values(), key=thread_order, reverse=True)
            if in_scope(thread, scope) and has_entries(thread.metadata, wanted)
        ]
        for limit in (1, 1_000):
            got = await listed(index, scope, limit=limit, metadata=wanted)
            expect_same(f"threads of {scope!r} with {wanted!r}", matching, got)


def has_entries(metadata: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether metadata has each wanted key with exactly that value."""
    return all(key in metadata and same(metadata[key], value) for key, value in wanted.items())


@check("T8")
def look_alikes_are_told_apart(bench: Bench) -> None:
    """1, 1.0, True, "1", None and no value at all are six things, under plain keys and odd ones."""

    async def body() -> None:
        for key in KEYS:
            async with bench.open() as index:
                model: Threads = {}
                for number, value in enumerate(LOOKALIKES):
                    thread = await index.create(NewThread(f"t{number}", "ann", metadata={key: value, "n": number}))
                    model[thread.thread_id] = thread
                model["without"] = await index.create(NewThread("without", "ann", metadata={"a": {"b": 1}}))
                for value in LOOKALIKES:
                    matching = [name for name, thread in model.items() if has_entries(thread.metadata, {key: value})]
                    got = [thread.thread_id for thread in await listed(index, "ann", metadata={key: value})]
                    expect_same(f"threads with {key!r}: {value!r}", matching, got)
                    expect_same("how many that are", 1, len(got))

    bench.run(body)


@check("T8")
def filters_reach_nothing_else(bench: Bench) -> None:
    """A filter reaches no column, no nested path, no other user and no other status, and its text is only text."""

    async def body() -> None:
        async with bench.open() as index:
            metadata = {"k": 1, "deep": {"k": 1}, "list": [1, 2], "text": "a%b"}
            await index.create(NewThread("t", "ann", "agent", "Name", "idle", metadata))
            await index.create(NewThread("t2", "Ann", "agent", "Name", "idle", metadata))
            nothing: list[dict[str, Any]] = [
                *({key: value} for key, value in [("user_id", "ann"), ("thread_id", "t"), ("status", "idle")]),
                *({key: "Name"} for key in ("display_name", "assistant_id", "$where", "_id")),
                *({key: 1} for key in ("deep.k", "$.k", "k'", "' OR 1=1 --", "k\x00", '"k"', "K", "", "deep->k")),
                *({"k": value} for value in ("1 OR 1=1", {"$gt": 0}, {"$ne": None}, [1], "' OR ''='", "%", "*")),
                *({"text": value} for value in ("a%", "%", "a%b ", "A%B", "a_b", {"$regex": "a"})),
                *({"list": value} for value in (1, [1], [2, 1], [1, 2.0])),
                {"k": 1, "absent": None},
                {"deep": {}},
            ]
            for wanted in nothing:
                for scope in ("ann", ANY_USER):
                    page = await index.list(scope, metadata=wanted)
                    expect_same(f"threads with {wanted!r}", [], [thread.thread_id for thread in page.items])
            for wanted in ({"k": 1}, {"text": "a%b", "deep": {"k": 1}}, {"list": [1, 2]}, {}):
                ids = [thread.thread_id for thread in await listed(index, "ann", metadata=wanted)]
                expect_same(f"ann's threads with {wanted!r}", ["t"], ids)
                expect_same("running ones", [], await listed(index, "ann", metadata=wanted, status="running"))
            for bad in ({"k": float("nan")}, [("k", 1)], "k", {1: 1}, {"k": object()}):
                await refused(index.list("ann", metadata=bad), InvalidArgument, f"the filter {bad!r}")

    bench.run(body)


@check("T8")
def a_rare_match_is_found_by_its_cursor(bench: Bench) -> None:
    """A call with a filter examines at most 1,000 threads, and following its cursor still finds what lies deeper."""

    async def body() -> None:
        async with bench.open() as source, bench.open() as index:
            await source.create(NewThread("template", "few"))
            (record,) = await exported(source)
            rare = renamed(record, "a", metadata={"rare": True}, user_id="many")
            rows = [renamed(record, f"t{n:05}", user_id="many") for n in range(3 * MAX_EXAMINED)]
            few = [renamed(record, f"few{n:05}") for n in range(MAX_EXAMINED + 200)]
            await index.restore([*rows, *few, rare])
            got = await listed(index, "many", metadata={"rare": True}, limit=10)
            expect_same("the rare thread behind 3,000 others", ["a"], [thread.thread_id for thread in got])
            less = await work(bench, lambda: index.list("few", metadata={"rare": True}))
            more = await work(bench, lambda: index.list("many", metadata={"rare": True}))
            expect(more <= less * 1.3 + 20, f"about {less} steps of work for 3,000 threads as for 1,200", more)

    bench.run(body)


# ---------------------------------------------------------------------- T9


@check("T9")
def a_page_costs_the_same_for_many(bench: Bench) -> None:
    """The first page, a deep one and one by status cost as much for 2,000 threads as for 100."""
    sizes = {"few": 100, "many": 2_000}

    async def body() -> None:
        async with bench.open() as source, bench.open() as index:
            await source.create(NewThread("template", "few"))
            (record,) = await exported(source)
            await index.restore(_crowd(record, sizes))
            costs: dict[str, list[int]] = {}
            for user_id, size in sizes.items():
                expect_same(f"threads of {user_id}", size, await index.count(user_id))
                deep = None
                for _ in range(2 if user_id == "few" else 8):
                    deep = (await index.list(user_id, limit=30, cursor=deep)).next_cursor
                pages: list[dict[str, Any]] = [{}, {"cursor": deep}, {"status": "running"}]
                costs[user_id] = [
                    await work(bench, functools.partial(index.list, user_id, limit=30, **page)) for page in pages
                ]
            for what, few, many in zip(("first", "deep", "status"), costs["few"], costs["many"], strict=True):
                expect(many <= few * 1.5 + 30, f"the {what} page in about {few} steps of work", many)

    bench.run(body)


async def _crowd(record: dict[str, Any], sizes: dict[str, int]) -> AsyncIterator[dict[str, Any]]:
    for user_id, size in sizes.items():
        for number in range(size):
            yield renamed(record, f"{user_id}{number}", user_id=user_id, status=("idle", "running")[number % 2])
