"""The command ``deerflow-backends`` on real servers: what it shows, copies and leaves, and that it shows no secret."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import redis_leaks
from deerflow_backends import NewThread, PutBody, PutFact, open_backends
from deerflow_backends.capabilities import CAPABILITIES
from deerflow_backends.cli.app import run as run_command
from deerflow_redis.layout import is_permanent
from redis_processes import Port
from redis_servers import HOST, Server

Invoke = Callable[..., tuple[int, str, str]]

PASSWORD: Final = "s3cret-7f1d"
#: Of what the demo leaves everything is gone by then, in milliseconds.
LEFT_MS: Final = 300_000

tails = pytest.mark.parametrize("tail", ["pubsub", "xread"])


@pytest.fixture(autouse=True)
def unconfigured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of whoever runs the tests configures backends."""
    for variable in [name for name in os.environ if name.upper().startswith(("DEERFLOW_BACKENDS", "DEER_FLOW"))]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def guarded() -> Iterator[Server]:
    """A server that asks for `PASSWORD`; at the end nothing is on it that should have expired."""
    with Server(config={"requirepass": PASSWORD}) as server:
        yield server
        assert redis_leaks.leaked([server], is_permanent) == []


@pytest.fixture
def invoke(capfd: pytest.CaptureFixture[str]) -> Invoke:
    """Run a command and see that it does not show `PASSWORD`: exit code, stdout and stderr."""

    def command(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = run_command(arguments)
        out, err = capfd.readouterr()
        assert PASSWORD not in out + err
        return code, out, err

    return command


def on(server: Server, namespace: str, **settings: str) -> list[str]:
    """Return the options that have a command use *server*."""
    chosen = {"url": server.url, "namespace": namespace, **settings}
    return ["--backend", "redis", *(word for key, value in chosen.items() for word in ("--set", f"{key}={value}"))]


def everywhere(backend: str, **settings: Any) -> dict[str, Any]:
    """Configure *backend* for all capabilities."""
    return {**dict.fromkeys(CAPABILITIES, backend), "connections": {backend: settings}}


def keys_of(server: Server, namespace: str) -> dict[bytes, int]:
    """Return the keys of a namespace, each with the milliseconds that it is there yet, -1 for ever."""
    with server.client() as client:
        found = {key: int(client.pttl(key)) for key in client.scan_iter(match=f"{namespace}:*", count=1_000)}
    return {key: left for key, left in found.items() if left != -2}


def test_the_backend_is_listed(invoke: Invoke) -> None:
    """Installed, it is there by its name, with all four capabilities."""
    code, shown, told = invoke("list", "--json")
    assert (code, told) == (0, "")
    (redis,) = [plugin for plugin in json.loads(shown)["plugins"] if plugin["name"] == "redis"]
    assert (redis["distribution"], redis["error"]) == ("deerflow-redis", None)
    assert redis["capabilities"] == list(CAPABILITIES)


@tails
def test_check_goes_there_and_back(guarded: Server, invoke: Invoke, tail: str) -> None:
    """Each capability is tried and found well; what is left expires, and operators are told of the server."""
    code, shown, told = invoke("check", *on(guarded, f"check_{tail}", tail=tail))
    assert (code, told) == (0, "")
    assert [line.split()[0] for line in shown.splitlines() if line.endswith(" ok ")] == list(CAPABILITIES)
    assert f"info: redis: topology: standalone, database 0, tail: {tail}" in shown
    assert "warning: redis: nothing is persisted" in shown
    assert -1 not in keys_of(guarded, f"check_{tail}").values()


def test_what_is_stored_is_shown(guarded: Server, invoke: Invoke) -> None:
    """A run, threads, memory and counters that a program wrote, as the commands show them to scripts."""

    async def write() -> None:
        async with open_backends(everywhere("redis", url=guarded.url, namespace="shown")) as backends:
            await backends.stream_bridge.publish("run 鹿", "messages", {"deer": "鹿"})
            await backends.stream_bridge.publish_end("run 鹿")
            await backends.memory.apply("ada", [PutFact("helper", "f", {"content": "Likes deer"})])
            await backends.thread_index.create(NewThread("t", "ada", display_name="Deer"))
            await backends.counters.record("m", calls=2, successes=1, failures=1)

    asyncio.run(write())

    def shown(*command: str) -> Any:
        code, out, told = invoke(*command, "--json", *on(guarded, "shown"))
        assert (code, told) == (0, "The run has ended.\n" if command[0] == "tail" else "")
        return json.loads(out)

    event = shown("tail", "run 鹿")
    assert (event["event"], event["data"]) == ("messages", {"deer": "鹿"})
    assert shown("threads", "ada")["display_name"] == "Deer"
    memory = shown("memory", "ada", "--agent", "helper")
    assert (memory["revision"], [fact["fact_id"] for fact in memory["facts"]]) == (1, ["f"])
    (match,) = shown("memory", "ada", "--agent", "helper", "--search", "DEER")["matches"]
    assert match["fact"]["value"] == {"content": "Likes deer"}
    (model,) = shown("counters")["models"]
    for counts in (model["totals"], model["window"]):
        assert (counts["calls"], counts["successes"], counts["failures"]) == (2, 1, 1)


async def exported(backend: str, **settings: Any) -> tuple[list[Any], list[Any]]:
    """Return all memory and all threads that a backend has."""
    async with open_backends(everywhere(backend, **settings)) as backends:
        memory = [record async for record in backends.memory.export()]
        threads = [record async for record in backends.thread_index.export()]
    return sorted(memory, key=json.dumps), sorted(threads, key=json.dumps)


def test_there_and_back_again_is_equal(guarded: Server, invoke: Invoke, tmp_path: Path) -> None:
    """Memory and threads copied from SQLite to Redis and on to another SQLite: ids, revisions, times, values."""

    async def write() -> None:
        async with open_backends(everywhere("sqlite", path="old")) as backends:
            for user in ("ada", "}{*", "a\x00鹿", None):
                values = {"-0.0": -0.0, "big": 2**90, "nul": "\x00", "": [1, 1.0, True]}
                await backends.memory.apply(user, [PutBody(None, values), PutFact("}:", "f/", {"content": user})])
                await backends.memory.apply(user, [PutFact("}:", "f/", values)])
                await backends.thread_index.create(NewThread(f"of {user}", user, status="}", metadata=values))

    asyncio.run(write())
    redis = f"redis: {{url: {guarded.url}, namespace: copied}}"
    connections = f"  old: {{backend: sqlite, path: old}}\n  new: {{backend: sqlite, path: new}}\n  {redis}\n"
    (tmp_path / "deerflow-backends.yaml").write_text(f"connections:\n{connections}", encoding="utf-8")
    for what, count in (("memory", 8), ("thread_index", 4)):
        for source, target in (("old", "redis"), ("redis", "new"), ("old", "redis")):
            code, shown, told = invoke("copy", what, "--from", source, "--to", target, "--json")
            assert (code, told) == (0, "")
            summary = json.loads(shown)
            assert (summary["verified"], summary["records"]) == (True, count)
    old = asyncio.run(exported("sqlite", path="old"))
    assert asyncio.run(exported("redis", url=guarded.url, namespace="copied")) == old
    assert asyncio.run(exported("sqlite", path="new")) == old


@tails
def test_the_demo_holds_and_leaves_nothing(guarded: Server, tail: str) -> None:
    """Ten clients lose their replica and nothing else; what it wrote is gone at once, or in five minutes by itself."""
    program = shutil.which("deerflow-backends", path=sysconfig.get_path("scripts"))
    assert program is not None, "the command deerflow-backends is not installed beside this Python"
    options = ["--backend", "redis", "--set", f"url={guarded.url}", "--set", f"tail={tail}"]
    ended = subprocess.run([program, "demo", "--json", *options], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, ""), ended
    assert PASSWORD not in ended.stdout
    outcome = json.loads(ended.stdout)
    assert (outcome["ok"], outcome["reach"]) == (True, "network")
    assert all(claim["ok"] for claim in outcome["claims"].values())
    left = keys_of(guarded, "*")
    demo = {key: ms for key, ms in left.items() if b"demo" in key}
    assert demo
    assert {
        key: ms for key, ms in demo.items() if not 0 <= ms <= LEFT_MS or not key.startswith(b"deerflow_demo:")
    } == {}


@pytest.mark.parametrize(
    ("settings", "code", "said"),
    [
        ({"url": "redis://:{other}@{host}:{port}"}, 2, "refused the user or the password of the url"),
        ({"url": "redis://ada:{password}@{host}:{port}"}, 2, "refused the user or the password of the url"),
        ({"url": "redis://{host}:{port}"}, 2, "refused the user or the password of the url"),
        ({"url": "redis://:{password}@{host}:{closed}", "timeout_seconds": "0.2"}, 1, "it cannot be reached"),
        ({"url": "unix:///nosuch.sock", "timeout_seconds": "0.2"}, 1, "it cannot be reached"),
        ({"url": "{password}"}, 2, "must begin with redis://, rediss:// or unix://"),
        ({"url": "redis://:{password}@{host}:{port}?db=1"}, 2, "sets db; no '?' can stand in it"),
        ({"tail": "{password}"}, 2, "Input should be 'pubsub' or 'xread'"),
        ({"pasword": "{password}"}, 2, "pasword (arguments): unknown key"),
        ({"topology": "cluster", "tail": "xread"}, 2, "tail: xread cannot be used on a cluster"),
        ({"topology": "cluster"}, 2, "is no node of a cluster; leave out topology: cluster"),
    ],
)
def test_a_mistake_is_one_line_without_a_secret(
    guarded: Server, invoke: Invoke, settings: dict[str, str], code: int, said: str
) -> None:
    """Whatever is wrong is said on one line of stderr that holds no password, right or wrong; the exit code fits."""
    closed = Port()
    known = {"host": HOST, "port": guarded.port, "closed": closed.number, "password": PASSWORD, "other": "hunter2"}
    chosen = {key: value.format(**known) for key, value in settings.items()}
    for command in ("check", "counters"):
        ended, shown, told = invoke(command, *on(guarded, "mistaken", **chosen))
        assert (ended, shown) == (code, "")
        assert len(told.splitlines()) == 1
        assert said in told
        assert "hunter2" not in told
    closed.close()


def test_the_demo_says_what_is_missing(invoke: Invoke) -> None:
    """A newcomer who gives no address is told which option to add."""
    code, _, told = invoke("demo", "--backend", "redis")
    assert (code, told) == (2, "error: url is required; add --set url=...\n")
