"""A cluster: its nodes share the runs, slots move, nodes die and come back, and whoever reads or writes goes on."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from redis.crc import key_slot

import deerflow_redis
from deerflow_backends import ConfigError, NewThread, PutFact, StreamBridge, load_configuration
from deerflow_backends.backends import plan
from deerflow_backends.binding import Binding
from deerflow_backends.cursors import Read
from deerflow_backends.hub import Hub
from deerflow_backends.streams import StreamOptions
from deerflow_redis.layout import StreamKeys, encoded
from deerflow_redis.pubsub import PubSubTail
from redis_histories import Reader, Writer, history_of, judge, opened, until
from redis_servers import HOST, Cluster, Server


def slot_of(run_id: str) -> int:
    return int(key_slot(encoded(run_id)))


def runs_at(node: Server) -> Iterator[str]:
    """Make names of runs whose slots are at *node*."""
    ranges = [(first, last) for first, last, owner, *_ in node.execute("CLUSTER", "SLOTS") if owner[1] == node.port]
    for number in itertools.count():
        if any(first <= slot_of(f"run {number}") <= last for first, last in ranges):
            yield f"run {number}"


def spread(cluster: Cluster, count: int) -> list[list[str]]:
    """Name *count* runs for each of the primaries."""
    return [list(itertools.islice(runs_at(node), count)) for node in cluster.primaries]


def connections(cluster: Cluster, namespace: str) -> dict[int, int]:
    """Count the connections that the bridges of *namespace* have to each node that has any."""
    found: Counter[int] = Counter()
    for node in cluster.nodes:
        with node.client() as client:
            found[node.port] += sum(one["name"] == f"deerflow-{namespace}" for one in client.client_list())
    return {port: count for port, count in found.items() if count}


def errors_at(node: Server, code: str) -> int:
    """Count how often a node answered with an error of that code."""
    found = node.info("errorstats").get(f"errorstat_{code}", {"count": 0})
    return int(found["count"])


async def finish(bridge: StreamBridge, writers: list[Writer], readers: list[Reader]) -> None:
    """End the runs, and judge what everybody was told."""
    for writer in writers:
        await writer.finish()
    for writer in writers:
        own = [reader for reader in readers if reader.run_id == writer.run_id]
        for reader in own:
            await reader.ends()
        judge(await history_of(bridge, writer.run_id), writer, own)


@pytest.mark.drivers
def test_runs_are_spread_and_connections_are_not(valkey_replicated: Cluster) -> None:
    """S3, S15: runs are at all nodes, and so are their subscribers, over a few connections to each and no more."""
    cluster = valkey_replicated

    async def run() -> None:
        async with opened(cluster.url, topology="cluster") as (connection, bridge):
            counts = []
            for size in (4, 60):
                runs = [f"{size} {name}" for names in spread(cluster, size) for name in names]
                readers = [Reader(bridge, name) for name in runs for _ in range(2)]
                ids = await asyncio.gather(*(bridge.publish(name, "e", name) for name in runs))
                counts.append(connections(cluster, connection.namespace))
                await asyncio.gather(*(bridge.publish_end(name) for name in runs))
                for reader in readers:
                    await reader.ends()
                    assert reader.events == [(ids[runs.index(reader.run_id)], reader.run_id)]
            assert counts == [dict.fromkeys((node.port for node in cluster.primaries), 4)] * 2

    asyncio.run(run())


@pytest.mark.drivers
def test_all_capabilities_work_on_a_cluster(valkey_replicated: Cluster) -> None:
    """One connection to a cluster carries memory, threads, counters and streams."""

    async def run() -> None:
        url, namespace = valkey_replicated.url, f"t{uuid.uuid4().hex}"
        async with (
            deerflow_redis.connect(url=url, namespace=namespace, topology="cluster") as connection,
            deerflow_redis.open_memory(connection) as store,
            deerflow_redis.open_thread_index(connection) as index,
            deerflow_redis.open_counters(connection) as counters,
        ):
            users = [f"user {number}" for number in range(30)]
            for user in users:
                await store.apply(user, [PutFact(None, "f", {"of": user})])
                await index.create(NewThread(user, user))
                await counters.record(user, calls=1)
            for user in users:
                assert [fact.value for fact in (await store.load(user)).facts] == [{"of": user}]
                assert await index.get(user, user_id=user) is not None
            exported = [record async for record in store.export()]
            assert {record["user_id"] for record in exported} == set(users)
            assert len(exported) == len(users)
            assert {name: counts.calls for name, counts in (await counters.all_totals()).items()} == dict.fromkeys(
                users, 1
            )

    asyncio.run(run())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tail": "xread"}, "tail: xread cannot be used on a cluster.*tail: pubsub"),
        ({"url": "redis://localhost:1/3"}, "database 0 alone"),
    ],
)
def test_what_a_cluster_cannot_do_is_refused_beforehand(settings: dict[str, Any], words: str) -> None:
    """G6: without asking any server, what no cluster can do is a mistake in the configuration that says so."""
    connection = {"backend": "redis", "url": "redis://localhost:1", "topology": "cluster", **settings}
    with pytest.raises(ConfigError, match=words):
        plan(load_configuration({"stream_bridge": "redis", "connections": {"redis": connection}}))


@pytest.mark.drivers
def test_any_node_leads_to_the_cluster(valkey_replicated: Cluster) -> None:
    """With its first node down at opening, a cluster is found through the others that the settings name."""

    async def run() -> None:
        nodes = [f"{HOST}:1", f"{HOST}:{valkey_replicated.nodes[-1].port}"]  # a replica knows as well
        async with opened(f"redis://{HOST}:1", topology="cluster", nodes=nodes) as (_, bridge):
            published = await bridge.publish("run", "e", 1)
            await bridge.publish_end("run")
            assert await history_of(bridge, "run") == [(published, 1)]

    asyncio.run(run())


@pytest.mark.drivers
def test_a_slot_moves_beneath_writers_and_readers(valkey_replicated: Cluster) -> None:
    """S3, G11: while its slot moves a run is read on (ASK), and afterwards all go on at its new home (MOVED)."""
    cluster = valkey_replicated

    async def run() -> None:
        source, target, _ = cluster.primaries
        (moving, staying), (elsewhere, *_), _ = spread(cluster, 2)
        slot = slot_of(moving)
        beside = next(name for name in map("beside {}".format, itertools.count()) if slot_of(name) == slot)
        settings = {"url": cluster.url, "topology": "cluster"}
        async with opened(**settings) as (_, bridge), opened(**settings) as (_, other):
            writers = [Writer(bridge, name) for name in (moving, beside, staying, elsewhere)]
            readers = [Reader(bridge, writer.run_id) for writer in writers for _ in range(2)]
            for writer in writers:
                await writer.goes_on()
            moved, asked = errors_at(source, "MOVED"), errors_at(source, "ASK")
            await asyncio.to_thread(cluster.begin_move, slot, target)
            for writer in writers[2:]:
                await writer.goes_on()
            assert await asyncio.to_thread(cluster.move_keys, slot, target)
            for writer in writers[:2]:
                status = await bridge.status(writer.run_id)
                assert status is not None
                assert status.length >= len(writer.acknowledged)
            assert errors_at(source, "ASK") > asked
            await asyncio.to_thread(cluster.finish_move, slot, target)
            for writer in writers:
                await writer.goes_on()
            assert await other.status(moving) is None  # nothing told that one of the move
            assert errors_at(source, "MOVED") > moved
            await finish(bridge, writers, readers)
            assert not any(reader.gaps for reader in readers)

    asyncio.run(run())


@pytest.mark.drivers
def test_slots_that_subscribers_are_not_of_move_too(valkey_replicated: Cluster) -> None:
    """S3: when the slot that a subscriber connection tries itself by moves, its runs are heard of as before."""
    cluster = valkey_replicated

    async def run() -> None:
        source, target, _ = cluster.primaries
        names, *_ = spread(cluster, 2)
        async with opened(cluster.url, topology="cluster") as (connection, bridge):
            early = Reader(bridge, names[0])
            await bridge.publish(names[0], "e", 1)
            await early.has(1)
            channels = source.execute("PUBSUB", "SHARDCHANNELS", f"*{connection.namespace}*")
            (probe,) = [channel for channel in channels if channel.endswith(b"probe")]
            await asyncio.to_thread(cluster.move, int(key_slot(probe)), target)
            await until(
                lambda: probe not in source.execute("PUBSUB", "SHARDCHANNELS", f"*{connection.namespace}*"),
                "the connection tries itself in another way",
            )
            late = Reader(bridge, names[1])
            for name, reader in zip(names, (early, late), strict=True):
                before = len(reader.events)
                await bridge.publish(name, "e", 2)
                await reader.has(before + 1)
                await bridge.publish_end(name)
                await reader.ends()
                assert not reader.gaps

    asyncio.run(run())


def test_primary_and_replica_change_places(valkey_replicated: Cluster) -> None:
    """S3, G11: when a replica takes over in order, and the former primary again, nothing is lost and nobody notices."""
    cluster = valkey_replicated

    async def run() -> None:
        primary = cluster.primaries[0]
        (replica,) = cluster.replicas_of(primary)
        async with opened(cluster.url, topology="cluster") as (_, bridge):
            writers = [Writer(bridge, name) for names in spread(cluster, 2) for name in names]
            readers = [Reader(bridge, writer.run_id) for writer in writers]
            for new in (replica, primary):
                for writer in writers:
                    await writer.goes_on()
                await asyncio.to_thread(cluster.hand_over, new)
            for writer in writers:
                await writer.goes_on()
            await finish(bridge, writers, readers)
            assert not any(reader.gaps for reader in readers)

    asyncio.run(run())


@pytest.mark.drivers
@pytest.mark.parametrize("coverage", ["no", "yes"])
def test_a_node_is_killed_and_its_replica_promoted(valkey_replicated: Cluster, coverage: str) -> None:
    """S3, S16, G11: runs of a killed node wait for its replica, and go on there with all that it had.

    Meanwhile those of the other nodes are not disturbed, unless the cluster is set to serve all slots or none. Where
    the node comes back it is a replica.
    """
    cluster = valkey_replicated

    async def run() -> None:
        for node in cluster.nodes:
            node.execute("CONFIG", "SET", "cluster-require-full-coverage", coverage)
        async with opened(cluster.url, topology="cluster") as (connection, bridge):
            (first, others, rest) = spread(cluster, 2)
            killed = cluster.primaries[0]
            writers = [Writer(bridge, name) for name in (*first, *others, *rest)]
            readers = [Reader(bridge, writer.run_id) for writer in writers for _ in range(2)]
            for writer in writers:
                await writer.goes_on()
            promotion = asyncio.create_task(asyncio.to_thread(cluster.fail_over, killed))
            await until(lambda: not killed.running, "the node is killed")
            if coverage == "no":
                for writer in writers[len(first) :]:
                    await writer.goes_on()
                assert not promotion.done()
            promoted = await promotion
            for writer in writers:
                await writer.goes_on()
            await asyncio.to_thread(killed.start)
            await asyncio.to_thread(cluster.wait_until_in_sync)
            assert cluster.replicas_of(promoted) == [killed]
            await finish(bridge, writers, readers)
            assert max(connections(cluster, connection.namespace).values()) <= 4

    asyncio.run(run())


@pytest.mark.drivers
def test_a_stalled_node_is_replaced(valkey_replicated: Cluster) -> None:
    """S3, S16, G11: where a node only stalls, and all connections to it stay, its runs go on at its replica too."""
    cluster = valkey_replicated

    async def run() -> None:
        async with opened(cluster.url, topology="cluster", timeout_seconds=1) as (_, bridge):
            stalled = cluster.primaries[0]
            (replica,) = cluster.replicas_of(stalled)
            (first, others, _) = spread(cluster, 2)
            writers = [Writer(bridge, name) for name in (*first, *others)]
            readers = [Reader(bridge, writer.run_id) for writer in writers]
            for writer in writers:
                await writer.goes_on()
            stalled.pause()
            try:
                for writer in writers:
                    await writer.goes_on()
                assert replica.primaries
            finally:
                stalled.resume()
            await asyncio.to_thread(cluster.wait_until_in_sync)
            await finish(bridge, writers, readers)

    asyncio.run(run())


def test_listeners_asked_for_at_once_are_one(valkey_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """G9: however many find at once that a node is not listened to yet, one listener is made, and none left behind."""

    async def run() -> None:
        async with deerflow_redis.connect(url=valkey_cluster.url, topology="cluster", namespace="atonce") as connection:
            lane = connection.lane()
            binding = Binding("the hub of a tail under test")
            hub = Hub(binding, _never_read, StreamOptions())
            tail = PubSubTail(connection, hub, StreamKeys("atonce", 0), lane)
            before = asyncio.all_tasks()
            address = (await connection.servers.primaries())[0]
            monkeypatch.setattr(connection.servers, "_nodes", [])  # so that both must ask, and wait
            first, second = await asyncio.gather(tail.listener(address), tail.listener(address))
            assert first is second
            assert asyncio.all_tasks() - before == {first.task}
            await tail.close()
            await lane.close(0)

    asyncio.run(run())


async def _never_read(run_id: str, after: int, limit: int, max_bytes: int) -> Read:
    raise AssertionError("nobody subscribes")
