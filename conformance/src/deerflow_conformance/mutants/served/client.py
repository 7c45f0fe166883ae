"""The way to the server: one connection, made again whenever it was lost, for everything that one capability asks.

Requests bear numbers and are answered in any order, so a call that is cancelled leaves nothing out of step. A write
bears a token, the same each time it is sent, so that a lost reply is asked for again and no write is done twice.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final
from urllib.parse import urlsplit

from deerflow_backends.clocks import MICROSECONDS
from deerflow_backends.errors import BackendUnavailable, Closed
from deerflow_conformance.mutants.served.messages import PING, TICK, Answer, Changed, Hello, Request, Welcome, Write
from deerflow_conformance.wire import frame, receive

#: Between tries to connect: doubling.
_FIRST_PAUSE_SECONDS: Final = 0.02
_LONGEST_PAUSE_SECONDS: Final = 0.5

#: A connection on which nothing came for so long, though something was asked, is dead.
_SILENCE_SECONDS: Final = 2.0


class Lost(Exception):
    """The connection ended before the answer came."""


class _Reader(asyncio.StreamReader):
    """A stream reader that knows when it heard anything last."""

    heard_at = 0.0

    def feed_data(self, data: Any) -> None:
        self.heard_at = asyncio.get_running_loop().time()
        super().feed_data(data)


class Wire:
    """A connection that is there, until it is lost: then every request that waits gets `Lost`.

    Args:
        ahead: How far the server's clock is ahead of the event loop's, in microseconds.
        changed: Told of each run that may have changed.
    """

    def __init__(
        self, reader: _Reader, transport: asyncio.WriteTransport, ahead: float, changed: Callable[[str], None]
    ) -> None:
        self._reader, self._transport, self._ahead, self._changed = reader, transport, ahead, changed
        self._numbers = itertools.count(1)
        self._waiting: dict[int, tuple[asyncio.Future[Any], float]] = {}

    async def request(self, operation: str, arguments: tuple[Any, ...], token: str | None, deadline: float) -> Any:
        """Send a request and return its answer, or raise what the server raised.

        Raises:
            Lost: There is none. The server may have done it, or may do it until *deadline*, by the loop's clock.
        """
        loop = asyncio.get_running_loop()
        if self._transport.is_closing():
            await asyncio.sleep(0)  # until everybody knows
            raise Lost
        number = next(self._numbers)
        write = None if token is None else Write(token, int(deadline * MICROSECONDS + self._ahead))
        self._transport.write(frame(Request(number, operation, arguments, write)))
        future = loop.create_future()
        self._waiting[number] = (future, loop.time())
        try:
            return await future
        finally:
            self._waiting.pop(number, None)

    async def run(self, silence_seconds: float) -> None:
        """Take what the server sends until the connection ends, or requests wait and it is silent for too long."""
        loop = asyncio.get_running_loop()
        reading = asyncio.create_task(self._read())
        try:
            while not reading.done():
                await asyncio.wait([reading], timeout=silence_seconds / 4)
                since = min((sent_at for _, sent_at in self._waiting.values()), default=loop.time())
                silent = loop.time() - max(since, self._reader.heard_at)
                if silent > silence_seconds:
                    break
                if (
                    silent > silence_seconds / 2 and not self._transport.is_closing()
                ):  # it may be slow with what it was asked, but not with this
                    self._transport.write(frame(Request(0, TICK, (), None)))
        finally:
            reading.cancel()
            await asyncio.wait([reading])
            for future, _ in self._waiting.values():
                if not future.done():
                    future.set_exception(Lost())

    async def _read(self) -> None:
        with suppress(EOFError):
            while True:
                message = await receive(self._reader)
                if isinstance(message, Changed):
                    self._changed(message.run_id)
                else:
                    self._answer(message)

    def _answer(self, answer: Answer) -> None:
        future, _ = self._waiting.get(answer.number, (None, 0.0))
        if future is None or future.done():
            return  # nobody waits any more
        if answer.returned:
            future.set_result(answer.value)
        else:
            future.set_exception(answer.value)


class Link:
    """What a capability asks the server through.

    Args:
        url: ``tcp://HOST:PORT``.
        hello: Says what is used there.
        timeout_seconds: How long a call waits. A connection that is silent for a third of it, or 2 s, counts as lost.

    Attributes:
        changed: Called with a run that may have changed, or with None if any may: after each connecting.
    """

    def __init__(self, url: str, hello: Hello, timeout_seconds: float) -> None:
        self.changed: Callable[[str | None], None] = lambda run_id: None
        self.timeout_seconds = timeout_seconds
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 0)
        self._url, self._hello = url, hello
        self._silence_seconds = min(timeout_seconds / 3, _SILENCE_SECONDS)
        self._wire: Wire | None = None
        self._news = asyncio.Event()
        self._trouble: BaseException | None = None
        self._closed = False
        self._pause = _FIRST_PAUSE_SECONDS
        self._task = asyncio.create_task(self._stay_connected())

    async def ask(self, operation: str, *arguments: Any) -> Any:
        """Read something: asked again if the reply was lost.

        Raises:
            BackendUnavailable: No answer in time.
            Closed: The link was closed.
        """
        return await self._ask(operation, arguments, None, self.timeout_seconds)

    async def write(self, operation: str, *arguments: Any, timeout_seconds: float | None = None) -> Any:
        """Write something, once: asked again under the same token if the reply was lost.

        Raises:
            BackendUnavailable: No answer in time; `maybe_written` says whether it may be done, until then, once.
            Closed: The link was closed before this was sent.
        """
        seconds = self.timeout_seconds if timeout_seconds is None else timeout_seconds
        return await self._ask(operation, arguments, secrets.token_hex(16), seconds)

    async def _ask(self, operation: str, arguments: tuple[Any, ...], token: str | None, seconds: float) -> Any:
        deadline = asyncio.get_running_loop().time() + seconds
        maybe_written = False
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    wire = await self._connected()
                    maybe_written = token is not None
                    with suppress(Lost):
                        return await wire.request(operation, arguments, token, deadline)
        except TimeoutError:
            why = f"no answer within {seconds:g} s ({self._trouble or 'it is silent'})"
            raise self._unavailable(why, maybe_written=maybe_written) from self._trouble
        except Closed:
            if maybe_written:
                raise self._unavailable("closed before the answer came", maybe_written=True) from None
            raise

    def _unavailable(self, why: str, *, maybe_written: bool) -> BackendUnavailable:
        outcome = "the write may have happened" if maybe_written else "nothing was written"
        return BackendUnavailable(f"{self._url}: {why}; {outcome}", maybe_written=maybe_written)

    async def _connected(self) -> Wire:
        while self._wire is None:
            if self._closed:
                raise Closed(f"the connection to {self._url} is closed")
            await self._news.wait()
        return self._wire

    async def _stay_connected(self) -> None:
        while True:
            try:
                await self._be_connected()
            except (OSError, EOFError, TimeoutError) as error:
                self._trouble = error
            await asyncio.sleep(self._pause)
            self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)

    async def _be_connected(self) -> None:
        async with self._connecting() as wire:
            self._wire, self._trouble, self._pause = wire, None, _FIRST_PAUSE_SECONDS
            self._news.set()
            self.changed(None)
            try:
                await wire.run(self._silence_seconds)
            finally:
                self._wire = None
                self._news.clear()

    @asynccontextmanager
    async def _connecting(self) -> AsyncIterator[Wire]:
        loop = asyncio.get_running_loop()
        reader = _Reader()
        async with asyncio.timeout(self._silence_seconds):
            transport, protocol = await loop.create_connection(
                lambda: asyncio.StreamReaderProtocol(reader), *self._address
            )
        try:
            transport.write(frame(self._hello))
            async with asyncio.timeout(self._silence_seconds):
                welcome: Welcome = await receive(reader)
            ahead = welcome.now - loop.time() * MICROSECONDS
            yield Wire(reader, transport, ahead, self._tell)
        finally:
            transport.abort()
            writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            with suppress(OSError):
                await writer.wait_closed()

    def _tell(self, run_id: str) -> None:
        self.changed(run_id)

    async def close(self) -> None:
        """Disconnect. Whoever waits gets `Closed`, or `BackendUnavailable` for a write that was sent."""
        self._closed = True
        self._task.cancel()
        await asyncio.wait([self._task])
        self._news.set()


@asynccontextmanager
async def connect(url: str, hello: Hello, *, timeout_seconds: float) -> AsyncIterator[Link]:
    """Connect to a server, and disconnect on leaving.

    Raises:
        BackendUnavailable: It does not answer.
    """
    link = Link(url, hello, timeout_seconds)
    try:
        await link.ask(PING)
        yield link
    finally:
        await link.close()
