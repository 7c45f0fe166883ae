"""The memory's tables: what reading and changing a user's memory do in a transaction.

In the tables ``''`` stands for None, which no identifier is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any, NamedTuple

from deerflow_backends.changes import Changes, Effects, FactKey, State, StoredBody, StoredFact
from deerflow_backends.codec import decode
from deerflow_backends.errors import Conflict
from deerflow_backends.records import Part
from deerflow_backends.search import fact_category
from deerflow_backends.sqlite.failures import count_until_conflict

#: A longer category cannot be asked for, so it need not be found by index.
_LONGEST_CATEGORY_BYTES = 8 * 1024

Facts = list[tuple[str, StoredFact]]


class StoredPart(NamedTuple):
    """One part of a user's memory, with the user's revision and time (0 if never written), facts by id in order."""

    revision: int
    updated_at: int
    body: StoredBody | None
    facts: Facts


def _key(user_id: str | None, agent_name: str | None) -> dict[str, Any]:
    return {"user_id": user_id or "", "agent_name": agent_name or ""}


USER = "SELECT revision, updated_at FROM memory_users WHERE user_id = :user_id"

BODY = "SELECT revision, body FROM memory_bodies WHERE user_id = :user_id AND agent_name = :agent_name"

FACTS = """
SELECT fact_id, revision, value, created_at, updated_at FROM memory_facts
 WHERE user_id = :user_id AND agent_name = :agent_name ORDER BY fact_id
"""


def load(connection: sqlite3.Connection, user_id: str | None, agent_name: str | None) -> StoredPart:
    """Read one part, in three statements however large it is (M9)."""
    key = _key(user_id, agent_name)
    revision, updated_at = _user(connection, user_id) or (0, 0)
    body = connection.execute(BODY, key).fetchone()
    facts = _facts(connection.execute(FACTS, key))
    return StoredPart(revision, updated_at, StoredBody(*body) if body else None, facts)


def _user(connection: sqlite3.Connection, user_id: str | None) -> tuple[int, int] | None:
    row: tuple[int, int] | None = connection.execute(USER, {"user_id": user_id or ""}).fetchone()
    return row


def _facts(rows: Iterable[tuple[Any, ...]]) -> Facts:
    return [(fact_id, StoredFact(*fact)) for fact_id, *fact in rows]


FACT = """
SELECT revision, value, created_at, updated_at FROM memory_facts
 WHERE user_id = :user_id AND agent_name = :agent_name AND fact_id = :fact_id
"""


def get_fact(connection: sqlite3.Connection, user_id: str | None, key: FactKey) -> StoredFact | None:
    """Read one fact."""
    row = connection.execute(FACT, {**_key(user_id, key[0]), "fact_id": key[1]}).fetchone()
    return StoredFact(*row) if row else None


#: A page by id, by the primary key.
FACTS_AFTER = """
SELECT fact_id, revision, value, created_at, updated_at FROM memory_facts
 WHERE user_id = :user_id AND agent_name = :agent_name AND fact_id > :after ORDER BY fact_id LIMIT :limit
"""

#: A page of one category by id, by the index of categories.
FACTS_OF_CATEGORY_AFTER = """
SELECT fact_id, revision, value, created_at, updated_at FROM memory_facts
 WHERE user_id = :user_id AND agent_name = :agent_name AND category = :category AND fact_id > :after
 ORDER BY fact_id LIMIT :limit
"""


def facts_after(
    connection: sqlite3.Connection,
    user_id: str | None,
    agent_name: str | None,
    *,
    category: str | None,
    after: str | None,
    limit: int,
) -> Facts:
    """Read some facts of a part by id; a limit of -1 is none."""
    values = {**_key(user_id, agent_name), "category": category, "after": after or "", "limit": limit}
    statement = FACTS_AFTER if category is None else FACTS_OF_CATEGORY_AFTER
    return _facts(connection.execute(statement, values))


def state(connection: sqlite3.Connection, user_id: str | None, changes: Changes) -> State:
    """Look up what the changes touch, and nothing else (M9)."""
    user = _user(connection, user_id)
    bodies = {}
    for agent_name in changes.bodies:
        row = connection.execute(BODY, _key(user_id, agent_name)).fetchone()
        if row:
            bodies[agent_name] = StoredBody(*row)
    facts = {}
    for key in changes.facts:
        fact = get_fact(connection, user_id, key)
        if fact is not None:
            facts[key] = fact
    return State(user[0] if user else 0, bodies, facts)


PUT_USER = """
INSERT INTO memory_users (user_id, revision, updated_at) VALUES (:user_id, :revision, :updated_at)
ON CONFLICT (user_id) DO UPDATE SET revision = excluded.revision, updated_at = excluded.updated_at
"""

PUT_BODY = """
INSERT INTO memory_bodies (user_id, agent_name, revision, body) VALUES (:user_id, :agent_name, :revision, :body)
ON CONFLICT (user_id, agent_name) DO UPDATE SET revision = excluded.revision, body = excluded.body
"""

PUT_FACT = """
INSERT INTO memory_facts (user_id, agent_name, fact_id, revision, category, value, created_at, updated_at)
VALUES (:user_id, :agent_name, :fact_id, :revision, :category, :value, :created_at, :updated_at)
ON CONFLICT (user_id, agent_name, fact_id) DO UPDATE SET
    revision = excluded.revision, category = excluded.category, value = excluded.value,
    created_at = excluded.created_at, updated_at = excluded.updated_at
"""

DELETE_FACT = """
DELETE FROM memory_facts WHERE user_id = :user_id AND agent_name = :agent_name AND fact_id = :fact_id
"""


def store(connection: sqlite3.Connection, user_id: str | None, effects: Effects, now: int) -> None:
    """Write what changed, and nothing else (M9)."""
    _put_user(connection, user_id, effects.revision, now)
    for agent_name, body in effects.bodies.items():
        _put_body(connection, user_id, agent_name, body)
    for key, fact in effects.facts.items():
        if fact is None:
            connection.execute(DELETE_FACT, {**_key(user_id, key[0]), "fact_id": key[1]})
        else:
            _put_fact(connection, user_id, key, fact)


def _put_user(connection: sqlite3.Connection, user_id: str | None, revision: int, updated_at: int) -> None:
    connection.execute(PUT_USER, {"user_id": user_id or "", "revision": revision, "updated_at": updated_at})


def _put_body(connection: sqlite3.Connection, user_id: str | None, agent_name: str | None, body: StoredBody) -> None:
    connection.execute(PUT_BODY, {**_key(user_id, agent_name), "revision": body.revision, "body": body.body})


def _put_fact(connection: sqlite3.Connection, user_id: str | None, key: FactKey, fact: StoredFact) -> None:
    values = {
        **_key(user_id, key[0]),
        "fact_id": key[1],
        "revision": fact.revision,
        "category": _indexed_category(fact.value),
        "value": fact.value,
        "created_at": fact.created_at,
        "updated_at": fact.updated_at,
    }
    connection.execute(PUT_FACT, values)


def _indexed_category(value: bytes) -> str | None:
    category = fact_category(decode(value))
    return category if category is not None and len(category.encode()) <= _LONGEST_CATEGORY_BYTES else None


#: Each agent that has a body or facts, by name; the user-wide part is ''.
PARTS = """
SELECT agent_name FROM memory_bodies WHERE user_id = :user_id
UNION SELECT agent_name FROM memory_facts WHERE user_id = :user_id ORDER BY agent_name
"""


def agents(connection: sqlite3.Connection, user_id: str | None) -> list[str]:
    """Name the agents that have a body or facts, in order."""
    rows = connection.execute(PARTS, {"user_id": user_id or ""}).fetchall()
    return [agent_name for (agent_name,) in rows if agent_name]


CLEAR_PART = (
    "DELETE FROM memory_facts WHERE user_id = :user_id AND agent_name = :agent_name",
    "DELETE FROM memory_bodies WHERE user_id = :user_id AND agent_name = :agent_name",
)

CLEAR_USER = (
    "DELETE FROM memory_facts WHERE user_id = :user_id",
    "DELETE FROM memory_bodies WHERE user_id = :user_id",
)


def clear(connection: sqlite3.Connection, user_id: str | None, parts: tuple[str | None] | None, now: int) -> int:
    """Remove one part, or with None as *parts* all; return the user's revision, raised if anything was there (M8)."""
    key = _key(user_id, parts[0] if parts else None)
    removed = sum(connection.execute(statement, key).rowcount for statement in (CLEAR_PART if parts else CLEAR_USER))
    revision, _ = _user(connection, user_id) or (0, 0)
    if removed:
        revision += 1
        _put_user(connection, user_id, revision, now)
    return revision


ERASE_USER = "DELETE FROM memory_users WHERE user_id = :user_id"


def erase(connection: sqlite3.Connection, user_id: str | None) -> None:
    """Leave no trace of a user; the file overwrites what is deleted."""
    for statement in (*CLEAR_USER, ERASE_USER):
        connection.execute(statement, {"user_id": user_id or ""})


#: The users after one, in order.
NEXT_USER = "SELECT user_id FROM memory_users WHERE user_id > :user_id ORDER BY user_id LIMIT 1"
FIRST_USER = "SELECT user_id FROM memory_users ORDER BY user_id LIMIT 1"


def next_user(connection: sqlite3.Connection, after: str | None) -> tuple[str, list[Part]] | None:
    """Read the parts of the next user, the user-wide one first; None after the last. *after* is as it is stored."""
    if after is None:
        row = connection.execute(FIRST_USER).fetchone()
    else:
        row = connection.execute(NEXT_USER, {"user_id": after}).fetchone()
    if row is None:
        return None
    user_id = row[0] or None
    return row[0], [_part(connection, user_id, name) for name in (None, *agents(connection, user_id))]


def _part(connection: sqlite3.Connection, user_id: str | None, agent_name: str | None) -> Part:
    stored = load(connection, user_id, agent_name)
    return Part(user_id, agent_name, stored.revision, stored.updated_at, stored.body, dict(stored.facts))


def restore(connection: sqlite3.Connection, parts: Iterable[Part]) -> tuple[int, Conflict | None]:
    """Store parts up to the first that meets another one; return how many were new, and that one's error."""
    return count_until_conflict(_restore(connection, part) for part in parts)


def _restore(connection: sqlite3.Connection, part: Part) -> bool:
    stored = load(connection, part.user_id, part.agent_name)
    user = (stored.revision, stored.updated_at) if stored.revision else None
    if not part.is_new(user, stored.body, dict(stored.facts)):
        return False
    _put_user(connection, part.user_id, part.user_revision, part.user_updated_at)
    if part.body is not None:
        _put_body(connection, part.user_id, part.agent_name, part.body)
    for fact_id, fact in part.facts.items():
        _put_fact(connection, part.user_id, (part.agent_name, fact_id), fact)
    return True
