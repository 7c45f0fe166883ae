"""A TCP proxy on the loopback that a test puts before a server, to disturb what goes through it.

It disturbs at the places that decide what a client may believe: before the server got a request, after the server
did what it says and before it answers, and while nothing comes at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import socket
import struct
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

_CHUNK_BYTES: Final = 65_536
#: Of what a client sent before, this much is remembered: a match may begin in one chunk and end in the next.
_TAIL_BYTES: Final = 4_096
#: A throttled direction passes on what it may in so many seconds at a time.
_SLICE_SECONDS: Final = 0.05


@asynccontextmanager
async def proxy(host: str, port: int) -> AsyncIterator[Proxy]:
    """Listen on a free port of the loopback and pass everything on to *host* and *port*, undisturbed at first.

    Used in the event loop of whoever disturbs. Afterwards every connection is reset, and no task or socket is left.
    Where the server refuses a connection, the proxy has accepted it already and resets it.
    """
    infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family, *_, address = infos[0]
    opened = open_proxy(family, address)
    try:
        yield opened
    finally:
        await opened.close()


def open_proxy(family: int, address: tuple[Any, ...]) -> Proxy:
    """Listen as `proxy` does, without awaiting anything: its caller closes it."""
    opened = Proxy(family, address)
    opened.accept()
    return opened


class Proxy:
    """What `proxy` gives; its switches work at any time, at once, and together.

    Attributes:
        host: The address to connect to.
        port: Its port, the same through `refuse` and `accept`.
        made: How many connections were accepted so far.
    """

    def __init__(self, family: int, address: tuple[Any, ...]) -> None:
        self.made = 0
        self._family = family
        self._address = address
        self._switches = _Switches()
        self._connections: set[_Connection] = set()
        self._listening: socket.socket | None = None
        self._errors: list[BaseException] = []
        # Bound and never listening, it keeps the port ours while new connections are refused.
        self._reserved = _bound(0)
        self.host: str
        self.port: int
        self.host, self.port = self._reserved.getsockname()

    @property
    def open(self) -> int:
        """How many connections are open at present, half-open ones included."""
        return len(self._connections)

    @property
    def requests(self) -> int:
        """How many pieces of requests were passed on so far: what was written at once comes in one piece, mostly."""
        return self._switches.requests

    @property
    def passed_bytes(self) -> int:
        """How many bytes were passed on so far, in both directions."""
        return self._switches.passed_bytes

    def url(self, url: str) -> str:
        """Return *url* with this proxy in place of its host and port; its credentials, path and query stay."""
        parts = urlsplit(url)
        credentials, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{credentials}{at}{self.host}:{self.port}").geturl()

    def refuse(self) -> None:
        """Refuse new connections, as a host does on which no server runs; the present ones stay."""
        if self._listening is not None:
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening.close()
            self._listening = None

    def accept(self) -> None:
        """Accept new connections again."""
        if self._listening is None:
            self._listening = _bound(self.port)
            self._listening.listen(1024)
            asyncio.get_running_loop().add_reader(self._listening, self._take, self._listening)

    def cut(self) -> None:
        """Reset every present connection on both sides, half-open ones included; what is under way may be lost."""
        for connection in self._connections:
            connection.swallowing = True  # nothing more is passed on while the cancellation is under way
            connection.task.cancel()

    def hold(self) -> None:
        """Pass nothing on in either direction, on new connections neither, and lose nothing."""
        self._switches.flowing.clear()

    def release(self) -> None:
        """End `throttle`, and `hold`: what was held back goes on. End `half_open` for connections made from now on."""
        self._switches.swallowing = False
        self._switches.bytes_per_second = None
        self._switches.flowing.set()

    def half_open(self) -> None:
        """Swallow everything on present connections for good, and on new ones until `release`; none of them closes.

        So it is when a firewall forgets a connection or a host vanishes: neither side learns that the other is gone.
        """
        self._switches.swallowing = True
        for connection in self._connections:
            connection.swallowing = True

    def throttle(self, bytes_per_second: float) -> None:
        """Pass on only so much in each direction of each connection, new ones too, until `release`."""
        if not bytes_per_second > 0:
            raise ValueError(f"bytes_per_second must be more than 0, not {bytes_per_second!r}")
        self._switches.bytes_per_second = bytes_per_second

    def lose_reply(self, match: bytes) -> asyncio.Event:
        """Let the server do the next request that contains *match*, and end the connection in place of its answer.

        Any request contains ``b""``.

        The first bytes that the server sends after the match, whatever they answer, and all later ones are lost.

        Returns:
            An event that is set once the client's side has been cut.
        """
        return self._expect(match, delivering=True)

    def lose_request(self, match: bytes) -> asyncio.Event:
        """End the next connection on which a client sends *match*, before the server gets that.

        What stands before it in the same chunk is lost too; what came in earlier chunks reaches the server.

        Returns:
            An event that is set once the client's side has been cut.
        """
        return self._expect(match, delivering=False)

    def forget_losses(self) -> None:
        """Take back what `lose_reply` and `lose_request` asked for and did not happen yet."""
        self._switches.faults.clear()

    def _expect(self, match: bytes, *, delivering: bool) -> asyncio.Event:
        if len(match) > _TAIL_BYTES:
            raise ValueError(f"match must be at most {_TAIL_BYTES} bytes, not {len(match)}")
        fault = _Fault(match, delivering)
        self._switches.faults.append(fault)
        return fault.happened

    def _take(self, listening: socket.socket) -> None:
        """Accept one connection; what else waits calls again."""
        try:
            client, _ = listening.accept()
        except (BlockingIOError, ConnectionError):
            return  # the client has given up while it waited
        self.made += 1
        connection = _Connection(self._switches, client, self._family, self._address)
        self._connections.add(connection)
        connection.task.add_done_callback(functools.partial(self._ended, connection))

    def _ended(self, connection: _Connection, task: asyncio.Task[None]) -> None:
        # Here and not in the task, which runs nothing of itself if it is cancelled before its first step.
        self._connections.discard(connection)
        error = None if task.cancelled() else task.exception()
        connection.close(reset=task.cancelled() or error is not None)
        if error is not None and not isinstance(error, ConnectionError):
            self._errors.append(error)

    async def close(self) -> None:
        """Reset all connections and give the port back; raise what went wrong in the proxy itself."""
        self.refuse()
        self._reserved.close()
        tasks = [connection.task for connection in self._connections]
        self.cut()
        await asyncio.gather(*tasks, return_exceptions=True)
        for error in self._errors:
            raise error


@dataclass(slots=True)
class _Switches:
    """What the connections of one proxy look at.

    Attributes:
        flowing: Set unless everything is held back.
        swallowing: New connections swallow everything.
        bytes_per_second: How fast each direction of a connection is, None for as fast as it goes.
        faults: Requests and replies that are still to be lost.
        requests: How many pieces of requests were passed on.
        passed_bytes: How many bytes were passed on in both directions.
    """

    flowing: asyncio.Event = field(default_factory=asyncio.Event)
    swallowing: bool = False
    bytes_per_second: float | None = None
    requests: int = 0
    passed_bytes: int = 0
    faults: list[_Fault] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.flowing.set()

    def fault_in(self, before: bytes, chunk: bytes) -> _Fault | None:
        """Take and return the fault whose match ends in *chunk*, which follows *before*, if there is one."""
        for fault in self.faults:
            overlap = min(max(len(fault.match) - 1, 0), len(before))
            if fault.match in before[len(before) - overlap :] + chunk:
                self.faults.remove(fault)
                return fault
        return None


@dataclass(slots=True, eq=False)
class _Fault:
    """One reply, or if not *delivering* one request, that shall be lost."""

    match: bytes
    delivering: bool
    happened: asyncio.Event = field(default_factory=asyncio.Event)


class _Connection:
    """One client's connection and the one to the server that was made for it."""

    def __init__(self, switches: _Switches, client: socket.socket, family: int, address: tuple[Any, ...]) -> None:
        self.swallowing = switches.swallowing
        self._switches = switches
        self._client = client
        self._server = socket.socket(family, socket.SOCK_STREAM)
        for side in (self._client, self._server):
            side.setblocking(False)
        #: What the server's next answer is lost by, and whether the client's side has been cut by it or another.
        self._losing: _Fault | None = None
        self._lost = False
        self.task = asyncio.create_task(self._run(address))

    def close(self, *, reset: bool) -> None:
        """Close both sides; with *reset* so that the peers get an error, and unsent data is dropped."""
        for side in (self._client, self._server):
            if reset:
                side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            side.close()

    async def _run(self, address: tuple[Any, ...]) -> None:
        await self._switches.flowing.wait()
        was_reset = False
        if not self.swallowing:
            await asyncio.get_running_loop().sock_connect(self._server, address)
            try:
                async with asyncio.TaskGroup() as directions:
                    directions.create_task(self._disturbed(self._requests()))
                    directions.create_task(self._disturbed(self._replies()))
            except* ConnectionError:
                was_reset = True
        if self.swallowing:
            await asyncio.Event().wait()  # until it is cut
        if was_reset:
            raise ConnectionResetError("one side was reset, so the other shall be")

    async def _disturbed(self, direction: Coroutine[Any, Any, None]) -> None:
        """Run *direction*; that one side is reset is held back, and kept from the other while half-open."""
        try:
            await direction
        except ConnectionError:
            await self._switches.flowing.wait()
            if not self.swallowing:
                raise

    async def _requests(self) -> None:
        loop, before = asyncio.get_running_loop(), b""
        while chunk := await loop.sock_recv(self._client, _CHUNK_BYTES):
            await self._switches.flowing.wait()
            if self._lost:
                break
            if self.swallowing:
                continue
            if (fault := self._switches.fault_in(before, chunk)) is not None:
                if not fault.delivering:
                    self._lose(fault)
                    break
                self._losing = fault
            before = (before + chunk)[-_TAIL_BYTES:]
            self._switches.requests += 1
            await self._pass_on(chunk, self._server)
        await self._finish(self._server)

    async def _replies(self) -> None:
        loop = asyncio.get_running_loop()
        while chunk := await loop.sock_recv(self._server, _CHUNK_BYTES):
            await self._switches.flowing.wait()
            if self.swallowing or self._lost:
                continue  # read on: the server shall finish all that it was given
            if self._losing is not None:
                self._lose(self._losing)
            else:
                await self._pass_on(chunk, self._client)
        await self._finish(self._client)

    async def _pass_on(self, chunk: bytes, side: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._switches.passed_bytes += len(chunk)
        while (speed := self._switches.bytes_per_second) is not None and chunk:
            part, chunk = chunk[: math.ceil(speed * _SLICE_SECONDS)], chunk[math.ceil(speed * _SLICE_SECONDS) :]
            await asyncio.sleep(len(part) / speed)
            await loop.sock_sendall(side, part)
        await loop.sock_sendall(side, chunk)

    def _lose(self, fault: _Fault) -> None:
        """End the client's side; what reads from it then comes to an end too, and tells the server."""
        self._lost = True
        with contextlib.suppress(OSError):
            self._client.shutdown(socket.SHUT_RDWR)
        fault.happened.set()

    async def _finish(self, side: socket.socket) -> None:
        """Tell one side that nothing more comes from the other."""
        await self._switches.flowing.wait()
        if not self.swallowing:
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_WR)


def _bound(port: int) -> socket.socket:
    """Return a socket bound to *port* of the loopback, beside others of ours that are bound to it."""
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.setblocking(False)
    bound.bind(("127.0.0.1", port))
    return bound
