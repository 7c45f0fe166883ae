"""Subscribers where a server forgets, is busy, changes its role or holds damaged keys: what a review found, mended."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack, aclosing
from typing import Any

import pytest
from redis.exceptions import ResponseError

from deerflow_backends import hub
from deerflow_backends.errors import Corrupt
from deerflow_backends.streams import StreamEvent, StreamGap, StreamOptions
from deerflow_redis import topologies, xread
from deerflow_redis.settings import Tail
from redis_readers import Reader, opened_bridge
from redis_servers import PATIENCE_SECONDS, Server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server for the tests of this file alone, which says soon that it is busy."""
    with Server(config={"busy-reply-threshold": "20"}) as started:
        yield started


tails = pytest.mark.parametrize("tail", ["pubsub", "xread"])


def test_evicted_events_under_a_follower_that_is_behind(server: Server, namespace: str) -> None:
    """Who has not read yet what the server evicted, leaving the head, gets what is ready, one gap and its end (S6)."""

    async def main() -> None:
        options = StreamOptions(max_events=1_000)
        async with (
            opened_bridge(server.url, namespace, options=options) as bridge,
            aclosing(bridge.subscribe("run", heartbeat_interval=600)) as items,  # type: ignore[type-var]  # it has
        ):
            ids = await bridge.publish_many("run", [("n", number) for number in range(1_000)])
            assert await anext(items) == StreamEvent(ids[0], "n", 0)
            server.execute("DEL", f"{namespace}:s:{{run}}:events")
            async with asyncio.timeout(PATIENCE_SECONDS):
                *events, last = [item async for item in items]
            got = [event.id for event in events if isinstance(event, StreamEvent)]
            assert len(got) == len(events) < 999
            assert got == ids[1 : 1 + len(got)]
            assert last == StreamGap(ids[len(got)], None, ids[-1])

    asyncio.run(main())


def _keep_busy(server: Server) -> threading.Thread:
    """Have the server run a script that ends only when it is killed."""

    def run() -> None:
        with server.client() as client, pytest.raises(ResponseError, match="killed"):
            client.eval("while true do end", 0)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def _is_busy(server: Server) -> bool:
    try:
        server.execute("PING")
    except ResponseError as error:
        return str(error).startswith("BUSY")
    return False


@tails
def test_a_busy_server_is_waited_for(server: Server, namespace: str, tail: Tail) -> None:
    """While the server is at somebody else's script calls wait and subscribers stay; then all goes on (G5, S3)."""

    async def main() -> None:
        async with opened_bridge(server.url, namespace, tail=tail) as bridge, Reader(bridge) as reader:
            ids = [await bridge.publish("run", "n", 0)]
            await reader.until_events(1)
            script = _keep_busy(server)
            try:
                server.wait(lambda: _is_busy(server), "until the server is busy")
                async with Reader(bridge, "new") as new, asyncio.TaskGroup() as calls:
                    publishing = [calls.create_task(bridge.publish(run, "n", 1)) for run in ("run", "new")]
                    status = calls.create_task(bridge.status("run"))
                    await asyncio.sleep(0.3)  # so long they are told to come later
                    assert not any(call.done() for call in (*publishing, status))
                    server.execute("SCRIPT", "KILL")
                    ids.append(await publishing[0])
                    await new.until_events(1)
            finally:
                if script.is_alive() and _is_busy(server):
                    server.execute("SCRIPT", "KILL")
                script.join()
            ids.append(await bridge.publish("run", "n", 2))
            await reader.until_events(3)
            assert reader.ids == ids
            assert not reader.error

    asyncio.run(main())


def _follow(replica: Server, primary: Server) -> None:
    replica.execute("REPLICAOF", "127.0.0.1", primary.port)
    replica.wait(lambda: replica.info("replication").get("master_link_status") == "up", "until the replica is in sync")


def test_demoted_and_promoted_while_a_connection_is_idle(namespace: str) -> None:
    """A server that lost an acknowledged event meanwhile gives its id to no other; its readers get a gap (S2, S6)."""
    config = {"repl-diskless-sync-delay": "0"}

    async def main(server: Server, other: Server) -> None:
        async with AsyncExitStack() as stack:
            bridges = [
                await stack.enter_async_context(opened_bridge(server.url, f"{namespace}{tail}", tail=tail))
                for tail in ("pubsub", "xread")
            ]
            readers = [await stack.enter_async_context(Reader(bridge, heartbeat_interval=600)) for bridge in bridges]
            kept = [[await bridge.publish("run", "n", number) for number in range(2)] for bridge in bridges]
            _follow(other, server)
            other.execute("REPLICAOF", "NO", "ONE")
            lost = [await bridge.publish("run", "n", "lost") for bridge in bridges]
            for reader in readers:
                await reader.until_events(3)
            await asyncio.sleep(1.2)  # who the server is was known a second ago at most
            _follow(server, other)
            server.execute("REPLICAOF", "NO", "ONE")
            for bridge, reader, before, gone in zip(bridges, readers, kept, lost, strict=True):
                again = [await bridge.publish("run", "n", name) for name in ("instead", "next")]
                assert gone not in again
                await reader.until(lambda reader: bool(reader.gaps))
                assert reader.ids[:3] == [*before, gone]
                assert reader.gaps[0].requested_event_id == gone
                assert reader.gaps[0].latest_available_event_id in {before[-1], *again}

    with Server(config=config) as server, Server(config=config) as other:
        asyncio.run(main(server, other))


@tails
@pytest.mark.parametrize("damaged", ["head", "events"])
def test_damage_to_one_run(
    server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch, tail: Tail, damaged: str
) -> None:
    """Readers of a run whose keys hold something else are told so; those of other runs go on (G6, S14)."""
    monkeypatch.setattr(hub, "_ROUND_SECONDS", 0.1)
    monkeypatch.setattr(hub, "_STEP_SECONDS", 0.05)

    async def main() -> None:
        async with (
            opened_bridge(server.url, namespace, tail=tail) as bridge,
            Reader(bridge, "good", heartbeat_interval=600) as good,
            Reader(bridge, "bad", heartbeat_interval=600) as bad,
        ):
            await asyncio.gather(*(bridge.publish(run, "n", 0) for run in ("good", "bad")))
            await asyncio.gather(good.until_events(1), bad.until_events(1))
            server.execute("SET", f"{namespace}:s:{{bad}}:{damaged}", b"\xff\xff foreign", "PX", 60_000)
            async with Reader(bridge, "bad", heartbeat_interval=600) as late:
                await late.until_done()
                assert isinstance(late.error, Corrupt)
            if damaged == "head":  # of its events a reader at the tail needs nothing
                await bad.until_done()
                assert isinstance(bad.error, Corrupt)
            async with Reader(bridge, "third", heartbeat_interval=600) as third:
                await asyncio.gather(*(bridge.publish(run, "n", 1) for run in ("good", "third")))
                await asyncio.gather(good.until_events(2), third.until_events(1))
            # What no wake-up tells, a look around still finds.
            server.execute("DEL", f"{namespace}:s:{{good}}:head")
            await good.until_done()
            assert [gap.latest_available_event_id for gap in good.gaps] == [None]
            assert not good.error

    asyncio.run(main())


def test_an_end_while_the_xread_connects(server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers hear an END that is written before the connection for their wake-ups has come about (S3)."""
    monkeypatch.setattr(hub, "_ROUND_SECONDS", 3_600.0)  # no look around finds it
    monkeypatch.setattr(hub, "_STEP_SECONDS", 3_600.0)
    connect = topologies.connect_to_primary

    async def main() -> None:
        may_connect = asyncio.Event()

        async def connect_late(*arguments: Any) -> Any:
            await may_connect.wait()
            return await connect(*arguments)

        async with opened_bridge(server.url, namespace, tail="xread") as other:
            await other.publish("run", "n", 0)
            monkeypatch.setattr(xread, "connect_to_primary", connect_late)
            async with (
                opened_bridge(server.url, namespace, tail="xread") as bridge,
                Reader(bridge, heartbeat_interval=600) as reader,
            ):
                await reader.until_events(1)
                await other.publish_end("run")
                may_connect.set()
                await reader.until_done()
                assert reader.ended

    asyncio.run(main())
