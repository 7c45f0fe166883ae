"""Checks of the memory store: M1 to M5 and M8; those of reads and of copies are in modules of their own."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable

from deerflow_backends.errors import BackendsError, InvalidArgument, RevisionConflict
from deerflow_backends.memories import (
    ABSENT,
    ALL,
    ANY,
    Applied,
    Change,
    DeleteFact,
    Expected,
    MemoryStore,
    PutBody,
    PutFact,
)
from deerflow_backends.paging import Page
from deerflow_conformance.bench import Bench
from deerflow_conformance.change_models import PredictedConflict
from deerflow_conformance.checks import check, expect
from deerflow_conformance.expectations import accepted, expect_same, refused, repeated_while
from deerflow_conformance.memory_programs import AGENTS, FACT_IDS, Guess, memory_programs
from deerflow_conformance.memory_steps import all_reads, expect_told, play
from deerflow_conformance.programs import USERS

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
            for turn, (writer, reader) in enumerate(
                [(here, there), (here, there), (there, here), (there, here)] * 2, 1
            ):
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
            for writer in ("ann", "None"):
                await store.apply(writer, [PutFact(None, "f", {"n": 1})])
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
            before = await all_reads(store, ["ann"])
            for change, error in bad:
                for place in range(len(_valid_changes()) + 1):
                    changes = _valid_changes()
                    changes.insert(place, change)
                    await refused(store.apply("ann", changes), error, f"{change!r} at place {place}")
                    expect_same("the memory after a refused apply", before, await all_reads(store, ["ann"]))

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
            applied = await accepted(store.apply("ann", different), "one id in several parts")
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
            before = await all_reads(store, ["ann"])
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
                expect_same("the memory after no change", before, await all_reads(store, ["ann"]))
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
            await bench.sleep(0.05)
            await store.clear("ann", agent_name="a")
            cleared = await store.load("ann")
            later = cleared.updated_at is not None and cleared.updated_at > changed.updated_at
            expect(later, "a later time with the revision that clear gave", cleared)

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
            before = await all_reads(store, ["ann"])
            stale: list[tuple[list[Change], int | None, PredictedConflict]] = [
                ([PutFact("a", "f", {"n": 2}, expected=1)], None, PredictedConflict("fact", "f", 1, 2)),
                ([PutFact("a", "f", {"n": 3}, expected=ABSENT)], None, PredictedConflict("fact", "f", None, 2)),
                ([DeleteFact("a", "f", expected=1)], None, PredictedConflict("fact", "f", 1, 2)),
                ([DeleteFact("a", "g", expected=1)], None, PredictedConflict("fact", "g", 1, None)),
                ([PutBody("a", {"n": 2}, expected=1)], None, PredictedConflict("body", None, 1, 2)),
                ([PutBody("a", {"n": 3}, expected=ABSENT)], None, PredictedConflict("body", None, None, 2)),
                ([PutBody(None, {"n": 3}, expected=1)], None, PredictedConflict("body", None, 1, None)),
                ([PutFact("a", "f", {"n": 3}, expected=0)], None, PredictedConflict("fact", "f", 0, 2)),
                ([DeleteFact("a", "f", expected=0)], None, PredictedConflict("fact", "f", 0, 2)),
                ([PutBody("a", {"n": 3}, expected=0)], None, PredictedConflict("body", None, 0, 2)),
                ([PutFact(None, "h", {})], 1, PredictedConflict("user", None, 1, 2)),
                ([], 0, PredictedConflict("user", None, 0, 2)),
                ([PutFact("a", "f", {}, expected=1)], 1, PredictedConflict("user", None, 1, 2)),
            ]
            for changes, revision, conflict in stale:
                call = store.apply("ann", changes, expected_revision=revision)
                expect_told(conflict, await refused(call, RevisionConflict, f"{changes!r}, {revision=}"))
                expect_same("the memory after a conflict", before, await all_reads(store, ["ann"]))
            right: list[Change] = [PutFact("a", "f", {"n": 3}, expected=2), PutBody(None, {"n": 3}, expected=0)]
            held = await accepted(store.apply("ann", right, expected_revision=2), "what is expected and holds")
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
            applied = await asyncio.gather(*(accepted(call, "an unconditional change among others") for call in calls))
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
                        await asyncio.sleep(0)
                        continue
                    return

            await asyncio.gather(*(add(store) for store in [first, second, third] * 4))
            expect_same("the count of 12 writers", {"count": 12}, (await second.load("ann")).body)

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
            others = await all_reads(store, users[1:])
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
            expect_same("other users", others, await all_reads(store, users[1:]))
            expect_same("the revision after clear of all parts", 2, await store.clear(users[1], agent_name=ALL))
            for agent_name in AGENTS:
                part = await store.load(users[1], agent_name=agent_name)
                expect_same("each of the parts", ({}, 0, ()), (part.body, part.body_revision, part.facts))

    bench.run(body)


@check("M8")
def erase_leaves_no_trace(bench: Bench) -> None:
    """After erase a user is as never written, in every read and in what the backend owns; the others stay."""

    async def body() -> None:
        space = bench.space()
        async with bench.open(space) as store:
            await store.apply("ann:", [PutFact("a", "f", {"n": 1})])
            others, owned = await all_reads(store, ["ann:"]), await bench.owned(space)
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
            expect_same("agents after erase and a write", ["a"], await store.agents("ann"))
            expect_same("other users", others, await all_reads(store, ["ann:"]))

    bench.run(body)
