"""What the README says of settings, keys and permissions is so."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from deerflow_backends import Backends, ConnectionSettings, NewThread, PutFact, load_configuration, open_backends
from deerflow_backends.backends import plan
from deerflow_backends.capabilities import CAPABILITIES
from deerflow_redis import Settings, layout
from redis_servers import Cluster, Sentinels, Server

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def acl(name: str, user: str, password: str) -> list[str]:
    """Return the README's command of that name, for *user* and the namespace ``acl_NAME``."""
    found = re.search(rf"<!-- acl: {name} -->\n```\n(.*)\n```", README)
    assert found is not None
    words = found[1].replace("deerflow:", f"acl_{name}:").split()
    assert words[:2] == ["ACL", "SETUSER"]
    return [*words[:2], user, *(f">{password}" if word.startswith(">") else word for word in words[3:])]


async def use_everything(backends: Backends) -> None:
    """Call what reads and writes, of each capability."""
    await backends.stream_bridge.publish("run", "n", 1)
    await backends.stream_bridge.publish_end("run")
    assert len([item async for item in backends.stream_bridge.subscribe("run")]) == 2
    await backends.stream_bridge.cleanup("run")
    await backends.memory.apply("ada", [PutFact("agent", "f", {"content": "deer"})])
    assert len(await backends.memory.search("ada", "deer", agent_name="agent")) == 1
    assert len((await backends.memory.list_facts("ada", agent_name="agent")).items) == 1
    assert await backends.memory.agents("ada") == ["agent"]
    records = [record async for record in backends.memory.export()]
    assert await backends.memory.restore(iter(records)) == 0
    await backends.memory.clear("ada")
    await backends.memory.erase("ada")
    await backends.thread_index.create(NewThread("t", "ada"))
    await backends.thread_index.update("t", user_id="ada", status="busy")
    assert len((await backends.thread_index.list("ada")).items) == 1
    await backends.thread_index.delete("t", user_id="ada")
    await backends.counters.record("m", calls=1)
    assert (await backends.counters.window("m", seconds=60)).calls == 1
    assert list(await backends.counters.all_totals()) == ["m"]
    await backends.counters.reset("m")
    await backends.ping()


def try_out(name: str, **settings: Any) -> None:
    """Use all capabilities as the README's user, and have the servers looked at as `check` does."""
    connections = {"redis": {"namespace": f"acl_{name}", **settings}}

    async def main() -> None:
        async with open_backends({**dict.fromkeys(CAPABILITIES, "redis"), "connections": connections}) as backends:
            await use_everything(backends)
            assert await backends.findings()

    asyncio.run(main())


def rows(table: str) -> set[str]:
    """Return what stands as code in the first column of the table under a heading, without the namespace."""
    section = README[README.index(f"## {table}\n") :]
    found: set[str] = set()
    for line in section[section.index("|---") :].split("\n\n", maxsplit=1)[0].splitlines():
        found |= set(re.findall(r"`([^`]+)`", line.split("|")[1]))
    return found


def test_every_setting_is_explained() -> None:
    """The table of settings has each of them, and no other."""
    assert rows("Settings") == Settings.model_fields.keys() - ConnectionSettings.model_fields.keys()


def test_the_examples_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the README has one write into a file is a configuration without mistakes."""
    for variable, value in (("REDIS_URL", "redis://host"), ("SENTINEL_PASSWORD", "secret")):
        monkeypatch.setenv(variable, value)
    examples = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert len(examples) == 4
    for example in examples:
        path = tmp_path / "deerflow-backends.yaml"
        path.write_text(example if "memory:" in example else f"memory: redis\n{example}", encoding="utf-8")
        monkeypatch.setenv("DEERFLOW_BACKENDS_CONFIG", str(path))
        (connection,) = [one for one in plan(load_configuration()).connections if one.name == "redis"]
        assert isinstance(connection.settings, Settings)


def test_every_key_is_told() -> None:
    """The table of keys has those of `layout.py`."""
    assert rows("Keys") == set(re.findall(r"^``(<ns>[^`]+)``", str(layout.__doc__), re.MULTILINE))


def test_the_users_permissions_are_enough(valkey: Server) -> None:
    """With the ACL that is given for it, either tail does everything, and `check` too."""
    for tail in ("pubsub", "xread"):
        assert valkey.execute(*acl(tail, f"user_{tail}", "secret")) == b"OK"
        url = valkey.url.replace("redis://", f"redis://user_{tail}:secret@")
        try:
            try_out(tail, url=url, tail=tail)
        finally:
            valkey.execute("ACL", "DELUSER", f"user_{tail}")


def test_the_users_permissions_are_enough_on_a_cluster(valkey_cluster: Cluster) -> None:
    """The same at each node of a cluster."""
    for node in valkey_cluster.nodes:
        assert node.execute(*acl("cluster", "gateway", "secret")) == b"OK"
    try:
        try_out("cluster", url=valkey_cluster.url.replace("redis://", "redis://gateway:secret@"), topology="cluster")
    finally:
        for node in valkey_cluster.nodes:
            node.execute("ACL", "DELUSER", "gateway")


def test_the_users_permissions_are_enough_at_sentinels(valkey_sentinels: Sentinels) -> None:
    """The same behind sentinels, whose own user may do no more than find the primary."""
    for server in (valkey_sentinels.primary, valkey_sentinels.replica):
        assert server.execute(*acl("pubsub", "gateway", "secret")) == b"OK"
    for sentinel in valkey_sentinels.sentinels:
        assert sentinel.execute(*acl("sentinel", "finder", "found")) == b"OK"
    try_out(
        "pubsub",
        url=valkey_sentinels.sentinels[0].url.replace("redis://", "redis://gateway:secret@"),
        topology="sentinel",
        sentinel_service=valkey_sentinels.service,
        sentinel_username="finder",
        sentinel_password="found",
        wait_replicas=1,
    )
