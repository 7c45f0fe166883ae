"""Steps taken in a thread index, and everything that can be read of it, held against the model."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta
from typing import Any

from deerflow_backends.errors import Conflict
from deerflow_backends.memories import ANY
from deerflow_backends.threads import ANY_USER, NewThread, Scope, Thread, ThreadIndex
from deerflow_conformance.bench import Bench
from deerflow_conformance.change_models import in_scope, thread_order, updated
from deerflow_conformance.checks import expect, unkept
from deerflow_conformance.expectations import accepted, every_page, expect_same, refused
from deerflow_conformance.programs import USERS
from deerflow_conformance.thread_programs import STATUSES, CreateStep, DeleteStep, MoveStep, ThreadStep, UpdateStep

Threads = dict[str, Thread]


async def take(index: ThreadIndex, step: ThreadStep, model: Threads) -> None:
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
            model[step.thread_id] = expect_touched(
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
        expect_same(outside, None, await accepted(call, outside))
    elif step.expected_status not in {None, stored.status}:
        await refused(call, Conflict, f"an update expecting {step.expected_status!r} of {stored!r}")
    else:
        model[step.thread_id] = expect_touched(stored, updated(stored, step), await call, touch=step.touch)


def expect_touched(before: Thread, wanted: Thread, got: Thread | None, *, touch: bool) -> Thread:
    """Hold a changed thread against the model, and its time against the one before; return it."""
    if got is None:
        unkept(f"the thread, changed to {wanted!r}", got)
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
    async for page in every_page(lambda cursor: index.list(scope, limit=limit, cursor=cursor, **filters)):
        expect(len(page.items) <= limit, f"at most {limit} threads", page.items)
        threads += page.items
    return threads


async def expect_reads(index: ThreadIndex, model: Threads, limit: int = 1_000) -> None:
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
            await take(indexes[step.via], step, model)
            other = indexes[1 - step.via]
            got = await other.get(step.thread_id, user_id=ANY_USER)
            expect_same("the thread, read elsewhere", model.get(step.thread_id), got)
            for user_id in USERS[:2]:
                wanted = {thread.thread_id for thread in model.values() if thread.user_id == user_id}
                ids = {thread.thread_id for thread in (await other.list(user_id, limit=1_000)).items}
                expect_same(f"the threads of {user_id!r}", sorted(wanted), sorted(ids))
        await expect_reads(second, model, limit)


async def expect_order(index: ThreadIndex, wanted: list[str]) -> None:
    """Hold the order of ann's threads against the wanted one, in one page and in several."""
    for limit in (1_000, 3):
        expect_same("the order", wanted, [one.thread_id for one in await listed(index, "ann", limit=limit)])


def renamed(record: dict[str, Any], thread_id: str, **changed: Any) -> dict[str, Any]:
    """Return an exported thread under another id."""
    return {**record, "thread_id": thread_id, **changed}


def later(time: str, seconds: float) -> str:
    """Return an exported time so much later, or earlier if *seconds* is negative."""
    return (datetime.fromisoformat(time) + timedelta(seconds=seconds)).isoformat(timespec="microseconds")


def thread_of(record: dict[str, Any]) -> Thread:
    """Return the thread that an exported record is about."""
    fields = {field.name: record[field.name] for field in dataclasses.fields(Thread)}
    times = {name: datetime.fromisoformat(fields[name]) for name in ("created_at", "updated_at")}
    return Thread(**{**fields, **times})
