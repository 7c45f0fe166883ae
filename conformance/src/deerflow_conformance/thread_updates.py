"""Checks of changing threads, and of the namespace view: T6, T7 and T10."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

from deerflow_backends.errors import Conflict, InvalidArgument
from deerflow_backends.namespaces import namespace
from deerflow_backends.threads import NewThread, Thread
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check, expect, unkept
from deerflow_conformance.crowds import differences
from deerflow_conformance.expectations import accepted, expect_same, exported, refused
from deerflow_conformance.programs import same
from deerflow_conformance.thread_programs import thread_programs
from deerflow_conformance.thread_steps import expect_touched, later, play, renamed, thread_of

# ---------------------------------------------------------------------- T6, T7


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
                (
                    {"metadata": {"c.d": 4, "a.y": 5}},
                    {"a": {"y": 2}, "b": None, "c.d": 4, "": 3, "c": {"d": 9}, "a.y": 5},
                ),
                ({"remove": ["a.y"]}, {"a": {"y": 2}, "b": None, "c.d": 4, "": 3, "c": {"d": 9}}),
                ({"metadata": {"b": True}, "remove": ["", "c", "absent"]}, {"a": {"y": 2}, "b": True, "c.d": 4}),
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
def thousands_of_keys_merge(bench: Bench) -> None:
    """Metadata of thousands of keys merges like that of a few: exactly what was told is set, kept and removed."""

    async def body() -> None:
        async with bench.open() as index:
            metadata = {f"k{number}": number for number in range(1_500)}
            await index.create(NewThread("t", "ann", metadata=metadata))
            more = {f"k{number}": -number for number in range(1_000, 3_000)}
            removed = {f"k{number}" for number in range(0, 3_000, 2)}
            steps: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
                ("one more key", {"metadata": {"one": 1}}, metadata := {**metadata, "one": 1}),
                ("2,000 keys", {"metadata": more}, metadata := {**metadata, **more}),
                ("1,500 removed", {"remove": removed}, {k: v for k, v in metadata.items() if k not in removed}),
                ("others in place of all", {"metadata": more, "replace": True}, more),
            ]
            for what, arguments, wanted in steps:
                thread = await index.update("t", user_id="ann", **arguments)
                for one in (thread, await index.get("t", user_id="ann")):
                    found = one.metadata if one is not None else {}
                    if not same(wanted, found):
                        items = [sorted(map(repr, each.items())) for each in (wanted, found)]
                        unkept(f"{len(wanted):,} keys after {what}", differences(*items))

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
            await bench.sleep(0.01)
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
def a_thread_of_the_future_grows_too(bench: Bench) -> None:
    """A thread that was restored with a time that is still to come is touched to a later one, by updates and moves."""

    async def body() -> None:
        async with bench.open() as source, bench.open() as index:
            await source.create(NewThread("template", "ann"))
            (record,) = await exported(source)
            for days in (1 / 86_400, 1 / 24, 1, 365, 73 * 365):
                ahead = renamed(record, f"{days} days", updated_at=later(record["updated_at"], days * 86_400))
                await index.restore([ahead])
                thread = thread_of(ahead)
                for touch in (True, False, True):
                    got = await index.update(thread.thread_id, user_id="ann", status=str(touch), touch=touch)
                    thread = expect_touched(thread, dataclasses.replace(thread, status=str(touch)), got, touch=touch)
                got = await index.move(thread.thread_id, user_id="ann", to_user_id="ann")
                thread = expect_touched(thread, thread, got, touch=True)
                expect_same("the first of the list", thread, (await index.list("ann", limit=1)).items[0])

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
            await asyncio.gather(*(accepted(put, "a put beside others of the same user") for put in own))
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
            await index.restore([renamed(record, f"t{n}") for n in range(1_250)])
            ids = sorted(f"t{n}" for n in range(1_250))
            view = namespace(index, "ann")
            expect_same("keys", ids, sorted([key async for key in view.keys()]))  # noqa: SIM118  # no dict
            expect_same("items", ids, sorted([key async for key, _ in view.items()]))

    bench.run(body)
