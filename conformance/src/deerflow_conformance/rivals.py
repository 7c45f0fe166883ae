"""Processes for rivals: some are kept warm, since a Python that imports a backend takes a while to start."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from deerflow_conformance.replicas import Process

if TYPE_CHECKING:
    from deerflow_conformance.conformances import Conformance
    from deerflow_conformance.spaces import Space

#: How many processes wait for a body that wants one.
_WARM: Final = 2


class Rivals:
    """Opens a capability in processes that nobody else uses. Closed by `close`."""

    def __init__(self, conformance: Conformance) -> None:
        self._conformance = conformance
        self._warm: list[Process] = []

    def ready(self) -> None:
        """Have processes wait, outside of any event loop.

        Raises:
            Unkept: One that was used has ended by itself since.
        """
        while len(self._warm) < _WARM:
            self._warm.append(Process(self._conformance))
        for process in self._warm:
            process.ready()

    @asynccontextmanager
    async def open(self, space: Space, flush_seconds: float | None = None) -> AsyncIterator[Any]:
        """Open the capability on *space* in a process of its own, which is used again if it was left in order."""
        process = self._warm.pop() if self._warm else None
        warm = process is not None
        if process is None:
            process = Process(self._conformance)
            process.ready()
        try:
            async with process.open(space, flush_seconds) as opened:
                yield opened
        finally:
            if warm and process.at_rest:
                self._warm.append(process)
            else:
                process.close()

    def close(self) -> None:
        """End the processes that wait."""
        while self._warm:
            self._warm.pop().close()
