"""Checks of the thread index: T1 to T11."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import AsyncIterator, Callable
from typing import Any

from deerflow_backends.errors import Conflict, InvalidArgument
from deerflow_backends.memories import ANY
from deerflow_backends.namespaces import namespace
from deerflow_backends.threads import ANY_USER, KEEP, MAX_EXAMINED, PINNED_KEY, NewThread, Scope, Thread, ThreadIndex
from deerflow_conformance.bench import Bench
from deerflow_conformance.change_models import in_scope, thread_order, updated
from deerflow_conformance.change_programs import (
    KEYS,
    LOOKALIKES,
    STATUSES,
    USERS,
    CreateStep,
    DeleteStep,
    MoveStep,
    PagingProgram,
    ThreadStep,
    UpdateStep,
    metadata_lists,
    paging_programs,
    thread_programs,
)
from deerflow_conformance.checks import check, expect
from deerflow_conformance.expectations import answered, expect_same, exported, refused, work
from deerflow_conformance.programs import same

Threads = dict[str, Thread]


# ---------------------------------------------------------------------- programs against the model


async def _take(index: ThreadIndex, step: ThreadStep, model: Threads) -> None:
    """Take one step and hold what it answers against the model, which takes it too."""
    stored = model.get(step.thread_id)
    if isinstance(step, CreateStep):
        await _create(index, step, model)
    elif isinstance(step, DeleteStep):
        deleted = await index.delete(step.thread_id, user_id=step.scope)
        expect_same(f"delete in scope {step.scope!r}", in_scope(stored, step.scope), deleted)
        if deleted:
            del model[step.thread_id]
    elif isinstance(step, MoveStep):
        moved = await index.move(step.thread_id, user_id=step.scope, to_user_id=step.to_user_id)
        if stored is None or not in_scope(stored, step.scope):
            expect_same(f"a move out of scope {step.scope!r}", None, moved)
        else:
            model[step.thread_id] = _expect_touched(
                stored, dataclasses.replace(stored, user_id=step.to_user_id), moved, touch=True
            )
    else:
        await _update(index, step, model)


async def _create(index: ThreadIndex, step: CreateStep, model: Threads) -> None:
    new = NewThread(step.thread_id, step.user_id, step.assistant_id, step.display_name, step.status, step.metadata)
    if step.thread_id in model:
        await refused(index.create(new), Conflict, f"creating {step.thread_id!r}, which is taken")
        return
    thread = await index.create(new)
    wanted = dataclasses.replace(new)
    expect_same("the created thread", [getattr(wanted, f.name) for f in dataclasses.fields(NewThread)], _fields(thread))
    expect(thread.created_at <= thread.updated_at, "created_at not after updated_at", thread)
    model[step.thread_id] = thread


def _fields(thread: Thread) -> list[Any]:
    return [getattr(thread, field.name) for field in dataclasses.fields(NewThread)]


async def _update(index: ThreadIndex, step: UpdateStep, model: Threads) -> None:
    stored = model.get(step.thread_id)
    call = index.update(
        step.thread_id,
        user_id=step.scope,
        display_name=step.display_name,
        status=step.status,
        metadata=step.metadata,
        remove=step.remove,
        replace=step.replace,
        expected_status=ANY if step.expected_status is None else step.expected_status,
        touch=step.touch,
    )
    if stored is None or not in_scope(stored, step.scope):
        outside = f"an update out of scope {step.scope!r}"
        expect_same(outside, None, await answered(call, outside))
    elif step.expected_status not in {None, stored.status}:
        await refused(call, Conflict, f"an update expecting {step.expected_status!r} of {stored!r}")
    else:
        model[step.thread_id] = _expect_touched(stored, updated(stored, step), await call, touch=step.touch)


def _expect_touched(before: Thread, wanted: Thread, got: Thread | None, *, touch: bool) -> Thread:
    """Hold a changed thread against the model, and its time against the one before; return it."""
    if got is None:
        expect(got, f"the thread, changed to {wanted!r}", got)
    assert got is not None
    expect_same(
        "the thread after the call, but for updated_at", dataclasses.replace(wanted, updated_at=got.updated_at), got
    )
    if touch:
        expect(got.updated_at > before.updated_at, f"updated_at later than {before.updated_at}", got.updated_at)
    else:
        expect_same("updated_at with touch=False", before.updated_at, got.updated_at)
    return got


async def listed(index: ThreadIndex, scope: Scope, *, limit: int = 1_000, **filters: Any) -> list[Thread]:
    """Follow the cursor to its end."""
    threads: list[Thread] = []
    cursor = None
    while True:
        page = await index.list(scope, limit=limit, cursor=cursor, **filters)
        expect(len(page.items) <= limit, f"at most {limit} threads", page.items)
        threads += page.items
        cursor = page.next_cursor
        if cursor is None:
            return threads


async def _expect_reads(index: ThreadIndex, model: Threads, limit: int = 1_000) -> None:
    """Hold every read in every scope against the model."""
    for scope in (*USERS, ANY_USER):
        visible = [thread for thread in model.values() if in_scope(thread, scope)]
        wanted = sorted(visible, key=thread_order, reverse=True)
        expect_same(f"the threads of {scope!r}, in order", wanted, await listed(index, scope, limit=limit))
        expect_same(f"count for {scope!r}", len(wanted), await index.count(scope))
        for status in STATUSES:
            some = [thread for thread in wanted if thread.status == status]
            expect_same(
                f"threads of {scope!r} in {status!r}", some, await listed(index, scope, limit=limit, status=status)
            )
            expect_same(f"count in {status!r}", len(some), await index.count(scope, status=status))
        for thread_id, thread in model.items():
            seen = thread if in_scope(thread, scope) else None
            expect_same(f"get for {scope!r}", seen, await index.get(thread_id, user_id=scope))


async def play(bench: Bench, program: list[ThreadStep], *, limit: int = 1_000) -> None:
    """Take the steps through two instances; after each the other one must list what the model says."""
    space = bench.space()
    model: Threads = {}
    async with bench.open(space) as first, bench.open(space) as second:
        indexes = (first, second)
        for step in program:
            if step.via:
                await bench.sleep(0.001)  # only sometimes: threads of one moment are wanted, too
            await _take(indexes[step.via], step, model)
            other = indexes[1 - step.via]
            got = await other.get(step.thread_id, user_id=ANY_USER)
            expect_same("the thread, read elsewhere", model.get(step.thread_id), got)
            for user_id in USERS[:2]:
                wanted = {thread.thread_id for thread in model.values() if thread.user_id == user_id}
                ids = {thread.thread_id for thread in (await other.list(user_id, limit=1_000)).items}
                expect_same(f"the threads of {user_id!r}", sorted(wanted), sorted(ids))
        await _expect_reads(second, model, limit)


# ---------------------------------------------------------------------- T1, T2


@check("T1")
def a_list_is_exactly_the_users_threads(bench: Bench) -> None:
    """After every create, move and delete, another instance lists exactly each user's threads."""
    bench.explore(thread_programs(), lambda program: play(bench, program))


@check("T1")
def a_replica_lists_at_once(bench: Bench) -> None:
    """What create, move and delete did here a replica lists as soon as they returned, and the other way round."""

    async def body() -> None:
        space = bench.space()
        async with bench.open(space) as here, bench.replica(space) as there:
            for turn, (writer, reader) in enumerate([(here, there), (there, here)] * 2):
                thread_id = f"t{turn}"

                async def owners(index: ThreadIndex = reader, name: str = thread_id) -> list[str]:
                    return [user for user in USERS for one in await listed(index, user) if one.thread_id == name]

                await writer.create(NewThread(thread_id, "ann"))
                expect_same("owners after create", ["ann"], await owners())
                await writer.move(thread_id, user_id="ann", to_user_id="Ann")
                expect_same("owners after move", ["Ann"], await owners())
                await writer.delete(thread_id, user_id="Ann")
                expect_same("owners after delete", [], await owners())
                expect_same("the deleted thread", None, await reader.get(thread_id, user_id=ANY_USER))
                expect_same("ANY_USER's list", [], await listed(reader, ANY_USER))

    bench.run(body)


@check("T2")
def pinned_latest_then_id(bench: Bench) -> None:
    """In every scope and status: pinned first, then the latest updated, then the greatest id, whatever was done."""
    bench.explore(thread_programs(), lambda program: play(bench, program, limit=2))


@check("T2")
def only_true_pins(bench: Bench) -> None:
    """Only the value True pins, not 1 nor "true"; pinning and unpinning moves the thread, by any kind of write."""
    pins: list[Any] = [True, 1, 1.0, "true", "True", [True], {"a": True}, None, False, 0]

    async def body() -> None:
        async with bench.open() as index:
            for number, pin in enumerate(pins):
                await index.create(NewThread(f"t{number}", "ann", metadata={PINNED_KEY: pin}))
                await bench.sleep(0.002)
            await index.create(
                NewThread("other key", "ann", metadata={PINNED_KEY.upper(): True, "x": {PINNED_KEY: True}})
            )
            wanted = ["t0", "other key", *(f"t{number}" for number in reversed(range(1, len(pins))))]
            await _expect_order(index, wanted)
            await index.update("t5", user_id="ann", metadata={PINNED_KEY: True})
            await _expect_order(index, ["t5", "t0", *(name for name in wanted if name not in {"t0", "t5"})])
            await index.update("t3", user_id="ann", metadata={PINNED_KEY: True}, touch=False)
            rest = [name for name in wanted if name not in {"t0", "t3", "t5"}]
            await _expect_order(index, ["t5", "t3", "t0", *rest])
            await index.update("t3", user_id="ann", remove=[PINNED_KEY], touch=False)
            await index.update("t0", user_id="ann", metadata={}, replace=True, touch=False)
            await _expect_order(index, ["t5", *(name for name in wanted if name not in {"t0", "t5"}), "t0"])
            await index.update("t0", user_id="ann")
            await _expect_order(index, ["t5", "t0", *(name for name in wanted if name not in {"t0", "t5"})])

    bench.run(body)


async def _expect_order(index: ThreadIndex, wanted: list[str]) -> None:
    for limit in (1_000, 3):
        expect_same("the order", wanted, [one.thread_id for one in await listed(index, "ann", limit=limit)])


@check("T2")
def ties_go_by_bytes_downwards(bench: Bench) -> None:
    """Threads of the same moment order by the UTF-8 bytes of their ids, the greatest first."""
    ids = ["10", "9", "B", "a", "Z", "é", "z", "\uffee", "\U00010000", "a\x00", "a:", "ab", "e\u0301"]

    async def body() -> None:
        async with bench.open() as source, bench.open() as index:
            await source.create(NewThread("template", "ann"))
            (record,) = await exported(source)
            await index.restore([_renamed(record, thread_id) for thread_id in ids])
            await _expect_order(index, sorted(ids, key=str.encode, reverse=True))

    bench.run(body)


def _renamed(record: dict[str, Any], thread_id: str, **changed: Any) -> dict[str, Any]:
    """Return an exported thread under another id."""
    return {**record, "thread_id": thread_id, **changed}


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
            between, visited, cursor = list(program.between), list[str](), None
            while True:
                page = await index.list("ann", limit=program.limit, cursor=cursor)
                visited += [thread.thread_id for thread in page.items]
                if page.items:
                    last = thread_order(page.items[-1])
                    more = any(thread_order(thread) < last for thread in model.values())
                    expect((page.next_cursor is not None) == more, f"a cursor: {more}, after {last}", page)
                cursor = page.next_cursor
                if cursor is None:
                    break
                for action in between.pop(0) if between else ():
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
        expect(thread is not None, f"{thread_id} to be there", thread)
        assert thread is not None
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
            await index.restore([_renamed(record, f"t{n}", status=("idle", "running")[n % 2]) for n in range(12)])
            for scope, status, size in (
                ("ann", None, 12),
                (ANY_USER, None, 12),
                ("ann", "running", 6),
                ("Ann", None, 0),
            ):
                for limit in (1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 1_000):
                    sizes, cursor = list[int](), None
                    while not sizes or cursor:
                        page = await index.list(scope, status=status, limit=limit, cursor=cursor)
                        sizes.append(len(page.items))
                        cursor = page.next_cursor
                        done = sum(sizes) == size
                        expect((cursor is None) == done, f"a cursor: {not done}, after {sizes} of {size}", cursor)

    bench.run(body)


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


# ---------------------------------------------------------------------- T4


@check("T4")
def scopes_hold_in_any_program(bench: Bench) -> None:
    """Whoever asks, another user's thread is neither read, changed, moved nor deleted; every read agrees."""
    bench.explore(thread_programs(max_steps=14), lambda program: play(bench, program))


@check("T4")
def the_whole_table_of_owners(bench: Bench) -> None:
    """For each owner and each asker: who sees, changes and may use a thread; nobody but ANY_USER sees all."""
    owners: list[str | None] = [None, *USERS, "any_user", "None"]
    askers: list[Scope] = [*USERS, "any_user", "None", ANY_USER]

    async def body() -> None:
        async with bench.open() as index:
            for number, owner in enumerate(owners):
                for asker in askers:
                    thread_id = f"t{number} {asker!r}"
                    thread = await index.create(NewThread(thread_id, owner))
                    wanted = thread if asker is ANY_USER or asker == owner else None
                    expect_same(f"{owner!r}'s, got by {asker!r}", wanted, await index.get(thread_id, user_id=asker))
                    await _expect_use(index, thread, asker)
                    left = await index.get(thread_id, user_id=ANY_USER)
                    expect_same(f"{owner!r}'s after {asker!r} worked on it", None if wanted else thread, left)

    async def missing() -> None:
        async with bench.open() as index:
            await index.create(NewThread("ownerless", None))
            await index.create(NewThread("anns", "ann"))
            for thread_id, user_id, wanted in [
                *(("ownerless", user, (True, True)) for user in USERS),
                *(("anns", user, (user == "ann",) * 2) for user in USERS),
                *(("missing", user, (True, False)) for user in USERS),
                ("Anns", "ann", (True, False)),
            ]:
                may = [await index.can_access(thread_id, user_id, require_existing=must) for must in (False, True)]
                expect_same(f"access of {user_id!r} to {thread_id!r}, not required to exist and so", list(wanted), may)
            for user_id in USERS:
                expect_same("ownerless threads in a user's list", user_id == "ann", bool(await listed(index, user_id)))
            expect_same("ANY_USER's count", 2, await index.count(ANY_USER))

    bench.run(body)
    bench.run(missing)


async def _expect_use(index: ThreadIndex, thread: Thread, asker: Scope) -> None:
    """Hold what update, move and delete answer; in scope, the thread is gone afterwards."""
    mine, name = in_scope(thread, asker), thread.thread_id
    changed = await index.update(name, user_id=asker, status="running", metadata={"by": repr(asker)})
    expect_same(f"an update of {thread.user_id!r}'s by {asker!r} taking effect", mine, changed is not None)
    late = index.update(name, user_id=asker, status="late", expected_status="gone")
    if mine:
        await refused(late, Conflict, "an update expecting another status")
    else:
        expect_same("a guarded update out of scope", None, await answered(late, "a guarded update out of scope"))
    moved = await index.move(name, user_id=asker, to_user_id="ann")
    expect_same(f"a move of {thread.user_id!r}'s by {asker!r} taking effect", mine, moved is not None)
    if mine:
        expect_same("the owner after the move", "ann", moved and moved.user_id)
    deleted = await index.delete(name, user_id=ANY_USER if asker is ANY_USER else "ann" if mine else asker)
    expect_same(f"a deletion of {thread.user_id!r}'s by {asker!r}", mine, deleted)


@check("T4")
def any_user_is_asked_for_by_name(bench: Bench) -> None:
    """No scope but a user's id or ANY_USER is taken: None, empty, True and look-alikes are InvalidArgument."""

    async def body() -> None:
        async with bench.open() as index:
            thread = await index.create(NewThread("t", None))
            for scope in (None, "", True, ANY, KEEP, 0, ("ann",)):
                calls: list[tuple[str, Callable[[Any], Any]]] = [
                    ("list", index.list),
                    ("count", index.count),
                    ("get", lambda user_id: index.get("t", user_id=user_id)),
                    ("update", lambda user_id: index.update("t", user_id=user_id, status="x")),
                    ("move", lambda user_id: index.move("t", user_id=user_id, to_user_id="ann")),
                    ("delete", lambda user_id: index.delete("t", user_id=user_id)),
                    ("can_access", lambda user_id: index.can_access("t", user_id)),
                ]
                for name, call in calls:
                    await refused(call(scope), InvalidArgument, f"{name} in the scope {scope!r}")
            await refused(index.can_access("t", ANY_USER), InvalidArgument, "can_access of ANY_USER")
            await refused(index.move("t", user_id=ANY_USER, to_user_id=ANY_USER), InvalidArgument, "a move to ANY_USER")
            expect_same("the thread after refusals", thread, await index.get("t", user_id=ANY_USER))

    bench.run(body)


# ---------------------------------------------------------------------- T5, T6, T7


@check("T5")
def a_taken_id_is_a_conflict(bench: Bench) -> None:
    """Creating a taken id is a Conflict for everybody and keeps the first; look-alike and freed ids are free."""

    async def body() -> None:
        async with bench.open() as index:
            for owner in (None, "ann"):
                first = await index.create(NewThread(f"of {owner}", owner, "a", "Name", "running", {"k": 1}))
                for user_id in (None, "ann", "Ann"):
                    for new in (
                        NewThread(first.thread_id, user_id),
                        NewThread(first.thread_id, user_id, "b", "", "x", {}),
                    ):
                        await refused(index.create(new), Conflict, f"{user_id!r} creating {owner!r}'s thread again")
                        expect_same("the first thread", first, await index.get(first.thread_id, user_id=ANY_USER))
                        expect_same("the list of Ann", [], await listed(index, "Ann"))
            expect_same("the count", 2, await index.count(ANY_USER))
            for thread_id in ("OF ann", "of ann ", "of ann\x00", "of  ann"):
                await index.create(NewThread(thread_id, "Ann"))
            await index.delete("of ann", user_id="ann")
            again = await index.create(NewThread("of ann", "Ann"))
            expect_same("a freed id, created again", ("Ann", "idle", {}), (again.user_id, again.status, again.metadata))

    bench.run(body)


@check("T5")
def one_rival_creates(bench: Bench) -> None:
    """Of rivals creating one id at once, over replicas, exactly one wins and the thread is its own."""

    async def body() -> None:
        space = bench.space()
        async with bench.open(space) as first, bench.open(space) as second, bench.replica(space) as third:
            for turn in range(4):
                rivals = [
                    index.create(NewThread(f"t{turn}", f"user{number}", metadata={"by": number}))
                    for number, index in enumerate([first, second, third] * 3)
                ]
                results = await asyncio.gather(*rivals, return_exceptions=True)
                winners = [result for result in results if isinstance(result, Thread)]
                losers = sum(isinstance(result, Conflict) for result in results)
                expect((len(winners), losers) == (1, len(rivals) - 1), "one winner, Conflict for the others", results)
                expect_same("the stored thread", winners[0], await second.get(f"t{turn}", user_id=ANY_USER))
                lists = [await first.count(f"user{number}") for number in range(len(rivals))]
                expect_same("threads listed for the rivals", turn + 1, sum(lists))

    bench.run(body)


@check("T6")
def metadata_merges_key_by_key(bench: Bench) -> None:
    """Under any updates metadata is what merging, removing and replacing keys one by one gives, types and all."""
    bench.explore(thread_programs(max_steps=14), lambda program: play(bench, program))


@check("T6")
def none_is_a_value_and_values_are_whole(bench: Bench) -> None:
    """None is stored, nested objects are replaced whole, only `remove` removes; contradictions are refused."""

    async def body() -> None:
        async with bench.open() as index:
            await index.create(NewThread("t", "ann", metadata={"a": {"x": 1}, "b": 1, "c.d": 2, "": 3}))
            steps: list[tuple[dict[str, Any], dict[str, Any]]] = [
                ({"metadata": {"a": {"y": 2}}}, {"a": {"y": 2}, "b": 1, "c.d": 2, "": 3}),
                ({"metadata": {"b": None, "c": {"d": 9}}}, {"a": {"y": 2}, "b": None, "c.d": 2, "": 3, "c": {"d": 9}}),
                ({"metadata": {"b": True}, "remove": ["", "c", "absent"]}, {"a": {"y": 2}, "b": True, "c.d": 2}),
                ({"remove": iter(["c.d", "b"])}, {"a": {"y": 2}}),
                ({"metadata": {"a": 1.0}, "touch": False}, {"a": 1.0}),
                ({"metadata": {}}, {"a": 1.0}),
                ({"metadata": {"z": None}, "replace": True}, {"z": None}),
                ({"metadata": {}, "replace": True}, {}),
            ]
            for arguments, wanted in steps:
                thread = await index.update("t", user_id="ann", **arguments)
                expect_same(f"metadata after {arguments!r}", wanted, thread and thread.metadata)
            before = await index.get("t", user_id="ann")
            contradictions: list[dict[str, Any]] = [
                {"metadata": {"k": 1}, "remove": ["k"]},
                {"metadata": {"k": 1}, "remove": ["x"], "replace": True},
                {"metadata": {"k": float("inf")}},
                {"metadata": [1]},
                {"metadata": {"k": "x" * (8 * 2**20)}},
                {"remove": "k"},
                {"remove": [1]},
            ]
            for arguments in contradictions:
                call = index.update("t", user_id="ann", status="x", **arguments)
                await refused(call, InvalidArgument, f"an update with {str(arguments)[:100]}")
            expect_same("the thread after refusals", before, await index.get("t", user_id="ann"))

    bench.run(body)


@check("T6")
def a_hundred_updates_all_land(bench: Bench) -> None:
    """A hundred concurrent updates of different keys, over replicas, all land, and so do removals among them."""

    async def body() -> None:
        space = bench.space()
        async with bench.open(space) as first, bench.open(space) as second, bench.replica(space) as third:
            await first.create(NewThread("t", "ann", metadata={f"old{n}": n for n in range(10)}))
            indexes = [first, second, third]
            merges = [indexes[n % 3].update("t", user_id="ann", metadata={f"k{n}": n}) for n in range(100)]
            removals = [indexes[n % 3].update("t", user_id="ann", remove=[f"old{n}"]) for n in range(10)]
            await asyncio.gather(*merges, *removals)
            thread = await second.get("t", user_id="ann")
            expect_same("the merged metadata", {f"k{n}": n for n in range(100)}, thread and thread.metadata)

    bench.run(body)


@check("T7")
def updated_at_grows_with_each_touch(bench: Bench) -> None:
    """Among any updates and moves, updated_at grows strictly with each touching one and only with those."""
    bench.explore(thread_programs(max_steps=14), lambda program: play(bench, program))


@check("T7")
def many_touches_at_once_all_grow(bench: Bench) -> None:
    """Touches in quick succession and at once, over replicas, give different, growing times; touch=False keeps it."""

    async def body() -> None:
        space = bench.space()
        async with bench.open(space) as first, bench.open(space) as second, bench.replica(space) as third:
            created = await first.create(NewThread("t", "ann"))
            times = [created.updated_at]
            for index in [first, second, third] * 4:
                touched = await index.update("t", user_id="ann")
                kept = await index.update("t", user_id="ann", status="running", metadata={"k": len(times)}, touch=False)
                expect_same("updated_at with touch=False", touched and touched.updated_at, kept and kept.updated_at)
                moved = await index.move("t", user_id="ann", to_user_id="ann")
                times += [one.updated_at for one in (touched, moved) if one is not None]
            expect(len(times) == 25 and times == sorted(set(times)), "25 growing times", times)
            both = [
                index.update("t", user_id="ann", metadata={"n": n})
                for n, index in enumerate([first, second, third] * 4)
            ]
            at_once = {thread.updated_at for thread in await asyncio.gather(*both) if thread is not None}
            expect(len(at_once) == 12 and min(at_once) > times[-1], "12 different, later times", sorted(at_once))
            last = await second.get("t", user_id="ann")
            expect_same("the last time", max(at_once), last and last.updated_at)
            expect_same("created_at", created.created_at, last and last.created_at)

    bench.run(body)


@check("T7")
def a_late_status_is_a_conflict(bench: Bench) -> None:
    """expected_status guards: a late writer gets Conflict and changes nothing; of rivals exactly one wins."""

    async def body() -> None:
        space = bench.space()
        async with bench.open(space) as first, bench.open(space) as second, bench.replica(space) as third:
            await first.create(NewThread("t", "ann", status="run 1"))
            running = await second.update("t", user_id="ann", status="run 2", expected_status="run 1")
            late = third.update("t", user_id="ann", status="idle", metadata={"k": 1}, expected_status="run 1")
            await refused(late, Conflict, "a late idle")
            for status in ("Run 2", "run 2 ", "idle"):
                await refused(first.update("t", user_id="ann", expected_status=status), Conflict, f"{status!r}")
            expect_same("the thread after late writers", running, await first.get("t", user_id="ann"))
            expect_same(
                "a guarded update of no thread", None, await first.update("x", user_id="ann", expected_status="a")
            )
            for turn in range(2, 5):
                rivals = [
                    index.update(
                        "t", user_id="ann", status=f"run {turn + 1}", metadata={"by": n}, expected_status=f"run {turn}"
                    )
                    for n, index in enumerate([first, second, third] * 3)
                ]
                results = await asyncio.gather(*rivals, return_exceptions=True)
                winners = [result for result in results if isinstance(result, Thread)]
                losers = sum(isinstance(result, Conflict) for result in results)
                expect((len(winners), losers) == (1, len(rivals) - 1), "one winner, Conflict for the others", results)
                expect_same("the stored thread", winners[0], await second.get("t", user_id="ann"))

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
            rare = _renamed(record, "a", metadata={"rare": True}, user_id="many")
            rows = [_renamed(record, f"t{n:05}", user_id="many") for n in range(3 * MAX_EXAMINED)]
            few = [_renamed(record, f"few{n:05}") for n in range(MAX_EXAMINED + 200)]
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
    """The first page, a deep one and one by status cost as much for 10,000 threads as for 100."""
    sizes = {"few": 100, "many": 10_000}

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
            yield _renamed(record, f"{user_id}{number}", user_id=user_id, status=("idle", "running")[number % 2])


# ---------------------------------------------------------------------- T10


@check("T10")
def a_namespace_is_the_users_threads(bench: Bench) -> None:
    """Putting creates and replaces whole values; get, keys, items and delete see that user's entries only."""

    async def body() -> None:
        async with bench.open() as index:
            anns, others = namespace(index, "ann"), namespace(index, "Ann")
            expect_same("a missing key", None, await anns.get("k"))
            await anns.put("k", {"a": 1, "b": {"c": None}})
            await anns.put("k", {"a": 1.0})
            await anns.put("k2", {})
            expect_same("a replaced value", {"a": 1.0}, await anns.get("k"))
            thread = await index.get("k", user_id="ann")
            expect_same("the entry as a thread", ("ann", {"a": 1.0}), thread and (thread.user_id, thread.metadata))
            await index.create(NewThread("made as thread", "ann", metadata={"x": True}))
            wanted = {"k": {"a": 1.0}, "k2": {}, "made as thread": {"x": True}}
            expect_same("items", wanted, {key: value async for key, value in anns.items()})
            expect_same("keys", sorted(wanted), sorted([key async for key in anns.keys()]))  # noqa: SIM118  # no dict
            expect_same("a neighbour's get", None, await others.get("k"))
            expect_same("a neighbour's keys", [], [key async for key in others.keys()])  # noqa: SIM118  # no dict
            expect_same("a neighbour's delete", False, await others.delete("k"))
            await refused(others.put("k", {"stolen": True}), Conflict, "put of another user's key")
            expect_same("the value after that", {"a": 1.0}, await anns.get("k"))
            expect_same("deleting", [True, False], [await anns.delete("k"), await anns.delete("k")])
            await others.put("k", {"mine": True})
            expect_same("a freed key", {"mine": True}, await others.get("k"))
            expect_same("its former owner's get", None, await anns.get("k"))
            no_values: list[Any] = [["k"], {"k": float("nan")}, None]
            for bad in no_values:
                await refused(anns.put("k2", bad), InvalidArgument, f"put of {bad!r}")
            expect_same("the value after refusals", {}, await anns.get("k2"))

    bench.run(body)


@check("T10")
def rival_puts_leave_one_whole_value(bench: Bench) -> None:
    """Of users who put one new key at once one owns it; of puts by one user the last stays, whole."""

    async def body() -> None:
        space = bench.space()
        async with bench.open(space) as first, bench.open(space) as second:
            indexes = [first, second] * 4
            rivals = [namespace(index, f"user{n}").put("k", {"by": n}) for n, index in enumerate(indexes)]
            results = await asyncio.gather(*rivals, return_exceptions=True)
            losers = sum(isinstance(result, Conflict) for result in results)
            expect(losers == len(rivals) - 1, "one owner, Conflict for the others", results)
            winner = next(n for n, result in enumerate(results) if result is None)
            expect_same("the winner's value", {"by": winner}, await namespace(second, f"user{winner}").get("k"))
            own = [namespace(index, "ann").put("own", {f"only {n}": n}) for n, index in enumerate(indexes)]
            await asyncio.gather(*own)
            value = await namespace(first, "ann").get("own")
            expect(value is not None and len(value) == 1, "the value of one put, whole", value)

    bench.run(body)


@check("T10")
def items_come_beyond_one_page(bench: Bench) -> None:
    """The keys and items give every entry once where there are more than fit in a page."""

    async def body() -> None:
        async with bench.open() as source, bench.open() as index:
            await source.create(NewThread("template", "ann", metadata={"k": 1}))
            (record,) = await exported(source)
            await index.restore([_renamed(record, f"t{n}") for n in range(1_250)])
            ids = sorted(f"t{n}" for n in range(1_250))
            view = namespace(index, "ann")
            expect_same("keys", ids, sorted([key async for key in view.keys()]))  # noqa: SIM118  # no dict
            expect_same("items", ids, sorted([key async for key, _ in view.items()]))

    bench.run(body)


# ---------------------------------------------------------------------- T11


@check("T11")
def a_copy_reads_the_same(bench: Bench) -> None:
    """After any program, restoring its export elsewhere makes every read equal; once more it changes nothing."""

    async def body(program: list[ThreadStep]) -> None:
        model: Threads = {}
        async with bench.open() as index, bench.open() as copy:
            for step in program:
                await _take(index, step, model)
            records = await exported(index)
            await bench.sleep(0.01)
            expect_same("records exported", len(model), len(records))
            expect_same("records restored", len(records), await copy.restore(records))
            await _expect_reads(copy, model)
            expect_same("records restored again", 0, await copy.restore(records))
            await _expect_reads(copy, model, 2)
            for thread in list(model.values()):
                touched = await copy.update(thread.thread_id, user_id=ANY_USER)
                _expect_touched(thread, thread, touched, touch=True)

    bench.explore(thread_programs(), body)


@check("T11")
def a_different_record_is_a_conflict(bench: Bench) -> None:
    """A record that meets a different thread is a Conflict and stays unwritten; those before it were written."""

    async def body() -> None:
        async with bench.open() as source, bench.open() as target:
            before = [await source.create(NewThread(name, "ann", metadata={"k": 1})) for name in ("a", "b", "c")]
            records = {record["thread_id"]: record for record in await exported(source)}
            for changed in ({"metadata": {"k": 1.0}}, {"user_id": "Ann"}, {"display_name": ""}, {"status": "x"}):
                async with bench.open() as other:
                    await other.restore([{**records["b"], **changed}])
                    stored = await other.get("b", user_id=ANY_USER)
                    await refused(other.restore(list(records.values())), Conflict, f"a thread that has {changed!r}")
                    expect_same("the stored thread", stored, await other.get("b", user_id=ANY_USER))
            await target.create(NewThread("b", "Ann"))
            call = target.restore(record for record in (records["a"], records["b"], records["c"]))
            await refused(call, Conflict, "another user's thread of the same id")
            expect_same("the one before", before[0], await target.get("a", user_id="ann"))
            expect_same("its list", before[:1], await listed(target, "ann"))

    bench.run(body)


@check("T11")
def what_is_no_record_is_refused(bench: Bench) -> None:
    """Restoring anything that is no exported record is InvalidArgument, and it leaves nothing behind."""

    async def body() -> None:
        async with bench.open() as source, bench.open() as target:
            await source.create(NewThread("t", "ann"))
            (good,) = await exported(source)
            for bad in ({}, {"thread_id": "t"}, "record", None, 7, [good], {**good, "surplus": 1}):
                await refused(target.restore([bad]), InvalidArgument, f"restoring {bad!r}")
            for key in good:
                await refused(target.restore([{**good, key: object}]), InvalidArgument, f"a record with a bad {key}")
            expect_same("records after refusals", [], await exported(target))

    bench.run(body)
