"""A memory folder of DeerFlow's, as something to copy from or to, and what it keeps of a record."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

from deerflow_backends.cli.copying import Entry
from deerflow_backends.deerflow_folders import Damaged, Layout, documents, markdown, read_folder, write_folder
from deerflow_backends.deerflow_folders.documents import Found
from deerflow_backends.deerflow_folders.places import Contents
from deerflow_backends.errors import Closed
from deerflow_backends.memories import Record
from deerflow_backends.records import Part, read_part


class SourceFolder:
    """The memory in a folder, to be read.

    Attributes:
        damaged: The files that were not read when it was last exported.
    """

    def __init__(self, path: Path) -> None:
        self.damaged: list[Damaged] = []
        self._path = path

    async def export(self) -> AsyncIterator[Record]:
        """Give everything that can be read; what cannot is in `damaged`."""
        self.damaged = []
        for found in read_folder(self._path):
            await asyncio.sleep(0)  # reading blocks, and an interrupt wants to get in between
            if isinstance(found, Damaged):
                self.damaged.append(found)
            else:
                yield found.to_record()


class TargetFolder(SourceFolder):
    """The memory in a folder, to be written all at once.

    Args:
        layout: How it is to be laid out.
    """

    def __init__(self, path: Path, layout: Layout) -> None:
        super().__init__(path)
        self._layout = layout

    async def restore(self, records: AsyncIterable[Record]) -> int:
        """Write the folder whole or, if this is cancelled, not at all; return how many records had contents.

        Raises:
            BackendsError: As `write_folder` raises it.
        """
        loop, each = asyncio.get_running_loop(), aiter(records)
        reading: set[asyncio.Task[Any] | None] = set()
        stopped = False

        async def following() -> Any:
            if stopped:
                raise Closed("copying was stopped")
            reading.add(task := asyncio.current_task())
            try:
                return await anext(each, None)
            finally:
                reading.discard(task)

        def parts() -> Iterator[Part]:
            while (record := asyncio.run_coroutine_threadsafe(following(), loop).result()) is not None:
                yield read_part(record, "the source")

        writing = loop.run_in_executor(None, lambda: write_folder(self._path, parts(), layout=self._layout))
        try:
            return await asyncio.shield(writing)
        except asyncio.CancelledError:
            stopped = True
            for task in reading:  # the thread waits for it, and we for the thread
                if task is not None:
                    task.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            raise


def as_read(record: Record) -> Entry:
    """Enter what a folder gave: body and facts by part, without the user's revision and time, which not all keep."""
    part = read_part(record, "the folder")
    return _entry(part, Found(part.body, part.facts, part.user_updated_at))


def as_written(layout: Layout) -> Callable[[Record], Entry]:
    """Return what enters a record so that it equals `as_read` of what *layout* keeps of it.

    It raises InvalidArgument where DeerFlow cannot have that record.
    """

    def enter(record: Record) -> Entry:
        part = read_part(record, "the source")
        return _entry(part, _in_documents(part) if layout == "documents" else _in_markdown(part))

    return enter


def _entry(part: Part, found: Found) -> Entry:
    if found.body is None and not found.facts:
        return None
    user = None if part.user_id is None else markdown.safe_user_id(part.user_id)  # without facts that is all it keeps
    agent = None if part.agent_name is None else part.agent_name.lower()
    return (user, agent), (found.body.body if found.body else None, found.facts)


def _in_documents(part: Part) -> Found:
    if part.body is None and not part.facts:
        return Found(None, {}, 0)
    return documents.read_document(documents.make_document(part), part.user_updated_at)


def _in_markdown(part: Part) -> Found:
    if part.agent_name is None:
        return markdown.read_summaries(markdown.make_summaries(part), part.user_updated_at)
    facts = {}
    for fact_id, fact in part.facts.items():
        data = markdown.render_fact(part.user_id, part.agent_name, fact_id, fact)
        facts[fact_id] = markdown.read_fact(Contents(data, fact.updated_at), fact_id).fact
    return Found(part.body, facts, 0)
