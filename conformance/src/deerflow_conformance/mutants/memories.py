"""Faults of a memory store."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from unittest import mock

from deerflow_backends import changes, codec, listings, paging, search
from deerflow_backends.changes import Changes, Effects, State, StoredFact, applied, check_changes
from deerflow_backends.errors import Conflict, RevisionConflict
from deerflow_backends.inprocess import memories
from deerflow_backends.inprocess.layout import StoredUser
from deerflow_backends.inprocess.memories import InProcessMemoryStore
from deerflow_backends.memories import ALL, ANY, Applied, Change, DeleteFact, Fact, FactMatch, Memory, PutBody
from deerflow_backends.paging import Page
from deerflow_backends.records import Part
from deerflow_conformance.mutants import mutant

Patched = AbstractContextManager[Any]

_load = InProcessMemoryStore.load
_apply = InProcessMemoryStore.apply
_store = InProcessMemoryStore._store
_clear = InProcessMemoryStore.clear
_search = InProcessMemoryStore.search
_judge = changes.judge
_is_new = Part.is_new


@contextmanager
def _with_methods(**methods: Any) -> Iterator[None]:
    with ExitStack() as patches:
        for name, method in methods.items():
            patches.enter_context(mock.patch.object(InProcessMemoryStore, name, method))
        yield


def _judging(judge: Any) -> Patched:
    return mock.patch.object(memories, "judge", judge)


@mutant("M1", "memory", by=("the_next_read_has_what_was_applied", "a_replica_reads_what_was_applied"))
def loads_come_from_a_cache() -> Patched:
    """An instance that loaded a part shows it unchanged until it writes itself."""
    kept: dict[tuple[int, Any, Any], Memory] = {}

    async def load(self: InProcessMemoryStore, user_id: Any, *, agent_name: Any = None) -> Memory:
        key = (id(self), user_id, agent_name)
        if key not in kept:
            kept[key] = await _load(self, user_id, agent_name=agent_name)
        return kept[key]

    async def apply(self: InProcessMemoryStore, *arguments: Any, **more: Any) -> Applied:
        for key in [key for key in kept if key[0] == id(self)]:
            del kept[key]
        return await _apply(self, *arguments, **more)

    return _with_methods(load=load, apply=apply)


@mutant("M1", "memory", by="reading_creates_nothing")
def reading_makes_a_user() -> Patched:
    """Loading the memory of a user who never wrote stores that user."""

    async def load(self: InProcessMemoryStore, user_id: Any, *, agent_name: Any = None) -> Memory:
        self._users.setdefault(user_id, StoredUser(1, 0))
        return await _load(self, user_id, agent_name=agent_name)

    return _with_methods(load=load)


@mutant("M2", "memory", by="one_bad_change_undoes_all")
def changes_are_stored_one_by_one() -> Patched:
    """Each change is judged and stored before the next one is looked at."""

    async def apply(
        self: InProcessMemoryStore, user_id: Any, changes: Sequence[Change], *, expected_revision: Any = None
    ) -> Applied:
        applied = await _apply(self, user_id, changes[:1], expected_revision=expected_revision)
        for change in changes[1:]:
            one = await _apply(self, user_id, [change])
            applied = Applied(one.revision, applied.facts + one.facts, applied.deleted + one.deleted, True)
        return applied

    return _with_methods(apply=apply)


@mutant("M2", "memory", by="one_thing_twice_is_refused")
def the_last_of_two_changes_wins() -> Patched:
    """A fact or body that is changed twice in one apply takes the last change, and nobody is told."""

    async def apply(self: InProcessMemoryStore, user_id: Any, changes: Sequence[Change], **more: Any) -> Applied:
        last = {
            (change.agent_name, None if isinstance(change, PutBody) else change.fact_id): change for change in changes
        }
        return await _apply(self, user_id, list(last.values()), **more)

    return _with_methods(apply=apply)


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

    return _with_methods(apply=apply)


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

    return _with_methods(apply=apply)


@mutant("M6", "memory", by="pages_lose_and_repeat_nothing")
def a_page_starts_at_an_offset() -> Patched:
    """The cursor counts the facts before it, so a deletion on an earlier page skips one."""

    async def list_facts(
        self: InProcessMemoryStore, user_id: Any, *, limit: int = 100, cursor: Any = None, **part: Any
    ) -> Page[Fact]:
        listing = listings.check_fact_listing(
            user_id, category=None, agent_name=part["agent_name"], limit=limit, cursor=None
        )
        rows = self._facts_in_order(user_id, part["agent_name"])
        facts = [
            fact for fact in listing.page(rows).items if part.get("category") in {None, fact.value.get("category")}
        ]
        start = int(cursor or 0)
        end = start + limit
        return Page(tuple(facts[start:end]), str(end) if end < len(facts) else None)

    return _with_methods(list_facts=list_facts)


@mutant("M6", "memory", by="facts_keep_all_fields_and_byte_order")
def facts_order_by_case_folded_ids() -> Patched:
    """Ids order as a collation does, not by their bytes."""

    def facts_in_order(self: InProcessMemoryStore, user_id: Any, agent_name: Any) -> list[tuple[str, StoredFact]]:
        facts = self._user(user_id).facts.get(agent_name, {})
        return sorted(facts.items(), key=lambda item: (item[0].casefold(), item[0]))

    return _with_methods(_facts_in_order=facts_in_order)


@mutant("M6", "memory", by="bad_pages_are_refused")
def a_cursor_fits_any_listing() -> Patched:
    """A cursor does not say which listing it belongs to."""
    encode, decode = paging.encode_cursor, paging.decode_cursor
    return mock.patch.multiple(
        listings,
        encode_cursor=lambda _, key: encode((), key),
        decode_cursor=lambda _, cursor, types: decode((), cursor, types),
    )


@mutant("M7", "memory", by=("search_is_what_the_words_say", "scripts_and_forms_are_found"))
def search_only_lowers_case() -> Patched:
    """Text is lowered, not casefolded and normalised."""
    return mock.patch.object(search, "_folded", str.lower)


@mutant("M7", "memory", by="category_comes_before_limit")
def search_filters_after_the_limit() -> Patched:
    """The best matches of all categories are taken, and then those of the wanted one."""

    async def found(
        self: InProcessMemoryStore, user_id: Any, query: str, *, agent_name: Any, category: Any = None, limit: int = 10
    ) -> list[FactMatch]:
        matches = await _search(self, user_id, query, agent_name=agent_name, limit=limit)
        return [match for match in matches if category in {None, match.fact.value.get("category")}]

    return _with_methods(search=found)


@mutant("M7", "memory", by="scripts_and_forms_are_found")
def any_part_of_the_query_is_enough() -> Patched:
    """A fact is found that has one of the query's words but not all."""

    def score(content: object, parts: tuple[str, ...]) -> float:
        return max(_score(content, (part,)) for part in parts)

    return mock.patch.object(search, "_score", score)


_score = search._score


@mutant("M7", "memory", by="scripts_and_forms_are_found")
def a_word_twice_counts_twice() -> Patched:
    """A part that the query has twice covers twice as much of the text."""

    def query_parts(query: str) -> tuple[str, ...]:
        return tuple(search._folded(query).split()) or _query_parts(query)

    return mock.patch.object(listings, "query_parts", query_parts)


@mutant("M7", "memory", by="scripts_and_forms_are_found")
def only_spaces_part_words() -> Patched:
    """A query is split at spaces; tabs and line ends belong to its words."""

    def query_parts(query: str) -> tuple[str, ...]:
        return tuple(filter(str.strip, search._folded(query).split(" "))) if query.strip() else _query_parts(query)

    return mock.patch.object(listings, "query_parts", query_parts)


_query_parts = search.query_parts


@mutant("M7", "memory", by="scripts_and_forms_are_found")
def an_agent_without_matches_finds_the_users() -> Patched:
    """Where an agent's part has no match, those of the user-wide part are given."""

    async def found(self: InProcessMemoryStore, user_id: Any, query: str, *, agent_name: Any, **more: Any) -> Any:
        own = await _search(self, user_id, query, agent_name=agent_name, **more)
        return own or await _search(self, user_id, query, agent_name=None, **more)

    return _with_methods(search=found)


@mutant("M8", "memory", by="clear_takes_one_part")
def clear_takes_every_agent_of_that_prefix() -> Patched:
    """Clearing an agent also removes those whose names begin with its name."""

    async def clear(self: InProcessMemoryStore, user_id: Any, *, agent_name: Any = ALL) -> int:
        if isinstance(agent_name, str):
            for name in self._parts(user_id):
                if name is not None and name != agent_name and name.startswith(agent_name):
                    self._users[user_id].bodies.pop(name, None)
                    self._users[user_id].facts.pop(name, None)
        return await _clear(self, user_id, agent_name=agent_name)

    return _with_methods(clear=clear)


@mutant("M8", "memory", by="clear_takes_one_part")
def an_idle_clear_raises_the_revision() -> Patched:
    """Clear raises the user's revision even if there was nothing to remove."""

    async def clear(self: InProcessMemoryStore, user_id: Any, *, agent_name: Any = ALL) -> int:
        before = self._user(user_id).revision
        after = await _clear(self, user_id, agent_name=agent_name)
        if before == after and user_id in self._users:
            self._users[user_id].revision += 1
        return self._user(user_id).revision

    return _with_methods(clear=clear)


@mutant("M8", "memory", by=("erase_leaves_no_trace", "clear_and_erase_follow_the_model"))
def erase_keeps_the_revision() -> Patched:
    """Erase clears the user but goes on counting revisions."""

    async def erase(self: InProcessMemoryStore, user_id: Any) -> None:
        await _clear(self, user_id)

    return _with_methods(erase=erase)


@mutant("M9", "memory", by="a_change_costs_what_it_changes")
def apply_rewrites_the_part() -> Patched:
    """Every apply stores all facts of the parts that it touches again."""

    def store(self: InProcessMemoryStore, user_id: Any, effects: Effects, now: int) -> None:
        _store(self, user_id, effects, now)
        for facts in self._users[user_id].facts.values():
            for fact_id, fact in list(facts.items()):
                facts[fact_id] = fact

    return _with_methods(_store=store)


@mutant("M11", "memory", by="load_is_of_one_revision")
def load_reads_twice() -> Patched:
    """Body and revision are read first and the facts after, with other writers in between."""

    async def load(self: InProcessMemoryStore, user_id: Any, *, agent_name: Any = None) -> Memory:
        first = await _load(self, user_id, agent_name=agent_name)
        await asyncio.sleep(0)
        return dataclasses.replace(first, facts=(await _load(self, user_id, agent_name=agent_name)).facts)

    return _with_methods(load=load)


@mutant("M12", "memory", by="a_copy_reads_the_same")
def restore_forgets_times() -> Patched:
    """Restored facts bear the time of the restoring."""

    def restore(self: InProcessMemoryStore, part: Part) -> bool:
        now = self._clock()
        facts = {fact_id: fact._replace(updated_at=now) for fact_id, fact in part.facts.items()}
        return _restore(self, dataclasses.replace(part, facts=facts))

    return _with_methods(_restore=restore)


_restore = InProcessMemoryStore._restore


@mutant("M12", "memory", by="an_emptied_body_keeps_its_revision")
def an_emptied_body_is_not_restored() -> Patched:
    """A body that is {} is taken for none, and its revision is lost."""

    def restore(self: InProcessMemoryStore, part: Part) -> bool:
        emptied = part.body is not None and part.body.body == b"{}"
        return _restore(self, dataclasses.replace(part, body=None) if emptied else part)

    return _with_methods(_restore=restore)


@mutant("M12", "memory", by="a_different_record_is_a_conflict")
def restore_overwrites() -> Patched:
    """A record that meets a different one replaces it."""

    def is_new(self: Part, *stored: Any) -> bool:
        try:
            return _is_new(self, *stored)
        except Conflict:
            return True

    return mock.patch.object(Part, "is_new", is_new)
