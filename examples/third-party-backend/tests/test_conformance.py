"""Every promise of both capabilities is a test: `pytest` runs them all, `pytest -k M5` runs one."""

from collections.abc import AsyncIterator

from deerflow_backends import MemoryStore, ModelCounters
from deerflow_conformance import Space, conform
from deerflow_lmdb import LmdbSettings, connect, open_counters, open_memory


def settings(space: Space) -> LmdbSettings:
    """The kit's folder is removed afterwards; a short interval lets it see that what expired is freed (G11)."""
    return LmdbSettings(
        path=space.folder, namespace=space.name, timeout_seconds=space.timeout_seconds, sweep_seconds=0.5
    )


async def owned(space: Space) -> int:
    """Count what is stored, for the same promise."""
    async with connect(settings(space)) as connection:
        return await connection.read(lambda tx: tx.entries())


@conform("memory", plugin="lmdb", owned=owned)
async def memory(space: Space) -> AsyncIterator[MemoryStore]:
    async with connect(settings(space)) as connection, open_memory(connection, space.options) as opened:
        yield opened


@conform("counters", plugin="lmdb", owned=owned)
async def counters(space: Space) -> AsyncIterator[ModelCounters]:
    async with connect(settings(space)) as connection, open_counters(connection, space.options) as opened:
        yield opened
