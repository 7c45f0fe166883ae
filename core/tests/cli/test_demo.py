"""The demo as a newcomer runs it: real processes, nothing left behind, and no success that is none."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deerflow_backends import ANY_USER, Counts, Record, open_backends

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Plugin = Callable[[str, str], str]

MARK = "DEMO_TEST_MARK"

#: A backend that does all that SQLite does, but a subscriber that comes back does not get the next event.
FORGETFUL = """
    from contextlib import asynccontextmanager
    from deerflow_backends import StreamEvent, hookimpl, sqlite
    from deerflow_backends.sqlite.plugin import *

    @asynccontextmanager
    async def forgetful(connection, options):
        async with sqlite.open_stream_bridge(connection, options) as bridge:
            subscribe = bridge.subscribe

            async def skipping(run_id, *, last_event_id=None, heartbeat_interval=15.0):
                skip = last_event_id is not None
                async for item in subscribe(run_id, last_event_id=last_event_id, heartbeat_interval=heartbeat_interval):
                    if skip and isinstance(item, StreamEvent) and item.id:
                        skip = False
                    else:
                        yield item

            bridge.subscribe = skipping
            yield bridge

    @hookimpl
    def deerflow_stream_bridge(connection, options):
        return forgetful(connection, options)
"""


def alive(mark: str) -> list[int]:
    """Return the processes that inherited *mark*, whatever they are by now."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = path.read_bytes().split(b"\0")
        except OSError:
            continue  # it ended meanwhile, or is another user's
        if wanted in variables:
            found.append(int(path.parent.name))
    return found


async def left(path: str) -> tuple[list[Record], int, dict[str, Counts]]:
    """Return the users, the number of threads and the models that are stored at *path*."""
    chosen: dict[str, Any] = dict.fromkeys(("stream_bridge", "memory", "thread_index", "counters"), "sqlite")
    connection = {"path": path, "namespace": "deerflow_demo"}
    async with open_backends({**chosen, "connections": {"sqlite": connection}}) as backends:
        users = [record async for record in backends.memory.export()]
        return users, await backends.thread_index.count(ANY_USER), await backends.counters.all_totals()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within 30 s"
        time.sleep(0.02)


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A variable that every process of one test's demo inherits, and a temporary folder of its own."""
    if not Path("/proc/self/environ").exists():
        pytest.fail("this test looks for left-over processes in /proc, which is not there")
    name = uuid.uuid4().hex
    monkeypatch.setenv(MARK, name)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    return name


def test_all_of_it_holds_and_what_is_kept_can_be_read_again(run: Run, mark: str, tmp_path: Path) -> None:
    """Ten clients lose their replica and nothing else; threads, memory and counters agree; no process is left.

    With ``--keep`` the run can be read again, event by event, from the folder that the demo names.
    """
    (tmp_path / "deerflow-backends.yaml").write_text("memory: nope\n", encoding="utf-8")  # not the demo's
    ended = run("demo", "--json", "--keep", DEERFLOW_BACKENDS_COUNTERS="nope")
    assert ended.returncode == 0, ended
    assert ended.stderr == ""
    outcome = json.loads(ended.stdout)
    assert outcome["ok"] is True
    assert (outcome["backend"], outcome["reach"]) == ("sqlite", "host")
    claims = outcome["claims"]
    assert list(claims) == ["streams", "failover", "threads", "memory", "counters", "processes"]
    assert all(claim["ok"] for claim in claims.values())
    streams = claims["streams"]
    assert (streams["events"], streams["clients"], streams["ends"], streams["gaps"]) == (500, 10, 10, 0)
    assert [streams[kind] for kind in ("lost", "duplicates", "misordered", "altered", "foreign")] == [0] * 5
    assert 200 <= claims["failover"]["killed_after_events"] < 500
    assert claims["failover"]["reconnects"] == 10
    assert claims["memory"]["statuses"] in ([200, 409], [409, 200])
    assert claims["threads"]["threads"] == 7
    assert claims["counters"]["calls"] == 16
    assert 0 < outcome["delivery_seconds_p50"] <= outcome["delivery_seconds_p99"]
    assert alive(mark) == []
    kept = Path(outcome["kept"])
    assert [path.name for path in (tmp_path / "temporary").iterdir()] == [kept.name]
    configuration = str(kept / "deerflow-backends.yaml")
    again = run("tail", outcome["run_id"], "--json", DEERFLOW_BACKENDS_CONFIG=configuration)
    assert again.returncode == 0, again
    assert len(again.stdout.splitlines()) == 500
    assert again.stderr.splitlines() == ["The run has ended."]


def test_a_backend_that_loses_events_is_caught(run: Run, plugin: Plugin, mark: str, tmp_path: Path) -> None:
    """The demo is no show: over a backend that forgets one event at each reconnect it fails and says how many.

    What it wrote to a backend that was there before is removed all the same, and no process is left.
    """
    site = plugin("forgetful", FORGETFUL)
    data = str(tmp_path / "data")
    ended = run("demo", "--backend", "forgetful", "--set", f"path={data}", PYTHONPATH=site)
    assert ended.returncode == 1, ended
    assert "Not all of it held" in ended.stdout
    assert "Not exactly once: 10 lost" in " ".join(ended.stdout.replace("│", "").split())
    assert max(map(len, ended.stdout.splitlines())) <= 80
    assert alive(mark) == []
    assert list((tmp_path / "temporary").iterdir()) == []
    assert asyncio.run(left(data)) == ([], 0, {})


@pytest.mark.parametrize(
    ("ending", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_no_process_outlives_the_program(
    program: str, mark: str, tmp_path: Path, ending: signal.Signals, code: int
) -> None:
    """Ctrl-C or SIGTERM ends it at once, leaving no process and no file; after SIGKILL its processes end too."""
    temporary = tmp_path / "temporary"
    with subprocess.Popen([program, "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if "clients read it from A" in line:
                break
        assert len(alive(mark)) == 4
        process.send_signal(ending)
        assert process.wait(timeout=30) == code
        assert process.stderr.read() == ""
    if ending is not signal.SIGKILL:
        assert alive(mark) == []
        assert list(temporary.iterdir()) == []
    wait_until(lambda: alive(mark) == [])


def test_a_child_that_dies_is_told_with_its_last_words(run: Run, plugin: Plugin, mark: str, tmp_path: Path) -> None:
    """A process that ends unexpectedly makes the demo fail with exit code 1, one line, and nothing left."""
    dying = """
    import os
    import sys
    from deerflow_backends.sqlite.plugin import *

    if "gateway" in " ".join(sys.orig_argv):
        print("the moon fell on me", file=sys.stderr, flush=True)
        os._exit(9)
    """
    ended = run("demo", "--backend", "dying", "--set", f"path={tmp_path / 'data'}", PYTHONPATH=plugin("dying", dying))
    assert ended.returncode == 1, ended
    assert ended.stderr.splitlines() == ["error: replica A ended with exit code 9: the moon fell on me"]
    assert alive(mark) == []
    assert list((tmp_path / "temporary").iterdir()) == []


def test_what_cannot_be_opened_is_one_line(run: Run, mark: str, tmp_path: Path) -> None:
    """A backend that cannot be opened: the line that any program would get, exit code 2, nothing left."""
    (tmp_path / "file").touch()
    ended = run("demo", "--backend", "sqlite", "--set", f"path={tmp_path / 'file' / 'below'}")
    assert ended.returncode == 2, ended
    assert len(ended.stderr.splitlines()) == 1
    assert "below" in ended.stderr
    assert "deerflow-demo-" not in ended.stderr
    assert alive(mark) == []
    assert list((tmp_path / "temporary").iterdir()) == []
