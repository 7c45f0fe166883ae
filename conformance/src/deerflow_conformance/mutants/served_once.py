"""Faults against doing a write once (G5), where replies get lost and processes die: in the served backend."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from deerflow_backends.buckets import check_recordings
from deerflow_backends.codec import JSON
from deerflow_backends.counters import Recorded
from deerflow_backends.errors import BackendUnavailable
from deerflow_backends.memories import Applied, Change
from deerflow_backends.sqlite import counter_tables
from deerflow_backends.threads import ANY_USER, NewThread, Scope, Thread
from deerflow_conformance.mutants import Patched, methods
from deerflow_conformance.mutants.served import answers
from deerflow_conformance.mutants.served.capabilities import (
    ServedMemoryStore,
    ServedModelCounters,
    ServedStreamBridge,
    ServedThreadIndex,
)
from deerflow_conformance.mutants.served.client import Link, Wire
from deerflow_conformance.mutants.served.faults import fault
from deerflow_conformance.promises import CAPABILITIES

_request = Wire.request
_ask = Link._ask
_write = Link.write
_unavailable = Link._unavailable
_publish = ServedStreamBridge._publish
_apply = ServedMemoryStore.apply
_record_many = ServedModelCounters.record_many
_create = ServedThreadIndex.create
_update = ServedThreadIndex.update

_wire = partial(methods, Wire)
_link = partial(methods, Link)

#: Between two parts of what should be one write.
_APART_SECONDS = 0.004


@fault("G5", *CAPABILITIES, by="a_lost_request_or_reply_is_resolved_or_reported")
@fault("C1", "counters", by="recordings_over_a_bad_network_add_up")
@fault("M5", "memory", by="rivals_on_a_bad_network_have_an_order")
def a_write_without_a_reply_is_another_one() -> Patched:
    """What is sent again after a lost reply bears another token, so the server does it again."""

    async def request(self: Wire, operation: str, arguments: Any, token: str | None, deadline: float) -> Any:
        return await _request(self, operation, arguments, token and secrets.token_hex(16), deadline)

    return _wire(request=request)


@fault("G5", "stream_bridge", "memory", "thread_index", by="through_every_fault_a_write_is_done_once_or_says_so")
def an_error_says_that_nothing_was_written() -> Patched:
    """Whatever became of a write that was not answered, the error says that it was not done."""

    def unavailable(self: Link, why: str, *, maybe_written: bool) -> BackendUnavailable:
        return _unavailable(self, why, maybe_written=False)

    return _link(_unavailable=unavailable)


@fault("G5", "stream_bridge", "thread_index", by="through_every_fault_a_write_is_done_once_or_says_so")
def what_was_given_up_is_sent_later() -> Patched:
    """A write that could not be sent fails as not written, and is sent all the same once there is a connection."""

    async def write(self: Link, operation: str, *arguments: Any, timeout_seconds: float | None = None) -> Any:
        try:
            return await _write(self, operation, *arguments, timeout_seconds=timeout_seconds)
        except BackendUnavailable:
            if self._wire is not None:
                raise
            later = asyncio.create_task(_ask(self, operation, arguments, secrets.token_hex(16), 10.0))
            self.__dict__.setdefault("later", []).append(later)
            raise self._unavailable("there is no connection", maybe_written=False) from None

    return _link(write=write)


@fault("C1", "counters", by="recordings_through_a_restart_add_up")
def answers_are_forgotten_in_a_restart() -> Patched:
    """The server keeps its answers in memory: after a restart it does again what it is asked again."""
    kept: dict[str, answers.Outcome] = {}

    async def write_once(database: Any, write: Any, function: Callable[[Any], Any]) -> answers.Outcome:
        if write.token not in kept:
            kept[write.token] = await database.write(partial(answers.attempt, function=function), timeout_seconds=60.0)
            await asyncio.sleep(0.02)  # time to die in
        return kept[write.token]

    return methods(answers, write_once=write_once)


# --------------------------------------------------------------------------------------------- writes in parts


@fault("G5", "stream_bridge", by="what_a_killed_process_wrote_is_whole_or_absent", elsewhere=True)
def a_batch_is_sent_in_parts() -> Patched:
    """Events that are published together are sent one by one."""

    async def publish(self: ServedStreamBridge, run_id: str, new: Any) -> list[str]:
        ids: list[str] = []
        for one in new:
            ids += await _publish(self, run_id, [one])
            await asyncio.sleep(_APART_SECONDS)
        return ids

    return methods(ServedStreamBridge, _publish=publish)


@fault("C1", "counters", by="killed_rivals_recordings_add_up", elsewhere=True)
def recordings_are_sent_in_parts() -> Patched:
    """Calls are recorded first, and what became of them in another request."""

    async def record_many(self: ServedModelCounters, counts: Sequence[Recorded], *, token: str | None = None) -> None:
        checked = check_recordings(counts)
        calls = [Recorded(one.model_name, calls=one.calls, age_seconds=one.age_seconds) for one in checked]
        await _record_many(self, calls, token=token)
        await asyncio.sleep(_APART_SECONDS)
        rest = [dataclasses.replace(one, calls=0) for one in checked]
        await _record_many(self, rest, token=None if token is None else f"2 {token}")

    return methods(ServedModelCounters, record_many=record_many)


@fault("G5", "memory", by="what_a_killed_process_wrote_is_whole_or_absent", elsewhere=True)
@fault(
    "M2",
    "memory",
    by=(
        "a_killed_rivals_apply_is_whole",
        "an_apply_over_a_bad_network_is_whole",
        "an_apply_through_a_restart_is_whole",
    ),
)
@fault("M5", "memory", by=("killed_rivals_have_an_order", "rivals_through_a_restart_have_an_order"))
def changes_are_sent_one_by_one() -> Patched:
    """Each change of an apply is a request of its own."""

    async def apply(
        self: ServedMemoryStore, user_id: str | None, changes: Sequence[Change], *, expected_revision: int | None = None
    ) -> Applied:
        done = await _apply(self, user_id, changes[:1], expected_revision=expected_revision)
        for change in changes[1:]:
            await asyncio.sleep(_APART_SECONDS)
            more = await _apply(self, user_id, [change])
            facts, deleted = done.facts + more.facts, done.deleted + more.deleted
            done = Applied(more.revision, facts, deleted, done.changed or more.changed)
        return done

    return methods(ServedMemoryStore, apply=apply)


@fault("T5", "thread_index", by="killed_creators_have_an_order")
def a_thread_is_created_in_parts() -> Patched:
    """A thread is created empty, and gets its metadata in another request."""

    async def create(self: ServedThreadIndex, thread: NewThread) -> Thread:
        created = await _create(self, dataclasses.replace(thread, metadata={}))
        await asyncio.sleep(_APART_SECONDS)
        await _update(self, thread.thread_id, user_id=ANY_USER, metadata=thread.metadata, replace=True, touch=False)
        return dataclasses.replace(created, metadata=dict(thread.metadata))

    return methods(ServedThreadIndex, create=create)


@fault(
    "T6",
    "thread_index",
    by=(
        "killed_rivals_merges_land_or_not",
        "merges_over_a_bad_network_land_or_not",
        "merges_through_a_restart_land_or_not",
    ),
)
def who_updates_merges() -> Patched:
    """Metadata is read, merged and written back as a whole."""

    async def update(
        self: ServedThreadIndex,
        thread_id: str,
        *,
        user_id: Scope,
        metadata: Mapping[str, JSON] | None = None,
        remove: Iterable[str] = (),
        **named: Any,
    ) -> Thread | None:
        found = await self.get(thread_id, user_id=user_id)
        if found is None:
            return None
        await asyncio.sleep(_APART_SECONDS)
        merged = {key: value for key, value in found.metadata.items() if key not in remove} | dict(metadata or {})
        return await _update(self, thread_id, user_id=user_id, metadata=merged, replace=True, **named)

    return methods(ServedThreadIndex, update=update)


# ----------------------------------------------------------------------------------------------------- tokens


@fault("C2", "counters", by="a_killed_rivals_token_counts_once")
def a_token_is_known_to_one_process() -> Patched:
    """Each process remembers by itself which tokens it has recorded under."""
    seen: set[str] = set()

    async def record_many(self: ServedModelCounters, counts: Sequence[Recorded], *, token: str | None = None) -> None:
        if token is None or token not in seen:
            await _record_many(self, counts)
            seen.update(() if token is None else (token,))

    return methods(ServedModelCounters, record_many=record_many)


@fault("C2", "counters", by="a_token_over_a_bad_network_counts_once")
def a_recording_is_repeated_without_its_token() -> Patched:
    """What is sent again after a lost reply bears no token any more."""
    sent: set[str] = set()

    async def request(self: Wire, operation: str, arguments: Any, token: str | None, deadline: float) -> Any:
        if operation == "record" and token is not None:
            if token in sent:
                arguments, token = (arguments[0], None), secrets.token_hex(16)
            sent.add(token)
        return await _request(self, operation, arguments, token, deadline)

    return methods(Wire, request=request)


@fault("C2", "counters", by="a_token_is_remembered_through_a_restart")
def tokens_are_forgotten_in_a_restart() -> Patched:
    """The server keeps in memory which tokens it has counted."""
    taken: set[str] = set()

    def take_token(_connection: Any, token: str, **_times: int) -> bool:
        new = token not in taken
        taken.add(token)
        return new

    return methods(counter_tables, take_token=take_token)
