"""The commands that look: threads, memory and counters, for people and for scripts."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from deerflow_backends import Backends, Change, NewThread, PutBody, PutFact, open_backends

Invoke = Callable[..., tuple[int, str, str]]
Run = Callable[..., "subprocess.CompletedProcess[str]"]
Plugin = Callable[[str, str], str]


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Backends], Awaitable[Any]]], Any]:
    """Configure SQLite for everything, and return what does something in it."""
    for capability in ("STREAM_BRIDGE", "MEMORY", "THREAD_INDEX", "COUNTERS"):
        monkeypatch.setenv(f"DEERFLOW_BACKENDS_{capability}", "sqlite")
    monkeypatch.setenv("DEERFLOW_BACKENDS_CONNECTIONS__SQLITE__PATH", str(tmp_path / "data"))

    def call(body: Callable[[Backends], Awaitable[Any]]) -> Any:
        async def opened() -> Any:
            async with open_backends() as backends:
                return await body(backends)

        return asyncio.run(opened())

    return call


def lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


async def three_threads(backends: Backends) -> None:
    pinned = {"deerflow_pinned": True}
    await backends.thread_index.create(NewThread("old\x1b[2J\n鹿", "ada", display_name="one\ntwo", metadata=pinned))
    await backends.thread_index.create(NewThread("middle", "ada", display_name="x" * 8000, status="busy"))
    await backends.thread_index.create(NewThread("[red]new", "ada"))
    await backends.thread_index.create(NewThread("nobody's", None))


def test_threads_are_shown_newest_first(invoke: Invoke, stored: Callable[..., Any]) -> None:
    """A user's own threads, the pinned one first and marked; nothing in a name steers the terminal or widens it."""
    stored(three_threads)
    code, shown, told = invoke("threads", "ada")
    assert (code, told) == (0, "")
    rows = shown.splitlines()
    assert [row for row in rows if "old" in row] == [row for row in rows if row.startswith(" *")]
    assert [name for row in rows for name in ("old\\x1b[2J\\n鹿", "[red]new", "middle", "nobody") if name in row] == [
        "old\\x1b[2J\\n鹿",
        "[red]new",
        "middle",
    ]
    assert "one\\ntwo" in shown
    assert max(map(len, rows)) <= 80


def test_threads_for_scripts_are_a_line_each(invoke: Invoke, stored: Callable[..., Any]) -> None:
    """Every field as stored; a status and a limit narrow it; without owner they show with --any-user alone."""
    stored(three_threads)
    found = lines(invoke("threads", "ada", "--json")[1])
    assert [thread["thread_id"] for thread in found] == ["old\x1b[2J\n鹿", "[red]new", "middle"]
    assert (found[0]["metadata"], found[0]["display_name"]) == ({"deerflow_pinned": True}, "one\ntwo")
    code, shown, told = invoke("threads", "ada", "--json", "--limit", "2")
    assert (code, lines(shown)) == (0, found[:2])
    assert told == "2 of 3 threads of the user 'ada'; --limit shows more.\n"
    assert invoke("threads", "ada", "--json", "--limit", "3")[2] == ""
    assert lines(invoke("threads", "ada", "--json", "--status", "busy")[1]) == found[2:]
    everybodys = lines(invoke("threads", "--any-user", "--json")[1])
    assert {thread["thread_id"] for thread in everybodys} == {*(thread["thread_id"] for thread in found), "nobody's"}
    assert "user" in invoke("threads", "--any-user")[1]


def test_all_pages_are_followed(invoke: Invoke, stored: Callable[..., Any]) -> None:
    """A limit above the size of a page gives that many threads, each once, however large they are together."""
    record: dict[str, Any] = {
        "kind": "thread",
        "contract": "1.0",
        "user_id": "ada",
        "assistant_id": None,
        "display_name": None,
    }
    record |= {"status": "idle", "metadata": {"text": "x" * 8000}}
    record |= dict.fromkeys(("created_at", "updated_at"), "2026-01-31T12:00:00.000000+00:00")
    records = [{**record, "thread_id": f"thread {number}"} for number in range(1150)]
    stored(lambda backends: backends.thread_index.restore(records))
    code, shown, told = invoke("threads", "ada", "--json", "--limit", "1120")
    assert code == 0
    assert len({thread["thread_id"] for thread in lines(shown)}) == 1120
    assert told == "1120 of 1150 threads of the user 'ada'; --limit shows more.\n"


async def remembered(backends: Backends) -> None:
    wide: list[Change] = [
        PutBody(None, {"summary": "Works on \x9b鹿"}),
        PutFact(None, "f1", {"content": "Likes short answers"}),
    ]
    other: list[Change] = [
        PutFact(None, "f2", {"content": "Short of time", "category": "[b]c"}),
        PutFact("agent", "f3", {}),
    ]
    await backends.memory.apply("ada", [*wide, *other])
    await backends.memory.apply(None, [PutFact(None, "common", {"content": "shared by all"})])


def test_memory_shows_one_part_whole(invoke: Invoke, stored: Callable[..., Any]) -> None:
    """Body, facts, revision and the agents that have parts; the agent's own part and the shared memory on request."""
    stored(remembered)
    code, shown, told = invoke("memory", "ada")
    assert (code, told) == (0, "")
    for part in (
        "'ada'",
        "revision 1",
        "Works on \\x9b鹿",
        "f1",
        "Likes short answers",
        "[b]c",
        "agents with memory: agent",
    ):
        assert part in shown
    assert "f3" not in shown
    assert "f3" in invoke("memory", "ada", "--agent", "agent")[1]
    assert "shared by all" in invoke("memory", "--shared")[1]
    document = json.loads(invoke("memory", "ada", "--json")[1])
    assert (document["user_id"], document["agent_name"], document["revision"]) == ("ada", None, 1)
    assert (document["body"], document["body_revision"]) == ({"summary": "Works on \x9b鹿"}, 1)
    assert [(fact["fact_id"], fact["value"].get("category")) for fact in document["facts"]] == [
        ("f1", None),
        ("f2", "[b]c"),
    ]
    assert document["agents"] == ["agent"]


def test_memory_is_searched(invoke: Invoke, stored: Callable[..., Any]) -> None:
    """The best first with their scores, of one category or up to a limit if asked; nothing found is said."""
    stored(remembered)
    code, shown, told = invoke("memory", "ada", "--search", "SHORT")
    assert (code, told) == (0, "")
    assert shown.index("f2") < shown.index("f1")
    assert "0.385" in shown
    found = json.loads(invoke("memory", "ada", "--search", "short", "--json")[1])
    assert [(match["fact"]["fact_id"], round(match["score"], 3)) for match in found["matches"]] == [
        ("f2", 0.385),
        ("f1", 0.263),
    ]
    narrow = ("memory", "ada", "--search", "short", "--json")
    assert [match["fact"]["fact_id"] for match in json.loads(invoke(*narrow, "--limit", "1")[1])["matches"]] == ["f2"]
    of_category = json.loads(invoke(*narrow, "--category", "[b]c")[1])
    assert [match["fact"]["fact_id"] for match in of_category["matches"]] == ["f2"]
    code, shown, told = invoke("memory", "ada", "--search", "long", "--category", "c")
    assert (code, shown) == (0, "")
    assert told == "No fact of the category 'c' matches 'long' in the memory of the user 'ada'.\n"


def test_a_memory_larger_than_any_value_is_printed_whole(invoke: Invoke, stored: Callable[..., Any]) -> None:
    """What is printed may be larger than what one write may carry: here two facts of 5 MiB."""

    async def large(backends: Backends) -> None:
        for fact_id in ("f1", "f2"):
            await backends.memory.apply("ada", [PutFact(None, fact_id, {"content": "x" * 5 * 1024 * 1024})])

    stored(large)
    code, shown, _ = invoke("memory", "ada", "--json")
    assert code == 0
    assert [len(fact["value"]["content"]) for fact in json.loads(shown)["facts"]] == [5 * 1024 * 1024] * 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("threads", "ada", "--status", "s"), "There is no thread of the user 'ada' with the status 's'."),
        (("threads", "--any-user"), "There is no thread."),
        (("memory", "ada\x1b"), "There is no memory of the user 'ada\\\\x1b'."),
        (("memory", "--shared"), "There is no shared memory."),
        (("memory", "ada", "--search", "x"), "No fact matches 'x' in the memory of the user 'ada'."),
        (("counters",), "Nothing has been counted."),
    ],
)
def test_nothing_is_said_and_a_backend_that_sees_nothing_warns(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    """An empty answer is a line on stderr; of a backend that reaches one process, a warning says that as well."""
    monkeypatch.setenv("DEERFLOW_BACKENDS_CONNECTIONS__INPROCESS__NAMESPACE", "nothing_in_it")
    code, shown, told = invoke(*arguments)
    assert (code, shown) == (0, "")
    warning, remark = told.splitlines()
    assert "'inprocess' reaches this process only: no" in warning
    assert remark == said


def test_only_what_is_looked_at_is_opened(invoke: Invoke, stored: Callable[..., Any], tmp_path: Path) -> None:
    """Threads can be listed while the connection of another capability cannot even be opened; --backend goes first."""
    stored(three_threads)
    (tmp_path / "deerflow-backends.yaml").write_text(
        "stream_bridge: {backend: sqlite, connection: broken}\n"
        "connections: {broken: {backend: sqlite, path: /no/such/folder}}\n",
        encoding="utf-8",
    )
    assert invoke("check")[0] == 2
    assert invoke("threads", "ada")[0] == 0
    elsewhere = invoke("threads", "ada", "--backend", "sqlite", "--set", f"path={tmp_path / 'elsewhere'}")
    assert elsewhere == (0, "", "There is no thread of the user 'ada'.\n")


async def counted(backends: Backends) -> None:
    await backends.counters.record("good\n[b]", calls=100, successes=99, failures=1, positive=2)
    await backends.counters.record("bad", calls=30, successes=3, failures=27)
    await backends.counters.record("new", calls=3, successes=1)


def test_counters_show_every_model_and_its_health(invoke: Invoke, stored: Callable[..., Any]) -> None:
    """Totals, window, success rate and verdict by name; why a model is unhealthy is told; JSON has all figures."""
    stored(counted)
    code, shown, told = invoke("counters")
    assert (code, told) == (0, "")
    by_name = {row.split()[0]: row.split() for row in shown.splitlines() if len(row.split()) > 6}
    assert by_name["good\\n[b]"][1:] == ["100", "99.0%", "+2", "-0", "100", "99.0%", "healthy"]
    assert by_name["bad"][1:] == ["30", "10.0%", "-", "30", "10.0%", "unhealthy"]
    assert by_name["new"][-1] == "unknown"
    assert "bad: 3 of 30 calls succeeded (10.0%), below 50.0%" in shown
    document = json.loads(invoke("counters", "--json", "--window", "3600")[1])
    assert document["window_seconds"] == 3600
    assert [model["model_name"] for model in document["models"]] == ["bad", "good\n[b]", "new"]
    good = document["models"][1]
    figures = {"calls": 100, "successes": 99, "failures": 1, "positive": 2, "negative": 0, "success_rate": 0.99}
    assert (good["totals"], good["window"], good["health"]["state"]) == (figures, figures, "healthy")


@pytest.mark.parametrize("as_json", [True, False])
def test_watching_counters_goes_on_until_an_interrupt(
    program: str, stored: Callable[..., Any], *, as_json: bool
) -> None:
    """In a pipe each look is a JSON line or a block; what is counted meanwhile shows; Ctrl-C ends it quietly: 130."""
    command = [program, "counters", "--watch", "--interval", "0.1", *(["--json"] if as_json else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.readline()
        assert json.loads(first)["models"] == [] if as_json else "0 models" in first
        stored(counted)
        shown = ""
        while "99.0%" not in shown and '"successes":99' not in shown:
            shown = process.stdout.readline()
            assert shown
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.stderr.read() == ""
        assert process.wait(timeout=30) == 130


def test_watching_at_a_terminal_shows_a_table_in_place(program: str, stored: Callable[..., Any]) -> None:
    """At a terminal the table is drawn over itself, and Ctrl-C leaves the cursor visible and no traceback."""
    stored(counted)
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    command = [program, "counters", "--watch", "--interval", "0.1"]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        while shown.count(b"Ctrl-C ends it.") < 3:
            shown += os.read(ours, 65536)
        process.send_signal(signal.SIGINT)
        with suppress(OSError):  # Linux says so when the other side is closed
            while more := os.read(ours, 65536):
                shown += more
        assert process.wait(timeout=30) == 130
    os.close(ours)
    assert b"healthy" in shown
    assert b"\x1b[1A" in shown
    assert shown.rfind(b"\x1b[?25h") > shown.rfind(b"\x1b[?25l")
    assert b"Traceback" not in shown


def test_watching_outlives_an_outage(program: str, plugin: Plugin, tmp_path: Path) -> None:
    """An outage is told and watched on through; one at the first look is an error."""
    source = f"""
    from pathlib import Path
    from deerflow_backends import BackendUnavailable
    from deerflow_backends.sqlite.plugin import *
    from deerflow_backends.sqlite.counters import SqliteModelCounters

    totals = SqliteModelCounters.all_totals

    async def with_outages(self):
        if Path({str(tmp_path / "out")!r}).exists():
            raise BackendUnavailable("the moon does not answer")
        return await totals(self)

    SqliteModelCounters.all_totals = with_outages
    """
    environment = {**os.environ, "PYTHONPATH": plugin("acme", source)}
    look = [program, "counters", "--backend", "acme", "--set", f"path={tmp_path / 'data'}", "--json"]
    command = [*look, "--watch", "--interval", "0.1"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        (tmp_path / "out").touch()
        assert process.stderr.readline() == "warning: the moon does not answer\n"
        (tmp_path / "out").unlink()
        before = json.loads(process.stdout.readline())["at"]
        while json.loads(process.stdout.readline())["at"] <= before:
            pass
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(timeout=30) == 130
    (tmp_path / "out").touch()
    ended = subprocess.run(look, capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "error: the moon does not answer\n"
