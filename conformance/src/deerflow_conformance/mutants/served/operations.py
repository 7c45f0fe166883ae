"""What the server does in a transaction of SQLite: core's tables do it, by its own clock."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from deerflow_backends.buckets import bucket_of, by_bucket, by_model, first_of_window, oldest_kept
from deerflow_backends.changes import Changes, applied, judge
from deerflow_backends.clocks import MICROSECONDS, wall_clock
from deerflow_backends.counters import CounterOptions, Recorded
from deerflow_backends.cursors import PAST_THE_END, Head
from deerflow_backends.listings import FactListing, FactSearch
from deerflow_backends.memories import Applied, Fact, FactMatch
from deerflow_backends.paging import Page
from deerflow_backends.sqlite import counter_tables, memory_tables, thread_tables
from deerflow_backends.sqlite.stream_tables import StreamTables
from deerflow_backends.streams import StreamOptions
from deerflow_backends.thread_changes import StoredThread, ThreadUpdate, moved
from deerflow_backends.threads import Scope

Operation: TypeAlias = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Operations:
    """What can be asked of one capability.

    Attributes:
        by_name: Each takes a connection to SQLite, and a request's arguments.
        sweep: Removes some of what has expired; True if there is more.
        watched: Whether clients are told of each write; it names a run in its first argument.
    """

    by_name: Mapping[str, Operation]
    sweep: Callable[[sqlite3.Connection], bool] = lambda connection: False
    watched: bool = False


def operations_of(capability: str, options: Any, incarnation: str) -> Operations:
    """Return what can be asked of a capability that was opened with *options*.

    Args:
        incarnation: Names this run of the server: streams get a new epoch in each (S2).
    """
    if capability == "stream_bridge":
        return _of_streams(options, incarnation)
    return _of_counters(options) if capability == "counters" else _WITHOUT_OPTIONS[capability]


def _of_streams(options: StreamOptions, incarnation: str) -> Operations:
    tables = StreamTables(wall_clock, options, incarnation)

    def publish(connection: sqlite3.Connection, *arguments: Any) -> list[str]:
        return [str(entry.id) for entry in tables.publish(connection, *arguments).entries]

    def end(connection: sqlite3.Connection, run_id: str) -> None:
        tables.end(connection, run_id)

    def clean_up(connection: sqlite3.Connection, run_id: str, delay_seconds: float) -> None:
        tables.clean_up(connection, run_id, delay_seconds)

    def heads(connection: sqlite3.Connection, run_ids: Sequence[str]) -> list[Head | None]:
        return [tables.read(connection, run_id, PAST_THE_END, 0, 0).head for run_id in run_ids]

    writes: dict[str, Operation] = {"publish": publish, "end": end, "clean_up": clean_up}
    return Operations(
        {**writes, "read": tables.read, "heads": heads, "status": tables.status}, tables.sweep, watched=True
    )


def _of_counters(options: CounterOptions) -> Operations:
    def record(connection: sqlite3.Connection, counts: Sequence[Recorded], token: str | None) -> None:
        now = wall_clock()
        expires_at = now + int(options.token_seconds * MICROSECONDS)
        if token is None or counter_tables.take_token(connection, token, now=now, expires_at=expires_at):
            counter_tables.add(connection, by_model(counts), by_bucket(counts, now, options))

    def buckets_of(seconds: int) -> tuple[int, int]:
        now = wall_clock()
        return first_of_window(now, seconds, options), bucket_of(now, options)

    def window(connection: sqlite3.Connection, model_name: str, seconds: int) -> Any:
        return counter_tables.window(connection, model_name, *buckets_of(seconds))

    def all_windows(connection: sqlite3.Connection, seconds: int) -> Any:
        return counter_tables.all_windows(connection, *buckets_of(seconds))

    def sweep(connection: sqlite3.Connection) -> bool:
        now = wall_clock()
        return counter_tables.sweep(connection, now=now, oldest=oldest_kept(now, options))

    reads: dict[str, Operation] = {"totals": counter_tables.totals, "all_totals": counter_tables.all_totals}
    windows: dict[str, Operation] = {"window": window, "all_windows": all_windows}
    return Operations({"record": record, "reset": counter_tables.reset, **reads, **windows}, sweep)


def _apply(connection: sqlite3.Connection, user_id: str | None, changes: Changes) -> Applied:
    now = wall_clock()
    state = memory_tables.state(connection, user_id, changes)
    effects = judge(changes, state, now=now)
    if effects.changed:
        memory_tables.store(connection, user_id, effects, now)
    return applied(changes, state, effects)


def _get_fact(connection: sqlite3.Connection, user_id: str | None, key: tuple[str | None, str]) -> Fact | None:
    fact = memory_tables.get_fact(connection, user_id, key)
    return fact.to_fact(key) if fact else None


def _list_facts(connection: sqlite3.Connection, listing: FactListing) -> Page[Fact]:
    return listing.page(
        memory_tables.facts_after(
            connection,
            listing.user_id,
            listing.agent_name,
            category=listing.category,
            after=listing.after,
            limit=listing.limit + 1,
        )
    )


def _search(connection: sqlite3.Connection, search: FactSearch) -> list[FactMatch]:
    return search.find(
        memory_tables.facts_after(
            connection, search.user_id, search.agent_name, category=search.category, after=None, limit=-1
        )
    )


def _clear(connection: sqlite3.Connection, user_id: str | None, parts: tuple[str | None] | None) -> int:
    return memory_tables.clear(connection, user_id, parts, wall_clock())


def _create(connection: sqlite3.Connection, thread: StoredThread) -> StoredThread:
    now = wall_clock()
    return thread_tables.create(connection, dataclasses.replace(thread, created_at=now, updated_at=now))


def _update(connection: sqlite3.Connection, thread_id: str, scope: Scope, update: ThreadUpdate) -> StoredThread | None:
    return thread_tables.change(connection, thread_id, scope, lambda thread: update(thread, wall_clock()))


def _move(connection: sqlite3.Connection, thread_id: str, scope: Scope, to_user_id: str | None) -> StoredThread | None:
    return thread_tables.change(connection, thread_id, scope, lambda thread: moved(thread, to_user_id, wall_clock()))


def _can_access(connection: sqlite3.Connection, thread_id: str, user_id: str, require_existing: bool) -> bool:
    return thread_tables.can_access(connection, thread_id, user_id, require_existing=require_existing)


_WITHOUT_OPTIONS: Final = {
    "memory": Operations(
        {
            "load": memory_tables.load,
            "apply": _apply,
            "get_fact": _get_fact,
            "list_facts": _list_facts,
            "search": _search,
            "agents": memory_tables.agents,
            "clear": _clear,
            "erase": memory_tables.erase,
            "next_user": memory_tables.next_user,
            "restore": memory_tables.restore,
        }
    ),
    "thread_index": Operations(
        {
            "create": _create,
            "find": thread_tables.find,
            "page": thread_tables.page,
            "count": thread_tables.count,
            "update": _update,
            "move": _move,
            "delete": thread_tables.delete,
            "can_access": _can_access,
            "threads_after": thread_tables.threads_after,
            "restore": thread_tables.restore,
        }
    ),
}
