"""An object on a disturbed network, and one beside it that sees everything."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from deerflow_backends.errors import BackendUnavailable
from deerflow_conformance.attempts import RECOVERY_SECONDS
from deerflow_conformance.bench import Bench
from deerflow_conformance.networks import Network
from deerflow_conformance.spaces import Space

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Disturbed:
    """One space, opened twice.

    Attributes:
        network: What lies between `opened` and its server.
        opened: What is disturbed, with the timeouts that were asked for.
        observer: Goes past the network, and is patient: what writes beforehand and looks afterwards.
    """

    network: Network
    opened: Any
    observer: Any


@asynccontextmanager
async def disturbed(bench: Bench, space: Space, *, count: int = 1) -> AsyncIterator[list[Disturbed]]:
    """Give *space*, and as many like it as make up *count*, each with a network of its own.

    Scenarios that wait for timeouts can so be gone through at the same time.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(unlogged())
        opened: list[Disturbed] = []
        for number in range(count):
            own = replace(space, name=bench.space().name) if number else space
            network = await stack.enter_async_context(bench.network(own))
            observer = await stack.enter_async_context(bench.open(patient(bench, own)))
            impatient = await stack.enter_async_context(opened_soon(bench, network.space))
            opened.append(Disturbed(network, impatient, observer))
        yield opened


@asynccontextmanager
async def opened_soon(bench: Bench, space: Space) -> AsyncIterator[Any]:
    """Open a space of short timeouts, again if a busy machine needed longer, and see that it answers."""
    async with AsyncExitStack() as stack:
        opened = await until_answered(bench, lambda: stack.enter_async_context(bench.open(space)))
        await until_answered(bench, opened.ping)
        yield opened


async def until_answered(bench: Bench, call: Callable[[], Awaitable[T]]) -> T:
    """Return what *call* gives, again and again while it is unavailable: a dead connection is noticed by using it."""

    async def trying() -> T:
        while True:
            with suppress(BackendUnavailable):
                return await call()
            await asyncio.sleep(0.01)

    answer: T = await bench.soon(trying(), RECOVERY_SECONDS)
    return answer


def patient(bench: Bench, space: Space) -> Space:
    """Return *space*, to be opened with timeouts that are long enough for a busy machine."""
    usual = bench.space()
    return replace(space, timeout_seconds=usual.timeout_seconds, publish_timeout_seconds=usual.publish_timeout_seconds)


@contextmanager
def unlogged() -> Iterator[None]:
    """Keep Python from printing what is logged of outages, which are wanted here, unless somebody asked for logs."""
    logger, handler = logging.getLogger("deerflow_backends"), logging.NullHandler()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
