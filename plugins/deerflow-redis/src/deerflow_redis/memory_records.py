"""What the scripts of the memory store are given and what they reply, to and from core's values. Pure.

A record is a stamp and canonical JSON, apart by one space: of a body ``<revision> <JSON>``, of a fact
``<revision> <created> <updated> <JSON>``, times in microseconds since 1970. The scripts rely on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, TypeAlias

from deerflow_backends import codec
from deerflow_backends.changes import (
    BodyChange,
    Changes,
    Effects,
    FactKey,
    State,
    StoredBody,
    StoredFact,
    applied,
    conflict,
)
from deerflow_backends.errors import Corrupt
from deerflow_backends.memories import ABSENT, Applied, Expected
from deerflow_backends.records import Part
from deerflow_backends.search import has_category
from deerflow_redis.layout import MemoryKeys, decoded

#: A user's revision and time, None if never written.
User: TypeAlias = tuple[int, int] | None

#: Facts by id, in order.
Facts: TypeAlias = list[tuple[str, StoredFact]]


def read_fact(record: bytes | None) -> StoredFact:
    """Read a fact's record; None is one that is listed and not there."""
    with _ours("fact", record):
        revision, created_at, updated_at, value = (record or b"").split(b" ", 3)
        return StoredFact(int(revision), value, int(created_at), int(updated_at))


def _read_body(record: bytes) -> StoredBody:
    with _ours("body", record):
        revision, body = record.split(b" ", 1)
        return StoredBody(int(revision), body)


def _read_user(revision: bytes | None, updated_at: bytes | None) -> User:
    if revision is None:
        return None
    with _ours("user", revision):
        return int(revision), int(updated_at or b"")


@contextmanager
def _ours(what: str, record: bytes | None) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise Corrupt(f"a stored {what} is not what deerflow-redis wrote: {(record or b'')[:80]!r}") from error


def _write_fact(fact: StoredFact) -> bytes:
    return b"%d %d %d %b" % (fact.revision, fact.created_at, fact.updated_at, fact.value)


def _write_body(body: StoredBody) -> bytes:
    return b"%d %b" % body


def is_of(category: str, row: tuple[str, StoredFact]) -> bool:
    """Whether a fact bears *category*."""
    return has_category(codec.decode(row[1].value), category)


def read_loaded(reply: list[Any], part: bytes) -> tuple[User, StoredBody | None, Facts]:
    """Read what ``memory_load`` replied."""
    revision, updated_at, body, fields, *records = reply
    facts = _read_facts(fields, list(chain.from_iterable(records)), part)
    return _read_user(revision, updated_at), None if body is None else _read_body(body), facts


def read_portion(reply: list[Any], part: bytes) -> tuple[bool, bytes, Facts]:
    """Read what ``memory_facts`` replied: whether more may follow, after which field, and the facts."""
    more, *rows = reply
    return bool(more), rows[-2] if rows else b"", _read_facts(rows[::2], rows[1::2], part)


def _read_facts(fields: list[bytes], records: list[bytes], part: bytes) -> Facts:
    skipped = len(part) + 1
    return [(field[skipped:].decode(), read_fact(record)) for field, record in zip(fields, records, strict=True)]


def read_user(reply: list[Any], user_id: str | None) -> list[Part]:
    """Read what ``memory_export`` replied: the user-wide part first, there or not, then the agents' by name."""
    user, bodies, facts = _read_user(*reply[0]), _pairs(reply[1]), _pairs(reply[2])
    if user is None:
        return []
    facts_of: dict[str | None, dict[str, StoredFact]] = {}
    for field, record in facts:
        part, _, fact_id = field.partition(b"/")
        facts_of.setdefault(decoded(part), {})[fact_id.decode()] = read_fact(record)
    body_of = {decoded(part): _read_body(record) for part, record in bodies}
    agents = sorted(name for name in {*body_of, *facts_of} if name is not None)
    return [Part(user_id, name, *user, body_of.get(name), facts_of.get(name, {})) for name in (None, *agents)]


def _pairs(flat: list[bytes]) -> list[tuple[bytes, bytes]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def write_part(part: Part, keys: MemoryKeys) -> list[bytes | int]:
    """Write what ``memory_restore`` is given."""
    body = b"" if part.body is None else _write_body(part.body)
    words: list[bytes | int] = [keys.part(part.agent_name), part.user_revision, part.user_updated_at, body]
    for fact_id, fact in part.facts.items():
        words += (keys.fact((part.agent_name, fact_id)), _write_fact(fact))
    return words


def write_changes(changes: Changes, keys: MemoryKeys) -> list[bytes | int]:
    """Write what ``memory_apply`` is given."""
    words: list[bytes | int] = [b"" if changes.expected_revision is None else changes.expected_revision]
    for change in changes.in_order:
        expected = _write_expected(change.expected)
        if isinstance(change, BodyChange):
            words += (b"body", expected, keys.part(change.agent_name), change.body)
        else:
            kind = b"put" if change.value is not None else b"delete"
            words += (kind, expected, keys.fact(change.key), change.value or b"")
    return words


def _write_expected(expected: Expected) -> bytes | int:
    if isinstance(expected, int):
        return expected
    return b"0" if expected is ABSENT else b""


def read_outcome(reply: list[Any], changes: Changes) -> Applied:
    """Read what ``memory_apply`` replied.

    Raises:
        RevisionConflict: That is what it replied.
    """
    if reply[0] == b"conflict":
        number, found = int(reply[1]), int(reply[2])
        raise conflict(changes, number - 1, found or None) if number else conflict(changes, None, found)
    revision, outcomes = int(reply[1]), reply[2]
    bodies: dict[str | None, StoredBody] = {}
    changed: dict[FactKey, StoredFact | None] = {}
    kept: dict[FactKey, StoredFact] = {}
    for change, outcome in zip(changes.in_order, outcomes, strict=True):
        is_changed = outcome[:1] == b"+"
        if isinstance(change, BodyChange):
            if is_changed:
                bodies[change.agent_name] = StoredBody(0, change.body)
        elif change.value is None:
            if is_changed:
                changed[change.key] = None
        else:
            (changed if is_changed else kept)[change.key] = read_fact(outcome[1:] + change.value)
    return applied(changes, State(revision, {}, kept), Effects(revision, bodies, changed))
