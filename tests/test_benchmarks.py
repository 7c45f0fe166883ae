"""The benchmarks run, whatever they find: no test here says how long anything takes."""

import asyncio
import gzip
import importlib
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from deerflow_backends import HEARTBEAT_SENTINEL, StreamGap, distributions, plugins

ROOT = Path(__file__).parents[1]

#: A scenario that fails, before one that does not.
BROKEN = """
import sys
from benchmarks import app
from benchmarks.scenarios import Scenario

async def lose(bench):
    raise RuntimeError(f"an event <was> lost at {bench.subject.settings['namespace']}")

app.SCENARIOS = (Scenario("replay", "Replay", "stream_bridge", lose), app.SCENARIOS[0])
raise SystemExit(app.main(["--quick", "--out", sys.argv[1], "--backend", "inprocess", "--set", "namespace=sealed"]))
"""

#: Nobody wrote a rival.
ALONE = """
import sys
from benchmarks import app
from benchmarks.scenarios import bench

app.rival_of = bench.rival_of = lambda backend: None
chosen = ["--only", "publish_one", "--only", "publish_64", "--only", "replay"]
raise SystemExit(app.main(["--quick", "--out", sys.argv[1], "--backend", "inprocess", *chosen]))
"""


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    # Nothing of this shows in what is measured: the configuration comes from the command line alone.
    environment = {**os.environ, "DEERFLOW_BACKENDS_STREAM_BRIDGE__MAX_EVENTS": "1", "DEER_FLOW_HOME": "/nowhere"}
    command = [sys.executable, "-W", "error", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of the benchmarks, which are no distribution."""
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module(f"benchmarks.{name}")


def test_every_scenario_runs_and_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quick run measures each scenario on each embedded backend that offers it, and judges or names every goal.

    The raw samples are kept, and the page needs nothing from elsewhere.
    """
    scenarios, goals = load("scenarios", monkeypatch).SCENARIOS, load("goals", monkeypatch).GOALS
    done = run("-m", "benchmarks", "--quick", "--out", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "embedded.json").read_text(encoding="utf-8"))

    embedded: list[str] = [name for name in ("inprocess", "files", "sqlite") if name in distributions.names()]
    offered = {name: plugins.load(name).capabilities for name in embedded}
    wanted: set[tuple[str, str]] = {
        (one.name, name) for one in scenarios for name in embedded if one.capability in offered[name]
    }
    wanted |= {(one.name, "core") for one in scenarios if one.capability is None}
    assert {(outcome["scenario"], outcome["backend"]) for outcome in summary["outcomes"]} == wanted
    assert [outcome for outcome in summary["outcomes"] if outcome["failure"] or not outcome["figures"]] == []

    judged = {(goal["scenario"], goal["backend"], goal["figure"]) for goal in summary["goals"]}
    concerned = [(goal, backend) for goal in goals for name, backend in wanted if name == goal.scenario]
    assert judged == {(goal.scenario, backend, goal.figure) for goal, backend in concerned if goal.concerns(backend)}
    assert len(summary["not_run"]) == sum(bool(goal.backends) and not {*goal.backends} & {*embedded} for goal in goals)
    assert {"commit", "date", "processor", "cores", "system", "Python", "libraries"} <= summary["machine"].keys()

    samples = json.loads(gzip.decompress((tmp_path / "embedded-samples.json.gz").read_bytes()))
    assert len(samples["deliver / sqlite / delivery, ms"]) == 200
    html = (tmp_path / "embedded.html").read_text(encoding="utf-8")
    plotted = {(o["scenario"], part) for o in summary["outcomes"] for part in ("latencies", "growth") if o[part]}
    assert html.count('<svg class="chart"') == len(plotted) >= 4
    assert re.findall(r"https?:|src=|href=|@import|url\(", html) == []


def test_what_breaks_is_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    """A scenario that fails is named with its error, without any setting; the exit code is 1, and all others run."""
    done = run("-c", BROKEN, tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "RuntimeError: an event <was> lost" in done.stderr
    outcomes = json.loads((tmp_path / "inprocess.json").read_text(encoding="utf-8"))["outcomes"]
    assert [(outcome["scenario"], bool(outcome["figures"])) for outcome in outcomes] == [
        ("replay", False),
        ("publish_one", True),
    ]
    html = (tmp_path / "inprocess.html").read_text(encoding="utf-8")
    assert "an event &lt;was&gt; lost at ***" in html
    assert "sealed" not in html + done.stdout + done.stderr + json.dumps(outcomes)


def test_a_backend_without_a_rival_is_measured_alone(tmp_path: Path) -> None:
    """Where there is nothing to compare with, what a backend does is told without a ratio, and no goal is judged."""
    done = run("-c", ALONE, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "inprocess.json").read_text(encoding="utf-8"))
    names = [[figure["name"] for figure in outcome["figures"]] for outcome in summary["outcomes"]]
    assert names == [["throughput", "p50", "p99"], ["throughput"], ["replayed"]]
    assert (summary["goals"], summary["rivals"]) == ([], {})


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--backend", "redsi"], "error: no installed distribution offers the backend 'redsi'"),
        (["--set", "path=x"], "error: --set needs exactly one --backend, whose connection it is for"),
        (["--backend", "sqlite", "--set", "path"], "error: --set takes KEY=VALUE, not ['path']"),
    ],
)
def test_what_cannot_be_run_is_one_line(arguments: list[str], line: str, tmp_path: Path) -> None:
    """A backend that is not there, or an option that makes no sense, is one line of error; nothing is written."""
    done = run("-m", "benchmarks", "--quick", "--out", tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_arrivals_wait_for_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The load is open-loop: where no publish is answered before all have begun, all begin."""
    loads = load("loads", monkeypatch)
    published: list[tuple[str, float]] = []

    async def offered() -> None:
        everyone = asyncio.Barrier(20)

        class Slow:
            async def publish(self, run_id: str, _event: str, data: dict[str, Any]) -> str:
                published.append((run_id, data["at"]))
                async with everyone:
                    return "1-1"

        await loads.offer(Slow(), loads.Load(("a", "b"), count=20, per_second=1e5), start=0.0)

    asyncio.run(asyncio.wait_for(offered(), timeout=60))
    assert published == [(run_id, at) for at, run_id in loads.Load(("a", "b"), 20, 1e5).arrivals(0.0)]
    assert {run_id for run_id, _ in published} == {"a", "b"}


def test_sides_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each side is first in every other round, the warm-up is not counted, and a round's two figures stay a pair."""
    measures = load("measures", monkeypatch)
    calls: list[str] = []

    async def ours() -> float:
        calls.append("ours")
        return 2.0 * len(calls)

    async def theirs() -> float:
        calls.append("theirs")
        return 1.0 * len(calls)

    pairs = asyncio.run(measures.in_turns(ours, theirs, rounds=3))
    assert calls == ["ours", "theirs", "theirs", "ours", "ours", "theirs", "theirs", "ours"]
    assert pairs == [(8.0, 3.0), (10.0, 6.0), (16.0, 7.0)]
    assert measures.ratios(pairs) == measures.Spread(16 / 7, 10 / 6, 8 / 3)


@pytest.mark.parametrize(("percent", "found"), [(0, 1), (0.5, 1), (1, 1), (50, 50), (50.5, 51), (99, 99), (100, 100)])
def test_percentiles_are_samples(percent: float, found: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A percentile is a sample that so many percent do not exceed, nothing between samples."""
    assert load("measures", monkeypatch).percentile(range(1, 101), percent) == found


def test_a_miss_says_by_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """A figure that exactly meets its goal reaches it; past it, the verdict tells how far."""
    goals, results = load("goals", monkeypatch), load("results", monkeypatch)

    def said(scenario: str, name: str, value: float, backend: str) -> str:
        figure = results.Figure(name, value, "x")
        return str(goals.verdict(results.Outcome(scenario, backend, (figure,)), figure))

    assert said("replay", "events/s / raw range read", 0.5, "sqlite") == "reached"
    assert said("replay", "events/s / raw range read", 0.4, "sqlite") == "missed by 20%"
    assert said("growth", "cost at most / at fewest subscribers", 1.8, "sqlite") == "missed by 20%"
    assert said("import", "heavy modules", 2, "core") == "missed by 2"
    assert said("publish_one", "throughput / raw", 0.1, "inprocess") == ""
    assert said("memory_apply", "large / small memory", 9, "files") == ""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Settings of a connection to a Valkey that the benchmarks' own starter runs; it must end with no key left."""
    with pytest.MonkeyPatch.context() as patch:
        servers = load("servers", patch)
    with servers.valkey(tmp_path_factory.mktemp("valkey")) as settings, redis.Redis.from_url(settings["url"]) as client:
        yield settings
        assert client.keys() == []


def test_raw_redis_stores_and_reads(server: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the rival ``raw`` stores it reads, in order and per run."""
    rival = load("rivals", monkeypatch).rival_of("redis")
    values: list[Any] = [{"n": number, "text": "ü\0"} for number in range(300)]

    async def stored() -> list[tuple[int, str, Any]]:
        async with rival.open(server, tmp_path) as raw:
            await raw.append("other", "messages", None)
            for value in values:
                await raw.append("run", "messages", value)
            return [found async for found in raw.read("run")]

    assert asyncio.run(stored()) == [(number, "messages", value) for number, value in enumerate(values, 1)]


def test_naive_redis_is_a_bridge(server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that opened the rival ``naive`` carry each other's events: each to every subscriber, once and in order.

    An early subscriber has heartbeats, a late one has what is retained, and one that fell behind has a gap.
    """
    naive = load("rivals", monkeypatch).rival_of("redis").naive

    async def carried() -> None:
        async with naive.open(server) as bridge, naive.open(server) as publisher:
            early = [bridge.subscribe("run", heartbeat_interval=0.02) for _ in range(2)]
            assert [await anext(one) for one in early] == [HEARTBEAT_SENTINEL] * 2
            follower = asyncio.gather(*(take(one, 200) for one in early))
            ids = [await publisher.publish("run", "messages", {"n": number}) for number in range(200)]
            late = await take(bridge.subscribe("run"), 200)
            assert [(item.id, item.event, item.data) for item in late] == [
                (event_id, "messages", {"n": number}) for number, event_id in enumerate(ids)
            ]
            assert await follower == [late, late]

            slow = bridge.subscribe("run")
            await anext(slow)
            await asyncio.gather(*(publisher.publish("run", "messages", number) for number in range(300)))
            *_, last = [item async for item in slow]
            assert isinstance(last, StreamGap)

    asyncio.run(asyncio.wait_for(carried(), timeout=60))


async def take(subscription: AsyncIterator[Any], count: int) -> list[Any]:
    """Return so many events, without heartbeats."""
    taken: list[Any] = []
    async for item in subscription:
        if item is not HEARTBEAT_SENTINEL:
            taken.append(item)
        if len(taken) == count:
            break
    return taken


@pytest.mark.parametrize("tail", ["pubsub", "xread"])
def test_redis_runs_beside_its_rivals(tail: str, tmp_path: Path) -> None:
    """A server is started for the run and named, each goal for Redis is judged, and each tail has files of its own."""
    done = run("-m", "benchmarks", "--quick", "--out", tmp_path, "--backend", "redis", "--set", f"tail={tail}")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / f"redis-{tail}.json").read_text(encoding="utf-8"))
    judged = {(goal["scenario"], goal["figure"]) for goal in summary["goals"] if goal["backend"] == "redis"}
    assert judged >= {
        ("publish_one", "throughput / raw"),
        ("publish_64", "throughput / naive"),
        ("deliver", "reader CPU, naive / ours"),
        ("deliver", "p99, naive / ours"),
        ("crowd", "connections"),
    }
    assert summary["machine"]["engines"].startswith("Valkey ")
    assert summary["rivals"].keys() == {"redis", "redis, naive"}


def test_a_server_that_is_named_must_answer(tmp_path: Path) -> None:
    """No other server is started in place of one that was named; the error is one line without its password."""
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    url = f"redis://:sealed@127.0.0.1:{port}/0"
    done = run("-m", "benchmarks", "--quick", "--out", tmp_path, "--backend", "redis", "--set", f"url={url}")
    assert done.returncode == 2
    assert done.stderr.startswith("error: the server that --set url names does not answer: ")
    assert done.stderr.count("\n") == 1
    assert "sealed" not in done.stdout + done.stderr
