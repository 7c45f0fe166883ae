"""The fault proxy: each switch does to a real server's connections what it says, and nothing is left behind."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest

from deerflow_conformance.proxies import Proxy, proxy

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Echo:
    """A server that gives each line back, and remembers what it got."""

    port: int = 0
    got: list[bytes] = field(default_factory=list)
    serving: int = 0
    ended: list[type[BaseException] | None] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        outcome: type[BaseException] | None = None
        self.serving += 1
        try:
            while line := await reader.readline():
                self.got.append(line)
                writer.write(line)
        except ConnectionError as error:
            outcome = type(error)
        self.ended.append(outcome)
        self.serving -= 1
        writer.close()


def proxied(body: Callable[[Proxy, Echo], Awaitable[None]]) -> None:
    """Run *body* with a proxy before an echo server; afterwards no task and no handle may be left."""
    tasks_left: set[str] = set()

    async def run() -> None:
        echo = Echo()
        server = await asyncio.start_server(echo.serve, "127.0.0.1", 0, limit=1 << 23)
        echo.port = server.sockets[0].getsockname()[1]
        async with server:
            async with asyncio.timeout(30), proxy("127.0.0.1", echo.port) as disturbed:
                await body(disturbed, echo)
            names = {str(task.get_coro()) for task in asyncio.all_tasks() if task is not asyncio.current_task()}
            tasks_left.update(name for name in names if "Echo" not in name)
            await until(lambda: echo.serving == 0)

    handles = open_handles()
    asyncio.run(run())
    assert tasks_left == set()
    assert open_handles() == handles


def open_handles() -> int:
    return len(os.listdir("/proc/self/fd"))


@asynccontextmanager
async def connected(disturbed: Proxy) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection(disturbed.host, disturbed.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def say(streams: Streams, line: bytes) -> bytes:
    """Send *line* and return the answer: nothing where the connection came to its end."""
    streams[1].write(line)
    return await streams[0].readline()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


async def stays_silent(reader: asyncio.StreamReader) -> bool:
    """Say whether nothing comes, not even an end, within a time in which everything here would have come."""
    try:
        await asyncio.wait_for(reader.read(1), 0.1)
    except TimeoutError:
        return True
    return False


def test_passes_everything_on_both_ways_and_counts() -> None:
    """Undisturbed, every byte arrives in both directions, and connections made and open are counted."""

    async def body(disturbed: Proxy, echo: Echo) -> None:
        large = os.urandom(3_000_000).replace(b"\n", b"-")
        async with connected(disturbed) as (reader, writer), connected(disturbed) as other:
            writer.write(large + b"\n")
            assert await reader.readexactly(len(large) + 1) == large + b"\n"
            assert await say(other, b"hello\n") == b"hello\n"
            assert (disturbed.made, disturbed.open) == (2, 2)
        await until(lambda: disturbed.open == 0)
        assert disturbed.made == 2

    proxied(body)


def test_ends_are_passed_on() -> None:
    """A client that has finished sending still gets its answers, then the end; so each side sees the other's end."""

    async def body(disturbed: Proxy, echo: Echo) -> None:
        async with connected(disturbed) as (reader, writer):
            writer.write(b"last\n")
            writer.write_eof()
            assert await reader.read() == b"last\n"
        await until(lambda: disturbed.open == 0)
        assert echo.ended == [None]

    proxied(body)


def test_url_names_the_proxy_and_keeps_the_rest() -> None:
    """Only host and port of a URL are replaced."""

    async def body(disturbed: Proxy, echo: Echo) -> None:
        place = f"127.0.0.1:{disturbed.port}"
        assert disturbed.url("redis://me:p%40ss@db.example:6379/3?a=b") == f"redis://me:p%40ss@{place}/3?a=b"
        assert disturbed.url("redis://localhost") == f"redis://{place}"

    proxied(body)


def test_refuse_turns_new_connections_away_and_keeps_present_ones() -> None:
    """While it refuses, connecting fails as with no server there; the same port accepts again afterwards."""

    async def body(disturbed: Proxy, echo: Echo) -> None:
        async with connected(disturbed) as present:
            assert await say(present, b"1\n") == b"1\n"
            disturbed.refuse()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(disturbed.host, disturbed.port)
            assert await say(present, b"2\n") == b"2\n"
            disturbed.accept()
            async with connected(disturbed) as new:
                assert await say(new, b"3\n") == b"3\n"
            assert disturbed.made == 2

    proxied(body)


def test_cut_resets_both_sides_of_every_connection() -> None:
    """Both the client and the server get an error on each connection, and new connections work."""

    async def body(disturbed: Proxy, echo: Echo) -> None:
        async with connected(disturbed) as one, connected(disturbed) as two:
            for streams in (one, two):
                await say(streams, b"x\n")
            disturbed.cut()
            for reader, _ in (one, two):
                with pytest.raises(ConnectionResetError):
                    await reader.read()
            await until(lambda: len(echo.ended) == 2)
            assert echo.ended == [ConnectionResetError] * 2
            assert disturbed.open == 0
        async with connected(disturbed) as new:
            assert await say(new, b"y\n") == b"y\n"

    proxied(body)


def test_hold_loses_nothing() -> None:
    """What is sent while it holds, on old and new connections, in either direction, arrives when it is released."""

    async def body(disturbed: Proxy, echo: Echo) -> None:
        async with connected(disturbed) as present, connected(disturbed) as other:
            await say(present, b"1\n")
            disturbed.hold()
            present[1].write(b"2\n")
            other[1].write(b"3\n")
            other[1].write_eof()
            assert await stays_silent(present[0])
            assert echo.got == [b"1\n"]
            disturbed.release()
            assert await present[0].readline() == b"2\n"
            assert await other[0].read() == b"3\n"

    proxied(body)


def test_half_open_swallows_everything_and_closes_nothing() -> None:
    """Neither side hears anything of the other, not even that it is gone, until the connection is cut."""

    async def body(disturbed: Proxy, echo: Echo) -> None:
        async with connected(disturbed) as leaving:
            await say(leaving, b"1\n")
            async with connected(disturbed) as present:
                await say(present, b"2\n")
                disturbed.half_open()
                present[1].write(b"lost\n")
                leaving[1].transport.abort()
                async with connected(disturbed) as new:
                    new[1].write(b"lost\n")
                    assert await stays_silent(present[0])
                    assert await stays_silent(new[0])
                    assert (echo.got, echo.ended) == ([b"1\n", b"2\n"], [])
                    disturbed.release()
                    present[1].write(b"lost\n")
                    assert await stays_silent(present[0])
                    async with connected(disturbed) as newest:
                        assert await say(newest, b"3\n") == b"3\n"
                    disturbed.cut()
                    for reader, _ in (present, new):
                        with pytest.raises(ConnectionResetError):
                            await reader.read()
        assert echo.got == [b"1\n", b"2\n", b"3\n"]

    proxied(body)


def test_lose_reply_delivers_the_request_and_loses_the_answer() -> None:
    """The server did what was asked once; the client sees its connection end and no answer; the next works."""

    async def body(disturbed: Proxy, echo: Echo) -> None:
        async with connected(disturbed) as streams, connected(disturbed) as other:
            assert await say(streams, b"set a\n") == b"set a\n"
            struck = disturbed.lose_reply(b"set b")
            assert await say(other, b"get b\n") == b"get b\n"
            streams[1].write(b"se")
            await asyncio.sleep(0.01)
            assert await say(streams, b"t b" + b"." * 50_000 + b"\n") == b""
            assert struck.is_set()
            assert echo.got[-1].startswith(b"set b")
            assert await say(other, b"set b\n") == b"set b\n"

    proxied(body)


def test_lose_request_keeps_the_request_from_the_server() -> None:
    """The server never sees what was asked; the client sees its connection end; the next request works."""

    async def body(disturbed: Proxy, echo: Echo) -> None:
        async with connected(disturbed) as streams:
            await say(streams, b"before set b\n")
            struck = disturbed.lose_request(b"set b")
            assert await say(streams, b"set b\n") == b""
            assert struck.is_set()
            await until(lambda: disturbed.open == 0)
        async with connected(disturbed) as new:
            assert await say(new, b"set b\n") == b"set b\n"
        assert echo.got == [b"before set b\n", b"set b\n"]

    proxied(body)


def test_a_match_that_cannot_be_found_is_refused() -> None:
    """A fault that would never strike is a mistake of the test."""

    async def body(disturbed: Proxy, echo: Echo) -> None:
        with pytest.raises(ValueError, match="match must be at most 4096 bytes, not 5000"):
            disturbed.lose_reply(b"x" * 5000)

    proxied(body)


def test_an_empty_match_is_any_request() -> None:
    """The next request of all is the one whose answer is lost; what was taken back is not."""

    async def body(disturbed: Proxy, echo: Echo) -> None:
        async with connected(disturbed) as streams, connected(disturbed) as other:
            disturbed.lose_request(b"")
            disturbed.forget_losses()
            assert await say(streams, b"set a\n") == b"set a\n"
            struck = disturbed.lose_reply(b"")
            assert await say(streams, b"set b\n") == b""
            assert struck.is_set()
            assert echo.got == [b"set a\n", b"set b\n"]
            assert await say(other, b"set c\n") == b"set c\n"

    proxied(body)


def test_throttled_everything_arrives_late() -> None:
    """What a throttled connection passes on comes piece by piece and whole, the rest at once after the release."""

    async def body(disturbed: Proxy, echo: Echo) -> None:
        line = os.urandom(40_000).replace(b"\n", b"-") + b"\n"
        async with connected(disturbed) as (reader, writer):
            disturbed.throttle(100_000)
            writer.write(line)
            first = await reader.read(1 << 20)
            assert 0 < len(first) <= 10_000
            disturbed.release()
            assert first + await reader.readexactly(len(line) - len(first)) == line
            with pytest.raises(ValueError, match="bytes_per_second must be more than 0, not 0"):
                disturbed.throttle(0)

    proxied(body)


def test_a_server_that_is_not_there_resets_its_clients() -> None:
    """With no server behind the proxy a client gets an error, and gets through once the server is there."""

    async def run() -> None:
        with socket.socket() as unheard:
            unheard.bind(("127.0.0.1", 0))
            port = unheard.getsockname()[1]
            async with asyncio.timeout(30), proxy("localhost", port) as disturbed:
                async with connected(disturbed) as (reader, _):
                    with pytest.raises(ConnectionResetError):
                        await reader.read()
                unheard.listen()
                async with connected(disturbed):
                    await until(lambda: disturbed.made == 2)
                    assert disturbed.open == 1

    asyncio.run(run())


def test_leaving_resets_what_is_open_in_whatever_state() -> None:
    """Held, half-open or just accepted: when the proxy is left, each client gets an error, and nothing stays."""

    async def run() -> None:
        async with AsyncExitStack() as clients:
            readers = []
            async with proxy("127.0.0.1", port) as disturbed:
                for switch in (disturbed.hold, disturbed.half_open, disturbed.release):
                    switch()
                    reader, _ = await clients.enter_async_context(connected(disturbed))
                    readers.append(reader)
                disturbed.hold()
                await until(lambda: disturbed.made == 3)
            for reader in readers:
                with pytest.raises(ConnectionResetError):
                    await reader.read()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        unheard.listen()
        port = unheard.getsockname()[1]
        handles = open_handles()
        asyncio.run(run())
        assert open_handles() == handles
