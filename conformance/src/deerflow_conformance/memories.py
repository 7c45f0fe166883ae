"""Checks of the memory store: M1 to M9, M11 and M12."""

from __future__ import annotations

import asyncio
import functools
import unicodedata
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from fractions import Fraction
from typing import Any

from deerflow_backends.errors import BackendsError, Conflict, InvalidArgument, RevisionConflict
from deerflow_backends.memories import (
    ABSENT,
    ALL,
    ANY,
    Applied,
    Change,
    DeleteFact,
    Expected,
    Fact,
    Memory,
    MemoryStore,
    PutBody,
    PutFact,
)
from deerflow_backends.paging import Page
from deerflow_conformance.bench import Bench
from deerflow_conformance.change_models import PredictedConflict, UserMemory
from deerflow_conformance.change_programs import (
    AGENTS,
    FACT_IDS,
    USERS,
    ApplyStep,
    ClearStep,
    Guess,
    MemoryStep,
    PagingProgram,
    SearchProgram,
    memory_programs,
    paging_programs,
    search_programs,
)
from deerflow_conformance.checks import check, expect
from deerflow_conformance.expectations import expect_same, exported, plain, refused, repeated_while, work

Users = dict[str | None, UserMemory]


# ---------------------------------------------------------------------- programs against the model


async def _take(store: MemoryStore, step: MemoryStep, model: UserMemory) -> None:
    """Take one step and hold what it answers against the model, which takes it too."""
    if isinstance(step, ApplyStep):
        changes, expected_revision = model.changes(step)
        conflict = model.conflict(changes, expected_revision)
        if conflict is None:
            applied = await store.apply(step.user_id, changes, expected_revision=expected_revision)
            model.apply(changes).expect(applied)
        else:
            call = store.apply(step.user_id, changes, expected_revision=expected_revision)
            _expect_told(conflict, await refused(call, RevisionConflict, f"{changes!r} on {model!r}"))
    elif isinstance(step, ClearStep):
        wanted = model.clear(step.agent_name)
        expect_same("the revision after clear", wanted, await store.clear(step.user_id, agent_name=step.agent_name))
    else:
        await store.erase(step.user_id)
        model.revision, model.bodies, model.facts = 0, {}, {}


def _expect_told(wanted: PredictedConflict, got: RevisionConflict) -> None:
    """Hold what a conflict tells against what it was."""
    found = {wanted.found, 0} if wanted.kind == "body" and wanted.found is None else {wanted.found}
    told = got.expected == wanted.expected and got.found in found and wanted.kind in got.where
    if wanted.fact_id is not None and wanted.fact_id.isprintable():
        told = told and wanted.fact_id in got.where
    expect(told, f"a conflict that tells {wanted}", f"where={got.where!r}, {got.expected=}, {got.found=}")


async def _expect_part(store: MemoryStore, user_id: str | None, agent_name: str | None, model: UserMemory) -> Memory:
    """Hold one part, read as a whole, against the model."""
    memory = await store.load(user_id, agent_name=agent_name)
    body, body_revision = model.bodies.get(agent_name, ({}, 0))
    wanted = (user_id, agent_name, model.revision, body_revision, body, model.part(agent_name))
    facts = [(fact.fact_id, fact.value, fact.revision) for fact in memory.facts]
    got = (memory.user_id, memory.agent_name, memory.revision, memory.body_revision, memory.body, facts)
    expect_same("load (user, agent, revision, body revision, body, facts)", wanted, got)
    at = memory.updated_at
    expect((at is None) == (model.revision == 0), f"updated_at None only at revision 0 (here {model.revision})", at)
    for fact in memory.facts:
        expect(fact.agent_name == agent_name, f"facts of part {agent_name!r}", fact)
        in_order = at is not None and fact.created_at <= fact.updated_at <= at
        expect(in_order, f"created_at <= updated_at <= the user's {at}", fact)
    return memory


async def _expect_user(store: MemoryStore, user_id: str | None, model: UserMemory) -> None:
    """Hold every read of a user against the model."""
    for agent_name in {*AGENTS, *model.bodies, *(part for part, _ in model.facts)}:
        memory = await _expect_part(store, user_id, agent_name, model)
        listed = await store.list_facts(user_id, agent_name=agent_name, limit=1_000)
        expect_same("list_facts as load has them", memory.facts, listed.items)
    for (part, fact_id), (value, revision) in model.facts.items():
        fact = await store.get_fact(user_id, fact_id, agent_name=part)
        got = None if fact is None else (fact.agent_name, fact.fact_id, fact.value, fact.revision)
        expect_same("get_fact", (part, fact_id, value, revision), got)
    agents = [name for name in await store.agents(user_id) if name not in model.emptied()]
    expect_same("agents", model.agents(), agents)


async def play(bench: Bench, program: list[MemoryStep]) -> None:
    """Take the steps through two instances; after each, the other one must read what the model says."""
    space = bench.space()
    users: Users = defaultdict(UserMemory)
    async with bench.open(space) as first, bench.open(space) as second:
        stores = (first, second)
        for step in program:
            await bench.sleep(0.001)
            await _take(stores[step.via], step, users[step.user_id])
            parts = {change.agent_name for change in step.changes} if isinstance(step, ApplyStep) else {None}
            for agent_name in parts:
                await _expect_part(stores[1 - step.via], step.user_id, agent_name, users[step.user_id])
        for user_id, model in users.items():
            await _expect_user(second, user_id, model)


# ---------------------------------------------------------------------- M1


@check("M1")
def the_next_read_has_what_was_applied(bench: Bench) -> None:
    """Whatever is applied through one instance, every read through another has it as soon as apply returned."""
    bench.explore(memory_programs(), lambda program: play(bench, program))


@check("M1")
def a_replica_reads_what_was_applied(bench: Bench) -> None:
    """What apply wrote here a replica reads, and the other way round, with no delay and in every kind of read."""

    async def body() -> None:
        space = bench.space()
        async with bench.open(space) as here, bench.replica(space) as there:
            for turn, (writer, reader) in enumerate([(here, there), (there, here)] * 3, 1):
                value = {"content": f"turn {turn}", "category": "turns", "n": turn}
                await writer.apply("ann", [PutFact("planner", "f", value), PutBody("planner", {"n": turn})])
                memory = await reader.load("ann", agent_name="planner")
                expect_same("the replica's load", (turn, {"n": turn}), (memory.revision, memory.body))
                listed = await reader.list_facts("ann", agent_name="planner", category="turns")
                found = await reader.search("ann", f"TURN {turn}", agent_name="planner")
                reads = [
                    await reader.get_fact("ann", "f", agent_name="planner"),
                    *listed.items,
                    *(match.fact for match in found),
                ]
                expect_same("the fact in get, list and search", [value] * 3, [fact and fact.value for fact in reads])
                expect_same("agents", ["planner"], await reader.agents("ann"))

    bench.run(body)


@check("M1")
def reading_creates_nothing(bench: Bench) -> None:
    """An absent part reads as empty at revision 0, and no read makes a user, a part or a revision."""

    async def body() -> None:
        space = bench.space()
        async with bench.open(space) as store:
            await store.apply("ann", [PutFact(None, "f", {"n": 1})])
            before = await bench.owned(space)
            for user_id, agent_name, revision in [("bob", None, 0), (None, None, 0), ("bob", "x", 0), ("ann", "x", 1)]:
                memory = await store.load(user_id, agent_name=agent_name)
                got = (memory.body, memory.body_revision, memory.facts, memory.revision)
                expect_same(f"an absent part of {user_id!r}", ({}, 0, (), revision), got)
                expect((memory.updated_at is None) == (revision == 0), "no time before the first write", memory)
                expect_same("no fact", None, await store.get_fact(user_id, "f", agent_name=agent_name or "y"))
                listed = await store.list_facts(user_id, agent_name=agent_name or "y")
                expect_same("no facts", Page((), None), listed)
                expect_same("no match", [], await store.search(user_id, "tea", agent_name=agent_name))
                expect_same("no agents", [], await store.agents(user_id))
            expect_same("what the backend owns after reading", before, await bench.owned(space))
            records = [record async for record in store.export()]
            expect("bob" not in repr(records), "no trace of a user who was only read", records)
            expect_same("revision after reading", 1, (await store.load("ann")).revision)

    bench.run(body)


# ---------------------------------------------------------------------- M2


def _valid_changes() -> list[Change]:
    return [
        PutBody(None, {"body": "new"}),
        PutFact(None, "old", {"n": "changed"}),
        PutFact("planner", "new", {"n": 1}),
        DeleteFact(None, "gone"),
    ]


@check("M2")
def one_bad_change_undoes_all(bench: Bench) -> None:
    """A change that conflicts or is invalid, at any place among good ones, leaves everything as it was."""
    bad: list[tuple[Change, type[BackendsError]]] = [
        (PutFact("x", "f", {}, expected=7), RevisionConflict),
        (DeleteFact("x", "f", expected=1), RevisionConflict),
        (PutBody("planner", {}, expected=3), RevisionConflict),
        (PutFact("x", "f", {"n": float("nan")}), InvalidArgument),
        (PutFact("x", "", {}), InvalidArgument),
        (PutBody("x", {"n": {1: 2}}), InvalidArgument),  # a key that is no str
    ]

    async def body() -> None:
        space = bench.space()
        async with bench.open(space) as store:
            start: list[Change] = [PutFact(None, "old", {"n": 0}), PutFact(None, "gone", {}), PutBody(None, {"b": 1})]
            await store.apply("ann", start)
            before = await _all_reads(store, ["ann"])
            for change, error in bad:
                for place in range(len(_valid_changes()) + 1):
                    changes = _valid_changes()
                    changes.insert(place, change)
                    await refused(store.apply("ann", changes), error, f"{change!r} at place {place}")
                    expect_same("the memory after a refused apply", before, await _all_reads(store, ["ann"]))

    bench.run(body)


@check("M2")
def one_thing_twice_is_refused(bench: Bench) -> None:
    """The same fact or body twice in one apply is InvalidArgument and nothing is written; other parts are others."""

    async def body() -> None:
        async with bench.open() as store:
            twice: list[list[Change]] = [
                [PutFact(None, "f", {"n": 1}), PutFact(None, "f", {"n": 2})],
                [PutFact("a", "f", {"n": 1}), PutFact("a", "f", {"n": 1})],
                [PutFact(None, "f", {}), PutFact(None, "g", {}), DeleteFact(None, "f")],
                [DeleteFact("a", "f"), DeleteFact("a", "f")],
                [PutBody(None, {"n": 1}), PutBody(None, {"n": 2})],
                [PutBody("a", {"n": 1}), PutFact("a", "f", {}), PutBody("a", {"n": 1})],
            ]
            for changes in twice:
                await refused(store.apply("ann", changes), InvalidArgument, f"{changes!r}")
            expect_same("the revision after refusals", 0, (await store.load("ann")).revision)
            different: list[Change] = [
                *(PutFact(agent, fact_id, {"n": 1}) for agent in AGENTS for fact_id in FACT_IDS),
                *(PutBody(agent, {"n": 1}) for agent in AGENTS),
            ]
            applied = await store.apply("ann", different)
            expect_same("facts of one apply", len(AGENTS) * len(FACT_IDS), len(applied.facts))

    bench.run(body)


@check("M2")
def nobody_reads_half_an_apply(bench: Bench) -> None:
    """While one replica applies changes of three facts at a time, readers elsewhere list all three or none of them."""

    async def body() -> None:
        space = bench.space()
        names = ["a", "b", "c"]
        async with bench.open(space) as reader, bench.open(space) as other, bench.replica(space) as writer:

            async def write() -> None:
                for n in range(20):
                    await writer.apply("ann", [PutFact(None, name, {"n": n}) for name in names])
                    await asyncio.sleep(0)
                    await writer.apply("ann", [DeleteFact(None, name) for name in names])
                    await asyncio.sleep(0)

            async def read(store: MemoryStore) -> None:
                page = await store.list_facts("ann", agent_name=None)
                seen = [(fact.fact_id, fact.value["n"]) for fact in page.items]
                whole = not seen or (len(seen) == len(names) and len({n for _, n in seen}) == 1)
                expect(whole, "three facts of one apply, or none", seen)

            await repeated_while(write(), lambda: read(reader), lambda: read(other))

    bench.run(body)


# ---------------------------------------------------------------------- M3, M4


@check("M3")
def revisions_count_effects(bench: Bench) -> None:
    """An effective apply raises the user's revision by 1 and each changed thing's by 1; nothing else raises any."""
    bench.explore(memory_programs(), lambda program: play(bench, program))


@check("M3")
def what_changes_nothing_keeps_revisions(bench: Bench) -> None:
    """Equal values, absent deletions and empty bodies keep revisions and times; look-alikes of other types do not."""

    async def body() -> None:
        async with bench.open() as store:
            value = {"n": 1, "m": {"x": 0.0, "y": [True]}}
            await store.apply("ann", [PutFact(None, "f", value), PutBody("a", value)])
            before = await _all_reads(store, ["ann"])
            await bench.sleep(0.01)
            same = {"m": {"y": [True], "x": 0.0}, "n": 1}
            idle: list[Change] = [
                PutFact(None, "f", same),
                PutBody("a", same),
                PutBody(None, {}),
                DeleteFact(None, "g"),
                DeleteFact("a", "f"),
            ]
            for changes in [[change] for change in idle] + [idle, []]:
                applied = await store.apply("ann", changes)
                expect_same(f"(revision, changed) of {changes!r}", (1, False), (applied.revision, applied.changed))
                expect_same("the memory after no change", before, await _all_reads(store, ["ann"]))
            other = [{**value, "n": 1.0}, {**value, "n": True}, value, {**value, "m": {"x": -0.0, "y": [True]}}]
            for revision, changed in enumerate([*other, {**value, "m": {"x": 0.0, "y": [1]}}, {}], 2):
                applied = await store.apply("ann", [PutFact(None, "f", changed)])
                expect_same(
                    f"revisions after {changed!r}", (revision,) * 2, (applied.revision, applied.facts[0].revision)
                )

    bench.run(body)


@check("M3")
def a_revision_never_goes_back(bench: Bench) -> None:
    """Deleting and clearing raise the user's revision; a fact or body put again starts at 1 under a higher one."""

    async def body() -> None:
        async with bench.open() as store:
            await store.apply("ann", [PutFact(None, "f", {"n": 1}), PutBody(None, {"n": 1})])
            first = (await store.apply("ann", [PutFact(None, "f", {"n": 2}), PutBody(None, {"n": 2})])).facts[0]
            applied = await store.apply("ann", [DeleteFact(None, "f"), PutBody(None, {})])
            expect_same("after deleting: (revision, deleted)", (3, [(None, "f")]), (applied.revision, applied.deleted))
            emptied = await store.load("ann")
            expect_same("an emptied body and its revision", ({}, 3), (emptied.body, emptied.body_revision))
            await bench.sleep(0.01)
            again = (await store.apply("ann", [PutFact(None, "f", {"n": 2})])).facts[0]
            expect_same("the fact's revision when put again", 1, again.revision)
            expect(again.created_at > first.created_at, f"created after {first.created_at}", again.created_at)
            expect_same("the revision after clear", 5, await store.clear("ann"))
            await store.apply("ann", [PutBody(None, {"n": 3})])
            memory = await store.load("ann")
            expect_same(
                "(revision, body revision) after clear and put", (6, 1), (memory.revision, memory.body_revision)
            )
            await store.apply("ann", [PutFact("a", "f", {})])
            applied = await store.apply("ann", [DeleteFact("a", "f")])
            expect_same("(revision, changed) after only deleting", (8, True), (applied.revision, applied.changed))

    bench.run(body)


@check("M3")
def times_tell_when_it_changed(bench: Bench) -> None:
    """A fact keeps its created_at and its untouched neighbours their times; the user's time is its revision's."""

    async def body() -> None:
        async with bench.open() as store:
            put = await store.apply("ann", [PutFact(None, "f", {"n": 1}), PutFact("a", "g", {"n": 1})])
            await bench.sleep(0.05)
            changed = (await store.apply("ann", [PutFact(None, "f", {"n": 2})])).facts[0]
            expect_same("created_at of a changed fact", put.facts[0].created_at, changed.created_at)
            expect(changed.updated_at > put.facts[0].updated_at, "a later updated_at", changed)
            part = await store.load("ann", agent_name="a")
            expect_same("a fact that nobody touched", put.facts[1], part.facts[0])
            expect(part.updated_at is not None and part.updated_at >= changed.updated_at, "the user's time", part)

    bench.run(body)


@check("M4")
def conflicts_tell_and_change_nothing(bench: Bench) -> None:
    """With any mix of right and wrong expectations, the first wrong one is told exactly and nothing changes."""
    guesses = (Guess.NONE, Guess.CURRENT, Guess.CURRENT, Guess.ABSENT, Guess.OLDER, Guess.NEWER)
    bench.explore(memory_programs(guesses=guesses), lambda program: play(bench, program))


@check("M4")
def a_stale_writer_is_told(bench: Bench) -> None:
    """Whoever writes on what was read before another's write gets a RevisionConflict, even for an equal value."""

    async def body() -> None:
        async with bench.open() as store:
            await store.apply("ann", [PutFact("a", "f", {"n": 1}), PutBody("a", {"n": 1})])
            await store.apply("ann", [PutFact("a", "f", {"n": 2}), PutBody("a", {"n": 2})])
            before = await _all_reads(store, ["ann"])
            stale: list[tuple[list[Change], int | None, PredictedConflict]] = [
                ([PutFact("a", "f", {"n": 2}, expected=1)], None, PredictedConflict("fact", "f", 1, 2)),
                ([PutFact("a", "f", {"n": 3}, expected=ABSENT)], None, PredictedConflict("fact", "f", None, 2)),
                ([DeleteFact("a", "f", expected=1)], None, PredictedConflict("fact", "f", 1, 2)),
                ([DeleteFact("a", "g", expected=1)], None, PredictedConflict("fact", "g", 1, None)),
                ([PutBody("a", {"n": 2}, expected=1)], None, PredictedConflict("body", None, 1, 2)),
                ([PutBody("a", {"n": 3}, expected=ABSENT)], None, PredictedConflict("body", None, None, 2)),
                ([PutBody(None, {"n": 3}, expected=1)], None, PredictedConflict("body", None, 1, None)),
                ([PutFact(None, "h", {})], 1, PredictedConflict("user", None, 1, 2)),
                ([], 0, PredictedConflict("user", None, 0, 2)),
                ([PutFact("a", "f", {}, expected=1)], 1, PredictedConflict("user", None, 1, 2)),
            ]
            for changes, revision, conflict in stale:
                call = store.apply("ann", changes, expected_revision=revision)
                _expect_told(conflict, await refused(call, RevisionConflict, f"{changes!r}, {revision=}"))
                expect_same("the memory after a conflict", before, await _all_reads(store, ["ann"]))
            held = await store.apply("ann", [PutFact("a", "f", {"n": 3}, expected=2)], expected_revision=2)
            expect_same("the revision when all expectations hold", 3, held.revision)

    bench.run(body)


# ---------------------------------------------------------------------- M5


@check("M5")
def one_rival_wins(bench: Bench) -> None:
    """Of rivals on one revision, of the user, a fact or a body, exactly one wins and its value is what is stored."""

    async def body() -> None:
        space = bench.space()
        async with bench.open(space) as first, bench.open(space) as second, bench.replica(space) as third:
            rivals = [first, second, third] * 3

            async def race(made: Callable[[int], Change], revision: int | None) -> int:
                calls = (
                    store.apply("ann", [made(number)], expected_revision=revision)
                    for number, store in enumerate(rivals)
                )
                results = await asyncio.gather(*calls, return_exceptions=True)
                winners = [number for number, result in enumerate(results) if isinstance(result, Applied)]
                losers = sum(isinstance(result, RevisionConflict) for result in results)
                expect((len(winners), losers) == (1, len(rivals) - 1), "one winner, the others told", results)
                return winners[0]

            for turn in range(3):
                winner = await race(functools.partial(_rivals_fact, turn=turn), turn)
                await _expect_by(second, "f", [winner, turn])
            for turn in range(3):
                winner = await race(functools.partial(_rivals_fact, turn=turn + 3, expected=turn + 3), None)
                await _expect_by(third, "f", [winner, turn + 3])
                await race(functools.partial(_rivals_body, turn=turn), None)

    bench.run(body)


def _rivals_fact(by: int, *, turn: int, expected: Expected = ANY) -> Change:
    return PutFact(None, "f", {"by": [by, turn]}, expected)


def _rivals_body(by: int, *, turn: int) -> Change:
    return PutBody("a", {"by": [by, turn]}, turn or ABSENT)


async def _expect_by(store: MemoryStore, fact_id: str, by: list[int]) -> None:
    fact = await store.get_fact("ann", fact_id, agent_name=None)
    expect_same("the value, the winner's", {"by": by}, fact and fact.value)


@check("M5")
def different_facts_all_land(bench: Bench) -> None:
    """Sixty unconditional changes of different facts at once, over replicas: all stored, one revision each."""

    async def body() -> None:
        space = bench.space()
        async with bench.open(space) as first, bench.open(space) as second, bench.replica(space) as third:
            stores = [first, second, third]
            calls = (stores[n % 3].apply("ann", [PutFact(AGENTS[n % 2], f"f{n}", {"n": n})]) for n in range(60))
            applied = await asyncio.gather(*calls)
            expect_same("revisions given", list(range(1, 61)), sorted(one.revision for one in applied))
            parts = [await first.load("ann", agent_name=agent) for agent in AGENTS[:2]]
            stored = sorted(fact.value["n"] for part in parts for fact in part.facts)
            expect_same("facts that landed", list(range(60)), stored)

    bench.run(body)


@check("M5")
def retrying_rivals_lose_nothing(bench: Bench) -> None:
    """Writers that read, add one and try again on a conflict count up exactly, over replicas."""

    async def body() -> None:
        space = bench.space()
        async with bench.open(space) as first, bench.open(space) as second, bench.replica(space) as third:

            async def add(store: MemoryStore) -> None:
                while True:
                    memory = await store.load("ann")
                    count = memory.body.get("count", 0)
                    try:
                        await store.apply("ann", [PutBody(None, {"count": count + 1}, memory.body_revision or ABSENT)])
                    except RevisionConflict:
                        continue
                    return

            await asyncio.gather(*(add(store) for store in [first, second, third] * 4))
            expect_same("the count of 12 writers", {"count": 12}, (await second.load("ann")).body)

    bench.run(body)


# ---------------------------------------------------------------------- M6


@check("M6")
def pages_lose_and_repeat_nothing(bench: Bench) -> None:
    """Whatever is put, changed or deleted between pages, every other fact comes exactly once, in order of its id."""

    async def body(program: PagingProgram) -> None:
        async with bench.open() as store:
            present = {_paged_id(index) for index in program.present}
            if present:
                await store.apply("ann", [PutFact("a", fact_id, {"category": "x"}) for fact_id in sorted(present)])
            await store.apply("ann", [PutFact("b", "zz", {"category": "x"}), PutFact("a", "~", {"category": "y"})])
            between, seen, cursor = list(program.between), list[str](), None
            while True:
                page = await store.list_facts("ann", agent_name="a", category="x", limit=program.limit, cursor=cursor)
                expect(len(page.items) <= program.limit, f"at most {program.limit} facts", page)
                seen += [fact.fact_id for fact in page.items]
                after = seen[-1].encode() if seen else b""
                more = any(fact_id.encode() > after for fact_id in present)
                expect((page.next_cursor is not None) == more, f"a cursor: {more}, after {after!r}", page)
                cursor = page.next_cursor
                if cursor is None:
                    break
                for number, action in enumerate(between.pop(0) if between else ()):
                    fact_id = _paged_id(action.index)
                    change: Change = DeleteFact("a", fact_id)
                    if action.kind == "remove":
                        present.discard(fact_id)
                    elif action.kind == "create" or fact_id in present:
                        present.add(fact_id)
                        change = PutFact("a", fact_id, {"category": "x", "n": [len(between), number]})
                    await store.apply("ann", [change])
            expect(seen == sorted(set(seen), key=str.encode), "ids in order, none twice", seen)
            quiet = {_paged_id(index) for index in set(program.present) - program.disturbed}
            expect(quiet <= set(seen), f"every fact that nobody touched: {sorted(quiet)}", seen)

    bench.explore(paging_programs(), body)


def _paged_id(index: int) -> str:
    """Name a fact so that neither numeric nor locale nor UTF-16 order is the order by bytes."""
    return ("10", "9", "B", "a", "Z", "é", "z", "\uffee", "\U00010000", "a\x00", "a:", "ab")[index]


@check("M6")
def facts_keep_all_fields_and_byte_order(bench: Bench) -> None:
    """Fields that nobody knows are kept, ids order by their UTF-8 bytes, and categories match exactly."""

    async def body() -> None:
        async with bench.open() as store:
            ids = [_paged_id(index) for index in range(12)]
            values = {
                fact_id: {"content": "x", "$odd.key": [n, {"": None}], "category": "C"} for n, fact_id in enumerate(ids)
            }
            await store.apply("ann", [PutFact(None, fact_id, value) for fact_id, value in values.items()])
            ordered = sorted(ids, key=str.encode)
            for limit in (1, 5, 11, 12, 13, 1_000):
                facts = await _listed(store, limit=limit, category="C")
                expect_same(
                    f"facts by pages of {limit}",
                    [(i, values[i]) for i in ordered],
                    [(f.fact_id, f.value) for f in facts],
                )
            odd = [{"category": c} for c in ("c", "C ", "Ｃ", 1, None, ["C"])] + [{}]
            await store.apply("ann", [PutFact(None, f"odd{n}", value) for n, value in enumerate(odd)])
            expect_same("facts of category C", ordered, [fact.fact_id for fact in await _listed(store, category="C")])
            expect_same("facts of category c", ["odd0"], [fact.fact_id for fact in await _listed(store, category="c")])
            expect_same("facts of any category", len(ids) + len(odd), len(await _listed(store, limit=4)))

    bench.run(body)


async def _listed(store: MemoryStore, *, limit: int = 100, category: str | None = None) -> list[Fact]:
    facts: list[Fact] = []
    cursor = None
    while True:
        page = await store.list_facts("ann", agent_name=None, category=category, limit=limit, cursor=cursor)
        facts += page.items
        cursor = page.next_cursor
        if cursor is None:
            return facts


@check("M6")
def bad_pages_are_refused(bench: Bench) -> None:
    """Limits outside 1 to 1,000, damaged cursors and those of another listing are InvalidArgument."""

    async def body() -> None:
        async with bench.open() as store:
            changes = [PutFact(agent, f"f{n}", {"category": "x"}) for agent in AGENTS[:2] for n in range(3)]
            await store.apply("ann", changes)
            await store.apply("bob", changes)
            for limit in (0, -1, 1_001, True, "10", 1.0):
                call = store.list_facts("ann", agent_name=None, limit=limit)
                await refused(call, InvalidArgument, f"limit {limit!r}")
            cursor = (await store.list_facts("ann", agent_name=None, limit=1)).next_cursor
            expect(isinstance(cursor, str), "a cursor after one fact of three", cursor)
            damaged = ["", "x", cursor[:-1], cursor + "A", cursor.swapcase(), cursor + "\x00", "é", 7, b"x"]
            for bad in damaged:
                call = store.list_facts("ann", agent_name=None, limit=1, cursor=bad)
                await refused(call, InvalidArgument, f"the cursor {bad!r}")
            for user_id, part, category in [("bob", None, None), ("ann", "planner", None), ("ann", None, "x")]:
                call = store.list_facts(user_id, agent_name=part, category=category, cursor=cursor)
                await refused(call, InvalidArgument, f"the cursor of another listing in {user_id, part, category}")

    bench.run(body)


# ---------------------------------------------------------------------- M7


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _score(content: Any, query: str) -> Fraction | None:
    """Work out M7 from its words: the share of the text that the query's different parts cover; None: no match."""
    if not isinstance(content, str):
        return None
    text, covered = _folded(content), 0
    for part in set(_folded(query).split()):
        found = text.split(part)
        if len(found) == 1:
            return None
        covered += (len(found) - 1) * len(part)
    return Fraction(covered, len(text))


def wanted_matches(facts: dict[str, Any], query: str, category: str | None) -> list[tuple[str, Fraction]]:
    """Predict ids and scores, the best first, equal ones by id."""
    matches = [
        (fact_id, score)
        for fact_id, value in facts.items()
        if (category is None or (isinstance(value.get("category"), str) and value["category"] == category))
        and (score := _score(value.get("content"), query)) is not None
    ]
    return sorted(matches, key=lambda match: (-match[1], match[0].encode()))


async def _expect_found(
    store: MemoryStore, facts: dict[str, Any], query: str, category: str | None, limit: int
) -> None:
    wanted = wanted_matches(facts, query, category)[:limit]
    got = await store.search("ann", query, agent_name="a", category=category, limit=limit)
    expect_same(
        f"the facts found by {query!r} in category {category!r} of {facts!r}",
        [(fact_id, facts[fact_id]) for fact_id, _ in wanted],
        [(match.fact.fact_id, match.fact.value) for match in got],
    )
    scores = [match.score for match in got]
    close = all(abs(score - float(want)) < 1e-9 for score, (_, want) in zip(scores, wanted, strict=True))
    expect(close, f"scores {[float(want) for _, want in wanted]}", scores)


@check("M7")
def search_is_what_the_words_say(bench: Bench) -> None:
    """For any texts, queries, categories and limits: the facts, order and scores that the stated rule gives."""

    async def body(program: SearchProgram) -> None:
        facts = {FACT_IDS[n]: value for n, value in enumerate(program.values)}
        async with bench.open() as store:
            await store.apply("ann", [PutFact("a", fact_id, value) for fact_id, value in facts.items()])
            for query in program.queries:
                if query.split():
                    await _expect_found(store, facts, query, program.category, program.limit)
                else:
                    call = store.search("ann", query, agent_name="a")
                    await refused(call, InvalidArgument, f"the empty query {query!r}")

    bench.explore(search_programs(), body)


@check("M7")
def scripts_and_forms_are_found(bench: Bench) -> None:
    """Text without spaces, other cases, ligatures, full-width letters and composed accents are found alike."""
    texts = {
        "zh": "用户喜欢喝绿茶，不喝咖啡",
        "ja": "お茶が好き",
        "de": "Die STRASSE heißt Groß",
        "tr": "İstanbul",
        "fi": "ﬁne ofﬁce",
        "wide": "ＡＢＣ　ｄｅｆ",
        "nfd": "Cafe\u0301 olé",
        "odd": "100% a_b c\\d [x]* 'q' \x00 end",
    }
    found = [
        ("绿茶", ["zh"]),
        ("茶", ["ja", "zh"]),
        ("straße", ["de"]),
        ("GROSS heisst", ["de"]),
        ("i\u0307STANBUL", ["tr"]),
        ("istanbul", []),
        ("FINE office", ["fi"]),
        ("abc DEF", ["wide"]),
        ("Ａ", None),
        ("CAFÉ", ["nfd"]),
        ("ol\u0065\u0301", ["nfd"]),
        ("100%", ["odd"]),
        ("%", ["odd"]),
        ("a_b", ["odd"]),
        ("_", ["odd"]),
        ("\\", ["odd"]),
        ("[X]*", ["odd"]),
        ("'", ["odd"]),
        ("\x00", ["odd"]),
        (".*", []),
        ("绿茶 咖啡", ["zh"]),
        ("绿茶 お茶", []),
    ]

    async def body() -> None:
        facts = {fact_id: {"content": text} for fact_id, text in texts.items()}
        async with bench.open() as store:
            await store.apply("ann", [PutFact("a", fact_id, value) for fact_id, value in facts.items()])
            await store.apply("bob", [PutFact("a", "bobs", {"content": "绿茶 100%"})])
            await store.apply("ann", [PutFact(None, "wide part", {"content": "绿茶 100%"})])
            for query, ids in found:
                if ids is not None:
                    expect_same(f"the rule on {query!r}", ids, [name for name, _ in wanted_matches(facts, query, None)])
                await _expect_found(store, facts, query, None, 10)

    bench.run(body)


@check("M7")
def category_comes_before_limit(bench: Bench) -> None:
    """A better match of another category never displaces one; odd contents never match; ties go by id."""

    async def body() -> None:
        facts: dict[str, Any] = {f"best{n}": {"content": "tea", "category": "other"} for n in range(5)}
        facts |= {name: {"content": "tea and more", "category": "drinks"} for name in ("é", "z", "Z", "10", "9")}
        odd = [1, None, ["tea"], {"tea": "tea"}, True]
        facts |= {f"odd{n}": {"content": content, "category": "drinks"} for n, content in enumerate(odd)}
        facts |= {"no category": {"content": "tea"}, "no content": {"category": "drinks"}, "empty": {"content": ""}}
        facts |= {"int category": {"content": "tea", "category": 1}, "cased": {"content": "tea", "category": "Drinks"}}
        async with bench.open() as store:
            await store.apply("ann", [PutFact("a", fact_id, value) for fact_id, value in facts.items()])
            for category in (None, "drinks", "other", "Drinks", "none"):
                for limit in (1, 3, 1_000):
                    await _expect_found(store, facts, "TEA", category, limit)
            for query in ("", " ", "\u3000\n"):
                await refused(store.search("ann", query, agent_name="a"), InvalidArgument, f"the query {query!r}")
            for bad in (0, -1, True, "1"):
                await refused(store.search("ann", "tea", agent_name="a", limit=bad), InvalidArgument, f"limit {bad!r}")

    bench.run(body)


# ---------------------------------------------------------------------- M8


@check("M8")
def clear_and_erase_follow_the_model(bench: Bench) -> None:
    """Among any writes, clear removes exactly its part and raises the revision if there was one; erase restarts it."""
    bench.explore(memory_programs(removals=True, max_steps=10), lambda program: play(bench, program))


@check("M8")
def clear_takes_one_part(bench: Bench) -> None:
    """Clear of an agent, of None and of ALL each leave what they do not name, and all of other users."""

    async def body() -> None:
        async with bench.open() as store:
            changes = [PutFact(agent, "f", {"n": 1}) for agent in AGENTS] + [
                PutBody(agent, {"n": 1}) for agent in AGENTS
            ]
            users: list[str | None] = [None, *USERS]
            for user_id in users:
                await store.apply(user_id, changes)
            others = await _all_reads(store, users[1:])
            await bench.sleep(0.01)
            remaining = list(AGENTS)
            for revision, agent_name in enumerate([AGENTS[1], None], 2):
                before = [await store.load(None, agent_name=agent) for agent in remaining if agent != agent_name]
                expect_same("the revision", revision, await store.clear(None, agent_name=agent_name))
                expect_same("the revision of an idle clear", revision, await store.clear(None, agent_name=agent_name))
                remaining.remove(agent_name)
                after = [await store.load(None, agent_name=agent) for agent in remaining]
                contents = [
                    [(part.agent_name, part.body, part.body_revision, part.facts) for part in parts]
                    for parts in (before, after)
                ]
                expect_same("the parts that were not named", contents[0], contents[1])
                gone = await store.load(None, agent_name=agent_name)
                expect_same("the cleared part", ({}, 0, ()), (gone.body, gone.body_revision, gone.facts))
            expect_same("agents left", sorted(name for name in remaining if name), await store.agents(None))
            expect_same("the revision after clear of ALL", 4, await store.clear(None, agent_name=ALL))
            expect_same("the revision of a second one", 4, await store.clear(None))
            expect_same("agents after clear of ALL", [], await store.agents(None))
            expect_same("the revision of a clear of nobody", 0, await store.clear("nobody"))
            expect_same("other users", others, await _all_reads(store, users[1:]))

    bench.run(body)


@check("M8")
def erase_leaves_no_trace(bench: Bench) -> None:
    """After erase a user is as never written, in every read and in what the backend owns; the others stay."""

    async def body() -> None:
        space = bench.space()
        async with bench.open(space) as store:
            await store.apply("ann:", [PutFact("a", "f", {"n": 1})])
            others, owned = await _all_reads(store, ["ann:"]), await bench.owned(space)
            for _ in range(2):
                await store.apply("ann", [PutFact("a", "f", {"content": "tea"}), PutBody(None, {"n": 1})])
                await store.apply("ann", [DeleteFact("a", "f"), PutFact("b", "g", {"content": "tea"})])
                await store.erase("ann")
                memory = await store.load("ann")
                expect_same(
                    "the erased user",
                    ({}, 0, 0, None),
                    (memory.body, memory.body_revision, memory.revision, memory.updated_at),
                )
                expect_same("agents of an erased user", [], await store.agents("ann"))
                expect_same("matches of an erased user", [], await store.search("ann", "tea", agent_name="b"))
                records = [record async for record in store.export()]
                expect("tea" not in repr(records), "no trace in the export", records)
            await store.erase("ann")
            expect_same("what the backend owns", owned, await bench.owned(space))
            again = await store.apply("ann", [PutFact("a", "f", {})], expected_revision=0)
            expect_same("revisions after erase", (1, 1), (again.revision, again.facts[0].revision))
            expect_same("other users", others, await _all_reads(store, ["ann:"]))

    bench.run(body)


# ---------------------------------------------------------------------- M9


@check("M9")
def a_change_costs_what_it_changes(bench: Bench) -> None:
    """One changed fact costs as much in a memory of 1,500 facts as in one of 10, in its part and in others."""

    async def body() -> None:
        async with bench.open() as store:
            for user_id, size in (("few", 10), ("many", 1_500)):
                facts = [PutFact(None, f"f{n}", {"content": f"fact {n}"}) for n in range(size)]
                await store.apply(user_id, facts)
                await store.apply(user_id, [PutFact("a", "f0", {}), PutBody("a", {})])
            numbers = iter(range(1_000_000))

            def changing(user_id: str) -> Iterable[tuple[str, Callable[[], Awaitable[Any]]]]:
                yield "a changed fact", lambda: store.apply(user_id, [PutFact(None, "f5", {"n": next(numbers)})])
                yield "a new fact", lambda: store.apply(user_id, [PutFact(None, f"new{next(numbers)}", {})])
                yield "a deleted fact", lambda: store.apply(user_id, [DeleteFact(None, f"f{6 + next(numbers) % 3}")])
                yield "a body", lambda: store.apply(user_id, [PutBody("a", {"n": next(numbers)})])
                yield "an idle change", lambda: store.apply(user_id, [PutFact("a", "f0", {})])
                yield "a small part loaded", lambda: store.load(user_id, agent_name="a")

            for (what, in_few), (_, in_many) in zip(changing("few"), changing("many"), strict=True):
                few, many = await work(bench, in_few), await work(bench, in_many)
                expect(many <= few * 1.5 + 20, f"{what}: about {few} steps of work as in a memory of 10", many)

    bench.run(body)


@check("M9")
def load_does_not_grow_faster_than_its_facts(bench: Bench) -> None:
    """Loading a part with 20 times the facts costs at most 20 times as much: no statement grows with the rest."""

    async def body() -> None:
        async with bench.open() as store:
            for user_id, size in (("few", 50), ("many", 1_000)):
                await store.apply(user_id, [PutFact(None, f"f{n}", {"content": f"fact {n}"}) for n in range(size)])
            few, many = await work(bench, lambda: store.load("few")), await work(bench, lambda: store.load("many"))
            expect(many <= few * 20 * 1.2 + 20, f"at most 20 times {few} steps of work", many)

    bench.run(body)


# ---------------------------------------------------------------------- M11


@check("M11")
def load_is_of_one_revision(bench: Bench) -> None:
    """While replicas write body and facts together, every load shows body, facts and revision of one apply."""

    async def body() -> None:
        space = bench.space()
        async with bench.open(space) as reader, bench.open(space) as second, bench.replica(space) as third:

            async def write(store: MemoryStore) -> None:
                for _ in range(15):
                    while True:
                        now = (await store.load("ann", agent_name="a")).revision
                        try:
                            await store.apply("ann", _marked(now + 1), expected_revision=now)
                        except RevisionConflict:
                            await asyncio.sleep(0)
                            continue
                        break

            async def read(store: MemoryStore, agent_name: str | None) -> None:
                memory = await store.load("ann", agent_name=agent_name)
                marks = [memory.body.get("n", 0), *(fact.value["n"] for fact in memory.facts)]
                whole = len(marks) == 1 + (0 if memory.revision == 0 else 2 + memory.revision % 2)
                of_one = set(marks) == {memory.revision} and (whole or agent_name is None)
                expect(of_one, f"body and facts of revision {memory.revision}", (marks, memory.facts))

            both = asyncio.gather(write(second), write(third))
            await repeated_while(both, lambda: read(reader, "a"), lambda: read(second, "a"), lambda: read(third, None))

    bench.run(body)


def _marked(n: int) -> list[Change]:
    """Return changes that leave the body and 2 or 3 facts of a part, all marked *n*: 3 if n is odd."""
    last: Change = PutFact("a", "f2", {"n": n}) if n % 2 else DeleteFact("a", "f2")
    return [PutBody("a", {"n": n}), PutBody(None, {"n": n}), *(PutFact("a", f"f{i}", {"n": n}) for i in range(2)), last]


# ---------------------------------------------------------------------- M12


async def _all_reads(store: MemoryStore, user_ids: Iterable[str | None]) -> Any:
    """Return everything that can be read of users, times included."""
    reads: list[Any] = []
    for user_id in user_ids:
        agents = await store.agents(user_id)
        reads.append([user_id, agents])
        for agent_name in dict.fromkeys([*AGENTS, *agents]):
            memory = await store.load(user_id, agent_name=agent_name)
            listed = await store.list_facts(user_id, agent_name=agent_name, limit=1_000)
            reads.append(plain([memory, listed.items]))
    return reads


@check("M12")
def a_copy_reads_the_same(bench: Bench) -> None:
    """After any program, restoring its export elsewhere makes every read equal; once more it changes nothing."""

    async def body(program: list[MemoryStep]) -> None:
        source, target = bench.space(), bench.space()
        users: Users = defaultdict(UserMemory)
        async with bench.open(source) as store, bench.open(target) as copy:
            for step in program:
                await _take(store, step, users[step.user_id])
            records = await exported(store)
            await bench.sleep(0.01)
            expect_same("records restored", len(records), await copy.restore(records))
            before = await _all_reads(store, users)
            expect_same("every read of the copy", before, await _all_reads(copy, users))
            expect_same("records restored again", 0, await copy.restore(records))
            expect_same("every read after restoring again", before, await _all_reads(copy, users))
            for user_id, model in users.items():
                go_on: list[Change] = [PutFact(None, "one more", {"n": []})]
                applied = await copy.apply(user_id, go_on, expected_revision=model.revision)
                model.apply(go_on).expect(applied)

    bench.explore(memory_programs(removals=True), body)


@check("M12")
def a_different_record_is_a_conflict(bench: Bench) -> None:
    """A record that meets a different one is a Conflict and stays unwritten; those before it were written."""

    async def body() -> None:
        async with bench.open() as bobs, bench.open() as anns, bench.open() as target:
            await bobs.apply("bob", [PutFact("a", "f", {"n": 1}), PutBody(None, {"n": 1})])
            await anns.apply("ann", [PutFact("a", "f", {"n": 1})])
            await target.apply("ann", [PutFact("a", "f", {"n": 2}), PutBody(None, {"n": 2})])
            before = await _all_reads(target, ["ann"])
            records = [*await exported(bobs), *await exported(anns)]

            async def one_by_one() -> Any:
                for record in records:
                    yield record

            await refused(target.restore(one_by_one()), Conflict, "a different record of ann")
            expect_same("ann after the conflict", before, await _all_reads(target, ["ann"]))
            wanted = await _all_reads(bobs, ["bob"])
            expect_same("bob, who came before", wanted, await _all_reads(target, ["bob"]))
            await bobs.apply("bob", [PutFact("a", "f", {"n": 1.0})])
            await refused(target.restore(await exported(bobs)), Conflict, "a later state of bob")
            expect_same("bob after the conflict", wanted, await _all_reads(target, ["bob"]))

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
