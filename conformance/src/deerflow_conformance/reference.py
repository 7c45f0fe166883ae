"""Core's in-process backend, the readable specification, in virtual time: what ``run inprocess`` and mutants use."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from deerflow_backends import inprocess
from deerflow_conformance.conformances import conform
from deerflow_conformance.spaces import Space


@conform("stream_bridge", plugin="inprocess", virtual_time=True)
async def stream_bridge(space: Space) -> AsyncIterator[Any]:
    """The stream bridge of one namespace."""
    async with (
        inprocess.connect("conformance", namespace=space.name, clock=space.clock) as connection,
        inprocess.open_stream_bridge(connection, space.options) as bridge,
    ):
        yield bridge


@conform("memory", plugin="inprocess", virtual_time=True)
async def memory(space: Space) -> AsyncIterator[Any]:
    """The memory store of one namespace."""
    async with (
        inprocess.connect("conformance", namespace=space.name, clock=space.clock) as connection,
        inprocess.open_memory(connection, space.options) as store,
    ):
        yield store


@conform("thread_index", plugin="inprocess", virtual_time=True)
async def thread_index(space: Space) -> AsyncIterator[Any]:
    """The thread index of one namespace."""
    async with (
        inprocess.connect("conformance", namespace=space.name, clock=space.clock) as connection,
        inprocess.open_thread_index(connection, space.options) as index,
    ):
        yield index


@conform("counters", plugin="inprocess", virtual_time=True)
async def counters(space: Space) -> AsyncIterator[Any]:
    """The model counters of one namespace."""
    async with (
        inprocess.connect("conformance", namespace=space.name, clock=space.clock) as connection,
        inprocess.open_counters(connection, space.options) as opened,
    ):
        yield opened


#: What ``run inprocess`` runs.
REFERENCE = (stream_bridge, memory, thread_index, counters)
