"""Exported records: read back exactly, or refused with the place of the mistake (M12, T11)."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deerflow_backends import codec
from deerflow_backends.changes import StoredBody, StoredFact
from deerflow_backends.errors import Conflict, InvalidArgument
from deerflow_backends.records import (
    CHUNK_BYTES,
    Part,
    read_in_chunks,
    read_part,
    read_thread,
    thread_is_new,
    thread_record,
)
from deerflow_backends.thread_changes import StoredThread, check_metadata

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
moments = st.integers(0, 4_000_000_000_000_000)
revisions = st.integers(1, 2**61)
odd_values = st.sampled_from([None, 1, 1.0, True, -0.0, 1e-320, 10**3999, "\0", {"": [{"a.b": "$x"}]}])
objects = st.dictionaries(names | st.just(""), odd_values, max_size=3).map(codec.canonical)
parts = st.builds(
    Part,
    st.none() | names,
    st.none() | names,
    revisions,
    moments,
    st.none() | st.builds(StoredBody, revisions, objects),
    st.dictionaries(names, st.builds(StoredFact, revisions, objects, moments, moments), max_size=3),
)
threads = st.builds(
    StoredThread,
    names,
    st.none() | names,
    st.none() | names,
    st.none() | names | st.just(""),
    names,
    st.dictionaries(names | st.just(""), odd_values, max_size=3).map(lambda value: check_metadata(value, "m")),
    moments,
    moments,
)


@given(parts)
def test_a_part_of_a_memory_comes_back(part: Part) -> None:
    """M12: ids, revisions, times and odd values are all in the record, and it is JSON."""
    record = codec.decode(codec.encode(part.to_record()))
    assert read_part(record, "records[0]") == part
    assert [fact["fact_id"] for fact in record["facts"]] == sorted(part.facts)


@given(threads)
def test_a_thread_comes_back(thread: StoredThread) -> None:
    """T11: every field and both times are in the record, and it is JSON."""
    assert read_thread(codec.decode(codec.encode(thread_record(thread))), "records[0]") == thread


BODY = StoredBody(2, b'{"x":1}')
FACTS = {"f": StoredFact(1, b"{}", 5, 6)}
PART = Part("u", "a", 7, 1_000_000, BODY, FACTS)
THREAD = StoredThread("t", "u", None, "name", "idle", {"k": b"1"}, 5, 6)


def test_a_part_is_new_there_or_in_conflict() -> None:
    """M12: restoring again changes nothing; anything else under the same name is a conflict."""
    user = (7, 1_000_000)
    assert PART.is_new(None, None, {})
    assert PART.is_new(user, None, {})
    assert not PART.is_new(user, BODY, dict(FACTS))
    for state in [
        ((8, 1_000_000), BODY, FACTS),
        ((7, 1_000_001), None, {}),
        (user, StoredBody(3, BODY.body), FACTS),
        (user, StoredBody(2, b'{"x":1.0}'), FACTS),
        (user, None, FACTS),
        (user, BODY, {}),
        (user, BODY, FACTS | {"g": FACTS["f"]}),
        (user, BODY, {"f": StoredFact(1, b"{}", 5, 7)}),
    ]:
        with pytest.raises(Conflict, match="user 'u'"):
            PART.is_new(*state)


def test_an_empty_part_of_a_stored_user_is_there() -> None:
    """M12: the record that carries only the revision is not written twice."""
    empty = Part("u", None, 7, 1_000_000, None, {})
    assert empty.is_new(None, None, {})
    assert not empty.is_new((7, 1_000_000), None, {})


def test_a_thread_is_new_there_or_in_conflict() -> None:
    """T11: as for memory."""
    assert thread_is_new(THREAD, None)
    assert not thread_is_new(THREAD, copy.deepcopy(THREAD))
    with pytest.raises(Conflict, match="thread 't'"):
        thread_is_new(THREAD, StoredThread("t", "v", None, "name", "idle", {"k": b"1"}, 5, 6))


MEMORY_MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"kind": "thread"}, "r.kind"),
    ({"contract": "2.0"}, "r.contract"),
    ({"contract": 1}, "r.contract"),
    ({"user_id": ""}, "r.user_id"),
    ({"agent_name": 1}, "r.agent_name"),
    ({"user_revision": 0}, "r.user_revision"),
    ({"user_revision": True}, "r.user_revision"),
    ({"user_revision": 2**61 + 1}, "r.user_revision"),
    ({"user_updated_at": None}, "r.user_updated_at"),
    ({"user_updated_at": "2026-01-31T12:00:00"}, "r.user_updated_at"),
    ({"user_updated_at": "2026-01-31T12:00:00.000000"}, "r.user_updated_at"),
    ({"user_updated_at": "2026-01-31T12:00:00.000000+01:00"}, "r.user_updated_at"),
    ({"user_updated_at": "2026-01-31T12:00:00.0000001+00:00"}, "r.user_updated_at"),
    ({"user_updated_at": 5}, "r.user_updated_at"),
    ({"user_updated_at": "9001-01-01T00:00:00.000000+00:00"}, "r.user_updated_at"),
    ({"body": []}, "r.body"),
    ({"body_revision": -1}, "r.body_revision"),
    ({"body_revision": 2**61 + 1}, "r.body_revision"),
    ({"body_revision": 0}, "r.body"),
    ({"facts": {}}, "r.facts"),
    ({"facts": ["f"]}, "r.facts[0]"),
    ({"extra": 1}, "r"),
]


@pytest.mark.parametrize(("wrong", "place"), MEMORY_MISTAKES)
def test_a_wrong_record_of_a_memory_is_refused(wrong: dict[str, Any], place: str) -> None:
    """M12: no record is guessed at; the error names the field."""
    with pytest.raises(InvalidArgument) as caught:
        read_part(PART.to_record() | wrong, "r")
    assert caught.value.place == place


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ({"fact_id": None}, "r.facts[0].fact_id"),
        ({"value": {"x": float("nan")}}, "r.facts[0].value.x"),
        ({"revision": 0}, "r.facts[0].revision"),
        ({"created_at": "yesterday"}, "r.facts[0].created_at"),
        ({"extra": 1}, "r.facts[0]"),
    ],
)
def test_a_wrong_fact_in_a_record_is_refused(wrong: dict[str, Any], place: str) -> None:
    """M12: the error names the fact."""
    record = PART.to_record()
    record["facts"][0].update(wrong)
    with pytest.raises(InvalidArgument) as caught:
        read_part(record, "r")
    assert caught.value.place == place


def test_a_fact_twice_in_a_record_is_refused() -> None:
    """M12: an id names one fact."""
    record = PART.to_record()
    record["facts"] *= 2
    with pytest.raises(InvalidArgument, match="is there twice"):
        read_part(record, "r")


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ({"kind": "memory"}, "r.kind"),
        ({"contract": None}, "r.contract"),
        ({"thread_id": None}, "r.thread_id"),
        ({"user_id": "x" * 513}, "r.user_id"),
        ({"assistant_id": ""}, "r.assistant_id"),
        ({"display_name": 1}, "r.display_name"),
        ({"status": None}, "r.status"),
        ({"metadata": None}, "r.metadata"),
        ({"metadata": {"a": {1: 2}}}, "r.metadata.a"),
        ({"created_at": ""}, "r.created_at"),
        ({"updated_at": "2026-01-31"}, "r.updated_at"),
        ({"updated_at": "9999-12-31T23:59:59.999999+00:00"}, "r.updated_at"),
        ({"pinned": True}, "r"),
    ],
)
def test_a_wrong_record_of_a_thread_is_refused(wrong: dict[str, Any], place: str) -> None:
    """T11: no record is guessed at; the error names the field."""
    with pytest.raises(InvalidArgument) as caught:
        read_thread(thread_record(THREAD) | wrong, "r")
    assert caught.value.place == place


def test_the_last_moment_that_is_restored() -> None:
    """T7, T11: a thousand years before times end, so that it can grow when the thread is touched."""
    moment = "9000-12-31T23:59:59.999999+00:00"
    thread = read_thread(thread_record(THREAD) | {"updated_at": moment}, "r")
    assert thread_record(thread)["updated_at"] == moment


@pytest.mark.parametrize("read", [read_part, read_thread])
def test_a_record_lacks_nothing(read: Any) -> None:
    """M12, T11: every field is needed, and a record is an object."""
    whole = PART.to_record() if read is read_part else thread_record(THREAD)
    for name in whole:
        lacking = {key: value for key, value in whole.items() if key != name}
        with pytest.raises(InvalidArgument, match=f"lacks the field '{name}'"):
            read(lacking, "r")
    for value in (None, "text", [whole], json.dumps(whole)):
        with pytest.raises(InvalidArgument, match="must be a record"):
            read(value, "r")


class Even(int):
    """A record that weighs nothing, up to those from 100 on: they fill a chunk."""

    @property
    def weight(self) -> int:
        return CHUNK_BYTES if self >= 100 else 0


def read_even(record: Any, place: str) -> Even:
    if record % 2:
        raise InvalidArgument(place, "is odd")
    return Even(record)


async def collect(records: Any, size: int) -> tuple[list[list[Even]], str | None]:
    chunks: list[list[Even]] = []
    try:
        async with aclosing(read_in_chunks(records, read_even, size=size)) as reading:
            async for chunk in reading:
                chunks += [chunk]
    except InvalidArgument as error:
        return chunks, error.place
    return chunks, None


async def later(values: list[int]) -> AsyncIterator[int]:
    for value in values:
        await asyncio.sleep(0)
        yield value


def once(values: list[int]) -> Iterator[int]:
    yield from values


@given(st.lists(st.integers(0, 4).map(lambda n: n * 2 if n else 1), max_size=10), st.integers(1, 4))
def test_records_come_in_chunks_up_to_the_first_bad_one(values: list[int], size: int) -> None:
    """M12, T11: from any kind of iterable, what comes before a bad record is given, and the bad one is named."""
    bad = next((index for index, value in enumerate(values) if value % 2), None)
    for records in (values, tuple(values), once(values), later(values)):
        chunks, place = asyncio.run(collect(records, size))
        assert [value for chunk in chunks for value in chunk] == values[:bad]
        assert all(len(chunk) <= size for chunk in chunks)
        assert place == (None if bad is None else f"records[{bad}]")


def test_heavy_records_make_small_chunks() -> None:
    """M12, T11: a chunk is stored in one transaction, so it ends where it grows heavy, not only long."""
    chunks, _ = asyncio.run(collect([2, 100, 100, 4, 6], 10))
    assert chunks == [[2, 100], [100], [4, 6]]


@pytest.mark.parametrize("records", [None, 7, "records", b"records", {"kind": "thread"}])
def test_what_holds_no_records_is_refused(records: Any) -> None:
    """A single record, or text, is not taken apart."""
    assert asyncio.run(collect(records, 1)) == ([], "records")
