"""Checks of copying a memory store: M12."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

from deerflow_backends.errors import Conflict, InvalidArgument
from deerflow_backends.memories import (
    Change,
    DeleteFact,
    MemoryStore,
    PutBody,
    PutFact,
    Record,
)
from deerflow_conformance.bench import Bench
from deerflow_conformance.change_models import UserMemory
from deerflow_conformance.checks import check, expect
from deerflow_conformance.expectations import accepted, expect_same, exported, refused
from deerflow_conformance.memory_programs import AGENTS, MemoryStep, memory_programs
from deerflow_conformance.memory_steps import Users, all_reads, take


@check("M12")
def a_copy_reads_the_same(bench: Bench) -> None:
    """After any program, restoring its export elsewhere makes every read equal; once more it changes nothing."""

    async def body(program: list[MemoryStep]) -> None:
        source, target = bench.space(), bench.space()
        users: Users = defaultdict(UserMemory)
        async with bench.open(source) as store, bench.open(target) as copy:
            for step in program:
                await take(store, step, users[step.user_id])
            records = await exported(store)
            await bench.sleep(0.01)
            expect_same("records restored", len(records), await copy.restore(records))
            before = await all_reads(store, users)
            expect_same("every read of the copy", before, await all_reads(copy, users))
            expect_same("records restored again", 0, await copy.restore(records))
            expect_same("every read after restoring again", before, await all_reads(copy, users))
            for user_id, model in users.items():
                go_on: list[Change] = [PutFact(None, "one more", {"n": []})]
                applied = await copy.apply(user_id, go_on, expected_revision=model.revision)
                model.apply(go_on).expect(applied)

    bench.explore(memory_programs(removals=True), body)


@check("M12")
def every_part_is_copied(bench: Bench) -> None:
    """A copy has the shared memory, every agent with a body or facts, and what was changed, deleted and cleared."""

    async def body() -> None:
        async with bench.open() as source, bench.open() as target:
            for user_id in (None, "ann", "Ann"):
                for n in range(3):
                    await source.apply(user_id, [PutFact(None, "f", {"n": n}), PutBody("body alone", {"n": n})])
                    await bench.sleep(0.01)
                await source.apply(user_id, [PutFact("facts alone", f"f{n}", {"n": n}) for n in range(3)])
                await source.apply(user_id, [DeleteFact("facts alone", "f1")])
            await source.clear("Ann")
            await target.restore(await exported(source))
            for user_id in (None, "ann", "Ann"):
                wanted = await all_reads(source, [user_id])
                expect_same(f"every read of {user_id!r}", wanted, await all_reads(target, [user_id]))

    bench.run(body)


@check("M12")
def an_export_bears_writers(bench: Bench) -> None:
    """While others write and erase, an export has each user whole, as of one revision, and those at rest unharmed."""
    erased = ("gone before", "gone soon")
    at_rest = ("first", "last")

    async def body() -> None:
        async with bench.open() as source, bench.open() as copy:
            for user_id in (at_rest[0], erased[0], "busy", erased[1], at_rest[1]):
                await source.apply(user_id, _marked(1))
            marks: dict[int, int | None] = {1: 1}

            async def write(n: int) -> None:
                marks[(await source.apply("busy", _marked(n))).revision] = n
                for user_id in erased:
                    await source.erase(user_id)

            records, writing = list[Record](), list[asyncio.Future[None]]()
            async for record in source.export():
                records.append(record)
                writing.append(asyncio.ensure_future(write(len(records) + 1)))
                await asyncio.wait(writing, timeout=0.1)  # a store may have them wait for the end of the export
            await asyncio.gather(*writing)
            restored = await accepted(copy.restore(records), "what was exported while others wrote")
            expect_same("records restored", len(records), restored)
            for user_id in at_rest:
                await _expect_marks(copy, user_id, {1: 1})
            for user_id in erased:
                await _expect_marks(copy, user_id, {0: None, 1: 1})
            await _expect_marks(copy, "busy", marks)

    bench.run(body)


def _marked(n: int) -> list[Change]:
    """Return changes of three parts, after which each body and fact is marked *n*."""
    return [change for agent in AGENTS[:3] for change in (PutBody(agent, {"n": n}), PutFact(agent, "f", {"n": n}))]


async def _expect_marks(store: MemoryStore, user_id: str, marks: dict[int, int | None]) -> None:
    """Expect all parts at one revision, with its mark; None marks what is empty."""
    parts = [await store.load(user_id, agent_name=agent) for agent in AGENTS[:3]]
    revision = parts[0].revision
    expect(revision in marks, f"{user_id!r} at a revision of {sorted(marks)}", parts)
    mark = marks[revision]
    wanted = (revision, {}, []) if mark is None else (revision, {"n": mark}, [{"n": mark}])
    for part in parts:
        got = (part.revision, part.body, [fact.value for fact in part.facts])
        expect_same(f"(revision, body, facts) of {user_id!r} in part {part.agent_name!r}", wanted, got)


@check("M12")
def an_emptied_body_keeps_its_revision(bench: Bench) -> None:
    """A body that was put and is {} again is copied with its revision, alone in its part and beside facts."""

    async def body() -> None:
        async with bench.open() as source, bench.open() as target:
            for agent_name in ("bare", "full"):
                for value in ({"n": 1}, {}):
                    await source.apply("ann", [PutBody(agent_name, value)])
            await source.apply("ann", [PutFact("full", "f", {"n": 1})])
            await target.restore(await exported(source))
            for agent_name in ("bare", "full"):
                wanted = await source.load("ann", agent_name=agent_name)
                expect_same("the revision of a body put twice", 2, wanted.body_revision)
                expect_same("the copy", wanted, await target.load("ann", agent_name=agent_name))

    bench.run(body)


@check("M12")
def a_different_record_is_a_conflict(bench: Bench) -> None:
    """A record that meets a different one is a Conflict and stays unwritten; those before it were written."""

    async def body() -> None:
        async with bench.open() as bobs, bench.open() as anns, bench.open() as target:
            await bobs.apply("bob", [PutFact("a", "f", {"n": 1}), PutBody(None, {"n": 1})])
            await anns.apply("ann", [PutFact("a", "f", {"n": 1}), PutFact(None, "g", {"n": 1})])
            await target.apply("ann", [PutFact("a", "f", {"n": 2}), PutBody(None, {"n": 2})])
            before = await all_reads(target, ["ann"])
            records = [*await exported(bobs), *await exported(anns)]

            async def one_by_one() -> Any:
                for record in records:
                    yield record

            await refused(target.restore(one_by_one()), Conflict, "a different record of ann")
            expect_same("ann after the conflict", before, await all_reads(target, ["ann"]))
            wanted = await all_reads(bobs, ["bob"])
            expect_same("bob, who came before", wanted, await all_reads(target, ["bob"]))
            await bobs.apply("bob", [PutFact("a", "f", {"n": 1.0})])
            await refused(target.restore(await exported(bobs)), Conflict, "a later state of bob")
            expect_same("bob after the conflict", wanted, await all_reads(target, ["bob"]))

    bench.run(body)


@check("M12")
def what_is_no_record_is_refused(bench: Bench) -> None:
    """Restoring anything that is no exported record is InvalidArgument, and it leaves nothing behind."""

    async def body() -> None:
        async with bench.open() as source, bench.open() as target:
            await source.apply("ann", [PutFact("a", "f", {"n": 1})])
            good = (await exported(source))[0]
            for bad in ({}, {"user_id": "ann"}, "record", None, 7, [good], {**good, "surplus": 1}):
                await refused(target.restore([bad]), InvalidArgument, f"restoring {bad!r}")
            for key in good:
                await refused(target.restore([{**good, key: object}]), InvalidArgument, f"a record with a bad {key}")
            expect_same("records after refusals", [], await exported(target))

    bench.run(body)
