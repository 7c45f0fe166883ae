"""What an operator should know about the servers: what they are, what they may lose, and what their clocks say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from deerflow_backends.clocks import MICROSECONDS, Clock, wall_clock
from deerflow_backends.errors import ConfigError, PluginError
from deerflow_backends.hookspecs import Finding
from deerflow_redis.commands import Command
from deerflow_redis.connection import Connection, too_old
from deerflow_redis.topologies import Address

#: A clock this much off is worth a warning.
_SKEW_SECONDS: Final = 1.0

#: What INFO does not tell.
_DIRECTIVES: Final = (b"save", b"appendfsync", b"min-replicas-to-write")

_SLOTS: Final = "16384"
_MEBIBYTE: Final = 1024**2


async def findings(connection: Connection, *, clock: Clock = wall_clock) -> list[Finding]:
    """Look at every server that has keys, changing nothing.

    Args:
        clock: This process's, which the servers' are held against.

    Raises:
        BackendUnavailable: One does not answer.
    """
    how = f"topology: {connection.topology}, database {connection.database}, tail: {connection.tail}"
    addresses = await connection.servers.primaries()
    said: dict[Finding, list[str]] = {}
    for address in addresses:
        for finding in await _of_server(connection, address, clock):
            said.setdefault(finding, []).append(str(address))
    found = []
    for finding, where in said.items():
        shared = len(where) == len(addresses)
        found.append(finding if shared else Finding(finding.level, f"{', '.join(where)}: {finding.message}"))
    found.insert(1, Finding("info", how))  # the first says what the server is
    return found


async def _of_server(connection: Connection, address: Address | None, clock: Clock) -> list[Finding]:
    facts = await connection.facts(address)
    directives = await _directives(connection, address)
    found = [
        *_version(facts),
        *_cluster(facts, connection.topology),
        *_eviction(facts),
        *_persistence(facts, directives),
        *_replicas(facts, directives),
        *await _skew(connection, address, clock),
    ]
    if connection.topology == "cluster":
        found += await _slots(connection, address)
    if not directives:
        missing = ", ".join(name.decode() for name in _DIRECTIVES)
        found.append(Finding("info", f"CONFIG GET is not allowed here, so that this could not be looked at: {missing}"))
    return found


async def _directives(connection: Connection, address: Address | None) -> dict[str, str]:
    """Read the configuration; nothing where that is forbidden, as it is on many managed servers."""
    try:
        words = await connection.calls.send(Command((b"CONFIG", b"GET", *_DIRECTIVES)), at=address)
    except (ConfigError, PluginError):
        return {}
    return {name.decode(): value.decode() for name, value in zip(words[::2], words[1::2], strict=True)}


def _version(facts: dict[str, str]) -> Iterator[Finding]:
    kind = "Valkey" if "valkey_version" in facts else "Redis"
    yield Finding("info", f"{kind} {facts.get(f'{kind.lower()}_version', 'of unknown version')}")
    old = too_old(facts)
    if old:
        yield Finding("error", f"{old} lacks what deerflow-redis uses; upgrade to Redis 7.0 or Valkey 8.0, or later")


def _cluster(facts: Mapping[str, str], topology: str) -> Iterator[Finding]:
    if facts.get("cluster_enabled") == "1" and topology != "cluster":
        yield Finding(
            "warning", "the server is a node of a cluster; set topology: cluster, or other nodes are not used"
        )


def _eviction(facts: Mapping[str, str]) -> Iterator[Finding]:
    policy = facts.get("maxmemory_policy", "noeviction")
    limit = int(facts.get("maxmemory", "0"))
    if policy != "noeviction":
        kept = "" if policy.startswith("volatile") else ", and memory, threads and totals may be lost"
        yield Finding(
            "warning",
            f"maxmemory-policy is {policy}: once memory is full, streams may end in gaps and windows of the counters "
            f"may lack calls{kept}; set it to noeviction",
        )
    if limit:
        used = int(facts.get("used_memory", "0"))
        yield Finding("info", f"maxmemory is {limit // _MEBIBYTE} MiB, of which {used // _MEBIBYTE} MiB are used")
    else:
        yield Finding(
            "info", "maxmemory is not set: the server grows until the system ends it; set it to what the machine has"
        )


def _persistence(facts: Mapping[str, str], directives: Mapping[str, str]) -> Iterator[Finding]:
    if facts.get("aof_enabled") == "1":
        yield from _append_only(directives.get("appendfsync"))
    elif directives.get("save"):
        yield Finding(
            "warning",
            f"snapshots alone are kept (save {directives['save']}): a restart may lose every acknowledged write "
            "since the last one; set appendonly yes",
        )
    elif directives:
        yield Finding(
            "warning", "nothing is persisted: acknowledged writes do not survive a restart; set appendonly yes"
        )
    else:
        yield Finding(
            "warning",
            "appendonly is off: acknowledged writes survive a restart as far as snapshots or replicas have them, "
            "if there are any; turn it on where the provider offers it",
        )
    for fact, what in (("aof_last_write_status", "append-only file"), ("rdb_last_bgsave_status", "snapshot")):
        if facts.get(fact, "ok") != "ok":
            yield Finding("warning", f"the last write of the {what} failed; look at the server's log and its disk")


def _append_only(fsync: str | None) -> Iterator[Finding]:
    match fsync:
        case "always":
            yield Finding("info", "appendfsync is always: acknowledged writes are on disk")
        case "everysec":
            yield Finding(
                "info", "appendfsync is everysec: a crash may take up to a second of acknowledged writes with it"
            )
        case "no":
            yield Finding(
                "warning",
                "appendfsync is no: a crash of the machine may take half a minute of acknowledged writes with it; "
                "set it to everysec or always",
            )
        case _:
            yield Finding("info", "appendonly is on")


def _replicas(facts: Mapping[str, str], directives: Mapping[str, str]) -> Iterator[Finding]:
    least = directives.get("min-replicas-to-write")
    refuses = "" if least is None else f"; min-replicas-to-write is {least}"
    yield Finding("info", f"replicas connected: {facts.get('connected_slaves', '0')}{refuses}")


async def _skew(connection: Connection, address: Address | None, clock: Clock) -> list[Finding]:
    """Hold the server's clock against ours, as far as the time that asking takes allows."""
    before = clock()
    seconds, microseconds = await connection.calls.send(Command((b"TIME",)), at=address)
    after = clock()
    theirs = int(seconds) * MICROSECONDS + int(microseconds)
    ahead, behind = (theirs - after) / MICROSECONDS, (before - theirs) / MICROSECONDS
    off = max(ahead, behind)
    if off <= _SKEW_SECONDS:
        return []
    direction = "ahead of" if ahead > behind else "behind"
    return [
        Finding(
            "warning",
            f"the server's clock is {off:.1f} s {direction} that of this machine: times, expiry and windows are the "
            "server's; set both by NTP",
        )
    ]


async def _slots(connection: Connection, address: Address | None) -> list[Finding]:
    """Look at what a node knows of the cluster."""
    try:
        text = (await connection.calls.send(Command((b"CLUSTER", b"INFO")), at=address)).decode(errors="replace")
    except (ConfigError, PluginError):
        return [Finding("info", "CLUSTER INFO is not allowed here, so that the state could not be looked at")]
    state = dict(line.partition(":")[::2] for line in text.splitlines())
    served = state.get("cluster_slots_ok", _SLOTS)
    if state.get("cluster_state") == "ok" and served == _SLOTS:
        return [Finding("info", f"the cluster is well; nodes: {state.get('cluster_known_nodes')}")]
    return [
        Finding(
            "warning",
            f"the cluster's state is {state.get('cluster_state')}, and of {_SLOTS} slots {served} are served; "
            "what is kept in the others cannot be used until 'CLUSTER NODES' shows a primary for them",
        )
    ]
