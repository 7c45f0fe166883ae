"""The command: what it shows, and an exit code for each end."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from deerflow_backends.inprocess.counters import InProcessModelCounters
from deerflow_conformance import checks
from deerflow_conformance.cli import _hidden, main
from deerflow_conformance.promises import PROMISES, promises_of

COUNTERS = ("run", "inprocess", "--only", "counters")


async def _nothing(*_: Any, **__: Any) -> None:
    """Reset nothing."""


def _main(*arguments: str) -> int:
    try:
        return main(arguments)
    except SystemExit as end:
        # argparse ends this way
        return int(end.code or 0)


def test_conformant_is_0(capsys: pytest.CaptureFixture[str]) -> None:
    """Every promise that applies was kept: one line each, the verdict last, exit 0."""
    assert _main(*COUNTERS, "--budget", "0.1") == 0
    lines = capsys.readouterr().out.splitlines()
    for promise in promises_of("counters", "L1"):
        assert any(line.startswith(f"counters {promise.number}") for line in lines)
    assert lines[-1].startswith("counters/1.0 L1 · ")
    assert lines[-1].endswith("not at this level: G5, G7, G12)")


def test_one_broken_promise_is_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A failure shows what was promised, wanted and got, where, and a command that replays it: which fails too."""
    monkeypatch.setattr(InProcessModelCounters, "reset", _nothing)
    assert _main(*COUNTERS, "-k", "C6", "--seed", "3") == 1
    out = capsys.readouterr().out
    assert f"counters C6: {PROMISES['C6'].sentence}" in out
    assert "not kept: wanted " in out
    assert ", got " in out
    (replay,) = [line.split(maxsplit=1)[1] for line in out.splitlines() if line.split()[:1] == ["replay"]]
    assert replay == "deerflow-conformance run inprocess --only counters -k C6 --seed 3"
    assert _main(*replay.split()[1:]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "required"),
        (("run",), "required"),
        (("run", "nothing_such"), "nothing_such"),
        (("run", "inprocess", "--only", "streams"), "invalid choice"),
        (("run", "inprocess", "--level", "L9"), "invalid choice"),
        (("run", "inprocess", "--set", "path"), "KEY=VALUE"),
        (("run", "inprocess", "--set", "path=x"), "takes no --set"),
        (("run", "sqlite", "--set", "path=x", "--set", "path=y"), "'path' twice"),
        (("run", "sqlite", "--set", "namespace=x"), "must not set namespace"),
        (("run", "sqlite", "--set", "pth=x"), "pth"),
        (("run", "inprocess", "--budget", "0"), "--budget must be more than 0"),
        (("run", "inprocess", "--budget", "nan"), "--budget must be more than 0"),
        (("run", "inprocess", "-k", "S99"), "S99"),
        (("run", "sqlite"), "path: is required; give --set path=..."),
        (("run", "sqlite", "--set", "path=x", "--set", "pathh=x"), "did you mean 'path'?"),
    ],
)
def test_wrong_usage_is_2(arguments: Sequence[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong command says what is wrong, in one go, without a traceback."""
    assert _main(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_what_does_not_open_is_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A backend that the harness cannot work with is no verdict about the promises."""
    monkeypatch.setattr(InProcessModelCounters, "record", _nothing)
    assert _main(*COUNTERS) == 2
    out = capsys.readouterr().out
    assert "wanted a second instance on the same space to see what the first wrote, got nothing" in out
    assert "\ncounters C1 could not run: the harness check L0 failed\n" in out


def test_a_replay_hides_what_may_be_private(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The command that replays a failure repeats settings, but none that may hold a password."""
    tmp_path.joinpath("file").touch()
    harmless = f"path={tmp_path / 'file'}"
    assert _main("run", "sqlite", "--set", harmless, "--only", "counters", "--level", "L0") == 2
    assert f"run sqlite --set {harmless} --only counters -k L0" in capsys.readouterr().out
    assert _hidden("url=redis://user:pass@host") == "url=..."
    assert _hidden("password=hunter2") == "password=..."


def test_a_backend_that_exits_is_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend cannot end the command with 0."""

    async def exits(*_: Any) -> None:
        sys.exit(0)

    monkeypatch.setattr(InProcessModelCounters, "reset", exits)
    assert _main(*COUNTERS, "-k", "C6") == 1


@pytest.mark.parametrize("level", ["L2", "L3", "load"])
def test_a_level_that_is_not_there_is_3(level: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Asked for more than this kit tests, it tests what it can and is incomplete."""
    assert _main(*COUNTERS, "--budget", "0.1", "--level", level) == 3
    assert f"this kit tests L0 and L1, not {level}" in capsys.readouterr().err


def test_a_part_is_3(capsys: pytest.CaptureFixture[str]) -> None:
    """A run of some promises is never conformant, whatever came of them."""
    assert _main(*COUNTERS, "-k", "C1 C2") == 3
    assert "· 2/" in capsys.readouterr().out


def test_a_defect_of_the_kit_is_4(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A promise that nothing tests is the kit's own defect and says so."""
    checks.checks_of("C6")
    monkeypatch.setitem(checks._registry, "C6", [])
    assert _main(*COUNTERS, "-k", "C6") == 4
    assert "C6 has no check" in capsys.readouterr().err


def test_level_0_is_the_harness(capsys: pytest.CaptureFixture[str]) -> None:
    """L0 of all capabilities, and nothing else."""
    assert _main("run", "inprocess", "--level", "L0") == 0
    assert capsys.readouterr().out.split("\n\n")[1].splitlines() == [
        "stream_bridge/1.0 L0 · passed",
        "memory/1.0 L0 · passed",
        "thread_index/1.0 L0 · passed",
        "counters/1.0 L0 · passed",
    ]


def test_json_is_for_scripts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With --json the results are one JSON document and nothing else."""
    monkeypatch.setattr(InProcessModelCounters, "reset", _nothing)
    assert _main(*COUNTERS, "-k", "C2 C6", "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["backend"], report["contract"], report["seed"], report["exit"]) == ("inprocess", "1.0", 0, 1)
    (counters,) = report["capabilities"]
    assert {one["number"]: one["state"] for one in counters["results"]} == {"C2": "passed", "C6": "failed"}
    assert counters["results"][1]["failure"]["kind"] == "unkept"
    assert "C1" in counters["missing"]


def test_promises_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """Each promise with its level, whose it is, and what it says; for scripts too."""
    assert _main("promises") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(PROMISES)
    assert lines[0].split()[1:3] == ["L1", "all"]
    assert _main("promises", "--json") == 0
    assert [one["number"] for one in json.loads(capsys.readouterr().out)] == list(PROMISES)


def test_the_command_runs_as_a_module() -> None:
    """The command's exit code is that of its process; a reader that stops early is no defect."""
    command = [sys.executable, "-m", "deerflow_conformance"]
    done = subprocess.run([*command, "run", "nothing_such"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    with subprocess.Popen([*command, "promises"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
