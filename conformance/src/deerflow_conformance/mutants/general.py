"""Faults of isolation and replicas, in all four capabilities: G4 and G6."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

from deerflow_backends.binding import Binding
from deerflow_backends.cursors import Entry, Head
from deerflow_backends.inprocess import connection
from deerflow_backends.inprocess.connection import Tables
from deerflow_backends.inprocess.counters import InProcessModelCounters
from deerflow_backends.inprocess.memories import InProcessMemoryStore
from deerflow_backends.inprocess.streams import InProcessStreamBridge, StreamTable
from deerflow_backends.inprocess.threads import InProcessThreadIndex
from deerflow_backends.memories import DeleteFact
from deerflow_conformance.mutants import Patched, methods, mutant, together
from deerflow_conformance.promises import CAPABILITIES

_cleanup = InProcessStreamBridge.cleanup
_apply = InProcessMemoryStore.apply
_clear = InProcessMemoryStore.clear
_erase = InProcessMemoryStore.erase
_delete = InProcessThreadIndex.delete
_reset = InProcessModelCounters.reset
_feed = StreamTable.feed
_close = Binding.close


# ------------------------------------------------------------------------------------------------ G4 isolation

_REMOVING, _SPACES = "removing_one_leaves_the_others", "spaces_share_nothing"


@mutant("G4", "stream_bridge", by=_REMOVING)
def cleanup_goes_by_prefix() -> Patched:
    """Cleaning a run cleans every run whose id begins with its id."""

    async def cleanup(self: InProcessStreamBridge, run_id: str, *, delay: float = 0) -> None:
        for other in [other for other in self._table.streams if other.startswith(run_id)]:
            await _cleanup(self, other, delay=delay)

    return methods(InProcessStreamBridge, cleanup=cleanup)


@mutant("G4", "memory", by=_REMOVING)
def erase_takes_look_alikes() -> Patched:
    """Erasing a user erases those whose ids differ by case only."""

    async def erase(self: InProcessMemoryStore, user_id: Any) -> None:
        for other in [other for other in self._users if str(other).casefold() == str(user_id).casefold()]:
            await _erase(self, other)

    return methods(InProcessMemoryStore, erase=erase)


@mutant("G4", "memory", by=_REMOVING)
def clear_goes_by_prefix() -> Patched:
    """Clearing an agent clears every agent whose name begins with its name."""

    async def clear(self: InProcessMemoryStore, user_id: Any, *, agent_name: Any) -> int:
        for other in [other for other in self._parts(user_id) if (other or "").startswith(agent_name)]:
            await _clear(self, user_id, agent_name=other)
        return self._user(user_id).revision

    return methods(InProcessMemoryStore, clear=clear)


@mutant("G4", "memory", by=_REMOVING)
def deletions_are_patterns() -> Patched:
    """Deleting a fact whose id ends with * deletes all whose ids begin with the rest."""

    async def apply(self: InProcessMemoryStore, user_id: Any, changes: Sequence[Any], **more: Any) -> Any:
        given = list(changes)
        for change in changes:
            if isinstance(change, DeleteFact) and change.fact_id.endswith("*"):
                ids = self._user(user_id).facts.get(change.agent_name, {})
                like = [one for one in ids if one.startswith(change.fact_id[:-1]) and one != change.fact_id]
                given += [DeleteFact(change.agent_name, one) for one in like]
        return await _apply(self, user_id, given, **more)

    return methods(InProcessMemoryStore, apply=apply)


@mutant("G4", "thread_index", by=_REMOVING)
def deleting_takes_padded_ids() -> Patched:
    """Deleting a thread deletes those whose ids differ by white space around them."""

    async def delete(self: InProcessThreadIndex, thread_id: str, *, user_id: Any) -> bool:
        like = [other for other in self._table.threads if other.strip() == thread_id.strip() and other != thread_id]
        for other in like:
            await _delete(self, other, user_id=user_id)
        return await _delete(self, thread_id, user_id=user_id)

    return methods(InProcessThreadIndex, delete=delete)


@mutant("G4", "counters", by=_REMOVING)
def reset_goes_by_prefix() -> Patched:
    """Resetting a model resets every model whose name begins with its name."""

    async def reset(self: InProcessModelCounters, model_name: str) -> None:
        for name in await self.all_totals():
            if name.startswith(model_name):
                await _reset(self, name)

    return methods(InProcessModelCounters, reset=reset)


@mutant("G4", *CAPABILITIES, by=_SPACES)
def a_namespace_takes_in_longer_ones() -> Patched:
    """Namespaces are told apart by how the shortest of them begins."""

    class Prefixes(dict[tuple[str, str], Tables]):
        """Tables by name and namespace."""

        def setdefault(self, key: tuple[str, str], default: Any = None) -> Any:
            for known, tables in self.items():
                if known[0] == key[0] and key[1].startswith(f"{known[1]}_"):
                    return tables
            return super().setdefault(key, default)

    return mock.patch.object(connection, "_tables", Prefixes())


@mutant("G4", "stream_bridge", by=_SPACES)
def wake_ups_reach_every_namespace() -> Patched:
    """What is published in one namespace is handed to the subscribers of all."""
    known: list[StreamTable] = []

    def feed(self: StreamTable, run_id: str, head: Head, entries: Sequence[Entry]) -> None:
        for table in known:
            _feed(table, run_id, head, entries)

    def init(self: InProcessStreamBridge, given: Any, table: StreamTable, *rest: Any) -> None:
        if table not in known:
            known.append(table)
        _init(self, given, table, *rest)

    _init = InProcessStreamBridge.__init__
    both = (methods(StreamTable, feed=feed), methods(InProcessStreamBridge, __init__=init))
    return together(*both)


# ---------------------------------------------------------------------------------------------------- G6 replicas

_SEEN, _RIVALS, _OUTLIVES = (
    "a_write_is_seen_by_the_next_read_anywhere",
    "rival_replicas_lose_nothing",
    "what_was_written_outlives_the_opening",
)


def _remembering(backend: type, *names: str) -> Patched:
    """Let each instance answer a call as it did when it was first asked."""
    seen: dict[tuple[Any, str, str], Any] = {}

    def wrapped(name: str, method: Callable[..., Any]) -> Any:
        async def remembered(self: Any, *arguments: Any, **more: Any) -> Any:
            key = (self, name, repr((arguments, more)))
            if key not in seen:
                seen[key] = await method(self, *arguments, **more)
            return seen[key]

        return remembered

    return methods(backend, **{name: wrapped(name, getattr(backend, name)) for name in names})


@mutant("G6", *CAPABILITIES, by=_SEEN)
def reads_are_remembered(backend: type) -> Patched:
    """An instance answers as it did the first time, whatever was written elsewhere since."""
    names = ("status", "load", "get_fact", "get", "list", "totals")
    return _remembering(backend, *(name for name in names if hasattr(backend, name)))


@mutant("G6", *CAPABILITIES, by=_OUTLIVES)
def data_ends_with_its_opening() -> Patched:
    """What was written is gone once nobody has the namespace open."""
    open_now: list[Binding] = []

    def init(self: Binding, what: str) -> None:
        open_now.append(self)
        _init(self, what)

    def close(self: Binding) -> None:
        _close(self)
        open_now.remove(self)
        if not open_now:
            for tables in connection._tables.values():
                tables.by_capability.clear()

    _init = Binding.__init__
    return methods(Binding, __init__=init, close=close)


_TABLE_OF: dict[type, Callable[[Any], dict[Any, Any]]] = {
    InProcessStreamBridge: lambda self: self._table.streams,
    InProcessMemoryStore: lambda self: self._users,
    InProcessModelCounters: lambda self: self._table.totals,
}


@mutant("G6", "stream_bridge", "memory", "counters", by=_RIVALS)
def rivals_write_back_all_they_know(backend: type) -> Patched:
    """A write reads everything, and writes everything back, over what others wrote in between."""
    (name,) = (one for one in ("publish", "apply", "record_many") if hasattr(backend, one))
    write, table_of = getattr(backend, name), _TABLE_OF[backend]

    async def writing(self: Any, *arguments: Any, **more: Any) -> Any:
        known = dict(table_of(self))
        await asyncio.sleep(0)
        table = table_of(self)
        table.clear()
        table.update(known)
        return await write(self, *arguments, **more)

    return methods(backend, **{name: writing})


@mutant("G6", "thread_index", by=_RIVALS)
def rival_creations_are_lost() -> Patched:
    """Of threads that are created at one moment the last one stays."""
    create = InProcessThreadIndex.create

    async def creating(self: InProcessThreadIndex, thread: Any) -> Any:
        known = set(self._table.threads)
        await asyncio.sleep(0)
        for thread_id in set(self._table.threads) - known:
            self._unshelve(self._table.threads.pop(thread_id))
        return await create(self, thread)

    return methods(InProcessThreadIndex, create=creating)


@mutant("G6", *CAPABILITIES, by="reach_is_declared")
def a_replica_reaches_further(backend: type) -> Patched:
    """The second instance says that it reaches further than the first."""
    asked: list[Any] = []

    def reach(self: Any) -> str:
        if self not in asked:
            asked.append(self)
        return "process" if asked.index(self) == 0 else "host"

    return methods(backend, reach=property(reach))
