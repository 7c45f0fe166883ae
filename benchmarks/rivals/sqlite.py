"""The rival of the SQLite backend: ``sqlite3`` alone, in one worker thread."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from benchmarks.rivals import Rival
from deerflow_backends import JSON

CREATE = "CREATE TABLE events (number INTEGER PRIMARY KEY, run_id TEXT, event TEXT, data BLOB)"
INSERT = "INSERT INTO events (run_id, event, data) VALUES (?, ?, ?)"
SELECT = "SELECT number, event, data FROM events WHERE run_id = ? ORDER BY number"


class Table:
    """One table behind a thread, since SQLite blocks."""

    def __init__(self, connection: sqlite3.Connection, executor: ThreadPoolExecutor) -> None:
        self._connection, self._executor = connection, executor

    async def append(self, run_id: str, event: str, data: JSON) -> None:
        """Insert one row in a transaction of its own."""
        values = (run_id, event, msgspec.json.encode(data))
        await self._in_thread(lambda: self._connection.execute(INSERT, values))

    async def read(self, run_id: str) -> AsyncIterator[tuple[int, str, JSON]]:
        """Select all rows at once."""
        rows = await self._in_thread(lambda: self._connection.execute(SELECT, (run_id,)).fetchall())
        for number, event, data in rows:
            yield number, event, msgspec.json.decode(data)

    async def _in_thread(self, function: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function)


@asynccontextmanager
async def open_table(settings: Mapping[str, str], folder: Path) -> AsyncIterator[Table]:
    """Make an empty table in a file beside the backend's."""
    synchronous = "NORMAL" if settings.get("synchronous") == "NORMAL" else "FULL"
    with (
        TemporaryDirectory(dir=settings.get("path", folder)) as place,
        closing(sqlite3.connect(Path(place, "raw.db"), isolation_level=None, check_same_thread=False)) as connection,
        ThreadPoolExecutor(1) as executor,
    ):
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute(CREATE)
        yield Table(connection, executor)


RIVAL = Rival(
    does="sqlite3 in one worker thread: one bare INSERT a transaction, in WAL mode and with the same synchronous=FULL; "
    "a read is one SELECT of all rows. The same JSON. No checks, no ids per run, no retention, nobody is woken.",
    engine=lambda _settings: f"SQLite {sqlite3.sqlite_version}",
    open=open_table,
)
