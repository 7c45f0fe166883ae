"""The rival ``raw`` of each backend: the driver alone, doing the least work that could do the job.

The module that bears a backend's name holds its rival, as `RIVAL`; a further backend adds a file. A rival stands behind
the same event loop, the same hop between threads and the same durability, encodes and decodes the same JSON, and
leaves away all that the contract promises beyond that: ids without holes, retention, expiry, waking of subscribers.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from deerflow_backends import JSON


class Raw(Protocol):
    """The driver, open."""

    async def append(self, run_id: str, event: str, data: JSON) -> None:
        """Store one event, as durably as the backend does by default."""

    def read(self, run_id: str) -> AsyncIterator[tuple[int, str, JSON]]:
        """Give each event of a run: its number, its name and its data, the reader's own."""


@dataclass(frozen=True, slots=True)
class Rival:
    """How to measure against a driver.

    Attributes:
        does: What the rival does, for readers of the results.
        engine: The database engine with its version; empty if there is none.
        open: Takes the settings of the backend's connection and a folder for files.
    """

    does: str
    engine: str
    open: Callable[[Mapping[str, str], Path], AbstractAsyncContextManager[Raw]]


def rival_of(backend: str) -> Rival | None:
    """Return the rival of *backend*, None if nobody wrote one."""
    name = f"{__name__}.{backend}"
    if importlib.util.find_spec(name) is None:
        return None
    found: Rival = importlib.import_module(name).RIVAL
    return found
