"""Contract of the thread index: which threads a user has, newest first, page by page.

Promises carry numbers (T1 to T11, and G1 to G13 for every capability); the conformance kit tests and reports by them.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, Protocol, TypeAlias

from deerflow_backends.codec import JSON
from deerflow_backends.memories import ANY, Guard, Record
from deerflow_backends.paging import Page
from deerflow_backends.streams import Reach

#: A listing with a metadata filter examines at most this many threads a call (T8).
MAX_EXAMINED: Final = 1_000
#: The metadata key whose value ``True`` pins a thread above all others (T2).
PINNED_KEY: Final = "deerflow_pinned"


class AnyUser(enum.Enum):
    """Every user's threads and those without owner: must be asked for by this name (T4)."""

    ANY_USER = "any_user"


class Keep(enum.Enum):
    """Leave a field as it is."""

    KEEP = "keep"


#: The scope of every user and of threads without owner.
ANY_USER: Final = AnyUser.ANY_USER
#: Leave this field as it is stored.
KEEP: Final = Keep.KEEP

#: Whose threads a call sees: one user's, or with ANY_USER all.
Scope: TypeAlias = str | Literal[AnyUser.ANY_USER]


@dataclass(frozen=True, slots=True)
class NewThread:
    """A thread to be created.

    Attributes:
        thread_id: Unique among all users' threads.
        user_id: The owner, or None for a thread without owner.
        assistant_id: An identifier, or None.
        display_name: Any text to 8 KiB, or None.
        status: An identifier; nothing about its value is special here.
        metadata: A JSON object of at most 8 MiB; ``deerflow_pinned: True`` pins the thread.
    """

    thread_id: str
    user_id: str | None
    assistant_id: str | None = None
    display_name: str | None = None
    status: str = "idle"
    metadata: dict[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Thread:
    """A thread as stored: the fields of `NewThread` and two times by the server's clock.

    Attributes:
        thread_id: Unique among all users' threads.
        user_id: The owner, or None.
        assistant_id: An identifier, or None.
        display_name: Any text, or None.
        status: An identifier.
        metadata: A JSON object, the receiver's own.
        created_at: When it was created.
        updated_at: When it was last touched; grows strictly with each touching update or move (T7).
    """

    thread_id: str
    user_id: str | None
    assistant_id: str | None
    display_name: str | None
    status: str
    metadata: dict[str, JSON]
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class ThreadOptions:
    """Nothing can be chosen in contract 1.0."""


class ThreadIndex(Protocol):
    """Knows every user's threads. Every call is scoped to its ``user_id``; only ANY_USER sees beyond (T4).

    Another user's thread looks like no thread, except to `create`. Every call may raise `Closed`,
    `InvalidArgument` (nothing was changed), and `BackendUnavailable` (`maybe_written` tells). A cancelled write
    happened once, whole, or not at all.
    """

    @property
    def reach(self) -> Reach:
        """How far this backend carries (G6); a plain class attribute will do."""

    async def create(self, thread: NewThread) -> Thread:
        """Store a new thread and return it.

        Raises:
            Conflict: The id is taken, whoever owns it; the first one stays as it is (T5).
        """

    async def get(self, thread_id: str, *, user_id: Scope) -> Thread | None:
        """Read one thread, None if there is none in scope. A thread without owner is seen by ANY_USER only."""

    async def list(
        self,
        user_id: Scope,
        *,
        status: str | None = None,
        metadata: Mapping[str, JSON] | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Thread]:
        """Read threads, pinned first, then the latest touched, then by id downwards (T2), 1 to 1,000 a page.

        Following `Page.next_cursor` to its end visits every thread that was not changed meanwhile exactly once (T3).

        Args:
            status: Only threads of this status.
            metadata: Only threads whose metadata has each of these top-level keys with exactly this value, type
                included; None matches an explicit null only (T8). Such a call examines at most 1,000 threads and may
                return a short page with a cursor.

        Raises:
            InvalidArgument: Also for a cursor that is damaged or belongs to another listing.
        """

    async def count(self, user_id: Scope, *, status: str | None = None) -> int:
        """Count the threads in scope, optionally of one status."""

    async def update(
        self,
        thread_id: str,
        *,
        user_id: Scope,
        display_name: str | Literal[Keep.KEEP] | None = KEEP,
        status: str | Literal[Keep.KEEP] = KEEP,
        metadata: Mapping[str, JSON] | None = None,
        remove: Iterable[str] = (),
        replace: bool = False,
        expected_status: str | Literal[Guard.ANY] = ANY,
        touch: bool = True,
    ) -> Thread | None:
        """Change one thread atomically and return it; None if there is none in scope.

        Args:
            metadata: Merged key by key at the server (T6); None as a value is a value. With *replace* it becomes the
                whole metadata.
            remove: Metadata keys to remove; none of them may be in *metadata*, and none goes with *replace*.
            expected_status: The status it must have now.
            touch: Whether `Thread.updated_at` grows (T7).

        Raises:
            Conflict: The status is another than expected; nothing was changed.
            InvalidArgument: Also if the merged metadata would exceed 8 MiB.
        """

    async def move(self, thread_id: str, *, user_id: Scope, to_user_id: str | None) -> Thread | None:
        """Give a thread to another owner, or to none, touching it; None if there is none in scope."""

    async def delete(self, thread_id: str, *, user_id: Scope) -> bool:
        """Remove a thread; False if there was none in scope."""

    async def can_access(self, thread_id: str, user_id: str, *, require_existing: bool = False) -> bool:
        """Whether the user may use the thread: it is theirs or nobody's. Missing: ``not require_existing`` (T4)."""

    def export(self) -> AsyncIterator[Record]:
        """Give every thread as a record (T11)."""

    async def restore(self, records: Iterable[Record] | AsyncIterable[Record]) -> int:
        """Store exported threads with their ids and times; return how many were not there yet (T11).

        Raises:
            Conflict: A record meets a different thread of the same id. It was not written; those before it were.
            InvalidArgument: What was given is no such record; those before it were written.
        """

    async def ping(self) -> None:
        """Return if the backend answers, without opening a connection (G13); else `BackendUnavailable`."""
