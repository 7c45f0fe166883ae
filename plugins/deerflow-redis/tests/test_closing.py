"""Closing and cancelling while calls are under way and the server does not answer."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, aclosing
from typing import Any

import pytest

from deerflow_backends import NewThread, PutFact
from deerflow_backends.errors import BackendUnavailable, Closed
from deerflow_redis.settings import Tail
from redis_readers import Capabilities, opened, proxied
from redis_servers import PATIENCE_SECONDS, Server

tails = pytest.mark.parametrize("tail", ["pubsub", "xread"])


async def wait_for_item(to: Capabilities, run_id: str) -> object:
    async with aclosing(to.bridge.subscribe(run_id, heartbeat_interval=600)) as items:  # type: ignore[type-var]  # it has
        return await anext(items)


#: A call of each kind; some are answered from what others wait for.
CALLS: list[Callable[[Capabilities], Coroutine[Any, Any, object]]] = [
    lambda to: to.bridge.publish("run", "n", 1),
    lambda to: to.bridge.publish("run", "n", 2),
    lambda to: to.bridge.publish_many("run", [("n", 3)]),
    lambda to: to.bridge.publish_end("other"),
    lambda to: to.bridge.cleanup("third"),
    lambda to: to.bridge.status("run"),
    lambda to: wait_for_item(to, "run"),
    lambda to: wait_for_item(to, "new"),
    lambda to: to.bridge.ping(),
    lambda to: to.memory.apply("ada", [PutFact(None, "f", {})]),
    lambda to: to.memory.load("ada"),
    lambda to: to.threads.create(NewThread("t", "ada")),
    lambda to: to.threads.list("ada"),
    lambda to: to.counters.record("m", calls=1),
    lambda to: to.counters.all_totals(),
]


def others() -> set[asyncio.Task[Any]]:
    """The tasks besides the one that asks."""
    return asyncio.all_tasks() - {asyncio.current_task()}


@tails
@pytest.mark.parametrize("away", ["paused", "killed", "there"])
def test_closing_with_calls_under_way(server: Server, namespace: str, tail: Tail, away: str) -> None:
    """Leaving takes no longer than calls may, ends each call by an error or its result, and leaves no task (G9)."""

    async def main() -> None:
        before = others()
        async with AsyncExitStack() as stack:
            to = await stack.enter_async_context(opened(server.url, namespace, tail=tail, timeout_seconds=1))
            await asyncio.gather(to.bridge.publish("run", "n", 0), to.memory.load("ada"))
            waiting = asyncio.create_task(wait_for_item(to, "silent"))
            await asyncio.sleep(0.05)
            if away == "paused":
                server.pause()
            elif away == "killed":
                server.kill()
            try:
                calls = [asyncio.create_task(call(to)) for call in CALLS]
                await asyncio.sleep(0.05)
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await stack.aclose()
                    results = await asyncio.gather(waiting, *calls, return_exceptions=True)
            finally:
                if away == "paused":
                    server.resume()
                elif away == "killed":
                    server.start()
        for result in results:
            if isinstance(result, BaseException):
                assert isinstance(result, Closed | BackendUnavailable), repr(result)
        assert isinstance(results[0], Closed)
        if away != "there":
            assert all(isinstance(result, Exception) for result in results[1:7])
        assert others() <= before
        for call in CALLS:
            with pytest.raises(Closed):
                await call(to)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(main())


@tails
def test_cancelled_calls(server: Server, namespace: str, tail: Tail) -> None:
    """Whatever is cancelled while the server does not answer, all works afterwards, and no task is left (G8)."""

    async def main() -> None:
        async with opened(server.url, namespace, tail=tail, timeout_seconds=5) as to:
            await to.bridge.publish("run", "n", 0)
            await to.ping()
            await asyncio.sleep(0.1)
            before = others()
            for round_number in range(5):
                server.pause()
                try:
                    calls = [asyncio.create_task(call(to)) for call in CALLS]
                    for _ in range(round_number * 3):
                        await asyncio.sleep(0)
                    for call in calls:
                        call.cancel()
                    results = await asyncio.gather(*calls, return_exceptions=True)
                    assert all(isinstance(result, asyncio.CancelledError) for result in results)
                finally:
                    server.resume()
                ids = [await to.bridge.publish("run", "n", number) for number in range(3)]
                assert len(set(ids)) == 3
                await to.memory.apply("ada", [PutFact(None, f"f{round_number}", {})])
                await to.counters.all_totals()
                await to.ping()
            memory = await to.memory.load("ada")
            assert {f"f{number}" for number in range(5)} <= {fact.fact_id for fact in memory.facts}
            assert (await to.counters.totals("m")).calls <= 5
            async with asyncio.timeout(PATIENCE_SECONDS):
                while others() - before:
                    await asyncio.sleep(0.01)

    asyncio.run(main())


@tails
def test_closing_leaves_no_connection(server: Server, namespace: str, tail: Tail) -> None:
    """A closed connection, and one that could not be opened, are gone at the server too (G9)."""

    async def main() -> None:
        async with proxied(server) as (between, url):
            async with opened(url, namespace, tail=tail, timeout_seconds=1) as to:
                await to.bridge.publish("run", "n", 0)
                assert between.open >= 3
            between.hold()
            with pytest.raises(BackendUnavailable):
                async with opened(url, namespace, tail=tail, timeout_seconds=1):
                    pass
            between.release()
            async with asyncio.timeout(PATIENCE_SECONDS):
                while between.open:
                    await asyncio.sleep(0.01)

    asyncio.run(main())
