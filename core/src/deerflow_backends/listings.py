"""Arguments of the paged reads, checked, and how a page is cut from what is stored. Pure; every backend shares it.

A backend gives the rows that follow the cursor, in order and no more than asked for; the page and the next cursor are
made here, so `Page.next_cursor` is None if and only if nothing more can follow, everywhere alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from deerflow_backends.arguments import (
    check_identifier,
    check_optional_identifier,
    check_page_limit,
    check_text,
)
from deerflow_backends.changes import StoredFact
from deerflow_backends.memories import Fact, FactMatch
from deerflow_backends.paging import Page, decode_cursor, encode_cursor
from deerflow_backends.search import has_category, query_parts, search_facts
from deerflow_backends.thread_changes import StoredThread, check_metadata, check_scope
from deerflow_backends.threads import ANY_USER, MAX_EXAMINED, Scope, Thread

#: A cursor of a thread listing: pinned, updated_at in microseconds, thread_id.
ThreadKey = tuple[bool, int, str]
_THREAD_KEY: Final = (bool, int, str)


@dataclass(frozen=True, slots=True)
class FactListing:
    """Checked arguments of `MemoryStore.list_facts`.

    Attributes:
        after: Only facts with a greater id, or None for all.
    """

    user_id: str | None
    agent_name: str | None
    category: str | None
    limit: int
    after: str | None

    def page(self, rows: Iterable[tuple[str, StoredFact]]) -> Page[Fact]:
        """Cut a page from *rows*: ids after `after`, in order. Reads no further than it must.

        Without a category ``limit + 1`` rows are enough; with one, all rows or those of the category.
        """
        found: list[Fact] = []
        for fact_id, stored in rows:
            fact = stored.to_fact((self.agent_name, fact_id))
            if self.category is not None and not has_category(fact.value, self.category):
                continue
            if len(found) == self.limit:
                return Page(tuple(found), encode_cursor(self._listing, (found[-1].fact_id,)))
            found.append(fact)
        return Page(tuple(found), None)

    @property
    def _listing(self) -> tuple[Any, ...]:
        return _fact_listing(self.user_id, self.agent_name, self.category)


def _fact_listing(user_id: str | None, agent_name: str | None, category: str | None) -> tuple[Any, ...]:
    return ("facts", user_id, agent_name, category)


def check_fact_listing(user_id: Any, *, agent_name: Any, category: Any, limit: Any, cursor: Any) -> FactListing:
    """Check the arguments of `MemoryStore.list_facts`."""
    user_id = check_optional_identifier("user_id", user_id)
    agent_name = check_optional_identifier("agent_name", agent_name)
    category = check_category(category)
    after = None
    if cursor is not None:
        (after,) = decode_cursor(_fact_listing(user_id, agent_name, category), cursor, (str,))
    return FactListing(user_id, agent_name, category, check_page_limit(limit), after)


@dataclass(frozen=True, slots=True)
class FactSearch:
    """Checked arguments of `MemoryStore.search`."""

    user_id: str | None
    agent_name: str | None
    parts: tuple[str, ...]
    category: str | None
    limit: int

    def find(self, rows: Iterable[tuple[str, StoredFact]]) -> list[FactMatch]:
        """Match and rank *rows*: the facts of the part, or of the category in it."""
        facts = (stored.to_fact((self.agent_name, fact_id)) for fact_id, stored in rows)
        return search_facts(facts, self.parts, category=self.category, limit=self.limit)


def check_fact_search(user_id: Any, query: Any, *, agent_name: Any, category: Any, limit: Any) -> FactSearch:
    """Check the arguments of `MemoryStore.search`."""
    user_id = check_optional_identifier("user_id", user_id)
    agent_name = check_optional_identifier("agent_name", agent_name)
    parts = query_parts(query)
    return FactSearch(user_id, agent_name, parts, check_category(category), check_page_limit(limit))


def check_category(category: Any) -> str | None:
    """Return *category* if it is None or text to filter by."""
    return None if category is None else check_text("category", category)


@dataclass(frozen=True, slots=True)
class ThreadListing:
    """Checked arguments of `ThreadIndex.list`.

    Attributes:
        wanted: Metadata values that a thread must have, in canonical JSON; empty for no filter.
        after: Only threads whose `StoredThread.order` is less, or None for all.
    """

    scope: Scope
    status: str | None
    wanted: Mapping[str, bytes]
    limit: int
    after: ThreadKey | None

    @property
    def fetch(self) -> int:
        """How many rows `select` looks at, at most: the last one only to see that it is there."""
        return (MAX_EXAMINED if self.wanted else self.limit) + 1

    def select(self, rows: Iterable[StoredThread]) -> tuple[list[StoredThread], str | None]:
        """Take what the page shows, and the next cursor, from *rows*: scope and status, after `after`, in order."""
        found: list[StoredThread] = []
        last: StoredThread | None = None
        for examined, thread in enumerate(rows):
            if examined == self.fetch - 1:
                return found, self._cursor(last)
            if self._matches(thread):
                if len(found) == self.limit:
                    return found, self._cursor(found[-1])
                found.append(thread)
            last = thread
        return found, None

    def page(self, rows: Iterable[StoredThread]) -> Page[Thread]:
        """Cut a page from *rows* as `select` does, freshly decoded."""
        found, cursor = self.select(rows)
        return Page(tuple(thread.to_thread() for thread in found), cursor)

    def _matches(self, thread: StoredThread) -> bool:
        return all(thread.metadata.get(key) == value for key, value in self.wanted.items())

    def _cursor(self, thread: StoredThread | None) -> str | None:
        return (
            None
            if thread is None
            else encode_cursor(_thread_listing(self.scope, self.status, self.wanted), thread.order)
        )


def _thread_listing(scope: Scope, status: str | None, wanted: Mapping[str, bytes]) -> tuple[Any, ...]:
    return ("threads", None if scope is ANY_USER else scope, status, sorted(wanted.items()))


def check_thread_listing(user_id: Any, *, status: Any, metadata: Any, limit: Any, cursor: Any) -> ThreadListing:
    """Check the arguments of `ThreadIndex.list`."""
    scope = check_scope("user_id", user_id)
    status = check_status(status)
    wanted = {} if metadata is None else check_metadata(metadata, "metadata")
    after = None
    if cursor is not None:
        pinned, updated_at, thread_id = decode_cursor(_thread_listing(scope, status, wanted), cursor, _THREAD_KEY)
        after = (pinned, updated_at, thread_id)
    return ThreadListing(scope, status, wanted, check_page_limit(limit), after)


def check_status(status: Any) -> str | None:
    """Return *status* if it is None or a status to filter by."""
    return None if status is None else check_identifier("status", status)
