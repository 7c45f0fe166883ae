"""The rivals of each backend: ``raw``, the driver alone, and where there is one ``naive``, the usual way to do it.

The module that bears a backend's name holds them, as `RIVAL`; a further backend adds a file. ``raw`` does the least
work that could do the job: it stands behind the same event loop, the same hop between threads and the same durability,
encodes and decodes the same JSON, and leaves away all that the contract promises beyond that: ids without holes,
retention, expiry, waking of subscribers. ``naive`` is a whole bridge, with subscribers who are woken.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from deerflow_backends import JSON, StreamEvent, StreamGap


class Raw(Protocol):
    """The driver, open."""

    async def append(self, run_id: str, event: str, data: JSON) -> None:
        """Store one event, as durably as the backend does by default."""

    def read(self, run_id: str) -> AsyncIterator[tuple[int, str, JSON]]:
        """Give each event of a run: its number, its name and its data, the reader's own."""


class Bridge(Protocol):
    """As much of a `StreamBridge` as events need to get from a publisher to subscribers: what ``naive`` offers."""

    async def publish(self, run_id: str, event: str, data: JSON) -> str:
        """Append one event and return its id."""

    def subscribe(self, run_id: str, *, heartbeat_interval: float = 15.0) -> AsyncIterator[StreamEvent | StreamGap]:
        """Give each event from the first retained one, in order, and a heartbeat while nothing comes."""


@dataclass(frozen=True, slots=True)
class Naive:
    """How to measure against the usual way.

    Attributes:
        does: What it does, for readers of the results.
        open: Takes the settings of the backend's connection. Bridges that are opened with the same ones, in whatever
            process, carry each other's events.
    """

    does: str
    open: Callable[[Mapping[str, str]], AbstractAsyncContextManager[Bridge]]


@dataclass(frozen=True, slots=True)
class Rival:
    """How to measure against a driver.

    Attributes:
        does: What the rival does, for readers of the results.
        engine: Takes the settings and names the database engine with its version; empty if there is none. Raises
            `BackendUnavailable` if it is a server that does not answer, ValueError where these settings have no rival.
        open: Takes the settings of the backend's connection and a folder for files.
        drivers: The distributions that the rival and the backend have in common.
        naive: The second rival, None if nobody wrote one.
    """

    does: str
    engine: Callable[[Mapping[str, str]], str]
    open: Callable[[Mapping[str, str], Path], AbstractAsyncContextManager[Raw]]
    drivers: tuple[str, ...] = ()
    naive: Naive | None = None


def rival_of(backend: str) -> Rival | None:
    """Return the rival of *backend*, None if nobody wrote one."""
    name = f"{__name__}.{backend}"
    if importlib.util.find_spec(name) is None:
        return None
    found: Rival = importlib.import_module(name).RIVAL
    return found
