"""Copying everything that one store exports into another, and finding all of it there again. Knows no capability."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Protocol, TypeAlias

import msgspec

from deerflow_backends.errors import Conflict, InvalidArgument
from deerflow_backends.memories import Record

#: What two records must share to be about the same thing, and what it is called in messages.
Key: TypeAlias = tuple[str | None, ...]
#: What a record is about, and what of it must be equal in two stores; None if it says nothing.
Entry: TypeAlias = tuple[Key, Any] | None
Enter: TypeAlias = Callable[[Record], Entry]
#: Opens a phase of the work, called so and of so many records, None if not known; what it gives is called for each.
Phase: TypeAlias = Callable[[str, int | None], AbstractContextManager[Callable[[], None]]]

#: How many records with a fault are named.
_NAMED: Final = 5

_encode = msgspec.json.Encoder(order="sorted").encode


class Source(Protocol):
    """What is copied from, such as the memory store or thread index of any backend."""

    def export(self) -> AsyncIterator[Record]:
        """Give everything as records."""


class Target(Source, Protocol):
    """What is copied to."""

    async def restore(self, records: AsyncIterable[Record]) -> int:
        """Store records as they are; return how many were not there yet."""


class NotEmpty(Exception):
    """The target holds something that the source does not have, or has otherwise; nothing was copied.

    The message names one such record.

    Attributes:
        differs: Whether the source has it, with other contents.
    """

    def __init__(self, message: str, *, differs: bool) -> None:
        super().__init__(message)
        self.differs = differs


@dataclass(frozen=True, slots=True)
class Copied:
    """What came of a copy.

    Attributes:
        records: How many the source gave, or had given when the copy was stopped.
        new: How many of them the target did not have; None if the copy was stopped, when nobody counted.
        found: How many of them the target has now, read back and equal.
        others: How many more the target holds.
        faults: Some of those that are missing or differ, by name; of a stopped copy they may be still to come.
        stopped: What was wrong with a record, on which side; None if nothing was.
    """

    records: int
    new: int | None
    found: int
    others: int = 0
    faults: tuple[str, ...] = ()
    stopped: str | None = None

    @property
    def verified(self) -> bool:
        """Whether everything was copied and found again."""
        return self.stopped is None and self.found == self.records


class Ledger:
    """Which records a store gave: a digest of each, some hundred bytes, however large the record.

    Args:
        enter: How the store's records are entered.
    """

    def __init__(self, enter: Enter) -> None:
        self._enter = enter
        self._digests: dict[Key, bytes] = {}

    def __len__(self) -> int:
        return len(self._digests)

    def note(self, record: Record) -> None:
        """Enter a record."""
        entry = self._enter(record)
        if entry is not None:
            self._digests[entry[0]] = _digest(entry[1])

    def has(self, about: Key, contents: Any) -> bool | None:
        """Whether this was entered; None if nothing about it was."""
        digest = self._digests.get(about)
        return None if digest is None else digest == _digest(contents)

    def strike(self, about: Key) -> None:
        """Take out what was found again."""
        del self._digests[about]

    def names(self) -> Iterator[str]:
        """Name what is entered, for people."""
        return map(name_of, self._digests)


def as_it_is(record: Record) -> Entry:
    """Enter a record that must be the same in both stores."""
    return (record["thread_id"],) if record["kind"] == "thread" else (record["user_id"], record["agent_name"]), record


def name_of(about: Key) -> str:
    """Say for people what a record is about."""
    if len(about) == 1:
        return f"the thread {about[0]!r}"
    return f"the memory of user {about[0]!r} (agent {about[1]!r})"


def _digest(contents: Any) -> bytes:
    return hashlib.blake2b(_encode(contents), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Copying:
    """A copy to be made.

    Attributes:
        sent: How the source's records are entered, as they are to be found again.
        kept: How the target's are.
        size: How many records there are about, None if not known.
        phase: Called for each phase of the work.
    """

    source: Source
    target: Target
    sent: Enter
    kept: Enter
    size: int | None
    phase: Phase

    async def run(self, *, into_existing: bool) -> Copied:
        """Copy every record of the source, and compare each with what the target then exports.

        Args:
            into_existing: Whether the target may hold what the source does not have.

        Raises:
            NotEmpty: The target holds something else already, and *into_existing* is False.
            BackendsError: As the stores raise it, besides what a single record is to blame for. What was copied
                before stays.
        """
        size = self.size
        if not into_existing and not await self._is_empty():
            ledger = Ledger(self.sent)
            with self.phase("reading", size) as count:
                async for record in self.source.export():
                    ledger.note(record)
                    count()
            size = len(ledger)
            if await self._count_equal(ledger) == size:
                return Copied(size, 0, size)
        return await self._verified(*await self._copied(size))

    async def _is_empty(self) -> bool:
        async with aclosing(_each(self.target.export())) as records:
            async for record in records:
                if self.kept(record) is not None:
                    return False
        return True

    async def _count_equal(self, ledger: Ledger) -> int:
        """Count what the target holds of *ledger*.

        Raises:
            NotEmpty: It holds something else.
        """
        equal = 0
        with self.phase("comparing", None) as count:
            async with aclosing(_each(self.target.export())) as records:
                async for record in records:
                    entry = self.kept(record)
                    has = entry is None or ledger.has(*entry)
                    if entry is not None and not has:
                        raise NotEmpty(name_of(entry[0]), differs=has is False)
                    equal += entry is not None
                    count()
        return equal

    async def _copied(self, size: int | None) -> tuple[Ledger, int | None, str | None]:
        """Copy until the end, or to the record that stops it."""
        ledger = Ledger(self.sent)
        with self.phase("copying", size) as count:
            async with aclosing(_noting(self.source.export(), ledger, count)) as records:
                try:
                    return ledger, await self.target.restore(records), None
                except (Conflict, InvalidArgument) as error:
                    return ledger, None, str(error)

    async def _verified(self, ledger: Ledger, new: int | None, stopped: str | None) -> Copied:
        given, found, others = len(ledger), 0, 0
        different: list[str] = []
        with self.phase("verifying", given) as count:
            async for record in self.target.export():
                entry = self.kept(record)
                if entry is None:
                    continue
                equal = ledger.has(*entry)
                if equal is None:
                    others += 1
                    continue
                ledger.strike(entry[0])
                count()
                found += equal
                if not equal and len(different) < _NAMED:
                    different.append(f"{name_of(entry[0])} differs")
        missing = [f"{name} is missing" for name in islice(ledger.names(), _NAMED - len(different))]
        if new is not None:
            new = min(new, given)  # a folder counts records that come to nothing in it, too
        return Copied(given, new, found, others, tuple(different + missing), stopped)


async def _noting(
    records: AsyncIterator[Record], ledger: Ledger, count: Callable[[], None]
) -> AsyncGenerator[Record, None]:
    async with aclosing(_each(records)) as each:
        async for record in each:
            ledger.note(record)
            yield record
            count()


async def _each(records: AsyncIterator[Record]) -> AsyncGenerator[Record, None]:
    """Pass *records* on; closed half-way it closes them, if they can be closed."""
    try:
        async for record in records:
            yield record
    finally:
        if isinstance(records, AsyncGenerator):
            await records.aclose()
