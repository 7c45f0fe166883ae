"""Wake-ups between processes: a thread that looks for other processes' commits while anybody waits for one.

``PRAGMA data_version`` says whether the file was committed to; a look costs microseconds and takes no lock that
disturbs a writer. What changed is one query by index, and what is new in the runs that are watched is read along with
it, so that an event needs no second way through a thread. Both are hints to the hub, which reads again in any doubt.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Final, NamedTuple

from deerflow_backends.cursors import Read
from deerflow_backends.hub import Hub
from deerflow_backends.sqlite.stream_tables import StreamTables
from deerflow_backends.sqlite.worker import BEGIN_READ, connect_file

#: How often it looks: as often as this while something happens, less and less often while nothing does.
SHORTEST_SECONDS: Final = 0.001
LONGEST_SECONDS: Final = 0.02
_SLOWER: Final = 1.25

#: After a failure, until it tries again.
_PAUSE_SECONDS: Final = 0.5

#: How much of all that is new is read along at the most; the hub reads the rest.
_BYTES_AT_ONCE: Final = 1024 * 1024

#: The number of the newest change.
NEWEST = "SELECT change FROM marks"

#: Which runs changed since, by index.
CHANGED = "SELECT run_id, change FROM heads WHERE change > :seen ORDER BY change"


class _News(NamedTuple):
    """A run that changed, the change's number, and what is new in it, None if that was not read along."""

    run_id: str
    change: int
    read: Read | None


class Watcher:
    """Looks for changes while `watch` is asked for, and tells the hub of those that this bridge did not make."""

    def __init__(self, path: Path, hub: Hub, tables: StreamTables) -> None:
        self._path, self._hub, self._tables = path, hub, tables
        self._loop = asyncio.get_running_loop()
        self._own: set[int] = set()
        self._wanted = threading.Event()
        self._told = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{path.name} watcher", daemon=True)
        self._thread.start()

    def watch(self) -> None:
        """Look from now on; what changed before the first look makes every watched run be read again."""
        self._wanted.set()

    def made(self, change: int) -> None:
        """Note a change that the hub was told of."""
        if self._wanted.is_set():
            self._own.add(change)

    def stop(self) -> None:
        """End the thread; takes as long as one look."""
        self._stopping.set()
        self._wanted.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            if self._stopping.is_set():
                return
            with suppress(sqlite3.Error):  # it begins anew, and then has everything read again
                with closing(connect_file(self._path, mode="rw")) as connection:
                    connection.execute("PRAGMA query_only = ON")
                    self._look(connection)
                continue
            self._stopping.wait(_PAUSE_SECONDS)

    def _look(self, connection: sqlite3.Connection) -> None:
        """Look until nobody watches any more."""
        version = _data_version(connection)
        (seen,) = connection.execute(NEWEST).fetchone()
        self._told.set()
        self._tell(self._hub.wake_all)
        pause = SHORTEST_SECONDS
        while not self._stopping.wait(pause):
            if not self._hub.watched:
                self._wanted.clear()
                if not self._hub.watched and not self._stopping.is_set():
                    return
                self._wanted.set()  # somebody came, or `stop` was faster than we
            if not self._told.is_set():
                continue  # the event loop is busy: what changes meanwhile is read at once afterwards
            newest = _data_version(connection)
            if newest == version:
                pause = min(pause * _SLOWER, LONGEST_SECONDS)
                continue
            version = newest
            news = self._read(connection, seen)
            others = any(one.change not in self._own for one in news)
            pause = SHORTEST_SECONDS if others else min(pause * _SLOWER, LONGEST_SECONDS)
            if news:
                seen = news[-1].change
                self._told.clear()
                self._tell(self._take, news)

    def _read(self, connection: sqlite3.Connection, seen: int) -> list[_News]:
        """Read in one transaction what changed, and what is new where the hub can be fed with it."""
        room, options = _BYTES_AT_ONCE, self._hub.options
        connection.execute(BEGIN_READ)
        news = []
        for run_id, change in connection.execute(CHANGED, {"seen": seen}).fetchall():
            after = None if change in self._own or room <= 0 else self._hub.position(run_id)
            read = None
            if after is not None:
                read = self._tables.read(connection, run_id, after, options.max_buffered_events, room)
                room -= sum(len(entry.data) for entry in read.entries)
            news.append(_News(run_id, change, read))
        connection.execute("COMMIT")
        return news

    def _tell(self, function: object, *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop was closed over our head; nobody waits
            self._loop.call_soon_threadsafe(function, *arguments)  # type: ignore[arg-type]

    def _take(self, news: list[_News]) -> None:
        """Tell the hub; in the event loop."""
        try:
            for run_id, change, read in news:
                if change in self._own:
                    continue
                if read is None or read.head is None:
                    self._hub.wake(run_id)
                else:
                    self._hub.feed(run_id, read.head, read.entries)
            newest = news[-1].change
            self._own = {change for change in self._own if change > newest}
        finally:
            self._told.set()


def _data_version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA data_version").fetchone()
    return int(version)


@asynccontextmanager
async def watching(path: Path, hub: Hub, tables: StreamTables) -> AsyncIterator[Watcher]:
    """Have a watcher, and end its thread on leaving."""
    watcher = Watcher(path, hub, tables)
    try:
        yield watcher
    finally:
        watcher.stop()
