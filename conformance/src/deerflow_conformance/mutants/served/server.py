"""The server: hosts core's SQLite backend in a folder for all that connect, on one port of the loopback.

Started as ``python -m deerflow_conformance.mutants.served FOLDER PORT``. It says ``ready`` once it can be
connected to, and ends when the process that started it has. What it acknowledged is in the folder, and outlives it.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sqlite3
import sys
from collections import defaultdict
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

from deerflow_backends import sqlite
from deerflow_backends.clocks import wall_clock
from deerflow_backends.sqlite.connection import ping
from deerflow_backends.sqlite.database import Database
from deerflow_conformance.mutants.served import answers
from deerflow_conformance.mutants.served.answers import DISK_SECONDS
from deerflow_conformance.mutants.served.messages import PING, TICK, Answer, Changed, Hello, Request, Welcome
from deerflow_conformance.mutants.served.operations import Operations, operations_of
from deerflow_conformance.wire import frame, receive

#: How often what has expired is freed.
SWEEP_SECONDS: Final = 0.5

#: How often it looks whether it is still wanted.
_LOOK_SECONDS: Final = 0.5


class Server:
    """All clients of one folder."""

    def __init__(self, folder: Path) -> None:
        self.incarnation = secrets.token_hex(8)
        self.folder = folder
        self.clients: defaultdict[str, set[Client]] = defaultdict(set)
        self._connections: dict[str, sqlite.Connection] = {}
        self._closing = AsyncExitStack()

    async def connection(self, namespace: str) -> sqlite.Connection:
        """Return the one connection to a namespace: a file is open while clients use it."""
        if namespace not in self._connections:
            connection = sqlite.connect(path=self.folder, namespace=namespace, sweep_seconds=SWEEP_SECONDS)
            self._connections[namespace] = await self._closing.enter_async_context(connection)
        return self._connections[namespace]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client until it is gone; what it asked for is done all the same."""
        try:
            hello: Hello = await receive(reader)
            connection = await self.connection(hello.namespace)
            operations = operations_of(hello.capability, hello.options, self.incarnation)
            async with (
                connection.database(hello.capability) as database,
                connection.sweeping(database, lambda file: operations.sweep(file) | answers.sweep(file)),
            ):
                await answers.prepare(database)
                client = Client(self.clients[hello.namespace], writer, database, operations)
                try:
                    await client.serve(reader)
                finally:
                    await client.finish()
        except EOFError:
            pass
        finally:
            writer.close()


class Client:
    """One client's connection, which uses one capability in one namespace.

    Args:
        beside: All clients of the namespace, this one included while it is served.
    """

    def __init__(
        self, beside: set[Client], writer: asyncio.StreamWriter, database: Database, operations: Operations
    ) -> None:
        self._beside, self._writer = beside, writer
        self._database, self._operations = database, operations
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Take requests until the client is gone, each in a task: none waits for another."""
        self._beside.add(self)
        self.send(Welcome(wall_clock()))
        try:
            while True:
                task = asyncio.create_task(self._take(await receive(reader)))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        finally:
            self._beside.discard(self)

    async def finish(self) -> None:
        """Do what was asked for; nobody hears what becomes of it."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def send(self, message: Any) -> None:
        """Send a message, unless the client is gone."""
        if not self._writer.is_closing():
            self._writer.write(frame(message))

    async def _take(self, request: Request) -> None:
        try:
            returned, value = await self._do(request)
        except Exception as error:  # it is the client's
            returned, value = False, error
        if self._operations.watched and request.write is not None:
            for client in self._beside:
                client.send(Changed(request.arguments[0]))  # a hint: whoever watches such a run reads it
        self.send(Answer(request.number, returned, value))

    async def _do(self, request: Request) -> answers.Outcome:
        if request.operation == TICK:
            return True, None
        if request.operation == PING:
            await ping(self._database, DISK_SECONDS)
            return True, None
        operation = self._operations.by_name[request.operation]

        def job(connection: sqlite3.Connection) -> Any:
            return operation(connection, *request.arguments)

        if request.write is not None:
            return await answers.write_once(self._database, request.write, job)
        return True, await self._database.read(job, timeout_seconds=DISK_SECONDS)


async def run(folder: Path, port: int) -> None:
    """Serve *folder* on *port* as long as the process lives that started this one."""
    parent = os.getppid()
    # Whoever started this keeps the port over restarts by a socket that is bound to it, too.
    await asyncio.start_server(Server(folder).serve, "127.0.0.1", port, reuse_port=True)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while os.getppid() == parent:  # noqa: ASYNC110  # nothing tells when that changes
        await asyncio.sleep(_LOOK_SECONDS)
