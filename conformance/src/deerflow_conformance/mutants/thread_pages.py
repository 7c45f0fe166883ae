"""Faults of what a thread index lists: T3, T8 and T9."""

from __future__ import annotations

import dataclasses
import fnmatch
import itertools
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from deerflow_backends import codec, listings, paging
from deerflow_backends.inprocess.threads import InProcessThreadIndex
from deerflow_backends.listings import ThreadListing
from deerflow_backends.paging import Page
from deerflow_backends.thread_changes import StoredThread
from deerflow_backends.threads import ANY_USER, MAX_EXAMINED, Thread
from deerflow_conformance.mutants import Patched, mutant
from deerflow_conformance.mutants.threads import with_methods

_list = InProcessThreadIndex.list
_following = InProcessThreadIndex._following
_select = ThreadListing.select
_matches = ThreadListing._matches
_decode_cursor = paging.decode_cursor
_encode_cursor = paging.encode_cursor


# ---------------------------------------------------------------------- T3


def _after(place: Any, concerned: Callable[[ThreadListing], object] = lambda _: True) -> Patched:
    """Let listings, or those that are *concerned*, go on at another place than their cursor says."""

    def following(self: InProcessThreadIndex, listing: ThreadListing) -> Iterator[StoredThread]:
        if listing.after is not None and concerned(listing):
            listing = dataclasses.replace(listing, after=place(listing.after))
        return _following(self, listing)

    return with_methods(_following=following)


@mutant("T3", "thread_index", by="pages_end_exactly")
def a_page_skips_what_is_as_old() -> Patched:
    """The cursor knows the time only, and threads of the same moment are left out."""
    return _after(lambda after: (after[0], after[1], ""))


@mutant("T3", "thread_index", by="pages_end_exactly")
def a_page_repeats_what_is_as_old() -> Patched:
    """The cursor knows the time only, and threads of the same moment come again."""
    return _after(lambda after: (after[0], after[1] + 1, ""))


@mutant("T3", "thread_index", by="pages_visit_every_quiet_thread_once")
def a_cursor_forgets_pins() -> Patched:
    """The cursor does not know whether its thread was pinned."""
    return _after(lambda after: (False, *after[1:]))


@mutant("T3", "thread_index", by=("pages_visit_every_quiet_thread_once", "pages_end_exactly"))
def a_cursor_of_a_status_forgets_pins() -> Patched:
    """The cursor of a listing by status does not know whether its thread was pinned."""
    return _after(lambda after: (False, *after[1:]), lambda listing: listing.status is not None)


@mutant("T3", "thread_index", by="pages_end_exactly")
def a_cursor_of_a_filter_forgets_pins() -> Patched:
    """The cursor of a listing with a filter, but without a status, does not know whether its thread was pinned."""
    return _after(lambda after: (False, *after[1:]), lambda listing: listing.wanted and listing.status is None)


@mutant("T3", "thread_index", by="pages_end_exactly")
def a_cursor_of_all_users_and_a_status_skips_what_is_as_old() -> Patched:
    """The cursor of a listing by status of all users knows the pin and the time only."""
    return _after(
        lambda after: (*after[:2], ""), lambda listing: listing.scope is ANY_USER and listing.status is not None
    )


@mutant("T3", "thread_index", by="pages_end_exactly")
def a_filter_that_has_examined_all_has_a_cursor() -> Patched:
    """A listing with a filter that has examined 1,000 threads has a cursor, even where those were all."""

    def select(self: ThreadListing, rows: Any) -> tuple[list[StoredThread], str | None]:
        examined = list(itertools.islice(rows, self.fetch))
        found, cursor = _select(self, examined)
        return found, self._cursor(examined[-1]) if self.wanted and len(examined) == MAX_EXAMINED else cursor

    return mock.patch.object(ThreadListing, "select", select)


@mutant("T3", "thread_index", by="pages_end_exactly")
def a_page_is_of_a_hundred_by_default() -> Patched:
    """A page has up to a hundred threads where no limit is given."""

    async def listing(self: InProcessThreadIndex, user_id: Any, *, limit: int = 100, **more: Any) -> Page[Thread]:
        return await _list(self, user_id, limit=limit, **more)

    return with_methods(list=listing)


@mutant("T3", "thread_index", by="pages_end_exactly")
def a_full_last_page_has_a_cursor() -> Patched:
    """A page that is just full has a cursor, even where nothing can follow."""

    def select(self: ThreadListing, rows: Any) -> tuple[list[StoredThread], str | None]:
        found, cursor = _select(self, rows)
        return found, self._cursor(found[-1]) if len(found) == self.limit else cursor

    return mock.patch.object(ThreadListing, "select", select)


@mutant("T3", "thread_index", by="pages_visit_every_quiet_thread_once")
def a_page_of_threads_starts_at_an_offset() -> Patched:
    """The cursor counts the threads before it, so that one is skipped where another was deleted."""

    async def listing(self: InProcessThreadIndex, user_id: Any, *, cursor: Any = None, **more: Any) -> Page[Thread]:
        if cursor is None or not cursor.isdecimal():
            page = await _list(self, user_id, cursor=cursor, **more)
        else:
            rest = {**more, "limit": 1_000}
            every = (await _list(self, user_id, **rest)).items[int(cursor) :]
            limit = more.get("limit", 50)
            page = Page(every[:limit], "more" if len(every) > limit else None)
        before = int(cursor) if cursor is not None and cursor.isdecimal() else 0
        return dataclasses.replace(page, next_cursor=page.next_cursor and str(before + len(page.items)))

    return with_methods(list=listing)


@mutant("T3", "thread_index", by="pages_visit_every_quiet_thread_once")
def a_cursor_needs_its_thread() -> Patched:
    """A listing ends where the thread that its cursor stands at was changed or deleted."""

    def following(self: InProcessThreadIndex, listing: ThreadListing) -> Iterator[StoredThread]:
        after = listing.after
        if after is not None:
            there = self._table.threads.get(after[2])
            if there is None or there.order != after:
                return iter(())
        return _following(self, listing)

    return with_methods(_following=following)


@mutant("T3", "thread_index", by="bad_pages_are_refused")
def a_cursor_of_threads_fits_any_listing() -> Patched:
    """A cursor does not say which listing it belongs to."""
    return mock.patch.multiple(
        listings,
        encode_cursor=lambda _, key: _encode_cursor((), key),
        decode_cursor=lambda _, cursor, types: _decode_cursor((), cursor, types),
    )


@mutant("T3", "thread_index", by="bad_pages_are_refused")
def a_damaged_cursor_of_threads_begins_anew() -> Patched:
    """A cursor that cannot be read is none."""

    def decode_cursor(listing: Any, cursor: Any, types: Any) -> Any:
        try:
            return _decode_cursor(listing, cursor, types)
        except ValueError:
            return (True, 2**60, "\U0010ffff")

    return mock.patch.object(listings, "decode_cursor", decode_cursor)


@mutant("T3", "thread_index", by="bad_pages_are_refused")
def limits_of_threads_are_cut_to_their_bounds() -> Patched:
    """A limit below 1 is 1, and one above 1,000 is 1,000."""
    return mock.patch.object(listings, "check_page_limit", lambda value: min(max(int(value), 1), 1_000))


# ---------------------------------------------------------------------- T8


def _matching(matches: Any) -> Patched:
    return mock.patch.object(ThreadListing, "_matches", matches)


@mutant("T8", "thread_index", by="look_alikes_are_told_apart")
def filters_compare_as_python_does() -> Patched:
    """A filter for 1 also finds 1.0 and True."""

    def matches(self: ThreadListing, thread: StoredThread) -> bool:
        return all(
            key in thread.metadata and codec.decode(thread.metadata[key]) == codec.decode(value)
            for key, value in self.wanted.items()
        )

    return _matching(matches)


@mutant("T8", "thread_index", by=("look_alikes_are_told_apart", "filters_reach_nothing_else"))
def a_filter_for_none_finds_what_is_absent() -> Patched:
    """A filter for None also finds threads without the key."""

    def matches(self: ThreadListing, thread: StoredThread) -> bool:
        return all(thread.metadata.get(key, b"null") == value for key, value in self.wanted.items())

    return _matching(matches)


@mutant("T8", "thread_index", by="filters_reach_nothing_else")
def a_filter_reaches_columns() -> Patched:
    """A filter for a column's name is a filter on that column."""

    def matches(self: ThreadListing, thread: StoredThread) -> bool:
        columns = {name: codec.canonical(getattr(thread, name)) for name in ("user_id", "status", "thread_id")}
        return all({**columns, **thread.metadata}.get(key) == value for key, value in self.wanted.items())

    return _matching(matches)


@mutant("T8", "thread_index", by="a_rare_match_is_found_by_its_cursor")
def a_filter_examines_everything() -> Patched:
    """A call with a filter looks at all threads until it has found enough."""
    return mock.patch.object(listings, "MAX_EXAMINED", 1_000_000)


@mutant("T8", "thread_index", by="filters_match_exactly")
def a_filter_goes_by_keys() -> Patched:
    """A filter finds the threads that have its keys, with whatever values."""

    def matches(self: ThreadListing, thread: StoredThread) -> bool:
        return all(key in thread.metadata for key in self.wanted)

    return _matching(matches)


@mutant("T8", "thread_index", by="filters_reach_nothing_else")
def one_of_the_entries_is_enough() -> Patched:
    """A filter of several entries finds the threads that have any of them."""

    def matches(self: ThreadListing, thread: StoredThread) -> bool:
        return not self.wanted or any(thread.metadata.get(key) == value for key, value in self.wanted.items())

    return _matching(matches)


@mutant("T8", "thread_index", by="filters_reach_nothing_else")
def a_filter_is_of_thirty_entries() -> Patched:
    """Of a filter's entries the first thirty are looked at."""

    def matches(self: ThreadListing, thread: StoredThread) -> bool:
        entries = itertools.islice(self.wanted.items(), 30)
        return all(thread.metadata.get(key) == value for key, value in entries)

    return _matching(matches)


@mutant("T8", "thread_index", by="filters_reach_nothing_else")
def a_filter_widens_the_scope() -> Patched:
    """A listing with a filter finds the threads of all users."""

    def following(self: InProcessThreadIndex, listing: ThreadListing) -> Iterator[StoredThread]:
        return _following(self, dataclasses.replace(listing, scope=ANY_USER) if listing.wanted else listing)

    return with_methods(_following=following)


@mutant("T8", "thread_index", by="filters_reach_nothing_else")
def a_filter_forgets_the_status() -> Patched:
    """A listing with a filter finds threads of any status."""

    def following(self: InProcessThreadIndex, listing: ThreadListing) -> Iterator[StoredThread]:
        return _following(self, dataclasses.replace(listing, status=None) if listing.wanted else listing)

    return with_methods(_following=following)


@mutant("T8", "thread_index", by="filters_reach_nothing_else")
def a_key_may_be_a_path() -> Patched:
    """A key with dots reaches into objects."""

    def matches(self: ThreadListing, thread: StoredThread) -> bool:
        for path, value in self.wanted.items():
            found = codec.decode(thread.metadata[path]) if path in thread.metadata else thread.to_thread().metadata
            for key in () if path in thread.metadata else path.split("."):
                found = found.get(key) if isinstance(found, dict) else None
            if codec.canonical(found) != value:
                return False
        return True

    return _matching(matches)


@mutant("T8", "thread_index", by="filters_reach_nothing_else")
def a_value_is_found_within() -> Patched:
    """A filter finds lists that hold its value, and objects that hold its entries."""

    def matches(self: ThreadListing, thread: StoredThread) -> bool:
        return all(
            key in thread.metadata and _holds(codec.decode(thread.metadata[key]), codec.decode(value))
            for key, value in self.wanted.items()
        )

    return _matching(matches)


def _holds(stored: Any, value: Any) -> bool:
    if isinstance(stored, dict) and isinstance(value, dict):
        return all(key in stored and _holds(stored[key], item) for key, item in value.items())
    if isinstance(stored, list) and not isinstance(value, list):
        return value in stored
    return codec.canonical(stored) == codec.canonical(value)


@mutant("T8", "thread_index", by="filters_reach_nothing_else")
def text_is_a_pattern() -> Patched:
    """The signs % and _ in a filter's text stand for any text and for any character."""

    def matches(self: ThreadListing, thread: StoredThread) -> bool:
        return all(
            key in thread.metadata and (thread.metadata[key] == value or _is_like(thread.metadata[key], value))
            for key, value in self.wanted.items()
        )

    return _matching(matches)


def _is_like(stored: bytes, pattern: bytes) -> bool:
    value, wanted = codec.decode(stored), codec.decode(pattern)
    if not isinstance(value, str) or not isinstance(wanted, str):
        return False
    return fnmatch.fnmatchcase(value, wanted.replace("%", "*").replace("_", "?"))


@mutant("T8", "thread_index", by="filters_reach_nothing_else")
def keys_fold() -> Patched:
    """A filter's key finds keys that differ by case only."""

    def matches(self: ThreadListing, thread: StoredThread) -> bool:
        folded = {key.casefold(): value for key, value in thread.metadata.items()}
        return all(folded.get(key.casefold()) == value for key, value in self.wanted.items())

    return _matching(matches)


@mutant("T8", "thread_index", by="filters_reach_nothing_else")
def a_filter_of_nothing_finds_nothing() -> Patched:
    """A filter without entries finds no thread."""

    async def listing(self: InProcessThreadIndex, user_id: Any, **more: Any) -> Page[Thread]:
        page = await _list(self, user_id, **more)
        return Page((), None) if more.get("metadata") == {} else page

    return with_methods(list=listing)


@mutant("T8", "thread_index", by="a_rare_match_is_found_by_its_cursor")
def a_filter_gives_up() -> Patched:
    """A call that has examined 1,000 threads has no cursor, whatever lies deeper."""

    def select(self: ThreadListing, rows: Any) -> tuple[list[StoredThread], str | None]:
        found, cursor = _select(self, rows)
        return found, cursor if len(found) == self.limit else None

    return mock.patch.object(ThreadListing, "select", select)


# ---------------------------------------------------------------------- T9


@mutant("T9", "thread_index", by="a_page_costs_the_same_for_many")
def every_page_sorts_all_threads() -> Patched:
    """There is no index: a page is found by sorting all threads of the user."""

    def following(self: InProcessThreadIndex, listing: ThreadListing) -> Iterator[StoredThread]:
        rows = [
            thread
            for thread in self._table.threads.values()
            if thread.in_scope(listing.scope) and listing.status in {None, thread.status}
        ]
        rows.sort(key=lambda thread: thread.order, reverse=True)
        return iter([row for row in rows if listing.after is None or row.order < listing.after])

    return with_methods(_following=following)


@mutant("T9", "thread_index", by="a_page_costs_the_same_for_many")
def a_cursor_walks_from_the_start() -> Patched:
    """A page after a cursor examines every thread before it."""

    def following(self: InProcessThreadIndex, listing: ThreadListing) -> Iterator[StoredThread]:
        for thread in _following(self, dataclasses.replace(listing, after=None)):
            if listing.after is None or thread.order < listing.after:
                yield thread

    return with_methods(_following=following)


@mutant("T9", "thread_index", by="a_page_costs_the_same_for_many")
def a_status_has_no_index() -> Patched:
    """A page of one status is found by going through all threads of the user."""

    def following(self: InProcessThreadIndex, listing: ThreadListing) -> Iterator[StoredThread]:
        every = list(_following(self, dataclasses.replace(listing, status=None)))
        return (
            iter([one for one in every if listing.status in {None, one.status}]) if listing.status else iter(every[:60])
        )

    return with_methods(_following=following)


@mutant("T9", "thread_index", by="a_page_of_ten_thousand_costs_as_one_of_ten")
def counts_end_at_ten_thousand() -> Patched:
    """More than ten thousand threads are counted as ten thousand."""
    count = InProcessThreadIndex.count

    async def counted(self: InProcessThreadIndex, user_id: Any, **more: Any) -> int:
        return min(10_000, await count(self, user_id, **more))

    return with_methods(count=counted)
