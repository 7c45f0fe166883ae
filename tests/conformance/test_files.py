"""The memory in files against every promise, what it keeps counted as files and folders."""

from collections.abc import AsyncIterator
from typing import Any

from deerflow_backends import files
from deerflow_backends.files import layout
from deerflow_conformance import Space, conform


def _owned(space: Space) -> int:
    return layout.owned(layout.Store.at(space.folder / space.name))


@conform("memory", plugin="files", owned=_owned)
async def memory(space: Space) -> AsyncIterator[Any]:
    async with (
        files.connect(
            path=space.folder,
            namespace=space.name,
            timeout_seconds=space.timeout_seconds,
        ) as connection,
        files.open_memory(connection, space.options) as store,
    ):
        yield store
