"""Everything that is stored, by name: the tables of a namespace, their rows and their keys.

A key of LMDB has at most 511 bytes, an identifier up to 512. So keys hold the SHA-256 of an identifier, and the row
holds the identifier itself. The ids of facts are different: facts are listed by id, hence their keys must sort so.
Such a key has the first 400 bytes of the id as they are, and if there are more also the digest of the whole.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final, NamedTuple

from deerflow_backends.buckets import Sums
from deerflow_backends.changes import StoredBody, StoredFact
from deerflow_lmdb.transactions import Table

#: Raised when older code could not read what newer code writes.
VERSION: Final = 1

#: How much of a fact's id its key holds as it is.
LEAD_BYTES: Final = 400

#: How long the part of a fact's key is that names the user and the agent.
PART_BYTES: Final = 64

_MOMENT_BYTES: Final = 8
_ZERO: Final = 2**63


class AboutRow(NamedTuple):
    """The layout that a namespace has."""

    version: int


class UserRow(NamedTuple):
    """A user who was ever written. It stays when all was cleared, since the revision must never go back (M3)."""

    user_id: str | None
    revision: int
    updated_at: int


class BodyRow(NamedTuple):
    """The body of a part."""

    agent_name: str | None
    body: StoredBody


class FactRow(NamedTuple):
    """A fact."""

    agent_name: str | None
    fact_id: str
    fact: StoredFact


class SumsRow(NamedTuple):
    """What was counted for a model, ever or in one bucket."""

    model_name: str
    sums: Sums


class TokenRow(NamedTuple):
    """Until when a token is remembered, in microseconds since 1970."""

    expires_at: int


ABOUT: Final = Table("about", AboutRow)  # one row, without a key of its own: b"about"
USERS: Final = Table("users", UserRow)  # by digest
BODIES: Final = Table("bodies", BodyRow)  # by part_key
FACTS: Final = Table("facts", FactRow)  # by fact_key
TOTALS: Final = Table("totals", SumsRow)  # by digest
BUCKETS: Final = Table("buckets", SumsRow)  # by moment_key of the bucket, then digest
TOKENS: Final = Table("tokens", TokenRow)  # by the token

TABLES: Final = (ABOUT, USERS, BODIES, FACTS, TOTALS, BUCKETS, TOKENS)


def digest(identifier: str | None) -> bytes:
    """Stand for an identifier, or for None: no identifier is empty."""
    return sha256((identifier or "").encode()).digest()


def part_key(user_id: str | None, agent_name: str | None) -> bytes:
    """Stand for a part of a user's memory; begins as all keys of that user do."""
    return digest(user_id) + digest(agent_name)


def fact_key(user_id: str | None, agent_name: str | None, fact_id: str) -> bytes:
    """Stand for a fact. Those of a part sort by id, but for ids that have their first 400 bytes in common."""
    encoded = fact_id.encode()
    tail = digest(fact_id) if len(encoded) > LEAD_BYTES else b""
    return part_key(user_id, agent_name) + encoded[:LEAD_BYTES] + tail


def moment_key(moment: int) -> bytes:
    """Write a bucket or a time so that keys sort by it; also one before 1970, which an old count may fall into."""
    return (moment + _ZERO).to_bytes(_MOMENT_BYTES, "big")


def split_moment(key: bytes) -> tuple[int, bytes]:
    """Read the moment that a key begins with, and give the rest of the key."""
    return int.from_bytes(key[:_MOMENT_BYTES], "big") - _ZERO, key[_MOMENT_BYTES:]
