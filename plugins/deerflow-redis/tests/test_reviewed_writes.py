"""Writes whose replies are lost, that never go out, or over which a bridge is closed: what a review found, mended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from deerflow_backends.errors import BackendUnavailable, Closed
from deerflow_backends.streams import StreamBridge, StreamOptions
from redis_readers import Reader, opened_bridge, proxied
from redis_servers import PATIENCE_SECONDS, Server


def stored(server: Server, namespace: str) -> list[Any]:
    """The data of the run's events at the server, each of the name n."""
    entries = server.execute("XRANGE", f"{namespace}:s:{{run}}:events", "-", "+")
    return [fields[b"n"] for _, fields in entries]


async def until(condition: Callable[[], bool]) -> None:
    """Look until *condition* holds."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


async def outcome(write: asyncio.Task[str]) -> str | Exception:
    try:
        return await write
    except Exception as error:
        return error


def test_a_lost_reply_is_stored_once_though_another_kept_calls_for_less(server: Server, namespace: str) -> None:
    """A call is remembered as long as its own producer may repeat it, whatever others' publish timeouts are (S16)."""

    async def main() -> None:
        async with (
            proxied(server) as (between, url),
            opened_bridge(url, namespace, publish_timeout_seconds=3_600) as patient,
            opened_bridge(server.url, namespace, publish_timeout_seconds=0.5) as hasty,
        ):
            await patient.publish("run", "n", 0)
            lost = between.lose_reply(b'"once"')
            publishing = asyncio.create_task(patient.publish("run", "n", "once"))
            await lost.wait()
            between.refuse()
            following = [await hasty.publish("run", "n", number) for number in (1, 2)]
            assert server.execute("PTTL", f"{namespace}:s:{{run}}:tokens") > 1_800_000
            between.accept()
            once = await publishing
            assert once not in following
            assert stored(server, namespace) == [b"0", b'"once"', b"1", b"2"]

    asyncio.run(main())


def test_a_lost_reply_is_stored_once_though_another_let_the_head_go(server: Server, namespace: str) -> None:
    """A call is remembered also when another replica, with a shorter ttl, cleaned the run up meanwhile (S16)."""

    async def main() -> None:
        async with (
            proxied(server) as (between, url),
            opened_bridge(url, namespace) as bridge,
            opened_bridge(server.url, namespace, options=StreamOptions(ttl_seconds=0.3)) as cleaning,
        ):
            await bridge.publish("run", "n", 0)
            await cleaning.cleanup("run", delay=0.3)
            lost = between.lose_reply(b'"once"')
            publishing = asyncio.create_task(bridge.publish("run", "n", "once"))
            await lost.wait()
            between.refuse()
            async with Reader(cleaning, heartbeat_interval=600) as reader:
                await reader.until_events(2)
                await until(lambda: not server.execute("EXISTS", f"{namespace}:s:{{run}}:head"))
                between.accept()
                assert await publishing == reader.ids[1]
                assert not await bridge.stream_exists("run")
                assert reader.data == [0, "once"]

    asyncio.run(main())


def test_a_lost_reply_and_then_a_refusal(server: Server, namespace: str) -> None:
    """A write that was done, and is refused when it is repeated, is said to be one that may have happened (G5)."""
    server.execute("ACL", "SETUSER", "u", "on", ">before", "~*", "&*", "+@all")

    async def main() -> None:
        async with (
            proxied(server) as (between, url),
            opened_bridge(url.replace("redis://", "redis://u:before@"), namespace) as bridge,
        ):
            await bridge.publish("run", "n", 0)
            lost = between.lose_reply(b'"once"')
            publishing = asyncio.create_task(bridge.publish("run", "n", "once"))
            await lost.wait()
            server.execute("ACL", "SETUSER", "u", "<before", ">after")
            with pytest.raises(BackendUnavailable) as caught:
                await publishing
            assert caught.value.maybe_written
        assert stored(server, namespace) == [b"0", b'"once"']

    try:
        asyncio.run(main())
    finally:
        server.execute("ACL", "DELUSER", "u")


async def publish_three(bridge: StreamBridge) -> list[asyncio.Task[str]]:
    """Publish one event, and two more that wait for it."""
    first = asyncio.create_task(bridge.publish("run", "n", 1))
    await asyncio.sleep(0.05)
    behind = [asyncio.create_task(bridge.publish("run", "n", number)) for number in (2, 3)]
    await asyncio.sleep(0.05)
    return [first, *behind]


def test_closing_drains_what_was_accepted(server: Server, namespace: str) -> None:
    """Writes on the way when the bridge is closed, and those behind them, are done if that is soon (G9)."""

    async def main() -> None:
        async with opened_bridge(server.url, namespace, timeout_seconds=PATIENCE_SECONDS) as bridge:
            await bridge.publish("run", "n", 0)
            server.pause()
            asyncio.get_running_loop().call_later(0.3, server.resume)
            publishing = await publish_three(bridge)
        ids = await asyncio.gather(*publishing)
        assert len(set(ids)) == 3
        assert stored(server, namespace) == [b"0", b"1", b"2", b"3"]

    asyncio.run(main())


@pytest.mark.parametrize("ahead", [False, True], ids=["alone", "behind another"])
def test_closing_tells_what_was_sent(server: Server, namespace: str, ahead: bool) -> None:
    """No write that the server got is said to have been closed over, however the closing falls (G5, G9)."""

    async def main() -> None:
        async with opened_bridge(server.url, namespace, timeout_seconds=0.3, publish_timeout_seconds=20) as bridge:
            await bridge.publish("run", "n", 0)
            if ahead:  # what waits behind the first is then sent by a task of the publisher's
                first = asyncio.create_task(bridge.publish("run", "n", 4))
                await asyncio.sleep(0)
                behind = [asyncio.create_task(bridge.publish("run", "n", 5))]
                await first
            server.pause()
            publishing = await publish_three(bridge)
        outcomes = dict(zip((b"1", b"2", b"3"), [await outcome(one) for one in publishing], strict=True))
        server.resume()
        await asyncio.sleep(0.1)
        if ahead:
            outcomes[b"5"] = await outcome(behind[0])
        there = stored(server, namespace)
        maybe = [data for data, one in outcomes.items() if isinstance(one, BackendUnavailable) and one.maybe_written]
        assert maybe
        for data, result in outcomes.items():
            if isinstance(result, str):
                assert data in there
            elif data not in maybe:
                assert isinstance(result, Closed | BackendUnavailable)
                assert data not in there

    try:
        asyncio.run(main())
    finally:
        server.resume()


def test_writes_that_were_never_sent(namespace: str) -> None:
    """While the server is away all the time, each call says that it was not written, whatever it waited for (G5)."""

    async def main(server: Server) -> None:
        async with opened_bridge(server.url, namespace, timeout_seconds=0.3, publish_timeout_seconds=0.5) as bridge:
            await bridge.publish("run", "n", 0)
            server.kill()
            await asyncio.sleep(0.1)

            async def publish_later(number: int) -> str:
                await asyncio.sleep(number * 0.15)
                return await bridge.publish("run", "n", number)

            publishing = [asyncio.create_task(publish_later(number)) for number in range(6)]
            for result in [await outcome(one) for one in publishing]:
                assert isinstance(result, BackendUnavailable)
                assert not result.maybe_written

    with Server() as server:
        asyncio.run(main(server))
