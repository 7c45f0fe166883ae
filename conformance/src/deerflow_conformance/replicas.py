"""A capability in another process, with the same Protocol: what `Bench.replica` and `Bench.rival` give."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from deerflow_conformance.checks import Unkept
from deerflow_conformance.protocols import coroutines_of, iterators_of
from deerflow_conformance.wire import frame, receive

if TYPE_CHECKING:
    from deerflow_conformance.conformances import Conformance
    from deerflow_conformance.spaces import Space

#: How long a cancelled call may take to end over there.
_CANCEL_SECONDS: Final = 15.0
#: How long a process that has let go of its connection may take to end.
_END_SECONDS: Final = 2.0


class ReplicaDied(Exception):
    """The kit has killed the helper process: of a call that was pending nobody knows whether it took effect."""


class Process:
    """A helper process: started once, used over many spaces and event loops.

    Used after a body that failed half-way, it is started anew: nobody knows what it is still doing. That it ends by
    itself is a failure, `Unkept`, of the calls that are under way, or of `ready`: the backend takes its host with it,
    or the author's file cannot be imported twice.
    """

    def __init__(self, conformance: Conformance) -> None:
        self._conformance = conformance
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._numbers = itertools.count(1)
        #: Not None while some event loop uses the process, or was ended while it did.
        self._linking: asyncio.Task[Link] | None = None
        self._killed = False
        self._used = False

    def ready(self) -> None:
        """Start the process unless it is there and at rest. Blocks, and is to be called outside of event loops.

        Raises:
            Unkept: After it was used, it has ended by itself.
        """
        if self._linking is not None or not self.running:
            # Who used it when it ended was told so; who uses it first will be.
            crash = self.crash if self._used and self._linking is None else None
            self.close()
            if crash is not None:
                raise crash
            ours, theirs = socket.socketpair()
            with theirs:
                self._process = subprocess.Popen(  # noqa: S603  # our own module
                    [sys.executable, "-m", "deerflow_conformance.replica_process", str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                )
            self._socket = ours
            self._killed = self._used = False
            ours.sendall(frame((self._conformance.recipe, sys.path)))

    def close(self) -> None:
        """Kill the process, if there is one."""
        self._linking = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def running(self) -> bool:
        """Whether the process is there, stopped or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def at_rest(self) -> bool:
        """Whether nobody uses it: whatever was opened in it has been closed."""
        return self._linking is None

    @property
    def crash(self) -> Unkept | None:
        """What to fail with if the process has ended and the kit did not kill it, else None."""
        code = None if self._process is None or self._killed else self._process.poll()
        return None if code is None else _crashed(f"its end, with exit code {code}; its output says why")

    def death(self) -> Exception:
        """Return what to raise now that the process has let go of its connection."""
        if self._killed or self._process is None:
            return ReplicaDied("the helper process was killed")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)
        return self.crash or _crashed("it closed its connection")

    def kill(self) -> None:
        """End the process at once, by SIGKILL, and wait until it is gone; pending calls raise `ReplicaDied`."""
        self._killed = self._killed or self.running
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def stop(self) -> None:
        """Stop the process where it is, by SIGSTOP, until `resume`."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a stopped process go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    @asynccontextmanager
    async def open(self, space: Space, flush_seconds: float | None = None) -> AsyncIterator[Any]:
        """Open the capability on *space* over there; with *flush_seconds* counters behind a buffer.

        Raises:
            ReplicaDied: The process was killed, or never started.
            Unkept: It ended by itself.
        """
        if self._socket is None:
            raise ReplicaDied("the helper process is not running")
        self._used = True
        if self._linking is None:
            self._linking = asyncio.create_task(Link.over(self._socket, self._numbers, self.death))
        link = await asyncio.shield(self._linking)
        link.users += 1
        try:
            key = await link.request("open", space, flush_seconds)
            try:
                yield Remote(self, link, key, self._conformance, await link.request("reach", key))
            finally:
                link.at_rest = False
                self.resume()
                if not self._killed:  # who was has nothing to close
                    await link.request("close", key)
                    link.at_rest = True
        finally:
            link.users -= 1
            if not link.users:
                if link.at_rest:
                    self._linking = None
                await link.detach()


def _crashed(how: str) -> Unkept:
    return Unkept("the process that uses the backend to live until the kit ends it", how)


class Link:
    """The connection to the helper process in one event loop.

    Attributes:
        users: How many openings use it.
        at_rest: Nothing that was opened over there failed to close.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        numbers: Iterator[int],
        death: Callable[[], Exception],
    ) -> None:
        self.users = 0
        self.at_rest = True
        self._reader, self._writer = reader, writer
        # Of the process and not of this link, so that an answer to an earlier one is not taken for one of ours.
        self._numbers = numbers
        self._death = death
        self._waiting: dict[int, asyncio.Future[tuple[str, Any]]] = {}
        self._reading = asyncio.create_task(self._read(), name="replica answers")

    @staticmethod
    async def over(ours: socket.socket, numbers: Iterator[int], death: Callable[[], Exception]) -> Link:
        """Return a link over a duplicate of *ours*, which stays open for the next event loop.

        Args:
            ours: This side of the connection.
            numbers: The process's, for requests.
            death: Tells what to raise when the other side is gone.
        """
        return Link(*await asyncio.open_unix_connection(sock=ours.dup()), numbers, death)

    async def _read(self) -> None:
        try:
            while True:
                state, number, content = await receive(self._reader)
                future = self._waiting.get(number)
                if future is not None and not future.done():
                    future.set_result((state, content))
        except Exception as error:
            gone = isinstance(error, EOFError | OSError)
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(self._death() if gone else _crashed(f"it sent what cannot be read: {error!r}"))

    async def detach(self) -> None:
        """Leave the process alone, ready for another event loop."""
        # Both at once and before any await: from here on a new link may read.
        self._reading.cancel()
        self._writer.close()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reading
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    def send(self, *message: Any) -> None:
        """Send a message that has no answer, unless the event loop is gone already."""
        if not self._writer.is_closing():
            self._writer.write(frame(message))

    async def request(self, kind: str, *arguments: Any, late: list[Any] | None = None) -> Any:
        """Send a message and return its answer, or raise what the replica raised.

        Cancelled, it cancels the call over there and waits until that has ended.

        Args:
            kind: What to do.
            arguments: With what.
            late: Takes the answer that came although the call was cancelled, for whoever must not lose it.
        """
        if self._reading.done():
            raise self._death()
        number = next(self._numbers)
        content = frame((kind, number, *arguments))
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._writer.write(content)
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            await self._cancelled(number, future, late)
            raise
        finally:
            del self._waiting[number]
        return _outcome(*future.result())

    async def _cancelled(self, number: int, future: asyncio.Future[tuple[str, Any]], late: list[Any] | None) -> None:
        self.send("cancel", number)
        await asyncio.wait([future], timeout=_CANCEL_SECONDS)
        if not future.done():
            raise Unkept(f"a cancelled call to end within {_CANCEL_SECONDS:.0f} s", "it goes on in the other process")
        state, content = future.result()
        if state == "returned" and late is not None:
            late.append(content)


def _outcome(state: str, content: Any) -> Any:
    match state:
        case "returned":
            return content
        case "stopped":
            raise StopAsyncIteration
        case "cancelled":
            raise asyncio.CancelledError
        case _:
            error, trace = content
            error.add_note(f"in the other process:\n{trace}")
            raise error


class Remote:
    """Has the methods of its capability's Protocol; each call happens in the other process."""

    def __init__(self, process: Process, link: Link, key: int, conformance: Conformance, reach: Any) -> None:
        self.process = process
        self.reach = reach
        for name in coroutines_of(conformance.capability):
            setattr(self, name, functools.partial(_call, link, key, name))
        for name in iterators_of(conformance.capability):
            setattr(self, name, functools.partial(_iterate, link, key, name))


async def _call(link: Link, key: int, method: str, /, *positional: Any, **named: Any) -> Any:
    sent = [await _sendable(value) for value in positional]
    named = {name: await _sendable(value) for name, value in named.items()}
    return await link.request("call", key, method, tuple(sent), named)


async def _sendable(value: Any) -> Any:
    """Return *value*, or what an iterator gives: iterators stay where they are."""
    if hasattr(value, "__aiter__"):
        return [item async for item in value]
    return list(value) if hasattr(value, "__next__") else value


def _iterate(link: Link, key: int, method: str, /, *positional: Any, **named: Any) -> RemoteIterator:
    return RemoteIterator(link, ("iterate", key, method, positional, named))


class RemoteIterator:
    """An async iterator of the other process. As over there, nothing begins before the first ``__anext__``."""

    def __init__(self, link: Link, making: tuple[Any, ...]) -> None:
        self._link = link
        self._making = making
        self._iterator: int | None = None
        #: What arrived for an ``__anext__`` that was cancelled: the backend has given it, so it must not be lost here.
        self._late: list[Any] = []

    def __aiter__(self) -> RemoteIterator:
        return self

    async def __anext__(self) -> Any:
        if self._late:
            return self._late.pop(0)
        if self._iterator is None:
            made: list[int] = []
            try:
                self._iterator = await self._link.request(*self._making, late=made)
            finally:
                if made:
                    self._iterator = made[0]
        return await self._link.request("next", self._iterator, late=self._late)

    async def aclose(self) -> None:
        """Close it over there."""
        if self._iterator is not None:
            await self._link.request("aclose", self._iterator)

    def __del__(self) -> None:
        if self._iterator is not None:
            self._link.send("drop", self._iterator)
