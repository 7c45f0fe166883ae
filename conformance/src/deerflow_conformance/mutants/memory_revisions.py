"""Faults of a memory store that concern revisions, conflicts and rivals: M3, M4 and M5."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any
from unittest import mock

from deerflow_backends import changes, codec
from deerflow_backends.changes import (
    BodyChange,
    Changes,
    Effects,
    State,
    StoredBody,
    StoredFact,
    applied,
    check_changes,
)
from deerflow_backends.errors import RevisionConflict
from deerflow_backends.inprocess import memories
from deerflow_backends.inprocess.memories import InProcessMemoryStore
from deerflow_backends.memories import ALL, ANY, Applied, Change, DeleteFact, PutBody
from deerflow_conformance.mutants import Patched, mutant
from deerflow_conformance.mutants.memories import with_methods

_apply = InProcessMemoryStore.apply
_store = InProcessMemoryStore._store
_clear = InProcessMemoryStore.clear
_judge = changes.judge


def _judging(judge: Any) -> Patched:
    return mock.patch.object(memories, "judge", judge)


# ---------------------------------------------------------------------- M3


@mutant("M3", "memory", by="a_revision_never_goes_back")
def deleting_keeps_the_revision() -> Patched:
    """An apply that only deletes does not raise the user's revision."""

    def judge(changes: Changes, state: State, *, now: int) -> Effects:
        effects = _judge(changes, state, now=now)
        if effects.bodies or any(effects.facts.values()):
            return effects
        return dataclasses.replace(effects, revision=state.revision)

    return _judging(judge)


@mutant("M3", "memory", by="revisions_count_effects")
def every_change_raises_the_revision() -> Patched:
    """The user's revision rises by the number of things changed."""

    def judge(changes: Changes, state: State, *, now: int) -> Effects:
        effects = _judge(changes, state, now=now)
        return dataclasses.replace(effects, revision=state.revision + len(effects.bodies) + len(effects.facts))

    return _judging(judge)


@mutant("M3", "memory", by="what_changes_nothing_keeps_revisions")
def equal_in_python_is_unchanged() -> Patched:
    """Values are compared as Python does: 1, 1.0 and True are the same, and a change between them is dropped."""

    def judge(changes: Changes, state: State, *, now: int) -> Effects:
        effects = _judge(changes, state, now=now)
        facts = {
            key: fact
            for key, fact in effects.facts.items()
            if not (fact and key in state.facts and _equal(fact, state.facts[key]))
        }
        revision = state.revision + bool(effects.bodies or facts)
        return Effects(revision, effects.bodies, facts)

    return _judging(judge)


def _equal(one: StoredFact, other: StoredFact) -> bool:
    return bool(codec.decode(one.value) == codec.decode(other.value))


@mutant("M3", "memory", by="what_changes_nothing_keeps_revisions")
def an_equal_value_raises_the_revision() -> Patched:
    """Putting what is there already counts as a change."""

    def judge(changes: Changes, state: State, *, now: int) -> Effects:
        effects = _judge(changes, state, now=now)
        put = any(isinstance(change, BodyChange) or change.value is not None for change in changes.in_order)
        return dataclasses.replace(effects, revision=state.revision + put)

    return _judging(judge)


@mutant("M3", "memory", by="what_changes_nothing_keeps_revisions")
def deleting_nothing_raises_the_revision() -> Patched:
    """Deleting a fact that is not there counts as a change."""

    def judge(changes: Changes, state: State, *, now: int) -> Effects:
        effects = _judge(changes, state, now=now)
        deletes = any(not isinstance(change, BodyChange) and change.value is None for change in changes.in_order)
        return dataclasses.replace(effects, revision=state.revision + (deletes or effects.changed))

    return _judging(judge)


@mutant("M3", "memory", by="what_changes_nothing_keeps_revisions")
def an_idle_apply_touches() -> Patched:
    """An apply that changes nothing moves the user's time on."""

    async def apply(self: InProcessMemoryStore, user_id: Any, *arguments: Any, **more: Any) -> Applied:
        applied = await _apply(self, user_id, *arguments, **more)
        if user_id in self._users:
            self._users[user_id].updated_at = self._clock()
        return applied

    return with_methods(apply=apply)


@mutant("M3", "memory", by="what_changes_nothing_keeps_revisions")
def the_order_of_keys_is_a_change() -> Patched:
    """Values are compared as text, in which keys have an order."""

    def canonical_object(value: Any, place: str) -> bytes:
        codec.canonical(value, place)
        return codec.encode(value, place)

    return mock.patch.object(codec, "canonical_object", canonical_object)


@mutant("M3", "memory", by="a_revision_never_goes_back")
def a_fact_put_again_goes_on_counting() -> Patched:
    """A fact that is put again after its deletion has the revision after its last one."""
    last: dict[Any, int] = {}

    def judge(changes: Changes, state: State, *, now: int) -> Effects:
        effects = _judge(changes, state, now=now)
        for key, fact in effects.facts.items():
            if fact is not None and key not in state.facts and key in last:
                effects.facts[key] = fact._replace(revision=last[key] + 1)
        last.update({key: fact.revision for key, fact in effects.facts.items() if fact is not None})
        return effects

    return _judging(judge)


@mutant("M3", "memory", by="a_revision_never_goes_back")
def clearing_starts_again() -> Patched:
    """Once everything of a user was cleared, revisions begin at 0 again."""

    async def clear(self: InProcessMemoryStore, user_id: Any, *, agent_name: Any = ALL) -> int:
        revision = await _clear(self, user_id, agent_name=agent_name)
        if not self._parts(user_id):
            self._users.pop(user_id, None)
        return revision

    return with_methods(clear=clear)


@mutant("M3", "memory", by="a_revision_never_goes_back")
def the_last_deletion_starts_again() -> Patched:
    """Once the last fact of a user is deleted, and no body is there, revisions begin at 0 again."""

    def store(self: InProcessMemoryStore, user_id: Any, effects: Effects, now: int) -> None:
        _store(self, user_id, effects, now)
        user = self._users[user_id]
        if not user.facts and all(body.body == b"{}" for body in user.bodies.values()):
            del self._users[user_id]

    return with_methods(_store=store)


@mutant("M3", "memory", by="revisions_count_effects")
def a_fact_has_the_users_revision() -> Patched:
    """A fact that is changed bears the user's revision."""

    def judge(changes: Changes, state: State, *, now: int) -> Effects:
        effects = _judge(changes, state, now=now)
        facts = {key: fact and fact._replace(revision=effects.revision) for key, fact in effects.facts.items()}
        return Effects(effects.revision, effects.bodies, facts)

    return _judging(judge)


@mutant("M3", "memory", by="a_revision_never_goes_back")
def an_emptied_body_is_absent() -> Patched:
    """A body that is {} again has the revision 0."""

    def store(self: InProcessMemoryStore, user_id: Any, effects: Effects, now: int) -> None:
        _store(self, user_id, effects, now)
        bodies = self._users[user_id].bodies
        for name in [name for name, body in bodies.items() if body.body == b"{}"]:
            del bodies[name]

    return with_methods(_store=store)


@mutant("M3", "memory", by="times_tell_when_it_changed")
def changing_makes_a_fact_new() -> Patched:
    """A changed fact was created when it was changed."""

    def judge(changes: Changes, state: State, *, now: int) -> Effects:
        effects = _judge(changes, state, now=now)
        facts = {key: fact and fact._replace(created_at=now) for key, fact in effects.facts.items()}
        return Effects(effects.revision, effects.bodies, facts)

    return _judging(judge)


@mutant("M3", "memory", by="times_tell_when_it_changed")
def an_apply_touches_every_fact() -> Patched:
    """Whatever of a user changes, all facts bear the time of it."""

    def store(self: InProcessMemoryStore, user_id: Any, effects: Effects, now: int) -> None:
        _store(self, user_id, effects, now)
        for facts in self._users[user_id].facts.values():
            facts.update({fact_id: fact._replace(updated_at=now) for fact_id, fact in facts.items()})

    return with_methods(_store=store)


@mutant("M3", "memory", by="times_tell_when_it_changed")
def the_users_time_stays() -> Patched:
    """The user's time is that of the first write."""

    def store(self: InProcessMemoryStore, user_id: Any, effects: Effects, now: int) -> None:
        known = self._users.get(user_id)
        _store(self, user_id, effects, known.updated_at if known else now)

    return with_methods(_store=store)


# ---------------------------------------------------------------------- M4


@mutant("M4", "memory", by=("conflicts_tell_and_change_nothing", "a_stale_writer_is_told"))
def a_conflict_tells_the_wrong_revision() -> Patched:
    """A conflict tells the expected revision as the one that was found."""

    def judge(changes: Changes, state: State, *, now: int) -> Effects:
        try:
            return _judge(changes, state, now=now)
        except RevisionConflict as conflict:
            raise RevisionConflict(conflict.where, expected=conflict.found, found=conflict.expected) from None

    return _judging(judge)


@mutant("M4", "memory", by=("conflicts_tell_and_change_nothing", "a_stale_writer_is_told"))
def an_expected_absence_is_not_checked() -> Patched:
    """A change that expects a deletion's fact not to be there, or to be, is never refused."""

    async def apply(self: InProcessMemoryStore, user_id: Any, changes: Sequence[Change], **more: Any) -> Applied:
        unguarded = [
            dataclasses.replace(change, expected=ANY) if isinstance(change, DeleteFact) else change
            for change in changes
        ]
        return await _apply(self, user_id, unguarded, **more)

    return with_methods(apply=apply)


@mutant("M4", "memory", by=("a_stale_writer_is_told", "conflicts_tell_and_change_nothing"))
def the_users_revision_is_not_guarded() -> Patched:
    """What revision of the user is expected is not looked at."""

    async def apply(self: InProcessMemoryStore, user_id: Any, changes: Sequence[Change], **_: Any) -> Applied:
        return await _apply(self, user_id, changes)

    return with_methods(apply=apply)


@mutant("M4", "memory", by="a_stale_writer_is_told")
def an_empty_apply_is_not_guarded() -> Patched:
    """Where there is nothing to change, no expectation is looked at."""

    async def apply(
        self: InProcessMemoryStore, user_id: Any, changes: Sequence[Change], *, expected_revision: Any = None
    ) -> Applied:
        return await _apply(self, user_id, changes, expected_revision=expected_revision if changes else None)

    return with_methods(apply=apply)


@mutant("M4", "memory", by="a_stale_writer_is_told")
def an_equal_value_is_not_guarded() -> Patched:
    """Where a change would change nothing, what it expects is not looked at."""

    def judge(changes: Changes, state: State, *, now: int) -> Effects:
        unguarded = []
        for change in changes.in_order:
            stored: StoredBody | StoredFact | None
            if isinstance(change, BodyChange):
                stored = state.bodies.get(change.agent_name)
                same = stored is not None and stored.body == change.body
            else:
                stored = state.facts.get(change.key)
                same = stored is not None and stored.value == change.value
            unguarded.append(change._replace(expected=ANY) if same else change)
        return _judge(Changes(tuple(unguarded), changes.expected_revision), state, now=now)

    return _judging(judge)


@mutant("M4", "memory", by="a_stale_writer_is_told")
def an_expected_0_is_no_expectation() -> Patched:
    """Where the revision 0 is expected, anything may be there."""

    def judge(changes: Changes, state: State, *, now: int) -> Effects:
        in_order = tuple(change._replace(expected=change.expected or ANY) for change in changes.in_order)
        return _judge(Changes(in_order, changes.expected_revision), state, now=now)

    return _judging(judge)


@mutant("M4", "memory", by="a_stale_writer_is_told")
def an_absent_body_has_no_revision() -> Patched:
    """A body that is to have the revision 0, which it reads as while absent, never has it."""
    return mock.patch.object(changes, "_expected_revision", lambda change: _number(change.expected))


def _number(expected: Any) -> int | None:
    return expected if isinstance(expected, int) else None


@mutant("M4", "memory", by="conflicts_tell_and_change_nothing")
def the_last_conflict_is_told() -> Patched:
    """Of several expectations that do not hold the last one is told."""

    def judge(changes: Changes, state: State, *, now: int) -> Effects:
        _judge(Changes(changes.in_order[::-1], changes.expected_revision), state, now=now)
        return _judge(changes, state, now=now)

    return _judging(judge)


@mutant("M4", "memory", by="conflicts_tell_and_change_nothing")
def what_comes_before_a_conflict_is_made() -> Patched:
    """The changes before one whose expectation does not hold are made."""

    async def apply(self: InProcessMemoryStore, user_id: Any, changes: Sequence[Change], **more: Any) -> Applied:
        try:
            return await _apply(self, user_id, changes, **more)
        except RevisionConflict:
            for end in range(1, len(changes)):
                try:
                    await _apply(self, user_id, changes[end - 1 : end], **more)
                except RevisionConflict:
                    break
            raise

    return with_methods(apply=apply)


@mutant("M4", "memory", by=("a_stale_writer_is_told", "conflicts_tell_and_change_nothing"))
def a_conflict_does_not_say_where() -> Patched:
    """A conflict names the user, whatever it was."""

    def judge(changes: Changes, state: State, *, now: int) -> Effects:
        try:
            return _judge(changes, state, now=now)
        except RevisionConflict as conflict:
            raise RevisionConflict("the user", expected=conflict.expected, found=conflict.found) from None

    return _judging(judge)


# ---------------------------------------------------------------------- M5


@mutant("M5", "memory", by=("one_rival_wins", "different_facts_all_land", "retrying_rivals_lose_nothing"))
def an_update_is_lost() -> Patched:
    """State is read, judged and stored in separate steps, and other writers come in between."""

    async def apply(
        self: InProcessMemoryStore, user_id: Any, changes: Sequence[Change], *, expected_revision: Any = None
    ) -> Applied:
        checked = check_changes(changes, expected_revision)
        state = self._state(user_id, checked)
        await asyncio.sleep(0)
        effects = _judge(checked, state, now=self._clock())
        if effects.changed:
            self._store(user_id, effects, self._clock())
        return applied(checked, state, effects)

    return with_methods(apply=apply)


@mutant("M5", "memory", by="different_facts_all_land")
def a_part_is_written_back_whole() -> Patched:
    """An apply reads the user's memory, changes it, and writes all of it, over what others wrote in between."""

    async def apply(self: InProcessMemoryStore, user_id: Any, changes: Sequence[Change], **more: Any) -> Applied:
        facts = {name: dict(part) for name, part in self._user(user_id).facts.items()}
        await asyncio.sleep(0)
        if user_id in self._users:
            self._users[user_id].facts = facts
        return await _apply(self, user_id, changes, **more)

    return with_methods(apply=apply)


@mutant("M5", "memory", by=("one_rival_wins", "retrying_rivals_lose_nothing"))
def bodies_are_not_guarded() -> Patched:
    """What revision of a body is expected is looked at before a wait, and the body is then put all the same."""

    async def apply(self: InProcessMemoryStore, user_id: Any, changes: Sequence[Change], **more: Any) -> Applied:
        checked = check_changes(changes, more.get("expected_revision"))
        _judge(checked, self._state(user_id, checked), now=self._clock())
        await asyncio.sleep(0)
        unguarded = [
            dataclasses.replace(change, expected=ANY) if isinstance(change, PutBody) else change for change in changes
        ]
        return await _apply(self, user_id, unguarded, **more)

    return with_methods(apply=apply)


@mutant("M5", "memory", by="different_facts_all_land")
def rivals_share_a_revision() -> Patched:
    """Applies at the same moment all land, under one revision."""

    async def apply(self: InProcessMemoryStore, user_id: Any, changes: Sequence[Change], **more: Any) -> Applied:
        before = self._user(user_id).revision
        await asyncio.sleep(0)
        made = await _apply(self, user_id, changes, **more)
        if made.changed:
            self._users[user_id].revision = before + 1
        return dataclasses.replace(made, revision=before + made.changed)

    return with_methods(apply=apply)


@mutant("M5", "memory", by="different_facts_all_land")
def unconditional_rivals_conflict() -> Patched:
    """Who writes while somebody else does is refused, though nothing was expected."""
    writing: set[Any] = set()

    async def apply(self: InProcessMemoryStore, user_id: Any, changes: Sequence[Change], **more: Any) -> Applied:
        if user_id in writing:
            raise RevisionConflict("the user", expected=None, found=self._user(user_id).revision)
        writing.add(user_id)
        try:
            await asyncio.sleep(0)
            return await _apply(self, user_id, changes, **more)
        finally:
            writing.discard(user_id)

    return with_methods(apply=apply)
