"""The four capabilities as the kit runs them, each on a server of its own that can be killed and started again."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final

from deerflow_backends.clocks import wall_clock
from deerflow_backends.sqlite import layout
from deerflow_conformance.conformances import Conformance, conform
from deerflow_conformance.mutants.served.capabilities import Settings, open_capability
from deerflow_conformance.mutants.served.faults import have_fault
from deerflow_conformance.spaces import Space

#: Answers that nobody can ask for any more; the others are there for whoever lost one.
_STALE_ANSWERS: Final = "SELECT count(*) FROM answers WHERE expires_at < ?"


class ServerProcess:
    """A server in a process of its own, at one address and over one folder, however often it is killed.

    Nothing is made before the first `start`. Other processes, which import this file again, learn of the address from
    the environment.
    """

    def __init__(self, capability: str) -> None:
        self._capability = capability
        self._variable = f"DEERFLOW_SERVED_{capability.upper()}"
        self._folder: Path | None = None
        self._reserved: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return os.environ[self._variable]

    def start(self) -> None:
        """Start it over what it stored before, and return once it can be connected to."""
        if self._folder is None or self._reserved is None:
            self._folder = Path(tempfile.mkdtemp(prefix="deerflow-served-"))
            # Bound and never listening, it keeps the port ours while no server runs.
            self._reserved = socket.socket()
            self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._reserved.bind(("127.0.0.1", 0))
            os.environ[self._variable] = f"tcp://127.0.0.1:{self._reserved.getsockname()[1]}"
            atexit.register(self.close)
        module = "deerflow_conformance.mutants.served"
        port = str(self._reserved.getsockname()[1])
        command = [sys.executable, "-m", module, str(self._folder), port]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: S603  # our own module
        with self._process.stdout or contextlib.nullcontext() as output:
            if output is None or output.readline() != b"ready\n":
                raise RuntimeError("the server ended while it started; its output says why")

    def stop(self) -> None:
        """Kill it; what it acknowledged stays."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def close(self) -> None:
        """Kill it, and remove what it stored; `start` begins anew."""
        self.stop()
        atexit.unregister(self.close)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None

    def open(self, space: Space) -> AbstractAsyncContextManager[Any]:
        """Open the capability in the namespace that is *space*."""
        settings = Settings(
            url=space.via(self.url),
            namespace=space.name,
            timeout_seconds=space.timeout_seconds,
            publish_timeout_seconds=space.publish_timeout_seconds,
        )
        return open_capability(self._capability, settings, space.options)

    def name(self) -> str:
        """Say what serves, for reports."""
        return f"SQLite {sqlite3.sqlite_version}, served"

    def owned(self, space: Space) -> int:
        """Count the rows that are stored of *space*, and of its answers those that could be gone."""
        if self._folder is None:
            raise RuntimeError("the server was never started")
        path = layout.KIND_OF[self._capability].path(self._folder, space.name)
        tables = [table for table in layout.TABLES_OF[self._capability] if table != layout.ONE_ROW_TABLE]
        with contextlib.closing(sqlite3.connect(path)) as connection:
            rows = [connection.execute(f"SELECT count(*) FROM {table}").fetchone() for table in tables]  # noqa: S608  # ours
            rows.append(connection.execute(_STALE_ANSWERS, (wall_clock(),)).fetchone())
        return sum(count for (count,) in rows)


_streams, _memory, _threads, _counters = map(ServerProcess, ("stream_bridge", "memory", "thread_index", "counters"))


@conform(
    "stream_bridge",
    plugin="served",
    start=_streams.start,
    stop=_streams.stop,
    durable=True,
    owned=_streams.owned,
    server=_streams.name,
)
async def stream_bridge(space: Space) -> AsyncIterator[Any]:
    """The stream bridge of one namespace."""
    async with _streams.open(space) as opened:
        yield opened


@conform(
    "memory",
    plugin="served",
    start=_memory.start,
    stop=_memory.stop,
    durable=True,
    owned=_memory.owned,
    server=_memory.name,
)
async def memory(space: Space) -> AsyncIterator[Any]:
    """The memory store of one namespace."""
    async with _memory.open(space) as opened:
        yield opened


@conform(
    "thread_index",
    plugin="served",
    start=_threads.start,
    stop=_threads.stop,
    durable=True,
    owned=_threads.owned,
    server=_threads.name,
)
async def thread_index(space: Space) -> AsyncIterator[Any]:
    """The thread index of one namespace."""
    async with _threads.open(space) as opened:
        yield opened


@conform(
    "counters",
    plugin="served",
    start=_counters.start,
    stop=_counters.stop,
    durable=True,
    owned=_counters.owned,
    server=_counters.name,
)
async def counters(space: Space) -> AsyncIterator[Any]:
    """The model counters of one namespace."""
    async with _counters.open(space) as opened:
        yield opened


#: What mutants of this backend run on.
SERVED: Final[tuple[Conformance, ...]] = (stream_bridge, memory, thread_index, counters)

have_fault()
