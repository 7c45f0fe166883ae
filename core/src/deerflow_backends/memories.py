"""Contract of the memory store: what an agent remembers of a user, shared, and safe under concurrent writers.

The unit of consistency is a user: all changes to one user's memory have one order and one growing revision.
Promises carry numbers (M1 to M12, and G1 to G13 for every capability); the conformance kit tests and reports by them.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, Protocol, TypeAlias

from deerflow_backends.codec import JSON
from deerflow_backends.paging import Page
from deerflow_backends.streams import Reach

#: One exported user part, or one thread: a JSON object that `restore` takes back.
Record: TypeAlias = dict[str, Any]


class Guard(enum.Enum):
    """What may be asked of a stored state besides an exact revision or status."""

    ANY = "any"
    ABSENT = "absent"


class All(enum.Enum):
    """Everything of a user, not one part of it."""

    ALL = "all"


#: No expectation: whatever is stored is fine.
ANY: Final = Guard.ANY
#: It must not be stored yet.
ABSENT: Final = Guard.ABSENT
#: Every agent's part and the user-wide part.
ALL: Final = All.ALL

#: What a change may ask of the stored state: ANY, ABSENT, or exactly this revision.
Expected: TypeAlias = Guard | int


@dataclass(frozen=True, slots=True)
class PutBody:
    """Replace the body of one part. An absent body is ``{}`` at revision 0, so putting ``{}`` there changes nothing.

    Attributes:
        agent_name: Whose part; None is the user-wide one.
        body: A JSON object.
        expected: The revision it must have now, ABSENT (revision 0), or ANY.
    """

    agent_name: str | None
    body: dict[str, JSON]
    expected: Expected = ANY


@dataclass(frozen=True, slots=True)
class PutFact:
    """Create or replace one fact. Its text is ``value["content"]``, its category ``value["category"]``.

    Attributes:
        agent_name: Whose part; None is the user-wide one.
        fact_id: Unique within the part.
        value: A JSON object; unknown fields are kept.
        expected: The revision it must have now, ABSENT, or ANY.
    """

    agent_name: str | None
    fact_id: str
    value: dict[str, JSON]
    expected: Expected = ANY


@dataclass(frozen=True, slots=True)
class DeleteFact:
    """Remove one fact; removing an absent one changes nothing.

    Attributes:
        agent_name: Whose part; None is the user-wide one.
        fact_id: Unique within the part.
        expected: The revision it must have now, ABSENT, or ANY.
    """

    agent_name: str | None
    fact_id: str
    expected: Expected = ANY


#: One element of what `MemoryStore.apply` is given.
Change: TypeAlias = PutBody | PutFact | DeleteFact


@dataclass(frozen=True, slots=True)
class Fact:
    """One remembered thing.

    Attributes:
        agent_name: Whose part it is in; None is the user-wide one.
        fact_id: Unique within the part.
        value: A JSON object, the receiver's own.
        revision: 1 when created, raised by 1 with each change.
        created_at: When it was created, by the server's clock.
        updated_at: When it was last changed.
    """

    agent_name: str | None
    fact_id: str
    value: dict[str, JSON]
    revision: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Memory:
    """One part of a user's memory, all of it of one and the same revision (M11).

    Attributes:
        user_id: Whose; None is the shared memory of deployments without users.
        agent_name: Which part; None is the user-wide one.
        body: A JSON object, ``{}`` if absent.
        body_revision: Raised by 1 with each change of the body, 0 if absent.
        facts: Ordered by id.
        revision: The user's: raised by 1 with each effective `MemoryStore.apply` or `clear`, 0 if never written.
        updated_at: When the user's `revision` came to be, None if never written.
    """

    user_id: str | None
    agent_name: str | None
    body: dict[str, JSON]
    body_revision: int
    facts: tuple[Fact, ...]
    revision: int
    updated_at: datetime | None


@dataclass(frozen=True, slots=True)
class FactMatch:
    """A fact that a search found, and how well: higher is better (`deerflow_backends.search`)."""

    fact: Fact
    score: float


@dataclass(frozen=True, slots=True)
class Applied:
    """What an `apply` did.

    Attributes:
        revision: The user's revision afterwards.
        facts: The facts that were put, as stored now, in the order of the changes, unchanged ones included.
        deleted: ``(agent_name, fact_id)`` of the facts that were there and are gone.
        changed: Whether anything changed at all.
    """

    revision: int
    facts: tuple[Fact, ...]
    deleted: tuple[tuple[str | None, str], ...]
    changed: bool


@dataclass(frozen=True, slots=True)
class MemoryOptions:
    """Nothing can be chosen in contract 1.0."""


class MemoryStore(Protocol):
    """Keeps what agents remember. ``user_id=None`` is one shared memory, ``agent_name=None`` the user-wide part.

    Neither is a wildcard. Every call may raise `Closed`, `InvalidArgument` (nothing was changed), and
    `BackendUnavailable` (`maybe_written` tells). A cancelled write happened once, whole, or not at all.
    """

    @property
    def reach(self) -> Reach:
        """How far this backend carries (G6); a plain class attribute will do."""

    async def load(self, user_id: str | None, *, agent_name: str | None = None) -> Memory:
        """Read one part as of one revision (M11). Never creates anything; an absent part is empty (M1)."""

    async def apply(
        self, user_id: str | None, changes: Sequence[Change], *, expected_revision: int | None = None
    ) -> Applied:
        """Make all changes or none (M2), raising the user's revision by exactly 1 if anything changes (M3).

        Expectations are judged against the state before the call, first the user's, then in order.

        Args:
            changes: At most one for each fact and each body; together at most 8 MiB.
            expected_revision: The user's revision, or None for whatever it is.

        Raises:
            RevisionConflict: An expectation does not hold; nothing was changed (M4).
        """

    async def get_fact(self, user_id: str | None, fact_id: str, *, agent_name: str | None) -> Fact | None:
        """Read one fact, None if there is none."""

    async def list_facts(
        self,
        user_id: str | None,
        *,
        agent_name: str | None,
        category: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[Fact]:
        """Read facts of one part by id, 1 to 1,000 a page, optionally of one category only (M6).

        Raises:
            InvalidArgument: Also for a cursor that is damaged or belongs to another listing.
        """

    async def search(
        self, user_id: str | None, query: str, *, agent_name: str | None, category: str | None = None, limit: int = 10
    ) -> list[FactMatch]:
        """Find the facts of one part whose text contains every part of *query*, the best first (M7).

        The rule and the rank are `deerflow_backends.search.search_facts`, the same on every backend.
        """

    async def agents(self, user_id: str | None) -> list[str]:
        """Name the agents that have a body or facts, in order of their names."""

    async def clear(self, user_id: str | None, *, agent_name: str | Literal[All.ALL] | None = ALL) -> int:
        """Remove one agent's part, or with None the user-wide one, or with ALL everything of the user (M8).

        Returns:
            The user's revision afterwards, raised by 1 only if something was there.
        """

    async def erase(self, user_id: str | None) -> None:
        """Leave no trace of the user; the revision begins at 0 again (M8)."""

    def export(self) -> AsyncIterator[Record]:
        """Give everything as records, a user's records together and of one revision (M12)."""

    async def restore(self, records: Iterable[Record] | AsyncIterable[Record]) -> int:
        """Store exported records with their ids, revisions and times; return how many were not there yet (M12).

        Raises:
            Conflict: A record meets a different one of the same id. It was not written; those before it were.
            InvalidArgument: What was given is no such record; those before it were written.
        """

    async def ping(self) -> None:
        """Return if the backend answers, without opening a connection (G13); else `BackendUnavailable`."""
