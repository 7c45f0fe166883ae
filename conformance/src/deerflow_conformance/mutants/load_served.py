"""Faults that show only by counting round trips: in the kit's small backend with a server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from deerflow_backends.cursors import Entry
from deerflow_backends.memories import Memory
from deerflow_backends.subscription import Subscription
from deerflow_backends.watches import Watch
from deerflow_conformance.conformances import Conformance
from deerflow_conformance.mutants import methods, mutant
from deerflow_conformance.mutants.served import conformances as served
from deerflow_conformance.mutants.served.capabilities import ServedMemoryStore

_append = Watch._append
_wake = Subscription.wake
_load = ServedMemoryStore.load


@mutant("S12", "stream_bridge", by="nothing_is_fetched_for_those_who_do_not_read")
@contextmanager
def each_subscriber_reads_ahead() -> Iterator[Conformance]:
    """With every event each subscriber reads the store at once, whether it is asked for the next one or not."""

    def wake(self: Subscription) -> None:
        _wake(self)
        if self._watch is not None and self._waiter is None and not self._finished:
            self._hub.start_read(self._watch.run_id, self._place.seq, 256, 1_000)

    with methods(Subscription, wake=wake):
        yield served.stream_bridge


@mutant("S15", "stream_bridge", by="publishing_to_a_crowd_is_no_more_to_ask")
@contextmanager
def each_subscriber_reads_for_itself() -> Iterator[Conformance]:
    """Subscribers of one run share nothing: each reads every event from the store."""

    def append(self: Watch, entry: Entry) -> None:
        _append(self, entry)
        self.ring.clear()

    with methods(Watch, _append=append):
        yield served.stream_bridge


@mutant("M9", "memory", by="a_change_among_thousands_costs_what_it_changes")
@contextmanager
def a_part_is_loaded_in_pages() -> Iterator[Conformance]:
    """Loading a part asks for its facts a thousand at a time."""

    async def load(self: ServedMemoryStore, user_id: str | None, *, agent_name: str | None = None) -> Memory:
        memory = await _load(self, user_id, agent_name=agent_name)
        for _ in range(0, len(memory.facts), 1_000):
            await self.list_facts(user_id, agent_name=agent_name, limit=1_000)
        return memory

    with methods(ServedMemoryStore, load=load):
        yield served.memory
