"""Exported records, written and strictly read back: what `export` gives and `restore` takes, on every backend alike.

A record of a memory is one part of one user: its body, its facts, and the user's revision and time. A user's first
record is that of the user-wide part, there or not, since it carries the revision. A record of a thread is a thread.
Both are plain JSON; times are ISO 8601 in UTC with microseconds. Each states the contract's version; another major
version is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol, TypeVar

from deerflow_backends import CONTRACT_VERSION, codec
from deerflow_backends.arguments import check_identifier, check_integer, check_optional_identifier, check_text
from deerflow_backends.changes import MAX_IMPORTED_REVISION, StoredBody, StoredFact
from deerflow_backends.clocks import to_datetime, to_microseconds
from deerflow_backends.errors import Conflict, InvalidArgument
from deerflow_backends.memories import Record
from deerflow_backends.thread_changes import StoredThread, check_metadata, joined


class Weighed(Protocol):
    """What is restored in chunks."""

    @property
    def weight(self) -> int:
        """About how many bytes storing it writes."""


T = TypeVar("T", bound=Weighed)

#: No restored time is later: it must have room to grow before times end, with the year 9999.
_LAST_YEAR: Final = 9000

#: When a chunk is full, by weight.
CHUNK_BYTES: Final = 1024 * 1024

#: What a row weighs beside its value.
_ROW_BYTES: Final = 100

_HEADER = ("kind", "contract")
_PART_FIELDS = (
    *_HEADER,
    *("user_id", "agent_name", "user_revision", "user_updated_at", "body", "body_revision", "facts"),
)
_FACT_FIELDS = ("fact_id", "value", "revision", "created_at", "updated_at")
_THREAD_FIELDS = (
    *_HEADER,
    *("thread_id", "user_id", "assistant_id", "display_name", "status", "metadata", "created_at", "updated_at"),
)


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a user's memory as a backend keeps it.

    Attributes:
        agent_name: None is the user-wide part.
        user_revision: The user's, 1 or more.
        user_updated_at: Microseconds since 1970.
        body: None if absent.
        facts: By id.
    """

    user_id: str | None
    agent_name: str | None
    user_revision: int
    user_updated_at: int
    body: StoredBody | None
    facts: Mapping[str, StoredFact]

    @property
    def weight(self) -> int:
        """About how many bytes storing it writes."""
        body = len(self.body.body) if self.body else 0
        return _ROW_BYTES + body + sum(_ROW_BYTES + len(fact.value) for fact in self.facts.values())

    def to_record(self) -> Record:
        """Export it, its facts ordered by id."""
        return {
            "kind": "memory",
            "contract": CONTRACT_VERSION,
            "user_id": self.user_id,
            "agent_name": self.agent_name,
            "user_revision": self.user_revision,
            "user_updated_at": _iso(self.user_updated_at),
            "body": codec.decode(self.body.body) if self.body else {},
            "body_revision": self.body.revision if self.body else 0,
            "facts": [_fact_record(fact_id, fact) for fact_id, fact in sorted(self.facts.items())],
        }

    def is_new(self, user: tuple[int, int] | None, body: StoredBody | None, facts: Mapping[str, StoredFact]) -> bool:
        """Whether `restore` must write it: True if it is not there yet, False if exactly this is there.

        Args:
            user: The stored user's revision and time in microseconds, None if never written.
            body: The stored body of this part, None if absent.
            facts: All stored facts of this part, by id.

        Raises:
            Conflict: Something else is there.
        """
        if user is None:
            return True
        if user == (self.user_revision, self.user_updated_at):
            if body == self.body and facts == self.facts:
                return False
            if body is None and not facts:
                return True
        raise self.conflict()

    def conflict(self) -> Conflict:
        """Say that something else is stored, for a backend whose server finds that out."""
        return Conflict(
            f"the memory of user {self.user_id!r} (agent {self.agent_name!r}) is stored with other contents; "
            "erase that user first, or leave out the record"
        )


def _fact_record(fact_id: str, fact: StoredFact) -> Record:
    return {
        "fact_id": fact_id,
        "value": codec.decode(fact.value),
        "revision": fact.revision,
        "created_at": _iso(fact.created_at),
        "updated_at": _iso(fact.updated_at),
    }


def read_part(record: Any, place: str) -> Part:
    """Read a record of a memory.

    Raises:
        InvalidArgument: It is none; the message names the place, beginning with *place*.
    """
    _check_fields(record, place, _PART_FIELDS)
    _check_header(record, place, "memory")
    revision = check_integer(f"{place}.body_revision", record["body_revision"], least=0, most=MAX_IMPORTED_REVISION)
    body = codec.canonical_object(record["body"], f"{place}.body")
    if revision == 0 and body != b"{}":
        raise InvalidArgument(f"{place}.body", "must be {} at body_revision 0")
    if not isinstance(record["facts"], list):
        raise InvalidArgument(f"{place}.facts", f"must be a list, not {type(record['facts']).__name__}")
    facts: dict[str, StoredFact] = {}
    for index, fact_record in enumerate(record["facts"]):
        fact_id, fact = _read_fact(fact_record, f"{place}.facts[{index}]")
        if fact_id in facts:
            raise InvalidArgument(f"{place}.facts[{index}].fact_id", f"is there twice: {fact_id!r}")
        facts[fact_id] = fact
    return Part(
        user_id=check_optional_identifier(f"{place}.user_id", record["user_id"]),
        agent_name=check_optional_identifier(f"{place}.agent_name", record["agent_name"]),
        user_revision=_revision(record, "user_revision", place),
        user_updated_at=_moment(record, "user_updated_at", place),
        body=StoredBody(revision, body) if revision else None,
        facts=facts,
    )


def _read_fact(record: Any, place: str) -> tuple[str, StoredFact]:
    _check_fields(record, place, _FACT_FIELDS)
    return check_identifier(f"{place}.fact_id", record["fact_id"]), StoredFact(
        revision=_revision(record, "revision", place),
        value=codec.canonical_object(record["value"], f"{place}.value"),
        created_at=_moment(record, "created_at", place),
        updated_at=_moment(record, "updated_at", place),
    )


def thread_record(thread: StoredThread) -> Record:
    """Export a thread."""
    return {
        "kind": "thread",
        "contract": CONTRACT_VERSION,
        "thread_id": thread.thread_id,
        "user_id": thread.user_id,
        "assistant_id": thread.assistant_id,
        "display_name": thread.display_name,
        "status": thread.status,
        "metadata": codec.decode(joined(thread.metadata)),
        "created_at": _iso(thread.created_at),
        "updated_at": _iso(thread.updated_at),
    }


def read_thread(record: Any, place: str) -> StoredThread:
    """Read a record of a thread.

    Raises:
        InvalidArgument: It is none; the message names the place, beginning with *place*.
    """
    _check_fields(record, place, _THREAD_FIELDS)
    _check_header(record, place, "thread")
    name = record["display_name"]
    return StoredThread(
        thread_id=check_identifier(f"{place}.thread_id", record["thread_id"]),
        user_id=check_optional_identifier(f"{place}.user_id", record["user_id"]),
        assistant_id=check_optional_identifier(f"{place}.assistant_id", record["assistant_id"]),
        display_name=None if name is None else check_text(f"{place}.display_name", name),
        status=check_identifier(f"{place}.status", record["status"]),
        metadata=check_metadata(record["metadata"], f"{place}.metadata"),
        created_at=_moment(record, "created_at", place),
        updated_at=_moment(record, "updated_at", place),
    )


def thread_is_new(thread: StoredThread, stored: StoredThread | None) -> bool:
    """Whether `restore` must write *thread*: True if its id is free, False if exactly this thread is there.

    Raises:
        Conflict: A different thread has this id.
    """
    if stored is None:
        return True
    if stored != thread:
        raise Conflict(
            f"the thread {thread.thread_id!r} is stored with other contents; delete it first, or leave out the record"
        )
    return False


async def read_in_chunks(
    records: Iterable[Any] | AsyncIterable[Any], read: Callable[[Any, str], T], *, size: int = 100
) -> AsyncGenerator[list[T], None]:
    """Read *records* with *read*, some at a time; those before a bad one are given before it raises.

    A chunk is full at *size* records or about 1 MiB, so that a backend can store it in one short transaction. Leave
    it with `contextlib.aclosing` where you may stop half-way.

    Raises:
        InvalidArgument: From *read*, or because *records* can not be iterated.
    """
    chunk: list[T] = []
    count = weight = 0
    async with aclosing(_each(records)) as each:
        async for record in each:
            try:
                chunk.append(read(record, f"records[{count}]"))
            except InvalidArgument:
                yield chunk
                raise
            count += 1
            weight += chunk[-1].weight
            if len(chunk) == size or weight >= CHUNK_BYTES:
                yield chunk
                chunk, weight = [], 0
                await asyncio.sleep(0)  # a plain iterable would keep the event loop to itself
    if chunk:
        yield chunk


async def _each(records: Any) -> AsyncGenerator[Any, None]:
    if isinstance(records, AsyncIterable):
        async for record in records:
            yield record
    elif isinstance(records, Iterable) and not isinstance(records, str | bytes | Mapping):
        for record in records:
            yield record
    else:
        raise InvalidArgument("records", f"must be an iterable of records, not {type(records).__name__}")


def _check_fields(record: Any, place: str, names: tuple[str, ...]) -> None:
    if not isinstance(record, Mapping):
        raise InvalidArgument(place, f"must be a record (a dict), not {type(record).__name__}")
    for name in names:
        if name not in record:
            raise InvalidArgument(place, f"lacks the field {name!r}")
    for name in record:
        if name not in names:
            raise InvalidArgument(place, f"has the unknown field {name!r:.80}")


def _check_header(record: Mapping[str, Any], place: str, kind: str) -> None:
    if record["kind"] != kind:
        raise InvalidArgument(f"{place}.kind", f"must be {kind!r}, not {record['kind']!r:.80}")
    version = record["contract"]
    if not isinstance(version, str) or version.partition(".")[0] != CONTRACT_VERSION.partition(".")[0]:
        raise InvalidArgument(f"{place}.contract", f"must be {CONTRACT_VERSION!r}, not {version!r:.80}")


def _revision(record: Mapping[str, Any], name: str, place: str) -> int:
    return check_integer(f"{place}.{name}", record[name], least=1, most=MAX_IMPORTED_REVISION)


def _iso(microseconds: int) -> str:
    return to_datetime(microseconds).isoformat(timespec="microseconds")


def _moment(record: Mapping[str, Any], name: str, place: str) -> int:
    text = record[name]
    try:
        moment = to_microseconds(datetime.fromisoformat(text))
    except (TypeError, ValueError):
        moment = None
    if moment is None or _iso(moment) != text:
        example = "2026-01-31T12:00:00.000000+00:00"
        raise InvalidArgument(f"{place}.{name}", f"must be a time written like {example!r}, not {text!r:.80}")
    if int(text[:4]) > _LAST_YEAR:
        raise InvalidArgument(f"{place}.{name}", f"must not be after the year {_LAST_YEAR}, but is {text!r}")
    return moment
