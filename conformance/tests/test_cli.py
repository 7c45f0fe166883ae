"""The command ``run``: what it shows, what it writes, and what it refuses."""

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from deerflow_backends.inprocess.counters import InProcessModelCounters
from deerflow_conformance import checks
from deerflow_conformance.cli import main
from deerflow_conformance.cli.screen import open_screen
from deerflow_conformance.promises import PROMISES, promises_of
from deerflow_conformance.results import Result, State

Command = Callable[..., subprocess.CompletedProcess[str]]

COUNTERS = ("run", "inprocess", "--only", "counters")


async def _nothing(*_: Any, **__: Any) -> None:
    """Reset nothing."""


def test_conformant_is_0(capsys: pytest.CaptureFixture[str]) -> None:
    """Every promise that applies was kept: one line each, the verdict last, exit 0."""
    assert main([*COUNTERS, "--budget", "0.1", "--level", "L1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for promise in promises_of("counters", "L1"):
        assert any(line.startswith(f"counters {promise.number}") for line in lines)
    assert lines[-1].startswith("counters/1.0 L1 · ")
    assert lines[-1].endswith("not at this level: G5, G7, G12) · budget 0.1")


def test_one_broken_promise_is_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A failure shows what was promised, wanted and got, where, and a command that replays it: which fails too."""
    monkeypatch.setattr(InProcessModelCounters, "reset", _nothing)
    assert main([*COUNTERS, "-k", "C6", "--seed", "3", "--level", "L1"]) == 1
    out = capsys.readouterr().out
    assert f"counters C6: {PROMISES['C6'].sentence}" in out
    assert "not kept: wanted " in out
    assert ", got " in out
    (replay,) = [line.split(maxsplit=1)[1] for line in out.splitlines() if line.split()[:1] == ["replay"]]
    assert replay == "deerflow-conformance run inprocess --only counters -k C6 --seed 3 --level L1"
    assert main(replay.split()[1:]) == 1


def test_what_does_not_open_is_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A backend that the harness cannot work with is no verdict about the promises."""
    monkeypatch.setattr(InProcessModelCounters, "record", _nothing)
    assert main(COUNTERS) == 2
    out = capsys.readouterr().out
    assert "wanted a second instance on the same space to see what the first wrote, got nothing" in out
    assert "\ncounters C1 could not run: the harness check L0 failed\n" in out


def test_a_harness_that_was_not_asked_for_still_shows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever asks for one promise of a backend that does not open is told why nothing could run."""
    monkeypatch.setattr(InProcessModelCounters, "record", _nothing)
    assert main([*COUNTERS, "-k", "C1"]) == 2
    assert "counters L0: The function opens, " in capsys.readouterr().out


def test_a_replay_hides_what_may_be_private(command: Command, acme: Path) -> None:
    """The command that replays a failure repeats settings, but none that may hold a password."""
    settings = ("--set", "url=acme://me:hunter2@localhost", "--set", "retries=5", "--set", "fails=later")
    done = command("run", "acme", *settings, "--only", "counters", "--level", "L0", PYTHONPATH=str(acme))
    assert done.returncode == 2, done.stderr
    shown = "--set url=... --set retries=5 --set fails=later"
    assert f"run acme {shown} --only counters -k L0 --seed 0 --level L0" in done.stdout


def test_a_backend_that_exits_is_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend cannot end the command with 0."""

    async def exits(*_: Any) -> None:
        sys.exit(0)

    monkeypatch.setattr(InProcessModelCounters, "reset", exits)
    assert main([*COUNTERS, "-k", "C6"]) == 1


def test_a_part_is_3(capsys: pytest.CaptureFixture[str]) -> None:
    """A run of some promises is never conformant, whatever came of them."""
    assert main([*COUNTERS, "-k", "C1 C2"]) == 3
    assert "· 2/" in capsys.readouterr().out


def test_a_level_beyond_the_reach_is_3(capsys: pytest.CaptureFixture[str]) -> None:
    """Asked by name for what one process cannot be tested for, the run says so and is incomplete."""
    assert main([*COUNTERS, "-k", "G12", "--level", "L3"]) == 3
    assert "counters G12 could not run: its reach is one process" in capsys.readouterr().out


def test_a_defect_of_the_kit_is_4(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A promise that nothing tests is the kit's own defect and says so."""
    checks.checks_of("C6")
    monkeypatch.setitem(checks._registry, "C6", [])
    assert main([*COUNTERS, "-k", "C6"]) == 4
    assert "C6 has no check" in capsys.readouterr().err


def test_level_0_is_the_harness(capsys: pytest.CaptureFixture[str]) -> None:
    """L0 of all capabilities, and nothing else."""
    assert main(["run", "inprocess", "--level", "L0"]) == 0
    assert capsys.readouterr().out.split("\n\n")[1].splitlines() == [
        "stream_bridge/1.0 L0 · passed",
        "memory/1.0 L0 · passed",
        "thread_index/1.0 L0 · passed",
        "counters/1.0 L0 · passed",
    ]


def test_json_is_for_scripts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With --json the report is one JSON document and nothing else."""
    monkeypatch.setattr(InProcessModelCounters, "reset", _nothing)
    assert main([*COUNTERS, "-k", "C2 C6", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["contract"], report["seed"], report["exit"]) == ("1.0", 0, 1)
    (counters,) = report["capabilities"]
    assert (counters["backend"], counters["capability"]) == ("inprocess", "counters")
    assert {one["number"]: one["state"] for one in counters["results"]} == {"C2": "passed", "C6": "failed"}
    assert counters["results"][1]["failure"]["kind"] == "unkept"
    assert "C1" in counters["missing"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("go",), "No such command 'go'"),
        (("run", "inprocess", "--level", "L9"), "there is no level 'L9'; there are L0, "),
        (("run", "inprocess", "--set", "path"), "--set takes KEY=VALUE"),
        (("run", "inprocess", "--set", "=x"), "--set takes KEY=VALUE"),
        (("run", "inprocess", "--set", "path=x"), "takes no --set"),
        ((), "Missing command; try 'deerflow-conformance --help'"),
        (("run", "inprocess", "--nothing"), "--nothing; try 'deerflow-conformance run --help'"),
        (("run", "inprocess", "--seed", "x7"), "--seed must be a whole number, such as 7, not 'x7'"),
        (("run", "inprocess", "--budget", "much"), "--budget must be a number, such as 0.5, not 'much'"),
        (("run", "inprocess", "--budget", "inf"), "--budget must be more than 0 and finite, not inf"),
        (("run", "sqlite", "--set", "path=x", "--set", "path=y"), "'path' twice"),
        (("run", "sqlite", "--set", "namespace=x"), "--set, or connection= in a test, must not set namespace"),
        (
            ("run", "sqlite", "--set", "path=x", "--set", "backend=sqlite"),
            "backend: unknown key; allowed: migrate, path, sweep_",
        ),
        (("run", "sqlite"), "path: is required; give --set path=..."),
        (("run", "sqlite", "--set", "path=x", "--set", "pathh=x"), "did you mean 'path'?"),
        (("run", "files", "--set", "path=x", "--only", "counters"), "files does not offer counters"),
        (("run", "inprocess", "--budget", "0"), "--budget must be more than 0"),
        (("run", "inprocess", "--budget", "nan"), "--budget must be more than 0"),
        (("run", "inprocess", "-k", ""), "-k '' matches no promise"),
        (("run", "inprocess", "-k", "S3", "--only", "counters"), "-k 'S3' matches no promise of counters; "),
        (("run", "inprocess", "-k", "C1", "--level", "L0"), "-k 'C1' matches no promise at L0"),
        (("run", "test_absent.py"), "there is no file test_absent.py"),
        (("run", "folder"), "sqlite; folder is a folder: name one test file in it, or run pytest there"),
        (("run", "folder/"), "error: folder is a folder: name one test file in it"),
        (("run", "test_conformed"), "sqlite; for the file say test_conformed.py"),
        (("run", "test_syntax.py"), "test_syntax.py cannot be imported: SyntaxError"),
        (("run", "test_raises.py"), "test_raises.py cannot be imported: RuntimeError: no server here (line 2)"),
        (("run", "test_twice.py"), "counters of 'acme' is given twice"),
        (("run", "test_misuse.py"), "there is no capability 'counter'"),
        (("run", "test_absent_plugin.py"), "nothing_such"),
        (("run", "test_conformed.py::nothing"), "conforms no 'nothing'; it conforms counters"),
        (("run", "test_conformed.py", "--set", "path=x"), "a file has its own settings"),
        (("run", "test_conformed.py", "--only", "memory"), "does not offer memory"),
        (("run", "json.py"), "there is a module 'json' already"),
        (("run", "test_no_start.py"), "test_no_start.py, line 7: OSError('no such server')"),
        (("run", "inprocess", "--report", "test_conformed.py"), "test_conformed.py cannot hold reports"),
        (("matrix",), "Missing argument"),
        (("matrix", "absent.json"), "absent.json: No such file"),
        (("matrix", "folder"), "folder is a folder: name the report in it, folder/report.json"),
        (("verify",), "Missing argument"),
    ],
    ids=str,
)
def test_wrong_usage_is_2(
    bad_files: Path, capsys: pytest.CaptureFixture[str], arguments: Sequence[str], message: str
) -> None:
    """A command that cannot be run as it is says what is wrong, in one go, without a traceback, and runs nothing."""
    assert main(arguments) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert "Traceback" not in told.err
    assert "passed" not in told.out


@pytest.fixture
def bad_files(authors_files: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with files that cannot be tested as they are; here, while it is used."""
    conformed = (authors_files / "test_conformed.py").read_text()
    texts = {
        "syntax": "def (\n",
        "raises": '\nraise RuntimeError("no server here")\n',
        "twice": f"{conformed}\n\n{conformed.replace('async def counters', 'async def others')}",
        "misuse": conformed.replace('"counters", plugin', '"counter", plugin'),
        "absent_plugin": 'from deerflow_conformance import conform_plugin\nit = conform_plugin("nothing_such")\n',
        "no_start": conformed.replace("virtual_time=True", "start=start, stop=str").replace(
            "@conform", 'def start():\n    raise OSError("no such server")\n\n\n@conform'
        ),
    }
    for name, text in texts.items():
        (authors_files / f"test_{name}.py").write_text(text)
    (authors_files / "json.py").write_text(conformed)
    (authors_files / "folder").mkdir()
    monkeypatch.chdir(authors_files)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    yield authors_files
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(authors_files)):
            del sys.modules[name]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_sees_each_promise_in_one_line(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """At a terminal what is judged shows while it is judged, each promise that passed fits, and the end is in words."""
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    for name, value in {"COLUMNS": str(width), "TERM": "xterm-256color", "LINES": "24"}.items():
        monkeypatch.setenv(name, value)
    assert main([*COUNTERS, "-k", "C1 C6 G1 G3"]) == 3
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    lines = re.split(r"[\r\n]+", shown.rstrip())
    assert "inprocess counters" in lines
    assert all(len(line) <= width for line in lines[:-2]), lines
    for number, said in (("C1", "Totals are"), ("G1", "in part, only threads"), ("G3", "not applicable: counters")):
        (line,) = [line for line in lines if re.match(rf". {number}  ", line)]
        assert said in line
        assert line.endswith(" s")
    assert "counters 2/4  C6  Reset removes" in shown
    assert "INCOMPLETE  inprocess counters/1.0 L2 + load · 3/" in " ".join(lines[-2:])


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize(
    "state", [State.COULD_NOT_RUN, State.PASSED, State.NOT_APPLICABLE, State.KNOWN_FAILURE], ids=lambda state: state
)
def test_a_terminal_shows_the_whole_of_a_reason(monkeypatch: pytest.MonkeyPatch, state: State, width: int) -> None:
    """What a narrow terminal cannot show in one line goes on below it: a reason ends with what to do."""
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    for name, value in {"COLUMNS": str(width), "TERM": "xterm-256color"}.items():
        monkeypatch.setenv(name, value)
    reason = "no connection went through the proxy of the kit: open what space.via(url) returns, then run it again"
    with open_screen() as screen:
        screen.begin("acme", "counters", ["G7"], str)
        screen.judged(Result("G7", "counters", state, reason, seconds=1.25))
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    assert reason in re.sub(r"\s+", " ", shown.replace("1.25 s", ""))
    assert "…" not in shown


def test_results_cannot_steer_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What a backend says is shown as it is, its control characters as escapes."""

    async def steers(*_: Any) -> None:
        raise OSError("\x1b[2J\x1b]0;owned\x07 \u202egnorw")

    monkeypatch.setattr(InProcessModelCounters, "reset", steers)
    assert main([*COUNTERS, "-k", "C6"]) == 1
    out = capsys.readouterr().out
    assert "OSError: \\x1b[2J\\x1b]0;owned\\x07 \\u202egnorw" in out
    assert "\x1b" not in out


@pytest.mark.parametrize("by_file", [False, True], ids=["by settings", "by file"])
def test_a_secret_shows_nowhere(command: Command, acme: Path, tmp_path: Path, by_file: bool) -> None:
    """A setting that may be private is in nothing that is printed or written, whoever repeats it, or a part of it."""
    url = "acme://me:hunter2@localhost/1"
    target: tuple[str, ...] = ("acme", "--set", f"url={url}", "--set", "fails=later")
    if by_file:
        text = f'test_it = conform_plugin("acme", connection={{"url": "{url}", "fails": "later"}})\n'
        (tmp_path / "test_acme.py").write_text(f"from deerflow_conformance import conform_plugin\n{text}")
        target = ("test_acme.py",)
    done = command("run", *target, "--only", "counters", "--report", "made", PYTHONPATH=str(acme))
    assert done.returncode == 2, done.stderr
    written = [path.read_text() for path in (tmp_path / "made").iterdir()]
    assert len(written) == 4
    assert "***" in done.stdout
    for text in (done.stdout, done.stderr, *written):
        assert "hunter2" not in text
    (part,) = json.loads((tmp_path / "made/report.json").read_text())["capabilities"]
    assert part["distribution"] == {"name": "acme-backends", "version": "1.2.3"}
    assert part["server"] == "Acme 4"
    if not by_file:
        assert part["source"]["settings"] == {"url": None, "fails": "later"}


@pytest.mark.parametrize(
    ("fails", "said"),
    [
        ("refusing", "acme://***@localhost/1 refuses ***"),
        ("raising", "acme-backends 1.2.3, backend 'acme': opening it raised OSError in acme_plugin.py, line "),
    ],
)
def test_what_cannot_be_opened_is_one_line(command: Command, acme: Path, tmp_path: Path, fails: str, said: str) -> None:
    """A plugin that does not open is told once, without a secret, and no capability is tried: exit 2 and no report."""
    settings = ("--set", "url=acme://me:hunter2@localhost/1", "--set", f"fails={fails}")
    done = command("run", "acme", *settings, "--report", "made", PYTHONPATH=str(acme))
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: acme cannot be opened: {said}")
    assert "hunter2" not in line
    assert list((tmp_path / "made").iterdir()) == []


def test_an_authors_file_is_found_again_by_its_helper_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file in a package, which imports its neighbours, is opened in another process too."""
    package = tmp_path / "acme_tests"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "places.py").write_text('PLUGIN = "acme"\n')
    (package / "test_acme.py").write_text(
        "from deerflow_backends import sqlite\nfrom deerflow_conformance import conform\n\n"
        "from .places import PLUGIN\n\n\n"
        '@conform("counters", plugin=PLUGIN, server=lambda: "SQLite")\nasync def counters(space):\n'
        "    async with sqlite.connect(path=space.folder, namespace=space.name) as connection:\n"
        "        async with sqlite.open_counters(connection, space.options) as opened:\n            yield opened\n"
    )
    assert main(["run", str(package / "test_acme.py"), "-k", "G6", "--level", "L1", "--json"]) == 3
    (part,) = json.loads(capsys.readouterr().out)["capabilities"]
    assert [(one["number"], one["state"]) for one in part["results"]] == [("G6", "passed")]
    assert (part["backend"], part["server"], part["distribution"]) == ("acme", "SQLite", None)
    assert part["source"]["function"] == "counters"


def test_what_is_logged_of_outages_does_not_show(command: Command, authors_files: Path) -> None:
    """The kit makes outages, so what core logs of them, here and in other processes, is no news; a listener gets it."""
    text = (authors_files / "test_conformed.py").read_text()
    logs = (
        text.replace("virtual_time=True", "")
        .replace(", clock=space.clock", "")
        .replace("async with (", 'logging.getLogger("deerflow_backends").warning("unavailable")\n    async with (')
    )
    for name, first in (("quiet", "import logging\n"), ("heard", "import logging\nlogging.basicConfig()\n")):
        (authors_files / f"test_{name}.py").write_text(first + logs)
        done = command("run", f"test_{name}.py", "-k", "C1")
        assert done.returncode == 3, done.stdout + done.stderr
        assert ("unavailable" in done.stderr) is (name == "heard"), done.stderr


def test_promises_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """Each promise with its level, whose it is, and what it says; for scripts too."""
    assert main(["promises"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(PROMISES)
    assert lines[0].split()[1:3] == ["L1", "all"]
    assert main(["promises", "--json"]) == 0
    assert [one["number"] for one in json.loads(capsys.readouterr().out)] == list(PROMISES)


def test_promises_are_listed_with_their_checks(capsys: pytest.CaptureFixture[str]) -> None:
    """With --checks each promise has the names of what tests it; for scripts too."""
    assert main(["promises", "--checks", "--json"]) == 0
    by_number = {one["number"]: one["checks"] for one in json.loads(capsys.readouterr().out)}
    for number in PROMISES:
        assert [one["name"] for one in by_number[number]] == [one.name for one in checks.checks_of(number)]
    assert main(["promises", "--checks"]) == 0
    out = capsys.readouterr().out
    assert all(f"{one['name']}: {one['sentence']}" in out for found in by_number.values() for one in found)


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An interrupted run is no verdict: no report is there, and nothing is blamed."""

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(InProcessModelCounters, "reset", interrupted)
    made = tmp_path / "made"
    assert main([*COUNTERS, "-k", "C6", "--report", str(made)]) == 130
    assert list(made.iterdir()) == []
    assert capsys.readouterr().err == ""
