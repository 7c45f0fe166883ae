"""The four capabilities: arguments are checked here, as every backend does, and the server does the rest."""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

from deerflow_backends.arguments import check_identifier, check_optional_identifier, check_seconds, check_token
from deerflow_backends.binding import Binding
from deerflow_backends.buckets import check_recordings, check_window, to_counts
from deerflow_backends.changes import check_changes, to_memory
from deerflow_backends.codec import JSON
from deerflow_backends.counters import CounterOptions, Counts, Recorded
from deerflow_backends.cursors import Head, Read
from deerflow_backends.events import NewEvent, check_event, check_events
from deerflow_backends.hub import Hub
from deerflow_backends.listings import check_fact_listing, check_fact_search, check_status, check_thread_listing
from deerflow_backends.memories import ALL, ANY, All, Applied, Change, Fact, FactMatch, Guard, Memory, Record
from deerflow_backends.paging import Page
from deerflow_backends.records import read_in_chunks, read_part, read_thread, thread_record
from deerflow_backends.streams import Reach, StreamItem, StreamOptions, StreamStatus
from deerflow_backends.thread_changes import StoredThread, check_new_thread, check_scope, check_update
from deerflow_backends.threads import KEEP, Keep, NewThread, Scope, Thread
from deerflow_conformance.mutants.served.client import Link, connect
from deerflow_conformance.mutants.served.messages import PING, Hello

#: How many threads an export reads, and a restore writes, at a time.
_CHUNK: Final = 500


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the server is, and how to use it.

    Attributes:
        url: ``tcp://HOST:PORT``.
        namespace: Whose data.
        timeout_seconds: How long a call waits, but for one that publishes.
        publish_timeout_seconds: How long that one waits.
    """

    url: str
    namespace: str
    timeout_seconds: float = 5.0
    publish_timeout_seconds: float = 60.0


class ServedStreamBridge:
    """A `StreamBridge` for all that reach the server."""

    reach: Reach = "network"

    def __init__(self, link: Link, binding: Binding, settings: Settings, options: StreamOptions) -> None:
        self.hub = Hub(binding, self._read, options, look=self._look)
        self._link, self._binding, self._options = link, binding, options
        self._publish_timeout_seconds = settings.publish_timeout_seconds
        link.changed = self._changed

    async def publish(self, run_id: str, event: str, data: JSON) -> str:
        """Append one event."""
        self._binding.check()
        return (await self._publish(run_id, check_event(run_id, event, data)))[0]

    async def publish_many(self, run_id: str, events: Sequence[tuple[str, JSON]]) -> list[str]:
        """Append events together."""
        self._binding.check()
        return await self._publish(run_id, check_events(run_id, events, self._options))

    async def _publish(self, run_id: str, new: list[NewEvent]) -> list[str]:
        ids: list[str] = await self._link.write("publish", run_id, new, timeout_seconds=self._publish_timeout_seconds)
        return ids

    async def publish_end(self, run_id: str) -> None:
        """End the run."""
        self._binding.check()
        check_identifier("run_id", run_id)
        await self._link.write("end", run_id, timeout_seconds=self._publish_timeout_seconds)

    def subscribe(
        self, run_id: str, *, last_event_id: str | None = None, heartbeat_interval: float = 15.0
    ) -> AsyncIterator[StreamItem]:
        """Read the run."""
        return self.hub.subscribe(run_id, last_event_id=last_event_id, heartbeat_interval=heartbeat_interval)

    async def status(self, run_id: str) -> StreamStatus | None:
        """Tell about the run's stream."""
        self._binding.check()
        status: StreamStatus | None = await self._link.ask("status", check_identifier("run_id", run_id))
        return status

    async def stream_exists(self, run_id: str) -> bool:
        """Whether there is a stream."""
        return await self.status(run_id) is not None

    async def cleanup(self, run_id: str, *, delay: float = 0) -> None:
        """Hide all events of the run, now or later."""
        self._binding.check()
        check_identifier("run_id", run_id)
        await self._link.write("clean_up", run_id, check_seconds("delay", delay, zero=True))

    async def ping(self) -> None:
        """Return if the server answers."""
        self._binding.check()
        await self._link.ask(PING)

    def _changed(self, run_id: str | None) -> None:
        if run_id is None:
            self.hub.wake_all()  # whatever changed while there was no connection
        else:
            self.hub.wake(run_id)

    async def _read(self, run_id: str, after: int, limit: int, max_bytes: int) -> Read:
        read: Read = await self._link.ask("read", run_id, after, limit, max_bytes)
        return read

    async def _look(self, run_ids: Sequence[str]) -> list[Head | None]:
        heads: list[Head | None] = await self._link.ask("heads", list(run_ids))
        return heads


class ServedMemoryStore:
    """A `MemoryStore` for all that reach the server."""

    reach: Reach = "network"

    def __init__(self, link: Link, binding: Binding) -> None:
        self._link, self._binding = link, binding

    async def load(self, user_id: str | None, *, agent_name: str | None = None) -> Memory:
        """Read one part."""
        self._binding.check()
        check_optional_identifier("user_id", user_id)
        check_optional_identifier("agent_name", agent_name)
        part = await self._link.ask("load", user_id, agent_name)
        return to_memory(user_id, agent_name, (part.revision, part.updated_at), part.body, part.facts)

    async def apply(
        self, user_id: str | None, changes: Sequence[Change], *, expected_revision: int | None = None
    ) -> Applied:
        """Make all changes or none."""
        self._binding.check()
        check_optional_identifier("user_id", user_id)
        applied: Applied = await self._link.write("apply", user_id, check_changes(changes, expected_revision))
        return applied

    async def get_fact(self, user_id: str | None, fact_id: str, *, agent_name: str | None) -> Fact | None:
        """Read one fact."""
        self._binding.check()
        check_optional_identifier("user_id", user_id)
        key = (check_optional_identifier("agent_name", agent_name), check_identifier("fact_id", fact_id))
        fact: Fact | None = await self._link.ask("get_fact", user_id, key)
        return fact

    async def list_facts(
        self,
        user_id: str | None,
        *,
        agent_name: str | None,
        category: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[Fact]:
        """Read facts of one part by id."""
        self._binding.check()
        listing = check_fact_listing(user_id, agent_name=agent_name, category=category, limit=limit, cursor=cursor)
        page: Page[Fact] = await self._link.ask("list_facts", listing)
        return page

    async def search(
        self, user_id: str | None, query: str, *, agent_name: str | None, category: str | None = None, limit: int = 10
    ) -> list[FactMatch]:
        """Find facts by their text."""
        self._binding.check()
        search = check_fact_search(user_id, query, agent_name=agent_name, category=category, limit=limit)
        found: list[FactMatch] = await self._link.ask("search", search)
        return found

    async def agents(self, user_id: str | None) -> list[str]:
        """Name the agents that have a body or facts."""
        self._binding.check()
        agents: list[str] = await self._link.ask("agents", check_optional_identifier("user_id", user_id))
        return agents

    async def clear(self, user_id: str | None, *, agent_name: str | Literal[All.ALL] | None = ALL) -> int:
        """Remove one part, or all parts."""
        self._binding.check()
        check_optional_identifier("user_id", user_id)
        parts = None if agent_name is ALL else (check_optional_identifier("agent_name", agent_name),)
        revision: int = await self._link.write("clear", user_id, parts)
        return revision

    async def erase(self, user_id: str | None) -> None:
        """Leave no trace of the user, but in answers that are still kept for whoever asks again."""
        self._binding.check()
        await self._link.write("erase", check_optional_identifier("user_id", user_id))

    async def export(self) -> AsyncIterator[Record]:
        """Give everything as records, user by user in order."""
        self._binding.check()
        after: str | None = None
        while (found := await self._link.ask("next_user", after)) is not None:
            after, parts = found
            for part in parts:
                yield part.to_record()
                self._binding.check()

    async def restore(self, records: Iterable[Record] | AsyncIterable[Record]) -> int:
        """Store exported records."""
        self._binding.check()
        restored = 0
        async with aclosing(read_in_chunks(records, read_part)) as chunks:
            async for parts in chunks:
                self._binding.check()
                restored += await _restore(self._link, parts)
        return restored

    async def ping(self) -> None:
        """Return if the server answers."""
        self._binding.check()
        await self._link.ask(PING)


class ServedThreadIndex:
    """A `ThreadIndex` for all that reach the server."""

    reach: Reach = "network"

    def __init__(self, link: Link, binding: Binding) -> None:
        self._link, self._binding = link, binding

    async def create(self, thread: NewThread) -> Thread:
        """Store a new thread."""
        self._binding.check()
        stored: StoredThread = await self._link.write("create", check_new_thread(thread, 0))  # the server has the time
        return stored.to_thread()

    async def get(self, thread_id: str, *, user_id: Scope) -> Thread | None:
        """Read one thread."""
        self._binding.check()
        check_identifier("thread_id", thread_id)
        return _shown(await self._link.ask("find", thread_id, check_scope("user_id", user_id)))

    async def list(
        self,
        user_id: Scope,
        *,
        status: str | None = None,
        metadata: Mapping[str, JSON] | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Thread]:
        """Read threads, pinned first, then the latest touched."""
        self._binding.check()
        listing = check_thread_listing(user_id, status=status, metadata=metadata, limit=limit, cursor=cursor)
        found, next_cursor = await self._link.ask("page", listing)
        return Page(tuple(thread.to_thread() for thread in found), next_cursor)

    async def count(self, user_id: Scope, *, status: str | None = None) -> int:
        """Count the threads in scope."""
        self._binding.check()
        count: int = await self._link.ask("count", check_scope("user_id", user_id), check_status(status))
        return count

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
        """Change one thread."""
        self._binding.check()
        check_identifier("thread_id", thread_id)
        scope = check_scope("user_id", user_id)
        update = check_update(
            display_name=display_name,
            status=status,
            metadata=metadata,
            remove=remove,
            replace=replace,
            expected_status=expected_status,
            touch=touch,
        )
        return _shown(await self._link.write("update", thread_id, scope, update))

    async def move(self, thread_id: str, *, user_id: Scope, to_user_id: str | None) -> Thread | None:
        """Give a thread to another owner, or to none."""
        self._binding.check()
        check_identifier("thread_id", thread_id)
        scope = check_scope("user_id", user_id)
        check_optional_identifier("to_user_id", to_user_id)
        return _shown(await self._link.write("move", thread_id, scope, to_user_id))

    async def delete(self, thread_id: str, *, user_id: Scope) -> bool:
        """Remove a thread."""
        self._binding.check()
        check_identifier("thread_id", thread_id)
        deleted: bool = await self._link.write("delete", thread_id, check_scope("user_id", user_id))
        return deleted

    async def can_access(self, thread_id: str, user_id: str, *, require_existing: bool = False) -> bool:
        """Whether the user may use the thread."""
        self._binding.check()
        check_identifier("thread_id", thread_id)
        check_identifier("user_id", user_id)
        may: bool = await self._link.ask("can_access", thread_id, user_id, require_existing)
        return may

    async def export(self) -> AsyncIterator[Record]:
        """Give every thread as a record, by id."""
        self._binding.check()
        after = ""
        while threads := await self._link.ask("threads_after", after, _CHUNK):
            after = threads[-1].thread_id
            for thread in threads:
                yield thread_record(thread)
                self._binding.check()

    async def restore(self, records: Iterable[Record] | AsyncIterable[Record]) -> int:
        """Store exported threads."""
        self._binding.check()
        restored = 0
        async with aclosing(read_in_chunks(records, read_thread, size=_CHUNK)) as chunks:
            async for threads in chunks:
                self._binding.check()
                restored += await _restore(self._link, threads)
        return restored

    async def ping(self) -> None:
        """Return if the server answers."""
        self._binding.check()
        await self._link.ask(PING)


def _shown(thread: StoredThread | None) -> Thread | None:
    return None if thread is None else thread.to_thread()


async def _restore(link: Link, stored: builtins.list[Any]) -> int:
    count, conflict = await link.write("restore", stored)
    if conflict is not None:
        raise conflict
    restored: int = count
    return restored


class ServedModelCounters:
    """A `ModelCounters` for all that reach the server."""

    reach: Reach = "network"

    def __init__(self, link: Link, binding: Binding, options: CounterOptions) -> None:
        self._link, self._binding, self._options = link, binding, options

    async def record(
        self,
        model_name: str,
        *,
        calls: int = 0,
        successes: int = 0,
        failures: int = 0,
        positive: int = 0,
        negative: int = 0,
        token: str | None = None,
    ) -> None:
        """Count."""
        recorded = Recorded(model_name, calls, successes, failures, positive, negative)
        await self.record_many((recorded,), token=token)

    async def record_many(self, counts: Sequence[Recorded], *, token: str | None = None) -> None:
        """Count for many models."""
        self._binding.check()
        checked = check_recordings(counts)
        await self._link.write("record", checked, None if token is None else check_token("token", token))

    async def totals(self, model_name: str) -> Counts:
        """Sum everything recorded for a model."""
        self._binding.check()
        return to_counts(await self._link.ask("totals", check_identifier("model_name", model_name)))

    async def all_totals(self) -> dict[str, Counts]:
        """Sum everything recorded for each model."""
        self._binding.check()
        return {name: to_counts(sums) for name, sums in (await self._link.ask("all_totals")).items()}

    async def window(self, model_name: str, *, seconds: int) -> Counts:
        """Sum a model's buckets of the last *seconds*."""
        self._binding.check()
        check_identifier("model_name", model_name)
        return to_counts(await self._link.ask("window", model_name, check_window(seconds, self._options)))

    async def all_windows(self, *, seconds: int) -> dict[str, Counts]:
        """Sum each model's buckets of the last *seconds*."""
        self._binding.check()
        found = await self._link.ask("all_windows", check_window(seconds, self._options))
        return {name: to_counts(sums) for name, sums in found.items()}

    async def reset(self, model_name: str) -> None:
        """Remove a model."""
        self._binding.check()
        await self._link.write("reset", check_identifier("model_name", model_name))

    async def ping(self) -> None:
        """Return if the server answers."""
        self._binding.check()
        await self._link.ask(PING)


@asynccontextmanager
async def open_capability(capability: str, settings: Settings, options: Any) -> AsyncIterator[Any]:
    """Open a capability, over a connection of its own.

    Raises:
        BackendUnavailable: The server does not answer.
    """
    binding = Binding(f"the served {capability}")
    hello = Hello(capability, settings.namespace, options)
    async with connect(settings.url, hello, timeout_seconds=settings.timeout_seconds) as link:
        opened: Any
        match capability:
            case "stream_bridge":
                opened = ServedStreamBridge(link, binding, settings, options)
            case "memory":
                opened = ServedMemoryStore(link, binding)
            case "thread_index":
                opened = ServedThreadIndex(link, binding)
            case _:
                opened = ServedModelCounters(link, binding, options)
        try:
            yield opened
        finally:
            binding.close()
            if capability == "stream_bridge":
                await opened.hub.close()
