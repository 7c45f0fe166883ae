"""Faults of what is read from a memory store: M6, M9 and M11."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterable
from typing import Any
from unittest import mock

from deerflow_backends import codec, listings, paging, search
from deerflow_backends.changes import Effects, StoredFact
from deerflow_backends.inprocess.memories import InProcessMemoryStore
from deerflow_backends.listings import FactListing
from deerflow_backends.memories import Fact, Memory
from deerflow_backends.paging import Page
from deerflow_conformance.mutants import Patched, mutant
from deerflow_conformance.mutants.memories import with_methods

_load = InProcessMemoryStore.load
_list_facts = InProcessMemoryStore.list_facts
_store = InProcessMemoryStore._store
_state = InProcessMemoryStore._state
_facts_in_order = InProcessMemoryStore._facts_in_order
_page = FactListing.page
_score = search._score
_decode_cursor = paging.decode_cursor
_check_category = listings.check_category


# ---------------------------------------------------------------------- M6


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

    return with_methods(list_facts=list_facts)


@mutant("M6", "memory", by="facts_keep_all_fields_and_byte_order")
def facts_order_by_case_folded_ids() -> Patched:
    """Ids order as a collation does, not by their bytes."""

    def facts_in_order(self: InProcessMemoryStore, user_id: Any, agent_name: Any) -> list[tuple[str, StoredFact]]:
        facts = self._user(user_id).facts.get(agent_name, {})
        return sorted(facts.items(), key=lambda item: (item[0].casefold(), item[0]))

    return with_methods(_facts_in_order=facts_in_order)


@mutant("M6", "memory", by="bad_pages_are_refused")
def a_cursor_fits_any_listing() -> Patched:
    """A cursor does not say which listing it belongs to."""
    encode, decode = paging.encode_cursor, paging.decode_cursor
    return mock.patch.multiple(
        listings,
        encode_cursor=lambda _, key: encode((), key),
        decode_cursor=lambda _, cursor, types: decode((), cursor, types),
    )


@mutant("M6", "memory", by="facts_keep_all_fields_and_byte_order")
def facts_order_as_utf_16() -> Patched:
    """Ids order by their UTF-16 units."""

    def facts_in_order(self: InProcessMemoryStore, user_id: Any, agent_name: Any) -> list[tuple[str, StoredFact]]:
        rows = _facts_in_order(self, user_id, agent_name)
        return sorted(rows, key=lambda item: item[0].encode("utf-16-be"))

    return with_methods(_facts_in_order=facts_in_order)


@mutant("M6", "memory", by="facts_keep_all_fields_and_byte_order")
def unknown_fields_are_dropped() -> Patched:
    """Of a fact's value the fields that mean something are kept."""

    def to_fact(self: StoredFact, key: Any) -> Fact:
        fact = _to_fact(self, key)
        known = {name: item for name, item in fact.value.items() if name in {"content", "category", "n"}}
        return dataclasses.replace(fact, value=known)

    return mock.patch.object(StoredFact, "to_fact", to_fact)


_to_fact = StoredFact.to_fact


@mutant("M6", "memory", by="pages_lose_and_repeat_nothing")
def a_full_last_page_of_facts_has_a_cursor() -> Patched:
    """A page that is just full has a cursor, even where nothing can follow."""

    def page(self: FactListing, rows: Iterable[tuple[str, StoredFact]]) -> Page[Fact]:
        found = _page(self, rows)
        if len(found.items) < self.limit or found.next_cursor is not None:
            return found
        return Page(found.items, paging.encode_cursor(self._listing, (found.items[-1].fact_id,)))

    return mock.patch.object(FactListing, "page", page)


@mutant("M6", "memory", by="pages_lose_and_repeat_nothing")
def a_page_begins_with_the_last_fact() -> Patched:
    """A page repeats the fact that the one before it ended with, unless it holds only one."""

    async def list_facts(self: InProcessMemoryStore, user_id: Any, *, limit: int = 100, **more: Any) -> Page[Fact]:
        page = await _list_facts(self, user_id, limit=limit, **more)
        last.append(page.items[-1:])
        return Page((*last[-2], *page.items)[:limit], page.next_cursor) if more.get("cursor") and limit > 1 else page

    last: list[tuple[Fact, ...]] = []
    return with_methods(list_facts=list_facts)


@mutant("M6", "memory", by="pages_lose_and_repeat_nothing")
def another_category_ends_the_listing() -> Patched:
    """A page looks at so many facts as its limit says, and has no cursor if none of them is of the category."""

    def page(self: FactListing, rows: Iterable[tuple[str, StoredFact]]) -> Page[Fact]:
        return _page(self, list(rows)[: self.limit + 1])

    return mock.patch.object(FactListing, "page", page)


@mutant("M6", "memory", by="facts_keep_all_fields_and_byte_order")
def categories_fold() -> Patched:
    """Categories that differ by case or form are one."""
    folded = search._folded
    return mock.patch.object(
        listings,
        "has_category",
        lambda value, category: folded(str(value.get("category"))) == folded(category),
    )


@mutant("M6", "memory", by="facts_keep_all_fields_and_byte_order")
def an_empty_category_lists_all() -> Patched:
    """An empty category is none: all facts are listed."""
    return mock.patch.object(listings, "check_category", lambda category: _check_category(category) or None)


@mutant("M6", "memory", by="bad_pages_are_refused")
def limits_are_cut_to_their_bounds() -> Patched:
    """A limit below 1 is 1, and one above 1,000 is 1,000."""
    return mock.patch.object(listings, "check_page_limit", lambda value: min(max(int(value), 1), 1_000))


@mutant("M6", "memory", by="bad_pages_are_refused")
def a_damaged_cursor_begins_anew() -> Patched:
    """A cursor that cannot be read is none."""

    def decode_cursor(listing: Any, cursor: Any, types: Any) -> Any:
        try:
            return _decode_cursor(listing, cursor, types)
        except ValueError:
            return ("",)

    return mock.patch.object(listings, "decode_cursor", decode_cursor)


# ---------------------------------------------------------------------- M9


@mutant("M9", "memory", by="a_change_costs_what_it_changes")
def apply_rewrites_the_part() -> Patched:
    """Every apply stores all facts of the parts that it touches again."""

    def store(self: InProcessMemoryStore, user_id: Any, effects: Effects, now: int) -> None:
        _store(self, user_id, effects, now)
        for facts in self._users[user_id].facts.values():
            for fact_id, fact in list(facts.items()):
                facts[fact_id] = fact

    return with_methods(_store=store)


@mutant("M9", "memory", by="a_change_costs_what_it_changes")
def a_load_reads_every_part() -> Patched:
    """Loading a part goes through all facts of the user."""

    async def load(self: InProcessMemoryStore, user_id: Any, *, agent_name: Any = None) -> Memory:
        for facts in self._user(user_id).facts.values():
            for fact in facts.values():
                codec.decode(fact.value)
        return await _load(self, user_id, agent_name=agent_name)

    return with_methods(load=load)


@mutant("M9", "memory", by="load_does_not_grow_faster_than_its_facts")
def a_load_looks_at_each_fact_again() -> Patched:
    """For each fact that is loaded a number of others are looked at, the more the larger the part is."""

    async def load(self: InProcessMemoryStore, user_id: Any, *, agent_name: Any = None) -> Memory:
        facts = self._user(user_id).facts.get(agent_name, {})
        for number in range(len(facts)):
            for _ in range(number // 10):
                len(facts)
        return await _load(self, user_id, agent_name=agent_name)

    return with_methods(load=load)


@mutant("M9", "memory", by="a_change_costs_what_it_changes")
def an_apply_reads_everything() -> Patched:
    """An apply reads all facts of the user before it judges the changes."""

    def state(self: InProcessMemoryStore, user_id: Any, changes: Any) -> Any:
        for facts in self._user(user_id).facts.values():
            for fact in facts.values():
                codec.decode(fact.value)
        return _state(self, user_id, changes)

    return with_methods(_state=state)


# ---------------------------------------------------------------------- M11


@mutant("M11", "memory", by="load_is_of_one_revision")
def load_reads_twice() -> Patched:
    """Body and revision are read first and the facts after, with other writers in between."""

    async def load(self: InProcessMemoryStore, user_id: Any, *, agent_name: Any = None) -> Memory:
        first = await _load(self, user_id, agent_name=agent_name)
        await asyncio.sleep(0)
        return dataclasses.replace(first, facts=(await _load(self, user_id, agent_name=agent_name)).facts)

    return with_methods(load=load)


@mutant("M11", "memory", by="load_is_of_one_revision")
def the_revision_is_read_last() -> Patched:
    """Body and facts are read first and the revision after, with other writers in between."""

    async def load(self: InProcessMemoryStore, user_id: Any, *, agent_name: Any = None) -> Memory:
        first = await _load(self, user_id, agent_name=agent_name)
        await asyncio.sleep(0)
        last = await _load(self, user_id, agent_name=agent_name)
        return dataclasses.replace(first, revision=last.revision, updated_at=last.updated_at)

    return with_methods(load=load)


@mutant("M11", "memory", by="load_is_of_one_revision")
def the_body_is_read_first() -> Patched:
    """The body is read first and the rest after, with other writers in between."""

    async def load(self: InProcessMemoryStore, user_id: Any, *, agent_name: Any = None) -> Memory:
        first = await _load(self, user_id, agent_name=agent_name)
        await asyncio.sleep(0)
        last = await _load(self, user_id, agent_name=agent_name)
        return dataclasses.replace(last, body=first.body, body_revision=first.body_revision)

    return with_methods(load=load)
