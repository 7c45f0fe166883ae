"""Counters with a fault, `reset` does not reset, first as it is found and then as its author declares it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from deerflow_backends import inprocess
from deerflow_conformance import KnownFailure, Space, conform


class Forgetful:
    """Passes everything on but a reset."""

    def __init__(self, counters: Any) -> None:
        self._counters = counters

    def __getattr__(self, name: str) -> Any:
        return getattr(self._counters, name)

    async def reset(self, model_name: str) -> None:
        pass


@asynccontextmanager
async def opened(space: Space) -> AsyncIterator[Any]:
    async with (
        inprocess.connect(namespace=space.name, clock=space.clock) as connection,
        inprocess.open_counters(connection, space.options) as counters,
    ):
        yield Forgetful(counters)


@conform("counters", plugin="acme", virtual_time=True)
async def counters(space: Space) -> AsyncIterator[Any]:
    async with opened(space) as found:
        yield found


# [known]
RESET = KnownFailure("reset does nothing yet", link="https://example.org/acme/6", date="2026-11-29")


@conform("counters", plugin="acme-next", virtual_time=True, known_failures={"C6": RESET})
async def declared(space: Space) -> AsyncIterator[Any]:
    async with opened(space) as found:
        yield found


# [end]
