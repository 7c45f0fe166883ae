"""Checks of what a thread index lists: T3, T8 and T9."""

from __future__ import annotations

import functools
import itertools
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

from deerflow_backends.errors import InvalidArgument
from deerflow_backends.paging import Page
from deerflow_backends.threads import ANY_USER, MAX_EXAMINED, PINNED_KEY, NewThread, Scope, Thread, ThreadIndex
from deerflow_conformance.bench import Bench
from deerflow_conformance.change_models import in_scope, thread_order
from deerflow_conformance.checks import check, expect, unkept
from deerflow_conformance.crowds import differences
from deerflow_conformance.expectations import every_page, expect_same, exported, refused, work
from deerflow_conformance.paging_programs import Disturbance, PagingProgram, paging_programs
from deerflow_conformance.programs import KEYS, LOOKALIKES, USERS, same
from deerflow_conformance.thread_programs import metadata_lists
from deerflow_conformance.thread_steps import Threads, later, listed, renamed, thread_of

# ---------------------------------------------------------------------- T3


@dataclass(frozen=True, slots=True)
class _Listing:
    """What `list` is asked for."""

    scope: Scope
    status: str | None = None
    metadata: dict[str, Any] | None = None

    def pages(self, index: ThreadIndex, limit: int) -> AsyncIterator[Page[Thread]]:
        """Read page after page."""
        read = functools.partial(index.list, self.scope, status=self.status, metadata=self.metadata, limit=limit)
        return every_page(lambda cursor: read(cursor=cursor))

    def shelf(self, threads: Iterable[Thread]) -> list[Thread]:
        """Return those of *threads* that are in scope and of the status, in order."""
        found = [one for one in threads if in_scope(one, self.scope) and self.status in {None, one.status}]
        return sorted(found, key=thread_order, reverse=True)

    def matches(self, thread: Thread) -> bool:
        """Whether a thread on the shelf has the metadata."""
        return has_entries(thread.metadata, self.metadata or {})

    def expect_cursor(self, page: Page[Thread], threads: Iterable[Thread]) -> None:
        """Expect a cursor if a match follows the page, and none if no thread does.

        Where only others follow a backend may have looked at them or not (T8).
        """
        shelf = self.shelf(threads)
        if shelf and self.metadata and not page.items:
            return
        last = thread_order(page.items[-1]) if page.items else None
        following = [one for one in shelf if last is not None and thread_order(one) < last]
        more = any(map(self.matches, following))
        if more or not following:
            expect((page.next_cursor is not None) == more, f"a cursor: {more}, from {self} after {last}", page)


_MARK = {"k": 1}
_FILTERS: tuple[dict[str, Any] | None, ...] = (None, {}, _MARK, {PINNED_KEY: True})
_SCOPES: tuple[Scope, ...] = ("ann", ANY_USER)
_LISTINGS = [_Listing(*asked) for asked in itertools.product(_SCOPES, (None, "idle"), _FILTERS)]


@check("T3")
def pages_visit_every_quiet_thread_once(bench: Bench) -> None:
    """Whatever is created, touched, pinned or deleted between pages of any listing, each thread that was not is once.

    Several listings go on side by side: with and without a status and a filter, of one user and of all.
    """

    async def body(program: PagingProgram) -> None:
        async with bench.open() as index:
            model = {"other": await index.create(NewThread("other", "Ann", metadata={PINNED_KEY: True}))}
            for number in program.present:
                model[f"t{number}"] = await index.create(_numbered(number))
                if number % 3:
                    await bench.sleep(0.001)
            disturbed = {f"t{number}" for number in program.disturbed}
            quiet = [thread for thread in model.values() if thread.thread_id not in disturbed]
            reading = [(one, one.pages(index, program.limit), list[str]()) for one in _LISTINGS[::3]]
            visited = [(one, ids) for one, _, ids in reading]
            between = list(program.between)
            while reading:
                for one in list(reading):
                    listing, pages, ids = one
                    page = await anext(pages)
                    ids += [thread.thread_id for thread in page.items]
                    listing.expect_cursor(page, model.values())
                    if page.next_cursor is None:
                        reading.remove(one)
                for action in between.pop(0) if between and reading else ():
                    await _disturb(index, action, model)
            for listing, ids in visited:
                wanted = [thread.thread_id for thread in listing.shelf(quiet) if listing.matches(thread)]
                counts = {thread_id: ids.count(thread_id) for thread_id in wanted}
                told = f"every thread that nobody touched exactly once from {listing}"
                expect(set(counts.values()) <= {1}, told, (counts, ids))

    bench.explore(paging_programs(), body)


def _numbered(number: int) -> NewThread:
    """Return ann's thread of this number; what it has goes by several divisors, so that every combination is there."""
    metadata = {**({PINNED_KEY: True} if number % 4 == 0 else {}), **({} if number % 3 == 0 else _MARK)}
    return NewThread(f"t{number}", "ann", status="running" if number % 5 == 0 else "idle", metadata=metadata)


async def _disturb(index: ThreadIndex, action: Disturbance, model: Threads) -> None:
    thread_id = f"t{action.index}"
    if action.kind == "remove":
        await index.delete(thread_id, user_id="ann")
        model.pop(thread_id, None)
    elif thread_id in model:
        pinned = model[thread_id].metadata.get(PINNED_KEY) is True
        metadata = {PINNED_KEY: pinned ^ (action.kind == "create")}
        thread = await index.update(thread_id, user_id="ann", metadata=metadata)
        if thread is None:
            unkept(f"{thread_id} to be there", thread)
        model[thread_id] = thread
    elif action.kind == "create":
        model[thread_id] = await index.create(_numbered(action.index))


@check("T3")
def pages_end_exactly(bench: Bench) -> None:
    """Any listing, pinned threads and some of one moment included, pages completely, its last page without a cursor."""

    async def body() -> None:
        async with bench.open() as source, bench.open() as index:
            await source.create(NewThread("template", "ann"))
            (record,) = await exported(source)
            records = [_combined(record, number) for number in range(32)]
            await index.restore([*records, renamed(record, "other", user_id="Ann")])
            threads = [thread_of(one) for one in records]
            threads.append(thread_of(renamed(record, "other", user_id="Ann")))
            for listing in (*_LISTINGS, _Listing("é"), _Listing("ann", "Idle", _MARK)):
                for limit in (1, 2, 3, 4, 8, 16, 32, 1_000):
                    await _expect_pages(index, listing, threads, limit)

    async def thousand() -> None:
        async with bench.open() as source, bench.open() as index:
            await source.create(NewThread("template", "ann", metadata=_MARK))
            (record,) = await exported(source)
            last = renamed(record, "a", metadata={"k": 1, "last": True})
            records = [last, *(renamed(record, f"t{number}") for number in range(999))]
            records.append(renamed(record, "b", user_id="Ann"))
            await index.restore(records)
            threads = [thread_of(one) for one in records]
            for listing in (
                _Listing("ann"),
                _Listing("ann", "idle"),
                _Listing("ann", metadata=_MARK),
                _Listing(ANY_USER),
            ):
                await _expect_pages(index, listing, threads, 1_000)
            await _expect_pages(index, _Listing("ann", metadata={"last": True}), threads, 10)
            page = await index.list("ann")
            expect(len(page.items) <= 50, "at most 50 threads where no limit is given", len(page.items))

    bench.run(body)
    bench.run(thousand)


def _combined(record: dict[str, Any], number: int) -> dict[str, Any]:
    """Return the thread of this number, below 32: two of each combination of what listings go by."""
    pinned, late, running, marked = (bool(number & bit) for bit in (1, 2, 4, 8))
    return renamed(
        record,
        f"t{number * 7 % 32:02}",
        status="running" if running else "idle",
        metadata={PINNED_KEY: pinned, **(_MARK if marked else {})},
        updated_at=later(record["updated_at"], 1.0 if late else 0.0),
    )


async def _expect_pages(index: ThreadIndex, listing: _Listing, threads: list[Thread], limit: int) -> None:
    """Hold a listing of threads that nobody touches against what is there."""
    ids: list[str] = []
    async for page in listing.pages(index, limit):
        expect(len(page.items) <= limit, f"at most {limit} threads", page.items)
        ids += [thread.thread_id for thread in page.items]
        listing.expect_cursor(page, threads)
    wanted = [thread.thread_id for thread in listing.shelf(threads) if listing.matches(thread)]
    if ids != wanted:
        unkept(f"each thread of {listing} once, in order", differences(wanted, ids))


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
            wide = {f"k{number}": number for number in range(40)}
            await index.create(NewThread("wide", "wide", metadata=wide))
            for key, ids in [(None, ["wide"]), *((key, []) for key in wide)]:
                wanted = wide if key is None else {**wide, key: -1}
                got = [thread.thread_id for thread in await listed(index, "wide", metadata=wanted)]
                expect_same(f"threads with each of 40 entries, but for {key!r}", ids, got)
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
