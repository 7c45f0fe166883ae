"""Faults that only rivals meet: what is read is right, and is called by a name that somebody else has asked for."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

from deerflow_backends.inprocess.memories import InProcessMemoryStore
from deerflow_backends.inprocess.threads import InProcessThreadIndex
from deerflow_backends.memories import Fact, Memory
from deerflow_backends.threads import Thread
from deerflow_conformance.mutants import Patched, methods, mutant

Found = TypeVar("Found", Fact, Memory, Thread)

_get_fact = InProcessMemoryStore.get_fact
_load = InProcessMemoryStore.load
_get = InProcessThreadIndex.get


def _renaming() -> Callable[[Found, str, Any], Any]:
    """Make a reader that calls what it found by the name that was asked for last, a moment later."""
    last: list[Any] = [None]

    async def rename(found: Found, field: str, name: Any) -> Any:
        last[0] = name
        for _ in range(6):
            await asyncio.sleep(0)
        return dataclasses.replace(found, **{field: last[0]})

    return rename


@mutant("M1", "memory", by="no_reader_misses_what_was_applied")
def a_fact_has_the_id_that_was_asked_for_last() -> Patched:
    """Of two facts that are read at once, both come under the id of the one that was asked for later."""
    rename = _renaming()

    async def get_fact(self: InProcessMemoryStore, user_id: Any, fact_id: str, *, agent_name: Any) -> Any:
        fact = await _get_fact(self, user_id, fact_id, agent_name=agent_name)
        return fact and await rename(fact, "fact_id", fact_id)

    return methods(InProcessMemoryStore, get_fact=get_fact)


@mutant("M11", "memory", by="every_load_among_rivals_is_of_one_moment")
def a_load_is_of_the_agent_that_was_asked_for_last() -> Patched:
    """Of two parts that are loaded at once, both are said to be of the agent that was asked for later."""
    rename = _renaming()

    async def load(self: InProcessMemoryStore, user_id: Any, *, agent_name: Any = None) -> Any:
        return await rename(await _load(self, user_id, agent_name=agent_name), "agent_name", agent_name)

    return methods(InProcessMemoryStore, load=load)


@mutant("T6", "thread_index", by="any_rival_merges_all_land")
def a_thread_has_the_id_that_was_asked_for_last() -> Patched:
    """Of two threads that are read at once, both come under the id of the one that was asked for later."""
    rename = _renaming()

    async def get(self: InProcessThreadIndex, thread_id: str, *, user_id: Any) -> Any:
        thread = await _get(self, thread_id, user_id=user_id)
        return thread and await rename(thread, "thread_id", thread_id)

    return methods(InProcessThreadIndex, get=get)
