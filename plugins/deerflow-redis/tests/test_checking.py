"""What ``deerflow-backends check`` tells of real servers that are set up in these ways."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import deerflow_redis
from deerflow_backends import Finding
from deerflow_backends.clocks import Clock, wall_clock
from deerflow_redis.checking import findings
from redis_servers import Cluster, Server

SOUND = {"appendonly": "yes", "appendfsync": "everysec"}


def found(url: str, *, clock: Clock = wall_clock, **settings: Any) -> list[Finding]:
    async def main() -> list[Finding]:
        async with deerflow_redis.connect(url=url, **settings) as connection:
            return await findings(connection, clock=clock)

    return asyncio.run(main())


def warnings(config: Mapping[str, str], **settings: Any) -> list[str]:
    with Server(config=config) as server:
        return [finding.message for finding in found(server.url, **settings) if finding.level != "info"]


def test_a_sound_server_has_no_warning() -> None:
    """A server that evicts nothing and persists has only what is good to know, the version and the tail included."""
    with Server(config={**SOUND, "maxmemory": "64mb"}) as server:
        told = found(server.url, tail="xread")
        version = server.info("server")["valkey_version"]
    assert {finding.level for finding in told} == {"info"}
    messages = [finding.message for finding in told]
    assert messages[:2] == [f"Valkey {version}", "topology: standalone, database 0, tail: xread"]
    assert messages[2].startswith("maxmemory is 64 MiB, of which ")
    assert messages[3:] == [
        "appendfsync is everysec: a crash may take up to a second of acknowledged writes with it",
        "replicas connected: 0; min-replicas-to-write is 0",
    ]


@pytest.mark.parametrize(("policy", "loses"), [("allkeys-lru", True), ("volatile-ttl", False)])
def test_eviction_is_warned_of(policy: str, loses: bool) -> None:
    """A policy that evicts is a warning; what never expires is lost only to one that takes all keys."""
    (warning,) = warnings({**SOUND, "maxmemory-policy": policy})
    assert warning.startswith(f"maxmemory-policy is {policy}: ")
    assert warning.endswith("; set it to noeviction")
    assert ("memory, threads and totals may be lost" in warning) is loses


@pytest.mark.parametrize(
    ("config", "warning"),
    [
        ({}, "nothing is persisted: acknowledged writes do not survive a restart; set appendonly yes"),
        (
            {"save": "3600 1"},
            "snapshots alone are kept (save 3600 1): a restart may lose every acknowledged write since the last one; "
            "set appendonly yes",
        ),
        (
            {"appendonly": "yes", "appendfsync": "no"},
            "appendfsync is no: a crash of the machine may take half a minute of acknowledged writes with it; "
            "set it to everysec or always",
        ),
    ],
)
def test_missing_persistence_is_warned_of(config: Mapping[str, str], warning: str) -> None:
    """What does not survive a restart or a crash is a warning with its remedy."""
    assert warnings(config) == [warning]


def test_a_failed_snapshot_is_warned_of() -> None:
    """A server that cannot write its snapshot says so here, before it stops taking writes."""
    with Server(config=SOUND) as server:
        _, folder = server.execute("CONFIG", "GET", "dir")
        Path(os.fsdecode(folder), "dump.rdb").mkdir()
        server.execute("BGSAVE")
        server.wait(lambda: bool(server.info("persistence")["rdb_last_bgsave_status"] == "err"), "until that failed")
        (warning,) = [finding for finding in found(server.url) if finding.level != "info"]
    assert warning == Finding("warning", "the last write of the snapshot failed; look at the server's log and its disk")


def test_what_config_would_tell_is_named_where_it_is_forbidden() -> None:
    """Without CONFIG, as on managed servers, INFO tells of eviction and persistence, and what is unknown is named."""
    forbidden = {"maxmemory-policy": "allkeys-lfu", "rename-command": 'CONFIG ""'}
    with (
        Server(config=forbidden) as renamed,
        Server(config={"user": "default on nopass ~* &* +@all -config"}) as denied,
    ):
        for server in (renamed, denied):
            told = {finding.message: finding.level for finding in found(server.url)}
            unknown = "CONFIG GET is not allowed here, so that this could not be looked at: "
            assert told[f"{unknown}save, appendfsync, min-replicas-to-write"] == "info"
            assert told["replicas connected: 0"] == "info"
            assert [level for message, level in told.items() if message.startswith("appendonly is off")] == ["warning"]
            evicting = [message for message in told if message.startswith("maxmemory-policy is allkeys-lfu")]
            assert len(evicting) == (server is renamed)


@pytest.mark.parametrize(("seconds", "direction"), [(-5, "ahead of"), (5, "behind")])
def test_a_clock_that_is_off_is_warned_of(valkey: Server, seconds: int, direction: str) -> None:
    """A server whose clock is more than a second off ours is a warning that says how much and which way."""
    told = found(valkey.url, clock=lambda: wall_clock() + seconds * 1_000_000)
    (warning,) = [finding for finding in told if "clock" in finding.message]
    assert warning.level == "warning"
    assert warning.message.startswith("the server's clock is ")
    assert f" s {direction} that of this" in warning.message
    assert not [finding for finding in found(valkey.url) if "clock" in finding.message]


def test_every_node_of_a_cluster_is_looked_at(valkey_cluster: Cluster) -> None:
    """What all nodes have in common is said once; what only one has, with its address."""
    told = found(valkey_cluster.url, topology="cluster")
    messages = [finding.message for finding in told]
    assert "the cluster is well; nodes: 3" in messages
    assert len(messages) == len(set(messages))
    assert not any(message.startswith("127.0.0.1") for message in messages)
    node = valkey_cluster.primaries[1]
    node.execute("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        told = found(valkey_cluster.url, topology="cluster")
    finally:
        node.execute("CONFIG", "SET", "maxmemory-policy", "noeviction")
    (warning,) = [finding for finding in told if "maxmemory-policy" in finding.message]
    assert warning.message.startswith(f"127.0.0.1:{node.port}: maxmemory-policy is allkeys-lru: ")


def test_slots_without_a_server_are_warned_of() -> None:
    """A cluster that does not serve all slots is a warning, even where it calls itself well."""
    with Cluster(2, config={"cluster-require-full-coverage": "no"}) as cluster:
        for node in cluster.nodes:
            node.execute("CLUSTER", "DELSLOTS", 5_000)
        told = found(cluster.url, topology="cluster")
    (warning,) = [finding for finding in told if finding.message.startswith("the cluster's state is ")]
    assert warning.level == "warning"
    assert "of 16384 slots 16383 are served" in warning.message


def test_a_node_used_as_a_single_server_is_warned_of() -> None:
    """Of a cluster that the settings do not know of, one node alone would be used."""
    (warning,) = warnings({**SOUND, "cluster-enabled": "yes"})
    assert warning == "the server is a node of a cluster; set topology: cluster, or other nodes are not used"
