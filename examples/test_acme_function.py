"""The same for one capability, by a function: here our own SQLite counters stand in for yours."""

from collections.abc import AsyncIterator

from deerflow_backends import ModelCounters, sqlite
from deerflow_conformance import Space, conform


@conform("counters", plugin="sqlite")
async def counters(space: Space) -> AsyncIterator[ModelCounters]:
    async with (
        sqlite.connect(path=space.folder, namespace=space.name, timeout_seconds=space.timeout_seconds) as connection,
        sqlite.open_counters(connection, space.options) as opened,
    ):
        yield opened
