"""Faults that only rivals meet: in each a call waits half-way, or leaves something of itself when it is cancelled.

Each is one that the quieter checks of its promise do not notice: what they do at the same time is right.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Hashable, Sequence
from functools import partial
from typing import Any

from deerflow_backends.changes import Effects, applied, check_changes, judge
from deerflow_backends.counters import Recorded
from deerflow_backends.inprocess.counters import InProcessModelCounters
from deerflow_backends.inprocess.layout import StoredUser
from deerflow_backends.inprocess.memories import InProcessMemoryStore
from deerflow_backends.inprocess.threads import InProcessThreadIndex
from deerflow_backends.memories import ALL, ANY, Applied, Change, DeleteFact, Fact, Memory
from deerflow_backends.paging import Page
from deerflow_backends.thread_changes import check_new_thread
from deerflow_backends.threads import NewThread, Thread
from deerflow_conformance.mutants import Patched, methods, mutant

_memory = partial(methods, InProcessMemoryStore)
_threads = partial(methods, InProcessThreadIndex)
_counters = partial(methods, InProcessModelCounters)

_apply = InProcessMemoryStore.apply
_load = InProcessMemoryStore.load
_get_fact = InProcessMemoryStore.get_fact
_clear = InProcessMemoryStore.clear
_create = InProcessThreadIndex.create
_update = InProcessThreadIndex.update
_delete = InProcessThreadIndex.delete
_list = InProcessThreadIndex.list
_record_many = InProcessModelCounters.record_many
_reset = InProcessModelCounters.reset


async def _a_while() -> None:
    """Let others go on."""
    for _ in range(6):
        await asyncio.sleep(0)


def _sharing() -> Callable[[Hashable, Callable[[], Awaitable[Any]]], Awaitable[Any]]:
    """Make a reader that gives whoever reads the same meanwhile what it has read, as a careless cache does."""
    under_way: dict[Hashable, Any] = {}

    async def share(key: Hashable, read: Callable[[], Awaitable[Any]]) -> Any:
        if key in under_way:
            return under_way[key]
        under_way[key] = await read()
        try:
            await _a_while()
            return under_way[key]
        finally:
            del under_way[key]

    return share


# ------------------------------------------------------------------------------------------------------------- memory


@mutant("M1", "memory", by="no_reader_misses_what_was_applied")
def readers_share_one_read() -> Patched:
    """Whoever reads a fact while another does gets what that one has read, however long ago."""
    share = _sharing()

    async def get_fact(self: InProcessMemoryStore, user_id: Any, fact_id: str, *, agent_name: Any) -> Fact | None:
        key = (id(self._users), user_id, fact_id, agent_name)
        found: Fact | None = await share(key, lambda: _get_fact(self, user_id, fact_id, agent_name=agent_name))
        return found

    return _memory(get_fact=get_fact)


@mutant("M2", "memory", by="an_apply_among_rivals_is_whole")
def agents_parts_are_stored_later() -> Patched:
    """An apply stores what it changes of the user-wide part, and a moment later what it changes of the agents'."""

    async def apply(
        self: InProcessMemoryStore, user_id: Any, changes: Sequence[Change], *, expected_revision: Any = None
    ) -> Applied:
        checked = check_changes(changes, expected_revision)
        state, now = self._state(user_id, checked), self._clock()
        effects = judge(checked, state, now=now)
        if effects.changed:
            self._store(user_id, _of_parts(effects, user_wide=True), now)
            await _a_while()
            user = self._users[user_id]
            later = dataclasses.replace(_of_parts(effects, user_wide=False), revision=user.revision)
            self._store(user_id, _possible(later, user), now)
        return applied(checked, state, effects)

    return _memory(apply=apply)


@mutant("M3", "memory", by="revisions_count_every_rivals_effects")
def clear_counts_from_what_it_read() -> Patched:
    """Clear gives the user one more than the revision that it read a moment before it cleared."""

    async def clear(self: InProcessMemoryStore, user_id: Any, *, agent_name: Any = ALL) -> int:
        read = self._user(user_id).revision
        await _a_while()
        before = self._user(user_id).revision
        revision = await _clear(self, user_id, agent_name=agent_name)
        if revision != before:
            self._users[user_id].revision = revision = read + 1
        return revision

    return _memory(clear=clear)


@mutant("M4", "memory", by="a_conflict_tells_what_was_there_then")
def a_deletion_looks_too_early() -> Patched:
    """Whether a fact that is to be deleted has the expected revision is looked at a moment before it is deleted."""

    async def apply(self: InProcessMemoryStore, user_id: Any, changes: Sequence[Change], **more: Any) -> Applied:
        checked = check_changes(changes, more.get("expected_revision"))
        judge(checked, self._state(user_id, checked), now=0)
        if any(isinstance(change, DeleteFact) and change.expected is not ANY for change in changes):
            await _a_while()
            changes = [
                dataclasses.replace(one, expected=ANY) if isinstance(one, DeleteFact) else one for one in changes
            ]
        return await _apply(self, user_id, changes, **more)

    return _memory(apply=apply)


@mutant("M5", "memory", by="any_rivals_have_an_order")
def a_deletion_writes_what_it_read() -> Patched:
    """An apply that deletes reads, and a moment later writes on what it has read, whatever others did meanwhile."""

    async def apply(
        self: InProcessMemoryStore, user_id: Any, changes: Sequence[Change], *, expected_revision: Any = None
    ) -> Applied:
        if not any(isinstance(change, DeleteFact) for change in changes):
            return await _apply(self, user_id, changes, expected_revision=expected_revision)
        checked = check_changes(changes, expected_revision)
        state, now = self._state(user_id, checked), self._clock()
        effects = judge(checked, state, now=now)
        await _a_while()
        if effects.changed:
            self._store(user_id, _possible(effects, self._user(user_id)), now)
        return applied(checked, state, effects)

    return _memory(apply=apply)


@mutant("M11", "memory", by="every_load_among_rivals_is_of_one_moment")
def a_bodys_revision_is_read_later() -> Patched:
    """Load reads the body's revision a moment after the body itself."""

    async def load(self: InProcessMemoryStore, user_id: Any, *, agent_name: Any = None) -> Memory:
        memory = await _load(self, user_id, agent_name=agent_name)
        await _a_while()
        later = await _load(self, user_id, agent_name=agent_name)
        return dataclasses.replace(memory, body_revision=later.body_revision)

    return _memory(load=load)


def _of_parts(effects: Effects, *, user_wide: bool) -> Effects:
    """Leave out what concerns agents, or what does not."""
    bodies = {name: body for name, body in effects.bodies.items() if (name is None) == user_wide}
    facts = {key: fact for key, fact in effects.facts.items() if (key[0] is None) == user_wide}
    return Effects(effects.revision, bodies, facts)


def _possible(effects: Effects, user: StoredUser) -> Effects:
    """Leave out what is to be removed and has gone meanwhile."""
    facts = {
        (name, fact_id): fact
        for (name, fact_id), fact in effects.facts.items()
        if fact is not None or fact_id in user.facts.get(name, {})
    }
    return dataclasses.replace(effects, facts=facts)


# ------------------------------------------------------------------------------------------------------------ threads


@mutant("T1", "thread_index", by="lists_among_rivals_are_the_users_threads")
def lists_share_one_read() -> Patched:
    """Whoever lists a user's threads while another does gets what that one has read, however long ago."""
    share = _sharing()

    async def listed(self: InProcessThreadIndex, user_id: Any, **more: Any) -> Page[Thread]:
        key = (id(self._table), user_id, repr(more))
        page: Page[Thread] = await share(key, lambda: _list(self, user_id, **more))
        return page

    return _threads(list=listed)


@mutant("T5", "thread_index", by="any_rival_creations_have_an_order")
def a_freed_id_is_taken_twice() -> Patched:
    """Of an id that was deleted once, create looks whether it is free, and others create in between."""
    freed: set[tuple[int, str]] = set()

    async def delete(self: InProcessThreadIndex, thread_id: str, **more: Any) -> bool:
        deleted = await _delete(self, thread_id, **more)
        if deleted:
            freed.add((id(self._table), thread_id))
        return deleted

    async def create(self: InProcessThreadIndex, thread: NewThread) -> Thread:
        taken = thread.thread_id in self._table.threads
        if taken or (id(self._table), thread.thread_id) not in freed:
            return await _create(self, thread)
        await _a_while()
        new = check_new_thread(thread, self._clock())
        self._put(new)
        return new.to_thread()

    return _threads(delete=delete, create=create)


@mutant("T6", "thread_index", by="any_rival_merges_all_land")
def what_touches_nothing_writes_what_it_read() -> Patched:
    """An update with touch=False reads the thread, and a moment later writes all of its metadata."""

    async def update(self: InProcessThreadIndex, thread_id: str, *, user_id: Any, **more: Any) -> Thread | None:
        thread = await self.get(thread_id, user_id=user_id)
        if thread is None or more.get("touch", True):
            return await _update(self, thread_id, user_id=user_id, **more)
        metadata = {**thread.metadata, **(more.get("metadata") or {})}
        kept = {key: value for key, value in metadata.items() if key not in more.get("remove", ())}
        await _a_while()
        whole = {**more, "metadata": kept, "remove": (), "replace": True}
        return await _update(self, thread_id, user_id=user_id, **whole)

    return _threads(update=update)


@mutant("T7", "thread_index", by="rivals_updates_have_one_order_and_its_times")
def a_new_status_has_an_old_time() -> Patched:
    """An update of the status takes its time from the thread that it read a moment before."""

    async def update(self: InProcessThreadIndex, thread_id: str, *, user_id: Any, **more: Any) -> Thread | None:
        read = self._table.threads.get(thread_id)
        if read is None or "status" not in more or not more.get("touch", True):
            return await _update(self, thread_id, user_id=user_id, **more)
        now = read.touched(self._clock())
        await _a_while()
        if await _update(self, thread_id, user_id=user_id, **more) is None:
            return None
        changed = dataclasses.replace(self._table.threads[thread_id], updated_at=now)
        self._put(changed)
        return changed.to_thread()

    return _threads(update=update)


# ----------------------------------------------------------------------------------------------------------- counters


@mutant("C1", "counters", by="rivals_recordings_add_up")
def a_cancelled_recording_takes_others_back() -> Patched:
    """A recording that is cancelled while it waits for an answer puts back the sums that it found."""

    async def record_many(self: InProcessModelCounters, counts: Sequence[Recorded], *, token: Any = None) -> None:
        before = dict(self._table.totals)
        await _record_many(self, counts, token=token)
        try:
            await _a_while()
        except asyncio.CancelledError:
            self._table.totals.clear()
            self._table.totals.update(before)
            raise

    return _counters(record_many=record_many)


@mutant("C2", "counters", by="rivals_with_few_tokens_count_each_once")
def a_cancelled_recording_forgets_its_token() -> Patched:
    """A recording that is cancelled while it waits for an answer is counted, and its token is as good as new."""

    async def record_many(self: InProcessModelCounters, counts: Sequence[Recorded], *, token: Any = None) -> None:
        await _record_many(self, counts, token=token)
        try:
            await _a_while()
        except asyncio.CancelledError:
            self._table.tokens.pop(token, None)
            raise

    return _counters(record_many=record_many)


@mutant("C3", "counters", by="recordings_among_rivals_are_whole")
def thumbs_down_come_later() -> Patched:
    """Thumbs down are counted a moment after all else that was recorded with them."""

    async def record_many(self: InProcessModelCounters, counts: Sequence[Recorded], *, token: Any = None) -> None:
        await _record_many(self, [dataclasses.replace(one, negative=0) for one in counts], token=token)
        await _a_while()
        await _record_many(self, [Recorded(one.model_name, negative=one.negative) for one in counts])

    return _counters(record_many=record_many)


@mutant("C6", "counters", by="resets_among_rivals_have_a_moment")
def reset_removes_twice() -> Patched:
    """Reset removes a model, and a moment later what was recorded of it meanwhile."""

    async def reset(self: InProcessModelCounters, model_name: str) -> None:
        await _reset(self, model_name)
        await _a_while()
        await _reset(self, model_name)

    return _counters(reset=reset)
