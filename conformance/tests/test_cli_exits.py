"""Every end of the command has its exit code, as a process gives it; what did not wholly run is never 0."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from deerflow_conformance.cli import main

Command = Callable[..., subprocess.CompletedProcess[str]]

#: A quick run that would be conformant but for what a test changes about it.
QUICK = ("--level", "L1", "--budget", "0.1")
FILES = ("badge.svg", "junit.xml", "report.html", "report.json")


def written(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.name for path in folder.iterdir()))


@pytest.mark.parametrize(
    ("arguments", "code", "last"),
    [
        (("test_conformed.py", *QUICK), 0, "16/16 passed (not applicable: G3; not at this level: "),
        (("test_broken.py", *QUICK), 1, "passed (failed: C"),
        (("test_useless.py", *QUICK), 2, " 0/17 passed (could not run: C1-C7, "),
        (
            ("test_conformed.py::counters", "-k", "C1 G*", *QUICK),
            3,
            "10/16 passed (not applicable: G3; not run: C2-C7; ",
        ),
        (("inprocess", "--only", "counters", "--level", "L3", "--budget", "0.1"), 3, "could not run: "),
        (("inprocess", "--level", "L0"), 0, "counters/1.0 L0 · passed"),
    ],
    ids=["conformant", "broken promise", "broken harness", "a part", "level beyond the reach", "harness alone"],
)
def test_what_ran_has_its_code_and_a_report(
    command: Command, tmp_path: Path, arguments: Sequence[str], code: int, last: str
) -> None:
    """A run's exit code, last line and report say the same, for each thing that a run can come to."""
    done = command("run", *arguments, "--report", "made")
    assert done.returncode == code, done.stdout + done.stderr
    assert last in done.stdout.splitlines()[-1]
    assert written(tmp_path / "made") == FILES
    report = json.loads((tmp_path / "made/report.json").read_text())
    assert report["exit"] == code
    assert report["capabilities"][-1]["verdict"] == done.stdout.splitlines()[-1]


def test_a_defect_of_the_kit_is_4_and_no_report(command: Command, tmp_path: Path) -> None:
    """A promise that nothing tests is the kit's own defect: it says so, and an earlier report does not stay."""
    assert command("run", "test_conformed.py", "-k", "C1", "--report", "made").returncode == 3
    done = command("run", "test_defect.py", "-k", "C6", "--report", "made")
    assert done.returncode == 4
    assert "C6 has no check" in done.stderr
    assert "defect of the kit" in done.stderr
    assert written(tmp_path / "made") == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Missing command"),
        (("run",), "Missing argument 'NAME"),
        (("run", "nothing_such"), "no installed distribution offers the backend 'nothing_such'"),
        (("run", "inprocess", "--only", "streams"), "there is no capability 'streams'; there are stream_bridge, "),
        (("run", "inprocess", "-k", "S99"), "-k 'S99' matches no promise"),
        (("run", "sqlite", "--set", "pth=x"), "pth"),
        (("run", "test_empty.py"), "test_empty.py conforms nothing"),
        (("run", "test_exits.py"), "test_exits.py cannot be imported: SystemExit: 0"),
        (("run", "test_skips.py"), "test_skips.py cannot be imported: Skipped: could not import 'nothing_such'"),
        (("run", "inprocess", "--report", "test_empty.py/x"), "test_empty.py/x cannot hold reports"),
        (("matrix", "test_empty.py"), "test_empty.py: the report: Invalid JSON"),
        (("verify", "absent.json"), "absent.json: No such file"),
    ],
    ids=str,
)
def test_misuse_is_2(command: Command, tmp_path: Path, arguments: Sequence[str], message: str) -> None:
    """A command that cannot be run as it is says what is wrong, on stderr, without a traceback, and runs nothing."""
    (tmp_path / "test_empty.py").write_text("x = 1\n")
    (tmp_path / "test_exits.py").write_text("raise SystemExit(0)\n")
    (tmp_path / "test_skips.py").write_text("import pytest\npytest.importorskip('nothing_such')\n")
    done = command(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_backend_that_ends_the_process_is_1(command: Command, tmp_path: Path) -> None:
    """It does not choose the exit code, leaves no report, and is told; a process that it has forked may exit."""
    text = tmp_path.joinpath("test_broken.py").read_text().replace("    pass", "    os._exit(0)")
    forks = "pid = os.fork() or os._exit(7)\nassert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7\n"
    tmp_path.joinpath("test_ends.py").write_text(f"import os\n{text}\n{forks}")
    done = command("run", "test_ends.py", "-k", "C6", *QUICK, "--report", "made")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the backend ended the process with os._exit(0), so there is no verdict" in done.stderr
    assert written(tmp_path / "made") == ()


def test_a_useless_plugin_is_2(command: Command, acme: Path, useless: str) -> None:
    """A plugin that exits, fails or offers nothing before it is tested is named, and is no success."""
    done = command("run", "acme", "--set", "url=x", PYTHONPATH=str(acme))
    assert (done.returncode, done.stdout) == (2, "")
    assert useless in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_lost_is_2(command: Command, tmp_path: Path, loss: tuple[str, str]) -> None:
    """What a file conforms and then loses is told with its place, and nothing of the file is run."""
    text, message = loss
    (tmp_path / "test_lost.py").write_text(text)
    done = command("run", "test_lost.py::counters", "--level", "L0")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"test_lost.py{message}: give it a name of its own" in done.stderr


@pytest.mark.parametrize("arguments", [("promises",), ("run", "inprocess", "--level", "L0")], ids=str)
def test_a_reader_that_stops_is_not_told_0(arguments: Sequence[str]) -> None:
    """Where nobody reads to the end, nobody has seen a verdict; it is no defect either, and nothing complains."""
    process = subprocess.Popen(
        [sys.executable, "-m", "deerflow_conformance", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ("promises",),
        ("promises", "--json"),
        ("matrix", "made/report.json"),
        ("run", "inprocess", "--only", "counters", "-k", "C1"),
        ("--version",),
        ("run", "--help"),
    ],
    ids=str,
)
def test_a_full_disk_is_no_defect_of_the_kit(tmp_path: Path, arguments: Sequence[str]) -> None:
    """Where the output finds no room one line says so, and no verdict is taken for good."""
    made = ("run", "inprocess", "--only", "counters", "-k", "C1", "--level", "L1", "--report", str(tmp_path / "made"))
    assert main(made) == 3
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-m", "deerflow_conformance", *arguments],
            cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.stderr == "error: the output cannot be written: No space left on device\n"
    assert done.returncode == 2


@pytest.mark.parametrize("ignored", ["", "trap '' INT; "], ids=["", "with SIGINT ignored, as in the background"])
def test_sigterm_leaves_nothing_behind(tmp_path: Path, ignored: str) -> None:
    """A run that CI or timeout(1) ends removes its folder as after Ctrl-C, and its code says what ended it."""
    target = f"run sqlite --set path={tmp_path} --only counters --report {tmp_path}/made"
    process = subprocess.Popen(
        ["sh", "-c", f"{ignored}exec {sys.executable} -m deerflow_conformance {target}"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"counters L0 passed\n"
        assert list(tmp_path.glob("deerflow-conformance-*"))
        process.terminate()
        assert process.stderr.read() == b""
    assert process.returncode == 143
    assert not list(tmp_path.glob("deerflow-conformance-*"))
    assert list((tmp_path / "made").iterdir()) == []


@pytest.mark.parametrize("arguments", [("run", "--help"), ("--version",), ("promises",)], ids=str)
def test_what_judges_nothing_is_0(command: Command, arguments: Sequence[str]) -> None:
    """Help, the version and the list of promises are no verdicts."""
    done = command(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        ((), ["0  conformant at the asked level", "2  wrong usage, or nothing opens", "4  a defect of the kit"]),
        (("verify",), ["1  a claim does not hold, or the run is not conformant", "3  not all could be compared"]),
    ],
    ids=str,
)
def test_help_lists_the_exit_codes(command: Command, arguments: Sequence[str], lines: Sequence[str]) -> None:
    """Each code has a line of its own, at any width."""
    out = command(*arguments, "--help", COLUMNS="80").stdout
    shown = [line.strip() for line in out.splitlines()]
    assert set(lines) <= set(shown)


def test_help_tells_what_an_option_takes(command: Command) -> None:
    """Levels, capabilities and what a factor multiplies need no other page."""
    out = " ".join(command("run", "--help", COLUMNS="200").stdout.split())
    for said in (
        "Only this one of stream_bridge, memory, thread_index, counters.",
        "L0 to L3: up to this one; load, or none: the highest that applies, and load.",
        "Draw FACTOR times as many.",
    ):
        assert said in out
