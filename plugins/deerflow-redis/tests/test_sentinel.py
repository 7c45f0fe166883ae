"""A primary and a replica that sentinels watch: what goes on through failovers, and what is told of what they lose."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from deerflow_backends import HEARTBEAT_SENTINEL, BackendUnavailable, ConfigError, StreamEvent, StreamGap
from deerflow_redis.settings import Tail
from redis_histories import Reader, Writer, history_of, judge, opened, until
from redis_servers import HOST, Sentinels, Server


def via(sentinels: Sentinels, **further: Any) -> dict[str, Any]:
    """Return the settings that lead through *sentinels*."""
    return {
        "url": f"redis://{HOST}:{sentinels.sentinels[0].port}",
        "topology": "sentinel",
        "nodes": sentinels.nodes,
        "sentinel_service": sentinels.service,
        **further,
    }


def in_sync(sentinels: Sentinels, primary: Server) -> None:
    """Have the replica receive all that was written so far."""
    primary.execute("SET", "sync", 1, "PX", 60_000)
    assert primary.info("replication")["connected_slaves"] == 1
    offset = primary.info("replication")["master_repl_offset"]
    other = sentinels.replica if primary is sentinels.primary else sentinels.primary
    other.wait(lambda: bool(other.info("replication")["slave_repl_offset"] >= offset), "until the replica is in sync")


@pytest.mark.drivers
@pytest.mark.parametrize("tail", ["pubsub", "xread"])
def test_everything_goes_on_through_failovers(valkey_sentinels: Sentinels, tail: Tail) -> None:
    """S3, S16, G11: killed while events flow, the primary's replica takes over with the same objects here.

    No call fails, nothing that it had is lost, nothing comes twice; and again when the former primary, back as a
    replica, takes over in turn.
    """
    sentinels = valkey_sentinels

    async def run() -> None:
        async with opened(**via(sentinels, tail=tail)) as (_, bridge):
            writers = [Writer(bridge, f"run {number}") for number in range(4)]
            readers = [[Reader(bridge, writer.run_id), Reader(bridge, writer.run_id)] for writer in writers]
            for writer in writers:
                await writer.goes_on()
            sentinels.primary.kill()
            await asyncio.to_thread(sentinels.wait_until_promoted)
            for writer in writers:
                await writer.goes_on()
            sentinels.primary.start()
            await asyncio.to_thread(sentinels.wait_until_in_sync, sentinels.primary)
            await asyncio.to_thread(sentinels.hand_over, sentinels.primary)
            for writer in writers:
                await writer.goes_on()
            for writer, pair in zip(writers, readers, strict=True):
                await writer.finish()
                for reader in pair:
                    await reader.ends()
                judge(await history_of(bridge, writer.run_id), writer, pair)

    asyncio.run(run())


def test_what_a_failover_loses_is_a_gap_and_no_id_comes_again(valkey_sentinels: Sentinels) -> None:
    """S2, S6: where the promoted replica lacks acknowledged events their ids name no others.

    Readers of the lost ones get a gap however much came in their places, others go on; a cursor of a lost one is a gap.
    """
    sentinels = valkey_sentinels
    runs = ["fewer", "as many", "more", "ended"]

    async def run() -> None:
        async with opened(**via(sentinels)) as (_, bridge):
            lost: dict[str, list[str]] = {}
            kept: dict[str, list[str]] = {}
            for name in [*runs, "kept"]:
                kept[name] = [await bridge.publish(name, "e", f"{number} kept") for number in range(3)]
            in_sync(sentinels, sentinels.primary)
            readers = {name: Reader(bridge, name) for name in [*runs, "kept"]}
            slow = bridge.subscribe("more", heartbeat_interval=60)
            for name in runs:
                await readers[name].has(3)
            sentinels.detach_replica()
            for name in runs:
                lost[name] = [await bridge.publish(name, "e", f"{number} lost") for number in range(2)]
            for name in runs:
                await readers[name].has(5)
            assert [await _next_id(slow) for _ in range(5)] == [*kept["more"], *lost["more"]]
            tail = bridge.subscribe("more", last_event_id="-1", heartbeat_interval=0.2)
            assert await anext(tail) is HEARTBEAT_SENTINEL
            sentinels.primary.kill()
            sentinels.replica.resume()
            await asyncio.to_thread(sentinels.wait_until_promoted)

            instead: dict[str, list[str]] = {}
            for name, count in {"fewer": 1, "as many": 2, "more": 4, "ended": 2, "kept": 1}.items():
                instead[name] = [await bridge.publish(name, "e", f"{number} new") for number in range(count)]
                assert not set(instead[name]) & {*kept[name], *lost.get(name, ())}
                seqs = [int(one.partition("-")[2]) for one in [*kept[name], *instead[name]]]
                assert seqs == list(range(1, 4 + count))
                await bridge.publish_end(name)
            late = await anext(slow)
            assert isinstance(late, StreamGap)
            assert late.requested_event_id == lost["more"][-1]
            at_tail = await _next(tail)
            assert isinstance(at_tail, StreamGap) or at_tail.id == instead["more"][0]
            for name, reader in readers.items():
                await reader.ends()
                gaps = [gap.requested_event_id for gap in reader.gaps]
                assert gaps == ([] if name == "kept" else [lost[name][-1]])
                if name == "kept":
                    assert [one for one, _ in reader.events] == [*kept[name], *instead[name]]
            for name in runs:
                for one in lost[name]:
                    again = bridge.subscribe(name, last_event_id=one)
                    assert await anext(again) == StreamGap(one, kept[name][0], instead[name][-1])
                resumed = Reader(bridge, name, kept[name][-1])
                await resumed.ends()
                assert [one for one, _ in resumed.events] == instead[name]

    asyncio.run(run())


def test_who_read_what_is_lost_learns_it_though_nothing_is_published(valkey_sentinels: Sentinels) -> None:
    """S6: a reader whose last event the promoted replica lacks gets a gap also where the run stays as it is."""
    sentinels = valkey_sentinels

    async def run() -> None:
        async with opened(**via(sentinels)) as (_, bridge):
            kept = [await bridge.publish("shorter", "e", number) for number in range(2)]
            in_sync(sentinels, sentinels.primary)
            shorter, gone = (bridge.subscribe(name) for name in ("shorter", "gone"))
            sentinels.detach_replica()
            lost = [await bridge.publish(name, "e", 2) for name in ("shorter", "gone")]
            assert [await _next_id(shorter) for _ in range(3)] == [*kept, lost[0]]
            assert await _next_id(gone) == lost[1]
            sentinels.primary.kill()
            sentinels.replica.resume()
            async with asyncio.timeout(30):
                assert await _next(shorter) == StreamGap(lost[0], kept[0], kept[1])
                assert await _next(gone) == StreamGap(lost[1], None, None)

    asyncio.run(run())


def test_what_replicas_must_have_is_not_acknowledged_without_them(valkey_sentinels: Sentinels) -> None:
    """`wait_replicas: 1`: what the promoted replica lacks was acknowledged to nobody, and is written after all."""
    sentinels = valkey_sentinels

    async def run() -> None:
        async with (
            opened(**via(sentinels, wait_replicas=1)) as (connection, bridge),
            opened(
                **via(sentinels, wait_replicas=1, timeout_seconds=0.5, publish_timeout_seconds=1.5),
                namespace=connection.namespace,
            ) as (
                _,
                hurried,
            ),
        ):
            kept = [await bridge.publish("run", "e", number) for number in range(3)]
            sentinels.detach_replica()
            waiting = asyncio.create_task(bridge.publish("run", "e", "waits"))
            with pytest.raises(BackendUnavailable, match="0 of 1 replicas") as caught:
                await hurried.publish("other", "e", "given up")
            assert caught.value.maybe_written
            assert not waiting.done()
            sentinels.primary.kill()
            sentinels.replica.resume()
            await asyncio.to_thread(sentinels.wait_until_promoted)
            assert not waiting.done()
            sentinels.primary.start()
            last = await waiting
            await bridge.publish_end("run")
            history = await history_of(bridge, "run")
            assert history == [*((one, number) for number, one in enumerate(kept)), (last, "waits")]

    asyncio.run(run())


def test_a_repeated_call_waits_for_replicas_anew(valkey_sentinels: Sentinels) -> None:
    """`wait_replicas: 1`: a write repeated over another connection, which finds it done, still waits for a replica."""
    sentinels = valkey_sentinels

    async def run() -> None:
        async with opened(**via(sentinels, wait_replicas=1)) as (_, bridge):
            first = await bridge.publish("run", "e", "kept")
            sentinels.replica.pause()  # its connection stays: for the primary it is a good replica
            waiting = asyncio.create_task(bridge.publish("run", "e", "repeated"))
            await until(lambda: bool(sentinels.primary.info("clients")["blocked_clients"]), "the write waits")
            sentinels.primary.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await until(lambda: bool(sentinels.primary.info("clients")["blocked_clients"]), "it waits again")
            await asyncio.sleep(0.1)
            assert not waiting.done()
            sentinels.replica.resume()
            assert int((await waiting).partition("-")[2]) == 2
            await bridge.publish_end("run")
            assert [one for one, _ in await history_of(bridge, "run")] == [first, waiting.result()]

    asyncio.run(run())


def test_a_primary_that_takes_over_again_is_another(valkey_sentinels: Sentinels) -> None:
    """S2: after two failovers the first primary, never restarted, gives no id again that it gave and lost."""
    sentinels = valkey_sentinels

    async def run() -> None:
        async with opened(**via(sentinels)) as (_, bridge):
            kept = [await bridge.publish("run", "e", number) for number in range(3)]
            in_sync(sentinels, sentinels.primary)
            sentinels.detach_replica()
            lost = [await bridge.publish("run", "e", number) for number in range(3, 6)]
            process = sentinels.primary.info("server")["run_id"]
            sentinels.primary.pause()
            sentinels.replica.resume()
            sentinels.replica.wait(
                lambda: sentinels.replica.info("replication")["role"] == "master", "until the replica is promoted"
            )
            sentinels.primary.resume()
            await asyncio.to_thread(sentinels.wait_until_promoted)
            await asyncio.to_thread(sentinels.wait_until_in_sync, sentinels.primary)
            await asyncio.to_thread(sentinels.hand_over, sentinels.primary)
            assert sentinels.primary.info("server")["run_id"] == process
            new = await bridge.publish("run", "e", "new")
            assert int(new.partition("-")[2]) == 4
            assert new not in lost
            await bridge.publish_end("run")
            assert [one for one, _ in await history_of(bridge, "run")] == [*kept, new]

    asyncio.run(run())


@pytest.fixture(scope="module")
def guarded() -> Iterator[Sentinels]:
    """A primary and a replica, watched by one sentinel that asks for a password."""
    with Sentinels(1, sentinel_config={"requirepass": "secret"}) as sentinels:
        yield sentinels


@pytest.mark.drivers
def test_sentinels_are_asked_and_left(guarded: Sentinels) -> None:
    """S15: with their password sentinels tell where the primary is; no connection to them is kept."""

    def strangers() -> list[str]:
        sentinel = guarded.sentinels[0]
        with sentinel.client() as client:
            me = client.client_id()
            return [one["addr"] for one in client.client_list() if int(one["id"]) != me]

    async def run() -> None:
        before = strangers()
        async with opened(**via(guarded, sentinel_password="secret")) as (connection, bridge):
            published = await bridge.publish("run", "e", 1)
            assert await _next_id(bridge.subscribe("run")) == published
            await bridge.publish_end("run")
            await until(lambda: strangers() == before, "no connection to the sentinel is left")
            names = [one["name"] for one in guarded.primary.client().client_list()]
            assert names.count(f"deerflow-{connection.namespace}") <= 4

    asyncio.run(run())


@pytest.mark.parametrize("password", [None, "another"])
def test_a_wrong_password_of_sentinels_is_named(guarded: Sentinels, password: str | None) -> None:
    """G6: sentinels that refuse the password, or miss one, are a mistake in the configuration that says so."""

    async def run() -> None:
        with pytest.raises(ConfigError, match="sentinel_password"):
            async with opened(**via(guarded, sentinel_password=password)):
                pass

    asyncio.run(run())


def test_an_unknown_service_is_named(guarded: Sentinels) -> None:
    """G6: a service that no sentinel watches is a mistake in the configuration that says so."""

    async def run() -> None:
        with pytest.raises(ConfigError, match=r"sentinel_service.*'nobody'"):
            async with opened(**via(guarded, sentinel_password="secret", sentinel_service="nobody")):
                pass

    asyncio.run(run())


def test_a_replica_is_no_server_of_its_own(guarded: Sentinels) -> None:
    """G6: with the address of a replica nothing opens, and the error says what is there."""

    async def run() -> None:
        with pytest.raises(BackendUnavailable, match="replica"):
            async with opened(guarded.replica.url, timeout_seconds=0.5):
                pass

    asyncio.run(run())


async def _next(iterator: Any) -> Any:
    while True:
        item = await anext(iterator)
        if item is not HEARTBEAT_SENTINEL:
            return item


async def _next_id(iterator: Any) -> str:
    item = await _next(iterator)
    assert isinstance(item, StreamEvent)
    return item.id
