"""Core's in-process backend, the readable specification, in virtual time: what ``run inprocess`` and mutants use."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from deerflow_backends import inprocess
from deerflow_backends.inprocess import layout
from deerflow_conformance.conformances import Conformance, conform
from deerflow_conformance.spaces import Space


def _connected(space: Space) -> AbstractAsyncContextManager[inprocess.Connection]:
    return inprocess.connect("conformance", namespace=space.name, clock=space.clock)


def _owned(capability: str) -> Callable[[Space], Awaitable[int]]:
    async def owned(space: Space) -> int:
        async with _connected(space) as connection:
            return layout.owned(connection.tables, capability)

    return owned


@conform("stream_bridge", plugin="inprocess", virtual_time=True, owned=_owned("stream_bridge"))
async def stream_bridge(space: Space) -> AsyncIterator[Any]:
    """The stream bridge of one namespace."""
    async with _connected(space) as connection, inprocess.open_stream_bridge(connection, space.options) as bridge:
        yield bridge


@conform("memory", plugin="inprocess", virtual_time=True, owned=_owned("memory"))
async def memory(space: Space) -> AsyncIterator[Any]:
    """The memory store of one namespace."""
    async with _connected(space) as connection, inprocess.open_memory(connection, space.options) as store:
        yield store


@conform("thread_index", plugin="inprocess", virtual_time=True, owned=_owned("thread_index"))
async def thread_index(space: Space) -> AsyncIterator[Any]:
    """The thread index of one namespace."""
    async with _connected(space) as connection, inprocess.open_thread_index(connection, space.options) as index:
        yield index


@conform("counters", plugin="inprocess", virtual_time=True, owned=_owned("counters"))
async def counters(space: Space) -> AsyncIterator[Any]:
    """The model counters of one namespace."""
    async with _connected(space) as connection, inprocess.open_counters(connection, space.options) as opened:
        yield opened


#: What ``run inprocess`` runs.
REFERENCE: Final[tuple[Conformance, ...]] = (stream_bridge, memory, thread_index, counters)
