"""The threads' table: what listing and changing threads do in a transaction.

In the table ``''`` stands for None as owner, which no identifier is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from typing import Any, Final

from deerflow_backends.codec import MAX_BYTES
from deerflow_backends.errors import Conflict
from deerflow_backends.listings import ThreadListing
from deerflow_backends.records import thread_is_new
from deerflow_backends.sqlite.failures import count_until_conflict
from deerflow_backends.thread_changes import StoredThread, joined, split, taken
from deerflow_backends.threads import ANY_USER, Scope

_SELECT: Final = """
SELECT thread_id, user_id, assistant_id, display_name, status, metadata, created_at, updated_at FROM threads
"""

#: What comes before everything in the order of listings.
_TOP: Final = (2, 0, "")


def _thread(row: tuple[Any, ...]) -> StoredThread:
    thread_id, user_id, assistant_id, display_name, status, metadata, created_at, updated_at = row
    return StoredThread(
        thread_id, user_id or None, assistant_id, display_name, status, split(metadata), created_at, updated_at
    )


def _values(thread: StoredThread) -> dict[str, Any]:
    return {
        "thread_id": thread.thread_id,
        "user_id": thread.user_id or "",
        "assistant_id": thread.assistant_id,
        "display_name": thread.display_name,
        "status": thread.status,
        "metadata": joined(thread.metadata),
        "pinned": int(thread.pinned),
        "created_at": thread.created_at,
        "updated_at": thread.updated_at,
    }


FIND = _SELECT + "WHERE thread_id = :thread_id"


def find(connection: sqlite3.Connection, thread_id: str, scope: Scope) -> StoredThread | None:
    """Read one thread if it is in scope."""
    row = connection.execute(FIND, {"thread_id": thread_id}).fetchone()
    thread = _thread(row) if row else None
    return thread if thread is not None and thread.in_scope(scope) else None


#: The primary key makes sure that of rivals one wins (T5).
INSERT = """
INSERT INTO threads (thread_id, user_id, assistant_id, display_name, status, metadata, pinned, created_at, updated_at)
VALUES (:thread_id, :user_id, :assistant_id, :display_name, :status, :metadata, :pinned, :created_at, :updated_at)
ON CONFLICT (thread_id) DO NOTHING
"""


def _insert(connection: sqlite3.Connection, thread: StoredThread) -> bool:
    return connection.execute(INSERT, _values(thread)).rowcount == 1


def create(connection: sqlite3.Connection, thread: StoredThread) -> StoredThread:
    """Store a new thread."""
    if not _insert(connection, thread):
        raise taken(thread.thread_id)
    return thread


UPDATE = """
UPDATE threads SET user_id = :user_id, assistant_id = :assistant_id, display_name = :display_name, status = :status,
                   metadata = :metadata, pinned = :pinned, updated_at = :updated_at
 WHERE thread_id = :thread_id
"""


def change(
    connection: sqlite3.Connection, thread_id: str, scope: Scope, changed: Callable[[StoredThread], StoredThread]
) -> StoredThread | None:
    """Replace a thread by what *changed* makes of it; None if there is none in scope."""
    thread = find(connection, thread_id, scope)
    if thread is None:
        return None
    thread = changed(thread)
    connection.execute(UPDATE, _values(thread))
    return thread


DELETE = "DELETE FROM threads WHERE thread_id = :thread_id AND (:any_user OR user_id = :user_id)"


def delete(connection: sqlite3.Connection, thread_id: str, scope: Scope) -> bool:
    """Remove a thread; False if there was none in scope."""
    values = {"thread_id": thread_id, "any_user": scope is ANY_USER, "user_id": scope if scope is not ANY_USER else ""}
    return connection.execute(DELETE, values).rowcount == 1


OWNER = "SELECT user_id FROM threads WHERE thread_id = :thread_id"


def can_access(connection: sqlite3.Connection, thread_id: str, user_id: str, *, require_existing: bool) -> bool:
    """Whether a thread is the user's or nobody's; of a missing one, ``not require_existing``."""
    row = connection.execute(OWNER, {"thread_id": thread_id}).fetchone()
    return not require_existing if row is None else row[0] in {"", user_id}


_REST: Final = """
(pinned, updated_at, thread_id) < (:pinned, :updated_at, :thread_id)
 ORDER BY pinned DESC, updated_at DESC, thread_id DESC LIMIT :fetch
"""

#: A page costs the same at any depth and for any number of threads (T3, T9): each of these walks one index backwards.
LIST = {
    (True, False): _SELECT + "WHERE user_id = :user_id AND" + _REST,
    (True, True): _SELECT + "WHERE user_id = :user_id AND status = :status AND" + _REST,
    (False, False): _SELECT + "WHERE" + _REST,
    (False, True): _SELECT + "WHERE status = :status AND" + _REST,
}


def page(connection: sqlite3.Connection, listing: ThreadListing) -> tuple[list[StoredThread], str | None]:
    """Read a page: its threads, and the next cursor. Rows beyond it are not read."""
    scoped, with_status = listing.scope is not ANY_USER, listing.status is not None
    pinned, updated_at, thread_id = listing.after or _TOP
    values = {
        "user_id": listing.scope if scoped else None,
        "status": listing.status,
        "pinned": pinned,
        "updated_at": updated_at,
        "thread_id": thread_id,
        "fetch": listing.fetch,
    }
    rows = connection.execute(LIST[scoped, with_status], values)
    try:
        return listing.select(map(_thread, rows))
    finally:
        rows.close()


#: By the same indexes, without reading a thread.
COUNT = {
    (True, False): "SELECT count(*) FROM threads WHERE user_id = :user_id",
    (True, True): "SELECT count(*) FROM threads WHERE user_id = :user_id AND status = :status",
    (False, False): "SELECT count(*) FROM threads",
    (False, True): "SELECT count(*) FROM threads WHERE status = :status",
}


def count(connection: sqlite3.Connection, scope: Scope, status: str | None) -> int:
    """Count the threads in scope."""
    values = {"user_id": scope if scope is not ANY_USER else None, "status": status}
    row = connection.execute(COUNT[scope is not ANY_USER, status is not None], values).fetchone()
    return int(row[0])


#: Some threads by id.
AFTER = _SELECT + "WHERE thread_id > :after ORDER BY thread_id LIMIT :limit"


def threads_after(connection: sqlite3.Connection, after: str, limit: int) -> list[StoredThread]:
    """Read some threads by id: at most *limit*, and not many more than 8 MiB of them."""
    threads: list[StoredThread] = []
    rows = connection.execute(AFTER, {"after": after, "limit": limit})
    weight = 0
    for row in rows:
        threads.append(_thread(row))
        weight += threads[-1].weight
        if weight > MAX_BYTES:
            break
    rows.close()
    return threads


def restore(connection: sqlite3.Connection, threads: Iterable[StoredThread]) -> tuple[int, Conflict | None]:
    """Store threads up to the first that meets another one; return how many were new, and that one's error."""
    return count_until_conflict(_restore(connection, thread) for thread in threads)


def _restore(connection: sqlite3.Connection, thread: StoredThread) -> bool:
    return _insert(connection, thread) or thread_is_new(thread, find(connection, thread.thread_id, ANY_USER))
