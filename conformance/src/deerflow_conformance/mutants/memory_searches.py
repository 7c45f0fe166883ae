"""Faults of searching a memory store: M7."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Any
from unittest import mock

from deerflow_backends import listings, search
from deerflow_backends.inprocess.memories import InProcessMemoryStore
from deerflow_backends.memories import FactMatch
from deerflow_conformance.mutants import Patched, mutant, together
from deerflow_conformance.mutants.memories import with_methods

_search = InProcessMemoryStore.search
_store = InProcessMemoryStore._store
_state = InProcessMemoryStore._state
_facts_in_order = InProcessMemoryStore._facts_in_order
_score = search._score
_query_parts = search.query_parts
_check_category = listings.check_category


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

    return with_methods(search=found)


@mutant("M7", "memory", by="scripts_and_forms_are_found")
def any_part_of_the_query_is_enough() -> Patched:
    """A fact is found that has one of the query's words but not all."""

    def score(content: object, parts: tuple[str, ...]) -> float:
        return max(_score(content, (part,)) for part in parts)

    return mock.patch.object(search, "_score", score)


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


@mutant("M7", "memory", by="scripts_and_forms_are_found")
def an_agent_without_matches_finds_the_users() -> Patched:
    """Where an agent's part has no match, those of the user-wide part are given."""

    async def found(self: InProcessMemoryStore, user_id: Any, query: str, *, agent_name: Any, **more: Any) -> Any:
        own = await _search(self, user_id, query, agent_name=agent_name, **more)
        return own or await _search(self, user_id, query, agent_name=None, **more)

    return with_methods(search=found)


@mutant("M7", "memory", by="scripts_and_forms_are_found")
def search_knows_nfc_only() -> Patched:
    """Text is brought to NFC: ligatures and full-width letters are letters of their own."""
    return mock.patch.object(search, "_folded", lambda text: unicodedata.normalize("NFC", text).casefold())


@mutant("M7", "memory", by="scripts_and_forms_are_found")
def only_whole_words_match() -> Patched:
    """A part of the query must be a word of the text, between white space."""

    def score(content: object, parts: tuple[str, ...]) -> float:
        words = search._folded(content).split() if isinstance(content, str) else []
        return _score(content, parts) if all(part in words for part in parts) else 0.0

    return mock.patch.object(search, "_score", score)


@mutant("M7", "memory", by="scripts_and_forms_are_found")
def queries_are_patterns() -> Patched:
    """The signs % and _ in a query stand for any text and for any character."""

    def score(content: object, parts: tuple[str, ...]) -> float:
        if not isinstance(content, str):
            return 0.0
        text = search._folded(content)
        for part in parts:
            pattern = re.escape(part).replace("%", ".*").replace("_", ".")
            if not re.search(pattern, text, re.DOTALL):
                return 0.0
        return _score(content, parts) or 0.01

    return mock.patch.object(search, "_score", score)


@mutant("M7", "memory", by=("category_comes_before_limit",))
def any_content_is_text() -> Patched:
    """A content that is no str is searched as it is shown."""
    return mock.patch.object(search, "_score", lambda content, parts: _score(str(content or ""), parts))


@mutant("M7", "memory", by="category_comes_before_limit")
def any_category_is_text() -> Patched:
    """Categories fold, and one that is no str is compared as it is shown."""
    return mock.patch.object(
        search, "has_category", lambda value, category: str(value.get("category")).casefold() == category.casefold()
    )


@mutant("M7", "memory", by="category_comes_before_limit")
def an_empty_category_searches_all() -> Patched:
    """An empty category is none: all facts are searched."""
    return mock.patch.object(listings, "check_category", lambda category: _check_category(category) or None)


@mutant("M7", "memory", by="search_is_what_the_words_say")
def the_longest_text_is_best() -> Patched:
    """The score of a fact is how much of it was found, whatever its length."""

    def score(content: object, parts: tuple[str, ...]) -> float:
        return _score(content, parts) * len(search._folded(content)) if isinstance(content, str) else 0.0

    return mock.patch.object(search, "_score", score)


@mutant("M7", "memory", by="category_comes_before_limit")
def ties_go_by_id_downwards() -> Patched:
    """Facts of the same score come with the greatest id first."""

    def rank(matches: Iterable[FactMatch], *, limit: int) -> list[FactMatch]:
        ordered = sorted(matches, key=lambda match: match.fact.fact_id, reverse=True)
        return sorted(ordered, key=lambda match: -match.score)[:limit]

    return mock.patch.object(search, "rank", rank)


@mutant("M7", "memory", by="category_comes_before_limit")
def the_first_matches_are_ranked() -> Patched:
    """So many matches as the limit says are taken, by id, and then ranked."""

    def rank(matches: Iterable[FactMatch], *, limit: int) -> list[FactMatch]:
        first = sorted(matches, key=lambda match: match.fact.fact_id)[:limit]
        return sorted(first, key=lambda match: (-match.score, match.fact.fact_id))

    return mock.patch.object(search, "rank", rank)


@mutant("M7", "memory", by=("category_comes_before_limit", "search_is_what_the_words_say"))
def an_empty_query_finds_everything() -> Patched:
    """A query of white space finds all facts."""

    def score(content: object, parts: tuple[str, ...]) -> float:
        return _score(content, parts) if parts else 1.0

    return together(
        mock.patch.object(search, "_score", score),
        mock.patch.object(listings, "query_parts", lambda query: _query_parts(query) if query.strip() else ()),
    )


@mutant("M7", "memory", by="category_comes_before_limit")
def any_number_may_be_found() -> Patched:
    """The limit of a search is not looked at."""
    return mock.patch.object(listings, "check_page_limit", lambda value: max(int(value), 1))


@mutant("M7", "memory", by="scripts_and_forms_are_found")
def every_part_is_searched() -> Patched:
    """A search goes through all parts of the user."""

    async def found(self: InProcessMemoryStore, user_id: Any, query: str, *, agent_name: Any, **more: Any) -> Any:
        matches = await _search(self, user_id, query, agent_name=agent_name, **more)
        for other in self._parts(user_id):
            if other != agent_name:
                matches += await _search(self, user_id, query, agent_name=other, **more)
        return matches

    return with_methods(search=found)


@mutant("M7", "memory", by="scripts_and_forms_are_found")
def every_user_is_searched() -> Patched:
    """A search goes through the agent's parts of all users."""

    async def found(self: InProcessMemoryStore, user_id: Any, query: str, *, agent_name: Any, **more: Any) -> Any:
        matches = await _search(self, user_id, query, agent_name=agent_name, **more)
        for other in self._users:
            if other != user_id:
                matches += await _search(self, other, query, agent_name=agent_name, **more)
        return matches

    return with_methods(search=found)
