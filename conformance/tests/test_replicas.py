"""The helper process: another process that answers as the object itself would."""

import asyncio
import os
import signal
import textwrap
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deerflow_backends.clocks import wall_clock
from deerflow_backends.counters import CounterOptions, Counts
from deerflow_backends.errors import BackendUnavailable, InvalidArgument, RevisionConflict
from deerflow_backends.memories import PutFact
from deerflow_backends.streams import END_SENTINEL, HEARTBEAT_SENTINEL, StreamEvent, StreamGap, StreamOptions
from deerflow_conformance.checks import Unkept
from deerflow_conformance.conformances import Conformance, FileRecipe, PluginRecipe, conform_plugin
from deerflow_conformance.isolation import run_isolated
from deerflow_conformance.promises import CAPABILITIES
from deerflow_conformance.protocols import coroutines_of, iterators_of
from deerflow_conformance.replica_process import conformance_of
from deerflow_conformance.replicas import Process, ReplicaDied
from deerflow_conformance.rivals import Rivals
from deerflow_conformance.spaces import Space

AUTHOR = '''
import os
from deerflow_backends import inprocess
from deerflow_backends.counters import CounterOptions, Counts
from deerflow_backends.errors import BackendUnavailable
from deerflow_conformance import conform


class Odd:
    """A bridge that does what a bridge should not, to see it arrive."""

    reach = "host"

    def __init__(self, bridge):
        self._bridge = bridge

    def __getattr__(self, name):
        return getattr(self._bridge, name)

    async def ping(self):
        raise BackendUnavailable("no answer", maybe_written=True)

    async def stream_exists(self, run_id):
        if run_id == "die":
            os._exit(3)
        return (lambda: None) if run_id == "odd" else os.getpid()


@conform("stream_bridge", plugin="acme")
async def bridge(space):
    async with inprocess.connect(namespace=space.name) as connection:
        async with inprocess.open_stream_bridge(connection, space.options) as opened:
            yield Odd(opened)


@conform("memory", plugin="acme")
async def memory(space):
    async with inprocess.connect(namespace=space.name) as connection:
        async with inprocess.open_memory(connection, space.options) as opened:
            yield opened
'''

Body = Callable[[], Awaitable[None]]


@pytest.fixture
def author(tmp_path: Path) -> Callable[[str], Conformance]:
    path = tmp_path / "author.py"
    path.write_text(textwrap.dedent(AUTHOR), encoding="utf-8")
    return lambda name: conformance_of(FileRecipe(str(path), "conformance_author", name))


@pytest.fixture
def process(author: Callable[[str], Conformance]) -> Iterator[Process]:
    process = Process(author("bridge"))
    process.ready()
    yield process
    process.close()


def space(tmp_path: Path, name: str = "one", options: Any = None) -> Space:
    return Space(name, options or StreamOptions(), tmp_path, wall_clock)


def run(body: Callable[[], Any]) -> None:
    run_isolated(body, virtual=False)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_method_of_a_protocol_is_forwarded(capability: Any) -> None:
    """A replica has the methods that the Protocol has, each of the right kind."""
    assert "ping" in coroutines_of(capability)
    expected = {"stream_bridge": ["subscribe"], "memory": ["export"], "thread_index": ["export"], "counters": []}
    assert iterators_of(capability) == expected[capability]


def test_calls_happen_in_the_other_process(process: Process, tmp_path: Path) -> None:
    """A call runs over there, and its answer comes here as the same values."""

    async def body() -> None:
        async with process.open(space(tmp_path)) as replica:
            assert replica.reach == "host"
            assert await replica.stream_exists("run") not in {os.getpid(), True, False}
            data = {"a": [1, 1.0, True, None, -0.0, "\x00", 10**3_999]}
            (first,) = await replica.publish_many("run", [("event", data)])
            assert (await replica.status("run")).latest_id == first
            items = replica.subscribe("run")
            assert repr(await anext(items)) == repr(StreamEvent(first, "event", data))
            await items.aclose()

    run(body)


def test_sentinels_and_gaps_keep_what_they_are(process: Process, tmp_path: Path) -> None:
    """Heartbeat and END are the very objects, a gap an equal value, and the iterator ends after either."""

    async def body() -> None:
        async with process.open(space(tmp_path)) as replica:
            items = replica.subscribe("run", heartbeat_interval=0.01)
            assert await anext(items) is HEARTBEAT_SENTINEL
            await replica.publish_end("run")
            assert [item async for item in items if item is not HEARTBEAT_SENTINEL] == [END_SENTINEL]
            gaps = [item async for item in replica.subscribe("other", last_event_id="1-1")]
            assert gaps == [StreamGap("1-1", None, None)]

    run(body)


def test_errors_keep_class_and_attributes(process: Process, tmp_path: Path) -> None:
    """What is raised over there is raised here, of the same class, knowing the same."""

    async def body() -> None:
        async with process.open(space(tmp_path)) as replica:
            with pytest.raises(InvalidArgument) as invalid:
                await replica.publish("run", "event", {"a": [1, float("nan")]})
            assert invalid.value.place == "data.a[1]"
            with pytest.raises(InvalidArgument) as invalid:
                await anext(replica.subscribe("run", heartbeat_interval=0))
            assert invalid.value.place == "heartbeat_interval"
            with pytest.raises(BackendUnavailable) as unavailable:
                await replica.ping()
            assert unavailable.value.maybe_written is True
            assert "ping" in "".join(unavailable.value.__notes__)
            with pytest.raises(TypeError, match="cannot be sent"):
                await replica.stream_exists("odd")

    run(body)


def test_conflicts_and_records_travel(author: Callable[[str], Conformance], tmp_path: Path) -> None:
    """A memory store works from afar: changes, conflicts, an export, and restoring from any kind of iterable."""
    process = Process(author("memory"))
    process.ready()

    async def body() -> None:
        async with (
            process.open(space(tmp_path, "one")) as replica,
            process.open(space(tmp_path, "two")) as other,
        ):
            await replica.apply("ann", [PutFact(None, "f", {"content": "tea"})])
            with pytest.raises(RevisionConflict) as conflict:
                await replica.apply("ann", [], expected_revision=7)
            assert (conflict.value.expected, conflict.value.found) == (7, 1)
            records = [record async for record in replica.export()]
            assert await other.restore(iter(records)) == len(records) > 0
            assert await other.restore(replica.export()) == 0
            assert await other.load("ann") == await replica.load("ann")

    try:
        run(body)
    finally:
        process.close()


def test_cancellation_reaches_the_other_process(process: Process, tmp_path: Path) -> None:
    """A cancelled wait ends over there too, and what it would have brought comes with the next one."""

    async def body() -> None:
        async with process.open(space(tmp_path)) as replica:
            items = replica.subscribe("run")
            for _ in range(20):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(anext(items), 0.002)
            ids = [await replica.publish("run", "event", n) for n in range(20)]
            seen: list[str] = []
            while len(seen) < len(ids):
                waiting = asyncio.ensure_future(anext(items))
                await asyncio.sleep(0 if len(seen) % 2 else 0.001)
                waiting.cancel()
                try:
                    seen.append((await waiting).id)
                except asyncio.CancelledError:
                    seen.append((await anext(items)).id)
            assert seen == ids
            await items.aclose()

    run(body)


def test_two_openings_share_one_process_over_event_loops(process: Process, tmp_path: Path) -> None:
    """The process lives on from one event loop to the next, and with it what an in-process backend keeps."""
    pids: set[int] = set()

    async def body() -> None:
        here = space(tmp_path)
        async with process.open(here) as first, process.open(here) as second:
            await first.publish("run", "event", 1)
            pids.add(await second.stream_exists("run"))
            assert (await second.status("run")).length == len(pids_seen)

    pids_seen = [1]
    run(body)
    process.ready()
    pids_seen.append(2)
    run(body)
    assert len(pids) == 1


def test_a_process_left_in_the_middle_is_started_anew(process: Process, tmp_path: Path) -> None:
    """After an event loop that ended while it used the process, nothing of it remains."""
    here = space(tmp_path)
    kept: list[Any] = []

    async def leave() -> None:
        opening = process.open(here)
        replica = await opening.__aenter__()
        kept.extend([opening, await replica.stream_exists("run")])

    with asyncio.Runner() as runner:
        runner.run(leave())
    process.ready()

    async def body() -> None:
        async with process.open(here) as replica:
            assert await replica.stream_exists("run") != kept[1]

    run(body)


def test_a_dead_process_is_told(process: Process, tmp_path: Path) -> None:
    """When the other process dies, the call in flight fails at once, by its exit code; the next body has a new one."""

    async def body() -> None:
        async with process.open(space(tmp_path)) as replica:
            await asyncio.wait_for(replica.stream_exists("die"), 20)

    with pytest.raises(Unkept, match="exit code 3"):
        run(body)
    process.ready()

    async def again() -> None:
        async with process.open(space(tmp_path)) as replica:
            assert await replica.publish("run", "event", 1)

    run(again)


def test_a_process_that_the_kit_killed_is_none(process: Process, tmp_path: Path) -> None:
    """Of a process that was killed calls say so by an error of their own, and nothing is wrong afterwards."""

    async def body() -> None:
        async with process.open(space(tmp_path)) as replica:
            waiting = asyncio.ensure_future(anext(replica.subscribe("run")))
            await asyncio.sleep(0)
            process.kill()
            for call in (waiting, replica.publish("run", "event", 1)):
                with pytest.raises(ReplicaDied):
                    await call

    run(body)
    process.ready()
    assert process.running


def test_a_process_that_is_dead_cannot_be_killed(process: Process, tmp_path: Path) -> None:
    """What died before it was killed has died by itself."""

    async def body() -> None:
        async with process.open(space(tmp_path)) as replica:
            with pytest.raises(Unkept, match="exit code 3"):
                await replica.stream_exists("die")
            process.kill()

    with pytest.raises(Unkept, match="exit code 3"):
        run(body)


def test_a_process_that_dies_while_nobody_uses_it_is_told(process: Process, tmp_path: Path) -> None:
    """Who was used and died at rest fails whoever comes next, once."""
    seen: list[int] = []

    async def use() -> None:
        async with process.open(space(tmp_path)) as replica:
            seen.append(await replica.stream_exists("run"))

    run(use)
    os.kill(seen.pop(), signal.SIGSEGV)
    with pytest.raises(Unkept, match="exit code -11"):
        until_dead(process.ready)
    process.ready()
    run(use)


def test_a_rival_that_dies_while_nobody_uses_it_is_told(author: Callable[[str], Conformance], tmp_path: Path) -> None:
    """The same of processes that are kept for rivals."""
    rivals = Rivals(author("bridge"))
    seen: list[int] = []

    async def use() -> None:
        async with rivals.open(space(tmp_path)) as rival:
            seen.append(await rival.stream_exists("run"))

    try:
        rivals.ready()
        run(use)
        os.kill(seen.pop(), signal.SIGSEGV)
        with pytest.raises(Unkept, match="exit code -11"):
            until_dead(rivals.ready)
        rivals.ready()
        run(use)
    finally:
        rivals.close()


def until_dead(ready: Callable[[], None]) -> None:
    """Ask again until the process that was sent a signal has ended of it."""
    for _ in range(1_000):
        ready()
        time.sleep(0.01)


def test_a_plugin_is_opened_by_name(tmp_path: Path) -> None:
    """What `conform_plugin` made needs no file in the other process."""
    (conformance,) = (one for one in conform_plugin("inprocess").conformances() if one.capability == "counters")
    assert isinstance(conformance.recipe, PluginRecipe)
    process = Process(conformance)
    process.ready()

    async def body() -> None:
        async with process.open(space(tmp_path, options=CounterOptions())) as replica:
            await replica.record("model", calls=2)
            assert await replica.totals("model") == Counts(calls=2)

    try:
        run(body)
    finally:
        process.close()
