"""Checks of copying a thread index: T11."""

from __future__ import annotations

from deerflow_backends.errors import Conflict, InvalidArgument
from deerflow_backends.memories import Record
from deerflow_backends.threads import ANY_USER, PINNED_KEY, NewThread, ThreadIndex
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check, unkept
from deerflow_conformance.crowds import differences
from deerflow_conformance.expectations import accepted, expect_same, exported, refused
from deerflow_conformance.thread_programs import ThreadStep, thread_programs
from deerflow_conformance.thread_steps import Threads, expect_reads, expect_touched, listed, renamed, take


@check("T11")
def a_copy_reads_the_same(bench: Bench) -> None:
    """After any program, restoring its export elsewhere makes every read equal; once more it changes nothing."""

    async def body(program: list[ThreadStep]) -> None:
        model: Threads = {}
        async with bench.open() as index, bench.open() as copy:
            for step in program:
                await take(index, step, model)
            records = await exported(index)
            await bench.sleep(0.01)
            expect_same("records exported", len(model), len(records))
            expect_same("records restored", len(records), await copy.restore(records))
            await expect_reads(copy, model)
            expect_same("records restored again", 0, await copy.restore(records))
            await expect_reads(copy, model, 2)
            for thread in list(model.values()):
                touched = await copy.update(thread.thread_id, user_id=ANY_USER)
                expect_touched(thread, thread, touched, touch=True)

    bench.explore(thread_programs(), body)


@check("T11")
def every_thread_is_copied(bench: Bench) -> None:
    """A copy has every field of every thread: those without owner, empty names, times of creation and of the touch."""

    async def body() -> None:
        async with bench.open() as source, bench.open() as target:
            await source.create(NewThread("wide", "ann", metadata={f"k{number}": number for number in range(2_500)}))
            for number, user_id in enumerate((None, "ann", "Ann")):
                name = ("", None, "Ü\x00")[number]
                await source.create(
                    NewThread(f"t{number}", user_id, "agent", name, "running", {PINNED_KEY: True, "": None})
                )
                await source.create(NewThread(f"plain {number}", user_id))
            await bench.sleep(0.01)
            await source.update("t1", user_id="ann", metadata={"k": -0.0})
            await target.restore(await exported(source))
            wanted = await listed(source, ANY_USER)
            expect_same("all threads", wanted, await listed(target, ANY_USER))
            expect_same("ann's", [one for one in wanted if one.user_id == "ann"], await listed(target, "ann"))

    bench.run(body)


@check("T11")
def a_copy_made_while_others_write_is_whole(bench: Bench) -> None:
    """An export that others write beside can be restored, and has each thread that nobody changed meanwhile once.

    Before and after their records came, threads are touched, moved and deleted; there are more than fit in a page.
    """

    async def body() -> None:
        space = bench.space()
        async with bench.open() as source, bench.open(space) as index, bench.open(space) as other:
            await source.create(NewThread("template", "ann"))
            (record,) = await exported(source)
            ahead = {f"t{n}": renamed(record, f"t{n}", user_id=("ann", "Ann", None)[n % 3]) for n in range(1_250)}
            expect_same("threads restored", len(ahead), await index.restore(ahead.values()))
            came, quiet = list[Record](), set(ahead)
            async for one in index.export():
                came.append(one)
                ahead.pop(one["thread_id"], None)
                if len(came) % 100 == 1:
                    quiet -= await _disturb(bench, other, list(ahead))
                    quiet -= await _disturb(bench, other, [past["thread_id"] for past in came])
                    await other.create(NewThread(f"new {len(came)}", "ann"))
            told = [one["thread_id"] for one in came if one["thread_id"] in quiet]
            if sorted(told) != sorted(quiet):
                unkept("a record of each thread that nobody changed", differences(sorted(quiet), sorted(told)))
            async with bench.open() as target:
                await accepted(target.restore(came), "restoring what was exported meanwhile")
                both = [await listed(one, ANY_USER) for one in (index, target)]
                wanted, got = ([thread for thread in every if thread.thread_id in quiet] for every in both)
                expect_same("those threads in the copy", wanted, got)

    bench.run(body)


async def _disturb(bench: Bench, index: ThreadIndex, thread_ids: list[str]) -> set[str]:
    """Touch, move and delete one each of these threads, if there are enough; return which."""
    if len(thread_ids) < 3:
        return set()
    touched, moved, deleted = bench.random.sample(thread_ids, 3)
    await index.update(touched, user_id=ANY_USER, status="touched")
    await index.move(moved, user_id=ANY_USER, to_user_id="moved")
    await index.delete(deleted, user_id=ANY_USER)
    return {touched, moved, deleted}


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
