"""Wake-ups between processes: a thread that looks for other processes' commits while anybody waits for one.

``PRAGMA data_version`` says whether the file was committed to; a look costs microseconds and takes no lock that
disturbs a writer. What changed is one query by index. A wake-up is a hint: the hub reads what it means.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Final

from deerflow_backends.hub import Hub
from deerflow_backends.sqlite.worker import connect_file

#: How often it looks: as often as this while something happens, less and less often while nothing does.
SHORTEST_SECONDS: Final = 0.001
LONGEST_SECONDS: Final = 0.02
_SLOWER: Final = 1.25

#: After a failure, until it tries again.
_PAUSE_SECONDS: Final = 0.5

#: The number of the newest change.
NEWEST = "SELECT change FROM marks"

#: Which runs changed since, by index.
CHANGED = "SELECT run_id, change FROM heads WHERE change > :seen ORDER BY change"


class Watcher:
    """Looks for changes while `watch` is asked for, and tells the hub of those that this bridge did not make."""

    def __init__(self, path: Path, hub: Hub) -> None:
        self._path, self._hub = path, hub
        self._loop = asyncio.get_running_loop()
        self._own: set[int] = set()
        self._wanted = threading.Event()
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
        self._tell(self._hub.wake_all)
        pause = SHORTEST_SECONDS
        while not self._stopping.wait(pause):
            if not self._hub.watched:
                self._wanted.clear()
                if not self._hub.watched and not self._stopping.is_set():
                    return
                self._wanted.set()  # somebody came, or `stop` was faster than we
            newest = _data_version(connection)
            if newest == version:
                pause = min(pause * _SLOWER, LONGEST_SECONDS)
                continue
            version = newest
            changed = connection.execute(CHANGED, {"seen": seen}).fetchall()
            others = any(change not in self._own for _, change in changed)
            pause = SHORTEST_SECONDS if others else min(pause * _SLOWER, LONGEST_SECONDS)
            if changed:
                seen = changed[-1][1]
                self._tell(self._wake, changed)

    def _tell(self, function: object, *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop was closed over our head; nobody waits
            self._loop.call_soon_threadsafe(function, *arguments)  # type: ignore[arg-type]

    def _wake(self, changed: list[tuple[str, int]]) -> None:
        for run_id, change in changed:
            if change not in self._own:
                self._hub.wake(run_id)
        newest = changed[-1][1]
        self._own = {change for change in self._own if change > newest}


def _data_version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA data_version").fetchone()
    return int(version)


@asynccontextmanager
async def watching(path: Path, hub: Hub) -> AsyncIterator[Watcher]:
    """Have a watcher, and end its thread on leaving."""
    watcher = Watcher(path, hub)
    try:
        yield watcher
    finally:
        watcher.stop()
