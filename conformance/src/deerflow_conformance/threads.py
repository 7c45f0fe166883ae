"""Checks of the thread index: T1, T2, T4 and T5; the others are in modules of their own."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from deerflow_backends.errors import Conflict, InvalidArgument
from deerflow_backends.memories import ANY
from deerflow_backends.threads import ANY_USER, KEEP, PINNED_KEY, NewThread, Scope, Thread, ThreadIndex
from deerflow_conformance.bench import Bench
from deerflow_conformance.change_models import in_scope
from deerflow_conformance.checks import check, expect
from deerflow_conformance.expectations import accepted, expect_same, exported, refused
from deerflow_conformance.programs import USERS
from deerflow_conformance.thread_programs import thread_programs
from deerflow_conformance.thread_steps import expect_order, expect_touched, later, listed, play, renamed

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


@check("T1")
def a_thread_stays_however_long_it_is_idle(bench: Bench) -> None:
    """What nobody touched for years, or for a year by the clock that the backend is given, is there like any other."""
    years = timedelta(days=20 * 365).total_seconds()
    passed_microseconds = timedelta(days=365) // timedelta(microseconds=1)

    async def body() -> None:
        clock = (space := bench.space()).clock
        async with bench.open() as source, bench.open(space) as index:
            await source.create(NewThread("template", "ann"))
            (record,) = await exported(source)
            times = {name: later(record[name], -years) for name in ("created_at", "updated_at")}
            await index.restore([renamed(record, "old", **times)])
            await index.create(NewThread("new", "ann"))
            wanted = await _read_in_every_way(index)
            expect_same("threads", ["new", "old"], [thread.thread_id for thread in wanted])
        async with bench.open(replace(space, clock=lambda: clock() + passed_microseconds)) as index:
            await bench.sleep(100 if bench.virtual else 0)  # what is swept is swept by then
            expect_same("threads a year later", wanted, await _read_in_every_way(index))
            for thread in wanted:
                touched = await index.update(thread.thread_id, user_id="ann")
                expect_touched(thread, thread, touched, touch=True)
                expect_same("its deletion", True, await index.delete(thread.thread_id, user_id="ann"))

    bench.run(body)


async def _read_in_every_way(index: ThreadIndex) -> list[Thread]:
    """Return ann's threads, which are all there are and idle; expect every read to show them."""
    threads = await listed(index, "ann")
    scopes: tuple[Scope, ...] = ("ann", ANY_USER)
    for scope, status in itertools.product(scopes, (None, "idle")):
        asked = f"by {scope!r}, of the status {status!r}"
        expect_same(f"threads listed {asked}", threads, await listed(index, scope, status=status))
        expect_same(f"threads counted {asked}", len(threads), await index.count(scope, status=status))
    for thread in threads:
        expect_same("the thread", thread, await index.get(thread.thread_id, user_id="ann"))
        may = [await index.can_access(thread.thread_id, user, require_existing=True) for user in ("ann", "Ann")]
        expect_same("access of its owner and of another", [True, False], may)
    return threads


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
            await expect_order(index, wanted)
            await index.update("t5", user_id="ann", metadata={PINNED_KEY: True})
            await expect_order(index, ["t5", "t0", *(name for name in wanted if name not in {"t0", "t5"})])
            await index.update("t3", user_id="ann", metadata={PINNED_KEY: True}, touch=False)
            rest = [name for name in wanted if name not in {"t0", "t3", "t5"}]
            await expect_order(index, ["t5", "t3", "t0", *rest])
            await index.update("t3", user_id="ann", remove=[PINNED_KEY], touch=False)
            await index.update("t0", user_id="ann", metadata={}, replace=True, touch=False)
            await expect_order(index, ["t5", *(name for name in wanted if name not in {"t0", "t5"}), "t0"])
            await index.update("t0", user_id="ann")
            await expect_order(index, ["t5", "t0", *(name for name in wanted if name not in {"t0", "t5"})])

    bench.run(body)


@check("T2")
def ties_go_by_bytes_downwards(bench: Bench) -> None:
    """Threads of the same moment order by the UTF-8 bytes of their ids, the greatest first."""
    ids = ["10", "9", "B", "a", "Z", "é", "z", "\uffee", "\U00010000", "a\x00", "a:", "ab", "e\u0301"]

    async def body() -> None:
        async with bench.open() as source, bench.open() as index:
            await source.create(NewThread("template", "ann"))
            (record,) = await exported(source)
            await index.restore([renamed(record, thread_id) for thread_id in ids])
            await expect_order(index, sorted(ids, key=str.encode, reverse=True))

    bench.run(body)


# ---------------------------------------------------------------------- T4


@check("T4")
def scopes_hold_in_any_program(bench: Bench) -> None:
    """Whoever asks, another user's thread is neither read, changed, moved nor deleted; every read agrees."""
    bench.explore(thread_programs(max_steps=14), lambda program: play(bench, program))


@check("T4")
def the_whole_table_of_owners(bench: Bench) -> None:
    """For each owner and each asker: who sees, changes and may use a thread; nobody but ANY_USER sees all."""
    # The last ones a careless store takes for all users, or for none.
    users = tuple(dict.fromkeys((*USERS, "any_user", "None", "null", "*")))
    owners: tuple[str | None, ...] = (None, *users)
    askers: tuple[Scope, ...] = (*users, ANY_USER)

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
            owned: dict[str, str | None] = {"ownerless": None, "anns": "ann", "nones": "None"}
            for thread_id, owner in owned.items():
                await index.create(NewThread(thread_id, owner))
            for user_id in users:
                for thread_id, owner in owned.items():
                    await _expect_access(index, thread_id, user_id, (owner in {None, user_id},) * 2)
                for thread_id in ("missing", "Anns"):
                    await _expect_access(index, thread_id, user_id, (True, False))
            for scope in askers:
                wanted = sorted(thread_id for thread_id, owner in owned.items() if scope in {ANY_USER, owner})
                for status in (None, "idle"):
                    ids = sorted(thread.thread_id for thread in await listed(index, scope, status=status))
                    expect_same(f"what {scope!r} lists, of the status {status!r}", wanted, ids)
                    count = await index.count(scope, status=status)
                    expect_same(f"what {scope!r} counts, of the status {status!r}", len(wanted), count)

    bench.run(body)
    bench.run(missing)


async def _expect_access(index: ThreadIndex, thread_id: str, user_id: str, wanted: tuple[bool, bool]) -> None:
    may = [await index.can_access(thread_id, user_id, require_existing=must) for must in (False, True)]
    expect_same(f"access of {user_id!r} to {thread_id!r}, not required to exist and so", list(wanted), may)


async def _expect_use(index: ThreadIndex, thread: Thread, asker: Scope) -> None:
    """Hold what update, move and delete answer; in scope, the thread is gone afterwards."""
    mine, name = in_scope(thread, asker), thread.thread_id
    changed = await index.update(name, user_id=asker, status="running", metadata={"by": repr(asker)})
    expect_same(f"an update of {thread.user_id!r}'s by {asker!r} taking effect", mine, changed is not None)
    late = index.update(name, user_id=asker, status="late", expected_status="gone")
    if mine:
        await refused(late, Conflict, "an update expecting another status")
    else:
        expect_same("a guarded update out of scope", None, await accepted(late, "a guarded update out of scope"))
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


# ---------------------------------------------------------------------- T5


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
                await accepted(index.create(NewThread(thread_id, "Ann")), f"creating {thread_id!r} beside 'of ann'")
            await index.delete("of ann", user_id="ann")
            again = await accepted(index.create(NewThread("of ann", "Ann")), "creating what was deleted")
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
