"""The commands: exit codes, one line for each mistake, what they print for people and for scripts."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from deerflow_backends import ANY_USER, Backends, open_backends
from deerflow_backends.cli.output import print_json, printable

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Plugin = Callable[[str, str], str]
Invoke = Callable[..., tuple[int, str, str]]

IN_PROCESS = """
    from deerflow_backends import Finding, hookimpl, inprocess

    @hookimpl
    def deerflow_connect(name, settings):
        return inprocess.connect(name)

    @hookimpl
    def deerflow_stream_bridge(connection, options):
        return inprocess.open_stream_bridge(connection, options)

    @hookimpl
    def deerflow_memory(connection, options):
        return inprocess.open_memory(connection, options)

    @hookimpl
    def deerflow_thread_index(connection, options):
        return inprocess.open_thread_index(connection, options)

    @hookimpl
    def deerflow_counters(connection, options):
        return inprocess.open_counters(connection, options)
"""


def in_backends(body: Callable[[Backends], Any], **configuration: Any) -> Any:
    async def opened() -> Any:
        async with open_backends(configuration) as backends:
            return await body(backends)

    return asyncio.run(opened())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["frobnicate"], ["'frobnicate'"]),
        (["list", "--frob"], ["--frob"]),
        (["tail"], ["RUN_ID"]),
        (["check", "--set", "url=redis://secret@h"], ["--set needs --backend"]),
        (["check", "--backend", "inprocess", "--set", "hunter2"], ["key=value"]),
        (["check", "--backend", "inprocess", "--set", "=hunter2"], ["key=value"]),
        (["check", "--backend", "inprocess", "--set", "a=1", "--set", "a=2"], ["twice"]),
        (["check", "--backend", "nope"], ["'nope'"]),
        (["migrate", "--backend", "redis"], ["pip install deerflow-redis"]),
        (["tail", "run", "--backend", "inprocess", "--set", "colour=hunter2"], ["colour"]),
        (["threads"], ["--any-user"]),
        (["threads", "ada", "--any-user"], ["--any-user"]),
        (["threads", "ada", "--limit", "0"], ["--limit"]),
        (["threads", ""], ["must not be empty"]),
        (["threads", "ada", "--backend", "inprocess", "--set", "colour=hunter2"], ["colour"]),
        (["memory", "ada", "--shared"], ["--shared"]),
        (["memory", "ada", "--category", "c"], ["--search"]),
        (["memory", "ada", "--search", " "], ["must not be empty"]),
        (["counters", "--interval", "1"], ["--watch"]),
        (["counters", "--window", "10000000"], ["seconds must be at most 86400"]),
        (["copy", "memory", "--from", "inprocess"], ["--to"]),
        (["copy", "counters", "--from", "inprocess", "--to", "sqlite"], ["these can: memory, thread_index"]),
        (["copy", "memory", "--from", "nope", "--to", "inprocess"], ["no connection 'nope'"]),
        (["copy", "memory", "--from", "inprocess", "--to", "redis://u:hunter2@h"], ["no connection"]),
        (["copy", "memory", "--from", "inprocess", "--to", "sqlite"], ["connections.sqlite.path"]),
        (["copy", "memory", "--from", "inprocess", "--to", "inprocess"], ["same store"]),
        (["copy", "memory", "--from", "deerflow:nowhere", "--to", "inprocess"], ["no memory of DeerFlow in nowhere"]),
        (["copy", "memory", "--from", "inprocess", "--to", "deerflow:"], ["name the folder"]),
        (["copy", "memory", "--from", "inprocess", "--to", "deerflow:f"], ["this process only"]),
        (["copy", "thread_index", "--from", "inprocess", "--to", "deerflow:f"], ["memory only"]),
        (["copy", "memory", "--from", "inprocess", "--to", "sqlite", "--layout", "markdown"], ["--layout goes with"]),
        (["copy", "memory", "--from", "inprocess", "--to", "deerflow:f", "--layout", "x"], ["documents, markdown"]),
        (["copy", "memory", "--from", "inprocess", "--to", "deerflow:f", "--into-existing"], ["--into-existing"]),
        (["demo", "--backend", "inprocess"], ["reaches one process only"]),
        (["demo", "--backend", "nope"], ["'nope'"]),
        (["demo", "--set", "path"], ["key=value"]),
        (
            ["check", "--backend", "inprocess", "--set", "namespace=X", "--set", "sweep_seconds=hunter2"],
            ["namespace", "sweep_seconds"],
        ),
    ],
)
def test_each_mistake_is_one_line_and_exit_code_2(
    invoke: Invoke, arguments: Sequence[str], said: Sequence[str]
) -> None:
    """Usage, configuration and installation: one line a mistake on stderr, no traceback, no secret, code 2."""
    code, _, told = invoke(*arguments)
    assert code == 2
    assert len(told.splitlines()) == len(said), told
    for line, part in zip(sorted(told.splitlines()), said, strict=True):
        assert line.startswith("error: ")
        assert part in line
    assert "hunter2" not in told
    assert "secret" not in told


def test_mistakes_of_the_environment_and_the_file_name_their_origin(run: Run, tmp_path: Path) -> None:
    """Whatever the source of a mistake is, its line says it, also of a process of its own."""
    (tmp_path / "deerflow-backends.yaml").write_text("memory: inprocess\ncolour: red\n", encoding="utf-8")
    ended = run("check", DEERFLOW_BACKENDS_STREAM_BRIDGE__MAX_EVENTS="many")
    assert ended.returncode == 2
    assert "deerflow-backends.yaml, line 2" in ended.stderr
    (tmp_path / "deerflow-backends.yaml").unlink()
    ended = run("check", DEERFLOW_BACKENDS_STREAM_BRIDGE__MAX_EVENTS="many")
    assert ended.returncode == 2
    assert "DEERFLOW_BACKENDS_STREAM_BRIDGE__MAX_EVENTS" in ended.stderr


@pytest.mark.parametrize(
    ("missing", "arguments", "extra"),
    [
        ("typer", ["list"], "cli"),
        ("rich", ["--help"], "cli"),
        ("httpx", ["demo"], "demo"),
        ("uvicorn", ["demo"], "demo"),
        ("starlette", ["demo", "--json"], "demo"),
    ],
)
def test_without_its_extra_a_command_says_what_to_install(missing: str, arguments: list[str], extra: str) -> None:
    """A missing library is one line with the command that installs it, and exit code 2."""
    script = f"import sys; sys.modules[{missing!r}] = None; from deerflow_backends.cli import main; sys.exit(main())"
    ended = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [
        f'error: {missing} is not installed, which this command needs: pip install "deerflow-backends[{extra}]"'
    ]
    assert ended.stdout == ""


def test_the_package_of_the_command_loads_nothing() -> None:
    """Importing the command's package, as the entry point does, costs no library: they are an extra."""
    script = "import sys, deerflow_backends.cli; print(*{m.partition('.')[0] for m in sys.modules})"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert not {"typer", "rich", "starlette", "uvicorn", "httpx", "pydantic", "yaml"} & set(ended.stdout.split())


def test_no_command_is_a_question_for_help(run: Run) -> None:
    """Alone, the command shows which ones there are."""
    ended = run()
    assert ended.returncode == 0
    for name in ("list", "check", "migrate", "tail", "threads", "memory", "counters", "copy", "demo"):
        assert name in ended.stdout


def test_list_shows_what_is_installed(run: Run) -> None:
    """Each installed backend, with what it offers; readable in 80 columns and without colours in a pipe."""
    ended = run("list")
    assert ended.returncode == 0
    assert "inprocess" in ended.stdout
    assert "thread_index" in ended.stdout
    assert "\x1b" not in ended.stdout
    assert max(map(len, ended.stdout.splitlines())) <= 80


def test_list_shows_the_broken_ones_with_their_reason(run: Run, plugin: Plugin) -> None:
    """A broken plugin stops nothing; it is listed with the reason, in both formats."""
    site = plugin("acme", "import no_such_driver")
    ended = run("list", PYTHONPATH=site)
    assert ended.returncode == 0
    assert "broken" in ended.stdout
    assert "no_such_driver" in ended.stdout
    listed = json.loads(run("list", "--json", PYTHONPATH=site).stdout)
    assert listed["contract"] == "1.0"
    by_name = {found["name"]: found for found in listed["plugins"]}
    assert "no_such_driver" in by_name["acme"]["error"]
    assert (by_name["acme"]["distribution"], by_name["acme"]["version"]) == ("acme-acme", "0.3")
    assert by_name["inprocess"]["error"] is None
    assert by_name["inprocess"]["capabilities"] == ["stream_bridge", "memory", "thread_index", "counters"]
    assert run("check", "--backend", "acme", PYTHONPATH=site).returncode == 2


def test_check_tries_all_four_and_leaves_nothing(invoke: Invoke) -> None:
    """Four capabilities there and back, with figures; afterwards no user, thread or model is there."""
    code, shown, _ = invoke("check", "--json")
    assert code == 0
    checked = json.loads(shown)
    assert checked["ok"] is True
    assert [one["capability"] for one in checked["capabilities"]] == [
        "stream_bridge",
        "memory",
        "thread_index",
        "counters",
    ]
    for one in checked["capabilities"]:
        assert (one["backend"], one["reach"], one["problem"]) == ("inprocess", "process", None)
        assert one["write_seconds"] >= 0
        assert one["read_seconds"] >= 0

    async def left(backends: Backends) -> tuple[Any, ...]:
        users = [record async for record in backends.memory.export()]
        return users, await backends.thread_index.count(ANY_USER), await backends.counters.all_totals()

    assert in_backends(left) == ([], 0, {})
    code, shown, _ = invoke("check")
    assert code == 0
    assert shown.count(" ok") == 4
    assert "info: inprocess" in shown


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("inprocess.memories.InProcessMemoryStore.apply = broken", "memory: no answer from the moon"),
        ("inprocess.threads.InProcessThreadIndex.list = defect", "thread_index: a defect of the plugin: KeyError"),
    ],
)
def test_check_tells_which_capability_is_bad(run: Run, plugin: Plugin, fault: str, said: str) -> None:
    """A capability that fails is named with its reason, the others are still tried, and the exit code is 1."""
    faults = """
    from deerflow_backends import BackendUnavailable

    async def broken(*arguments, **keywords):
        raise BackendUnavailable("no answer from the moon")

    async def defect(*arguments, **keywords):
        raise KeyError("x")
    """
    site = plugin("acme", IN_PROCESS + faults + "\n    import deerflow_backends.inprocess.memories\n    " + fault)
    ended = run("check", "--backend", "acme", PYTHONPATH=site)
    assert ended.returncode == 1, ended
    assert said in ended.stdout
    assert ended.stdout.count(" ok") == 3


def test_check_refuses_a_store_that_lets_old_revisions_win(run: Run, plugin: Plugin) -> None:
    """What answers but breaks a promise is bad as well."""
    fault = """
    from deerflow_backends.inprocess.memories import InProcessMemoryStore
    apply = InProcessMemoryStore.apply

    async def careless(self, user_id, changes, *, expected_revision=None):
        return await apply(self, user_id, changes)

    InProcessMemoryStore.apply = careless
    """
    ended = run("check", "--backend", "acme", "--json", PYTHONPATH=plugin("acme", IN_PROCESS + fault))
    assert ended.returncode == 1
    checked = json.loads(ended.stdout)
    assert checked["ok"] is False
    problems = {one["capability"]: one["problem"] for one in checked["capabilities"]}
    assert problems.pop("memory") == "a write against an old revision: wanted RevisionConflict, got success"
    assert set(problems.values()) == {None}


@pytest.mark.parametrize(("level", "code"), [("info", 0), ("warning", 0), ("error", 1)])
def test_check_shows_findings(run: Run, plugin: Plugin, level: str, code: int) -> None:
    """What the plugin finds is shown with its level; an error makes the check fail."""
    finding = f"""
    @hookimpl
    def deerflow_check(connection):
        async def look():
            return [Finding({level!r}, "the moon is [full]")]
        return look()
    """
    ended = run("check", "--backend", "acme", PYTHONPATH=plugin("acme", IN_PROCESS + finding))
    assert f"{level}: acme: the moon is [full]" in ended.stdout
    assert ended.returncode == code


def test_check_says_where_the_configuration_came_from(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that was read, or that there is none, and how many variables: a typo in a path does not stay unseen."""
    assert "configuration: no configuration file; 0 environment variables\n" in invoke("check")[1]
    (tmp_path / "deerflow-backends.yaml").write_text("memory: inprocess\n", encoding="utf-8")
    monkeypatch.setenv("DEERFLOW_BACKENDS_COUNTERS", "inprocess")
    assert "configuration: deerflow-backends.yaml; 1 environment variable\n" in invoke("check")[1]
    shown = json.loads(invoke("check", "--json")[1])
    assert shown["configuration"] == {"file": "deerflow-backends.yaml", "variables": 1}


def test_a_backend_is_used_for_what_it_offers(run: Run, plugin: Plugin) -> None:
    """One with a single capability can be checked alone; the rest stays in process, and that is said."""
    source = """
    from deerflow_backends import hookimpl, inprocess

    @hookimpl
    def deerflow_connect(name):
        return inprocess.connect(name)

    @hookimpl
    def deerflow_memory(connection):
        return inprocess.open_memory(connection)
    """
    ended = run("check", "--backend", "acme", "--json", PYTHONPATH=plugin("acme", source))
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == "acme does not offer stream_bridge, thread_index, counters: kept in this process\n"
    backends = {one["capability"]: one["backend"] for one in json.loads(ended.stdout)["capabilities"]}
    assert backends.pop("memory") == "acme"
    assert set(backends.values()) == {"inprocess"}


def test_migrate_shows_steps_and_takes_them_only_if_asked(run: Run, plugin: Plugin, tmp_path: Path) -> None:
    """A dry run names the due steps and changes nothing; without it they are done, once."""
    steps = f"""
    from pathlib import Path
    done = Path({str(tmp_path / "done")!r})

    @hookimpl
    async def deerflow_migrate(settings, capabilities, apply):
        steps = [] if done.exists() else ["0001 create " + ", ".join(sorted(capabilities))]
        if apply:
            done.touch()
        return steps
    """
    site = plugin("acme", IN_PROCESS + steps)
    step = "0001 create counters, memory, stream_bridge, thread_index"
    dry = run("migrate", "--dry-run", "--backend", "acme", PYTHONPATH=site)
    assert (dry.returncode, dry.stdout.splitlines()) == (0, ["acme: due", f"  {step}"])
    assert not (tmp_path / "done").exists()
    done = run("migrate", "--backend", "acme", "--json", PYTHONPATH=site)
    assert json.loads(done.stdout) == {"connection": "acme", "backend": "acme", "applied": True, "steps": [step]}
    again = run("migrate", "--backend", "acme", PYTHONPATH=site)
    assert (again.returncode, again.stdout.splitlines()) == (0, ["acme: is up to date"])


async def publish_three(backends: Backends, run_id: str = "run") -> list[str]:
    events = [("one", {"n": 1}), ("two\x1b[2J", "鹿"), ("three", [1.0])]
    return await backends.stream_bridge.publish_many(run_id, events)


def test_tail_prints_what_is_there(invoke: Invoke) -> None:
    """Every event with id, name and data, one a line, nothing that steers a terminal; then the end of a dry run."""
    ids = in_backends(publish_three)
    code, shown, told = invoke("tail", "run", "--no-follow")
    assert code == 0
    assert shown.splitlines() == [
        f'{ids[0]}  one  {{"n": 1}}',
        f'{ids[1]}  two\\x1b[2J  "鹿"',
        f"{ids[2]}  three  [1.0]",
    ]
    assert "reaches this process only" in told
    code, shown, _ = invoke("tail", "run", "--no-follow", "--json")
    assert [json.loads(line) for line in shown.splitlines()] == [
        {"id": ids[0], "event": "one", "data": {"n": 1}},
        {"id": ids[1], "event": "two\x1b[2J", "data": "鹿"},
        {"id": ids[2], "event": "three", "data": [1.0]},
    ]


def test_tail_begins_after_an_event_and_ends_with_the_run(invoke: Invoke) -> None:
    """With a last event id only what follows is printed; END ends it with exit code 0."""

    async def ended(backends: Backends) -> list[str]:
        ids = await publish_three(backends, "ended")
        await backends.stream_bridge.publish_end("ended")
        return ids

    ids = in_backends(ended)
    code, shown, told = invoke("tail", "ended", "--last-event-id", ids[1], "--json")
    assert code == 0
    assert [json.loads(line)["id"] for line in shown.splitlines()] == [ids[2]]
    assert "The run has ended." in told
    code, shown, _ = invoke("tail", "ended", "--last-event-id", ids[2])
    assert (code, shown) == (0, "")


def test_tail_tells_of_a_gap(invoke: Invoke) -> None:
    """Events that are gone are a gap: told where to go on, exit code 1."""
    code, shown, told = invoke("tail", "no such run", "--last-event-id", "7-7", "--json")
    assert code == 1
    assert json.loads(shown) == {
        "gap": {
            "requested_event_id": "7-7",
            "earliest_available_event_id": None,
            "latest_available_event_id": None,
        }
    }
    assert "gap: the events after 7-7" in told
    ids = in_backends(lambda backends: publish_three(backends, "short"))
    lost = ids[0].partition("-")[0] + "-9"
    code, shown, told = invoke("tail", "short", "--last-event-id", lost)
    assert (code, shown) == (1, "")
    assert f"go on with --last-event-id {ids[2]}" in told


def test_tail_of_an_unknown_run_does_not_wait_if_not_asked_to(invoke: Invoke) -> None:
    """Nothing there and nothing to wait for: said so, exit code 1."""
    code, shown, told = invoke("tail", "unknown", "--no-follow")
    assert (code, shown) == (1, "")
    assert "no stream of the run 'unknown'" in told


def test_tail_follows_a_run_that_another_process_publishes(program: str, tmp_path: Path) -> None:
    """What another process publishes arrives while it runs, and the run's end is the command's."""
    settings = ["--backend", "sqlite", "--set", f"path={tmp_path / 'data'}", "--json"]
    capabilities = ("stream_bridge", "memory", "thread_index", "counters")
    configuration: dict[str, Any] = dict.fromkeys(capabilities, "sqlite")
    configuration["connections"] = {"sqlite": {"path": str(tmp_path / "data")}}
    command = [program, "tail", "run", *settings]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "waiting for it" in process.stderr.readline()
        ids = in_backends(publish_three, **configuration)
        assert [json.loads(process.stdout.readline())["id"] for _ in ids] == ids
        in_backends(lambda backends: backends.stream_bridge.publish_end("run"), **configuration)
        assert process.wait(timeout=60) == 0
        assert process.stdout.read() == ""


def test_an_interrupt_ends_a_command_quietly(program: str) -> None:
    """Ctrl-C: exit code 130 and no traceback."""
    with subprocess.Popen([program, "tail", "unknown"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = process.stderr.readline() + process.stderr.readline()
        assert "waiting" in said
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == ""
        assert process.wait(timeout=30) == 130


def test_names_cannot_steer_a_terminal() -> None:
    """Whatever an identifier holds is shown on one line, as an escape where it is no visible character."""
    assert printable("a\x1b[2J\n\u202e\x9b鹿🦌") == "a\\x1b[2J\\n\\u202e\\x9b鹿🦌"


def test_json_for_scripts_is_one_line_of_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    """No line separator, control character or foreign letter of a value ends up raw in what a script reads."""
    value = {"text": "\u2028\x9b鹿\n", "big": 2**80, "small": -0.0}
    print_json(value)
    shown = capsys.readouterr().out
    assert shown.isascii()
    assert len(shown.splitlines()) == 1
    assert json.loads(shown) == value
