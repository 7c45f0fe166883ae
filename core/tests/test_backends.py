"""`open_backends`: what is opened, in which order, and that everything is closed again whatever happens."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from deerflow_backends import (
    BackendsError,
    BackendUnavailable,
    Closed,
    ConfigError,
    Finding,
    PluginError,
    load_configuration,
    open_backends,
)
from deerflow_backends.backends import plan

if TYPE_CHECKING:
    from core.tests.conftest import Site

pytestmark = pytest.mark.usefixtures("unconfigured")

#: Writes down all that is done with it, and fails or hangs where its settings say.
RECORDER = """
import asyncio
from contextlib import asynccontextmanager
from deerflow_backends import BackendUnavailable, ConnectionSettings, Finding, hookimpl, inprocess

LOG = []
DUE = []

class Settings(ConnectionSettings):
    fails: str = ""
    hangs: str = ""

class Watched:
    def __init__(self, what, settings, inner):
        self.what, self.settings, self.inner = what, settings, inner

    async def ping(self):
        LOG.append(f"ping {self.what}")
        await act(self.settings, f"ping {self.what}")

    def __getattr__(self, name):
        return getattr(self.inner, name)

async def act(settings, step):
    if settings.hangs == step:
        await asyncio.Event().wait()
    if settings.fails == step:
        # other words than the setting, which is hidden
        raise BackendUnavailable(f"no answer to {step.replace(' ', ': ')}")
    if settings.fails == f"defect {step}":
        raise RuntimeError(f"defect in {step}")

@asynccontextmanager
async def recorded(what, settings, inner):
    await act(settings, f"open {what}")
    LOG.append(f"open {what}")
    async with inner as opened:
        try:
            yield (what, settings, opened) if what.startswith("connection") else Watched(what, settings, opened)
        finally:
            try:
                await act(settings, f"close {what}")
            finally:
                LOG.append(f"close {what}")

@hookimpl
def deerflow_settings():
    return Settings

@hookimpl
async def deerflow_migrate(settings, capabilities, apply):
    LOG.append(f"{'apply' if apply else 'look'} {' '.join(sorted(capabilities))}")
    steps = list(DUE)
    if apply:
        DUE.clear()
    return steps

@hookimpl
async def deerflow_check(connection):
    return [Finding("warning", f"{connection[0]} is a test's")]

@hookimpl
def deerflow_connect(name, settings):
    return recorded(f"connection {name}", settings, inprocess.connect(name))

@hookimpl
def deerflow_stream_bridge(connection, options):
    return recorded("stream_bridge", connection[1], inprocess.open_stream_bridge(connection[2], options))

@hookimpl
def deerflow_memory(connection, options):
    return recorded("memory", connection[1], inprocess.open_memory(connection[2], options))

@hookimpl
def deerflow_thread_index(connection, options):
    return recorded("thread_index", connection[1], inprocess.open_thread_index(connection[2], options))

@hookimpl
def deerflow_counters(connection, options):
    return recorded("counters", connection[1], inprocess.open_counters(connection[2], options))
"""

#: The line of the recorder that raises what no plugin should.
DEFECT = next(number for number, line in enumerate(RECORDER.splitlines(), 1) if "RuntimeError" in line)
CAPABILITIES = ("stream_bridge", "memory", "thread_index", "counters")
ALL = dict.fromkeys(CAPABILITIES, "recorder")
OPENED = ["open connection recorder", *(f"open {capability}" for capability in CAPABILITIES)]
CLOSED = [line.replace("open", "close", 1) for line in reversed(OPENED)]
MIGRATED = "look counters memory stream_bridge thread_index"


class Recorder:
    """The recording plugin, installed; what it wrote down so far."""

    def __init__(self, site: Site) -> None:
        self._site = site
        site.install(RECORDER, name="recorder")

    @property
    def log(self) -> list[str]:
        module = self._site.module("recorder_plugin")
        return module.LOG if module else []

    def due(self, *steps: str) -> None:
        plan(load_configuration(ALL))  # imports it
        module = self._site.module("recorder_plugin")
        assert module is not None
        module.DUE[:] = steps


@pytest.fixture
def recorder(site: Site) -> Recorder:
    return Recorder(site)


def configured(**connection: Any) -> dict[str, Any]:
    drain = {"drain_seconds": connection.pop("drain_seconds")} if "drain_seconds" in connection else {}
    return {**ALL, **drain, "connections": {"recorder": connection}}


async def opened(arguments: Mapping[str, Any] | None, body: BaseException | None = None) -> None:
    before = asyncio.all_tasks()
    try:
        async with open_backends(arguments) as backends:
            if body is not None:
                raise body
            await backends.ping()
    finally:
        assert asyncio.all_tasks() == before


def test_with_nothing_configured_it_simply_works() -> None:
    """All four capabilities, live, without any configuration."""
    name = uuid.uuid4().hex  # what is in process is shared with the other tests of this process

    async def use() -> None:
        async with open_backends() as backends:
            await backends.ping()
            event_id = await backends.stream_bridge.publish(name, "values", {"a": 1})
            assert event_id.endswith("-1")
            await backends.counters.record(name, calls=1)
            assert (await backends.counters.totals(name)).calls == 1
            assert (await backends.memory.load(name)).revision == 0
            assert await backends.thread_index.count(name) == 0
            assert {choice.backend for choice in backends.chosen.values()} == {"inprocess"}
            assert {backends.stream_bridge.reach, backends.counters.reach} == {"process"}
            (finding,) = (await backends.findings())["inprocess"]
            assert finding.level == "info"
        with pytest.raises(Closed):
            await backends.stream_bridge.status(name)

    asyncio.run(use())


def test_everything_is_opened_in_order_and_closed_in_reverse(recorder: Recorder) -> None:
    """Migration first, then each connection once, then the capabilities; backwards on the way out."""
    asyncio.run(opened(ALL))
    pings = [f"ping {capability}" for capability in CAPABILITIES]
    assert recorder.log == [MIGRATED, *OPENED, *pings, *CLOSED]


def test_a_connection_is_opened_once_and_only_if_chosen(recorder: Recorder) -> None:
    """Capabilities that name one connection share it; one that nobody names stays closed."""
    connections = {"hot": {"backend": "recorder"}, "cold": {"backend": "recorder"}}
    counters = {"backend": "recorder", "connection": "hot"}
    asyncio.run(opened({**ALL, "counters": counters, "connections": connections}))
    assert [line for line in recorder.log if "connection" in line] == [
        "open connection recorder",
        "open connection hot",
        "close connection hot",
        "close connection recorder",
    ]
    assert recorder.log[:2] == ["look memory stream_bridge thread_index", "look counters"]


@pytest.mark.parametrize("step", OPENED)
@pytest.mark.parametrize("kind", ["", "defect "])
def test_a_failure_while_opening_closes_what_was_opened(recorder: Recorder, step: str, kind: str) -> None:
    """Whichever opening fails, what was opened before it is closed, and one error is raised."""
    with pytest.raises(BackendsError) as caught:
        asyncio.run(opened(configured(fails=kind + step)))
    if kind:
        what = step.removeprefix("open ").replace("connection recorder", "connection 'recorder'")
        problem = f"opening {what} raised RuntimeError in recorder_plugin.py, line {DEFECT}: defect in ***"
        assert type(caught.value) is PluginError
        assert str(caught.value).replace(step, "***") == f"recorder 2.0, backend 'recorder': {problem}"
    else:
        assert type(caught.value) is BackendUnavailable
        assert str(caught.value) == f"no answer to {step.replace(' ', ': ')}"
    done = OPENED[: OPENED.index(step)]
    assert recorder.log == [MIGRATED, *done, *CLOSED[len(CLOSED) - len(done) :]]


@pytest.mark.parametrize("step", OPENED)
def test_cancelled_while_opening_it_closes_what_was_opened(recorder: Recorder, step: str) -> None:
    """A start-up that is given up leaves nothing open and no task."""

    async def give_up() -> None:
        starting = asyncio.create_task(opened_alone())
        while recorder.log != [MIGRATED, *OPENED[: OPENED.index(step)]]:
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert asyncio.all_tasks() == {asyncio.current_task()}

    async def opened_alone() -> None:
        async with open_backends(configured(hangs=step)):
            pass

    asyncio.run(give_up())
    done = OPENED[: OPENED.index(step)]
    assert recorder.log == [MIGRATED, *done, *CLOSED[len(CLOSED) - len(done) :]]


class Body(Exception):
    pass


RERAISER = """
from deerflow_backends import hookimpl, inprocess

class Opening:
    def __init__(self, inner):
        self.inner = inner

    async def __aenter__(self):
        return await self.inner.__aenter__()

    async def __aexit__(self, kind, error, traceback):
        await self.inner.__aexit__(None, None, None)
        LEAVING

@hookimpl
def deerflow_connect(name):
    return inprocess.connect(name)

@hookimpl
def deerflow_thread_index(connection):
    return Opening(inprocess.open_thread_index(connection))
"""


@pytest.mark.parametrize("error", [Body("mine"), asyncio.CancelledError("mine"), KeyboardInterrupt("mine")], ids=repr)
@pytest.mark.parametrize("step", CLOSED)
def test_the_bodys_own_exception_stays_the_one_raised(recorder: Recorder, error: BaseException, step: str) -> None:
    """What goes wrong while closing is noted on it, and the rest is closed nevertheless."""

    async def raised() -> BaseException:
        try:
            await opened(configured(fails=step), error)
        except BaseException as caught:  # within the loop, which has a meaning of its own for some of them
            return caught
        raise AssertionError

    caught = asyncio.run(raised())
    assert caught is error
    assert caught.__notes__[-1] == f"while closing: no answer to {step.replace(' ', ': ')}"
    assert recorder.log == [MIGRATED, *OPENED, *CLOSED]


@pytest.mark.parametrize("leaving", ["raise error", "return True", "pass"])
def test_no_context_manager_changes_the_bodys_exception(site: Site, leaving: str) -> None:
    """One that raises it again, or would swallow it, changes nothing, and it is no defect to be noted."""
    site.install(RERAISER.replace("LEAVING", leaving))
    error = Body("mine")
    with pytest.raises(Body) as caught:
        asyncio.run(opened({"thread_index": "acme"}, error))
    assert caught.value is error
    assert not hasattr(error, "__notes__")


@pytest.mark.parametrize("step", CLOSED)
def test_a_failure_while_closing_is_raised_after_closing_the_rest(recorder: Recorder, step: str) -> None:
    """One capability that cannot be closed keeps none of the others open."""
    with pytest.raises(BackendUnavailable, match=f"^no answer to {step.replace(' ', ': ')}$"):
        asyncio.run(opened(configured(fails=step)))
    assert recorder.log[-len(CLOSED) :] == CLOSED


def test_several_failures_while_closing_are_one_error_with_notes(recorder: Recorder) -> None:
    """The first is raised, the others are notes on it: no exception group to take apart."""
    connections = {"recorder": {"fails": "close memory"}, "hot": {"backend": "recorder", "fails": "close counters"}}
    arguments = {**ALL, "counters": {"connection": "hot"}, "connections": connections}
    with pytest.raises(BackendUnavailable, match=r"^no answer to close: counters") as caught:
        asyncio.run(opened(arguments))
    assert caught.value.__notes__ == ["while closing: no answer to close: memory"]


@pytest.mark.parametrize("step", CLOSED)
def test_what_does_not_close_in_time_is_cancelled_and_named(recorder: Recorder, step: str) -> None:
    """Leaving takes ``drain_seconds`` at most, and says who was not done; the rest is closed nevertheless."""
    with pytest.raises(BackendUnavailable) as caught:
        asyncio.run(opened(configured(hangs=step, drain_seconds=0.05)))
    what = step.removeprefix("close ").replace("connection recorder", "connection 'recorder'")
    assert str(caught.value) == (
        f"closing {what} did not finish within drain_seconds (0.05) and was cancelled; what it still held may be lost"
    )
    assert caught.value.maybe_written
    assert caught.value.__cause__ is None
    assert recorder.log[-len(CLOSED) :] == CLOSED


def test_without_time_to_drain_everything_is_closed_all_the_same(recorder: Recorder) -> None:
    """With 0 whatever has to wait for anything is cancelled at once; nothing stays open."""
    with pytest.raises(BackendUnavailable, match=r"did not finish within drain_seconds \(0\) and was cancelled"):
        asyncio.run(opened(configured(hangs="close memory", drain_seconds=0)))
    assert recorder.log[-len(CLOSED) :] == CLOSED


def test_a_cancellation_while_closing_is_passed_on(recorder: Recorder) -> None:
    """Whoever cancels the leaving task gets its cancellation, and everything closed."""

    async def leave() -> None:
        async with open_backends(configured(hangs="close memory", drain_seconds=60)):
            pass

    async def give_up() -> None:
        leaving = asyncio.create_task(leave())
        while recorder.log[-1:] != ["close thread_index"]:
            await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving

    asyncio.run(give_up())
    assert recorder.log == [MIGRATED, *OPENED, *CLOSED]


def test_a_cancellation_counts_more_than_an_earlier_failure(recorder: Recorder) -> None:
    """A task that was cancelled ends as cancelled, with what failed before as a note."""

    async def leave() -> None:
        connections = {"hot": {"backend": "recorder", "fails": "close counters"}, "recorder": {"hangs": "close memory"}}
        async with open_backends({**ALL, "counters": {"connection": "hot"}, "connections": connections}):
            pass

    async def give_up() -> None:
        leaving = asyncio.create_task(leave())
        while recorder.log[-1:] != ["close thread_index"]:
            await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await leaving
        assert caught.value.__notes__ == ["while closing: no answer to close: counters"]

    asyncio.run(give_up())


def test_closing_flushes_the_counters(recorder: Recorder) -> None:
    """What was recorded just before leaving is counted (C5)."""

    async def use() -> int:
        async with open_backends(ALL) as backends:
            await backends.counters.record("model", calls=3)
        async with open_backends(ALL) as backends:
            return (await backends.counters.totals("model")).calls

    assert asyncio.run(use()) == 3


def test_ping_asks_all_four_at_once_and_names_who_failed(recorder: Recorder) -> None:
    """A probe is one round, not four: a capability that hangs does not keep the others from being asked."""

    async def probe() -> str:
        connections = {"recorder": {"fails": "ping memory"}, "hot": {"backend": "recorder", "fails": "ping counters"}}
        async with open_backends({**ALL, "counters": {"connection": "hot"}, "connections": connections}) as backends:
            with pytest.raises(BackendUnavailable) as caught:
                await backends.ping()
            return str(caught.value)

    async def hang() -> None:
        async with open_backends(configured(hangs="ping stream_bridge")) as backends:
            before = asyncio.all_tasks()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(backends.ping(), 0.05)
            assert asyncio.all_tasks() == before

    assert asyncio.run(probe()) == "memory: no answer to ping: memory; counters: no answer to ping: counters"
    recorder.log.clear()
    asyncio.run(hang())
    assert [line for line in recorder.log if line.startswith("ping")] == [f"ping {one}" for one in CAPABILITIES]


def test_findings_are_given_by_connection(recorder: Recorder) -> None:
    """What an operator should know, from each connection that is open."""

    async def ask() -> dict[str, list[Finding]]:
        arguments = {"memory": "recorder", "counters": {"connection": "hot"}}
        async with open_backends({**arguments, "connections": {"hot": {"backend": "recorder"}}}) as backends:
            return await backends.findings()

    found = asyncio.run(ask())
    assert list(found) == ["inprocess", "recorder", "hot"]
    assert found["hot"] == [Finding("warning", "connection hot is a test's")]


def test_due_steps_are_applied_checked_or_left_as_migrate_says(recorder: Recorder) -> None:
    """``auto`` takes them, ``check`` refuses to open while there are some, ``off`` does not even look."""
    recorder.due("create table a", "create table b")
    with pytest.raises(ConfigError) as caught:
        asyncio.run(opened(configured(migrate="check")))
    assert str(caught.value) == (
        "connections.recorder.migrate (arguments): 'check' opens nothing while steps are due (create table a, create"
        " table b); run 'deerflow-backends migrate'"
    )
    assert recorder.log == ["look counters memory stream_bridge thread_index"]

    recorder.log.clear()
    asyncio.run(opened(configured(migrate="off")))
    assert recorder.log[0] == OPENED[0]

    recorder.log.clear()
    asyncio.run(opened(ALL))
    assert recorder.log[:3] == [MIGRATED, MIGRATED.replace("look", "apply"), OPENED[0]]

    recorder.log.clear()
    asyncio.run(opened(configured(migrate="check")))
    assert recorder.log[1] == OPENED[0]


def test_nothing_is_migrated_where_a_connection_is_wrong(tmp_path: Path) -> None:
    """All connections are looked at before the first is touched, and every wrong one is a line of its own."""
    good, bad = tmp_path / "good", tmp_path / "gone" / "x"
    connections = {"a": {"backend": "sqlite", "path": str(good)}, "b": {"backend": "sqlite", "path": str(bad)}}
    arguments = {"memory": {"connection": "a"}, "counters": {"connection": "b"}, "connections": connections}
    with pytest.raises(ConfigError) as caught:
        asyncio.run(opened(arguments))
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"connections.b (arguments): path '{bad}'")
    assert not good.exists()

    connections["b"] = {"backend": "sqlite", "path": str(tmp_path / "other"), "migrate": "check"}
    with pytest.raises(ConfigError, match=r"^connections\.b\.migrate"):
        asyncio.run(opened(arguments))
    assert not good.exists()

    connections["a"]["path"] = connections["b"]["path"] = str(bad)
    with pytest.raises(ConfigError) as caught:
        asyncio.run(opened(arguments))
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [
        "connections.a (arguments)",
        "connections.b (arguments)",
    ]


def test_several_openings_are_independent(recorder: Recorder) -> None:
    """A program may open twice, one inside the other; each closes its own."""

    async def nest() -> None:
        async with open_backends(ALL):
            async with open_backends(ALL) as inner:
                await inner.ping()
            assert recorder.log[-len(CLOSED) :] == CLOSED
            recorder.log.clear()
        assert recorder.log == CLOSED

    asyncio.run(nest())


def test_a_loaded_configuration_can_be_opened_as_it_is(recorder: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    """`open_backends` takes a `Configuration`, and says nothing in the log while all is well."""
    configuration = load_configuration(ALL)

    async def use() -> None:
        async with open_backends(configuration) as backends:
            assert backends.chosen == configuration.choices

    with caplog.at_level(logging.DEBUG, "deerflow_backends"):
        asyncio.run(use())
    assert caplog.records == []


def test_after_leaving_nothing_answers(recorder: Recorder) -> None:
    """Leaving the block closes all four capabilities (G9)."""

    async def use() -> None:
        async with open_backends(ALL) as backends:
            pass
        for capability in CAPABILITIES[:3]:
            with pytest.raises(Closed):
                await getattr(backends, capability).inner.ping()
        with pytest.raises(Closed):
            await backends.counters.ping()

    asyncio.run(use())
