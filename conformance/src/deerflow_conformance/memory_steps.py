"""Steps taken in a memory store, and everything that can be read of it, held against the model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from deerflow_backends.errors import RevisionConflict
from deerflow_backends.memories import (
    Memory,
    MemoryStore,
)
from deerflow_conformance.bench import Bench
from deerflow_conformance.change_models import PredictedConflict, UserMemory
from deerflow_conformance.checks import expect
from deerflow_conformance.expectations import expect_same, refused
from deerflow_conformance.memory_programs import AGENTS, ApplyStep, ClearStep, MemoryStep

Users = dict[str | None, UserMemory]


async def take(store: MemoryStore, step: MemoryStep, model: UserMemory) -> None:
    """Take one step and hold what it answers against the model, which takes it too."""
    if isinstance(step, ApplyStep):
        changes, expected_revision = model.changes(step)
        conflict = model.conflict(changes, expected_revision)
        if conflict is None:
            applied = await store.apply(step.user_id, changes, expected_revision=expected_revision)
            model.apply(changes).expect(applied)
        else:
            call = store.apply(step.user_id, changes, expected_revision=expected_revision)
            expect_told(conflict, await refused(call, RevisionConflict, f"{changes!r} on {model!r}"))
    elif isinstance(step, ClearStep):
        wanted = model.clear(step.agent_name)
        expect_same("the revision after clear", wanted, await store.clear(step.user_id, agent_name=step.agent_name))
    else:
        await store.erase(step.user_id)
        model.revision, model.bodies, model.facts = 0, {}, {}


def expect_told(wanted: PredictedConflict, got: RevisionConflict) -> None:
    """Hold what a conflict tells against what it was."""
    found = {wanted.found, 0} if wanted.kind == "body" and wanted.found is None else {wanted.found}
    expected = {wanted.expected, None} if wanted.kind != "user" and wanted.expected == 0 else {wanted.expected}
    told = got.expected in expected and got.found in found and wanted.kind in got.where
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
            await take(stores[step.via], step, users[step.user_id])
            parts = {change.agent_name for change in step.changes} if isinstance(step, ApplyStep) else {None}
            for agent_name in parts:
                await _expect_part(stores[1 - step.via], step.user_id, agent_name, users[step.user_id])
        for user_id, model in users.items():
            await _expect_user(second, user_id, model)


async def all_reads(store: MemoryStore, user_ids: Iterable[str | None]) -> Any:
    """Return everything that can be read of users, times included."""
    reads: list[Any] = []
    for user_id in user_ids:
        agents = await store.agents(user_id)
        reads.append([user_id, agents])
        for agent_name in dict.fromkeys([*AGENTS, *agents]):
            memory = await store.load(user_id, agent_name=agent_name)
            listed = await store.list_facts(user_id, agent_name=agent_name, limit=1_000)
            reads.append([memory, listed.items])
    return reads
