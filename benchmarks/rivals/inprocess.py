"""The rival of the in-process backend: a list of encoded events for each run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from benchmarks.rivals import Rival
from deerflow_backends import JSON


class Lists:
    """Events in memory. Encoded, since what a reader gets must be its own."""

    def __init__(self) -> None:
        self._runs: defaultdict[str, list[tuple[str, bytes]]] = defaultdict(list)

    async def append(self, run_id: str, event: str, data: JSON) -> None:
        """Append to a list."""
        self._runs[run_id].append((event, msgspec.json.encode(data)))

    async def read(self, run_id: str) -> AsyncIterator[tuple[int, str, JSON]]:
        """Walk through a list."""
        for number, (event, data) in enumerate(self._runs[run_id], 1):
            yield number, event, msgspec.json.decode(data)


@asynccontextmanager
async def open_lists(_settings: Mapping[str, str], _folder: Path) -> AsyncIterator[Lists]:
    """Make empty lists."""
    yield Lists()


RIVAL = Rival(
    does="A dict of lists: an event is encoded as JSON and appended; a read walks the list and decodes. No checks, no "
    "ids, no retention, nobody is woken.",
    engine=lambda _settings: "",
    open=open_lists,
)
