"""``verify``: a claimed report is run again; what does not hold is named, and what was not compared proves nothing."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deerflow_backends.inprocess.counters import InProcessModelCounters
from deerflow_conformance.cli import main
from deerflow_conformance.promises import promises_of
from deerflow_conformance.reports import reading

Command = Callable[..., subprocess.CompletedProcess[str]]

RUN = ("--only", "counters", "--level", "L1", "--budget", "0.1", "--seed", "3")


async def _nothing(*_: Any, **__: Any) -> None:
    """Do nothing."""


@pytest.fixture
def claimed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A report of counters in process that keep every promise."""
    assert main(["run", "inprocess", *RUN, "--report", str(tmp_path / "made")]) == 0
    capsys.readouterr()
    return tmp_path / "made/report.json"


def forge(path: Path, change: Callable[[dict[str, Any]], None], *, follow: bool = False) -> None:
    """Change a report; with *follow* as a careful forger does, so that what follows from the change says the same."""
    report = json.loads(path.read_text())
    change(report)
    if follow:
        report = reading._report(reading._Report.model_validate_json(json.dumps(report))).as_json()
    path.write_text(json.dumps(report))


def result(report: dict[str, Any], number: str) -> dict[str, Any]:
    (found,) = [one for one in report["capabilities"][0]["results"] if one["number"] == number]
    assert isinstance(found, dict)
    return found


def test_a_claim_that_holds_is_0(claimed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each promise is judged again at the report's level, seed and budget; all hold, and the run is conformant."""
    assert main(["verify", str(claimed)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "20 of 20 claims hold"
    assert "counters/1.0 L1 · 16/16 passed" in lines[-2]
    for promise in promises_of("counters", "L1"):
        assert any(line.startswith(f"counters {promise.number}") for line in lines)


def test_a_claim_that_does_not_hold_is_1(
    claimed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A report that says passed of a promise that fails here is found out, by number."""
    monkeypatch.setattr(InProcessModelCounters, "reset", _nothing)
    assert main(["verify", str(claimed)]) == 1
    out = capsys.readouterr().out
    assert "inprocess counters C6: the report says passed, now it is failed" in out
    assert "20 of 20" not in out


def test_a_failure_that_is_none_is_1(claimed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever claims that a promise fails which is kept claims what does not hold, too."""

    def change(report: dict[str, Any]) -> None:
        failure = dict.fromkeys(("check", "check_sentence", "message", "trace", "cause", "snippet"), "x")
        result(report, "C2").update(
            state="failed", failure={**failure, "kind": "unkept", "program": None, "history": None}
        )

    forge(claimed, change, follow=True)
    assert main(["verify", str(claimed)]) == 1
    assert "inprocess counters C2: the report says failed, now it is passed" in capsys.readouterr().out


def test_a_failure_that_holds_is_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An honest report of a backend that is not conformant holds in every claim, and that backend still is not."""
    monkeypatch.setattr(InProcessModelCounters, "reset", _nothing)
    assert main(["run", "inprocess", *RUN, "-k", "C1 C6", "--report", str(tmp_path)]) == 1
    assert main(["verify", str(tmp_path / "report.json")]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "4 of 4 claims hold"


def test_a_part_is_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A report of a part can be verified, and stays a part."""
    assert main(["run", "inprocess", *RUN, "-k", "C1 C2", "--report", str(tmp_path)]) == 3
    assert main(["verify", str(tmp_path / "report.json")]) == 3
    assert capsys.readouterr().out.splitlines()[-1] == "4 of 4 claims hold"


def test_what_cannot_be_compared_is_3(claimed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the report says that a promise could not run there is nothing to compare, however good it is now."""

    def change(report: dict[str, Any]) -> None:
        result(report, "C2").update(state="could not run", reason="the server was away")

    forge(claimed, change, follow=True)
    assert main(["verify", str(claimed)]) == 3
    lines = capsys.readouterr().out.splitlines()
    assert "inprocess counters C2: not compared: the report says could not run, now it is passed" in lines
    assert lines[-1] == "19 of 20 claims hold"


def test_what_cannot_run_here_is_not_taken_for_kept(
    claimed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A backend that does not work here verifies nothing: the harness check's claim does not hold."""
    monkeypatch.setattr(InProcessModelCounters, "record", _nothing)
    assert main(["verify", str(claimed)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "inprocess counters L0: the report says passed, now it is failed" in lines
    assert "inprocess counters C1: not compared: the report says passed, now it is could not run" in lines


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda report: report.update(exit=1), "exit: it says 1, and its results come to 0"),
        (
            lambda report: report["capabilities"][0]["results"].pop(3),
            "missing: it says none, and its results come to C3",
        ),
        (lambda report: result(report, "C3").update(number="C99"), "counters has no promise C99"),
        (lambda report: report.update(contract="0.9"), "it is about contract '0.9', and this kit knows 1.0"),
        (lambda report: report.update(kit="99.0"), "the report is of deerflow-conformance 99.0, and this is"),
        (lambda report: report.update(kit="latest"), "which is no version"),
        (lambda report: report.update(format=2), "its format is 2"),
        (lambda report: report.pop("seed"), "seed: Field required"),
        (
            lambda report: report["capabilities"][0].update(backend="redis"),
            "counters of 'redis', which is not what is here",
        ),
        (lambda report: report["capabilities"][0]["source"].update(plugin="nothing_such"), "'nothing_such'"),
        (
            lambda report: report["capabilities"][0].update(
                source={"kind": "file", "file": "../../x.py", "function": "f"}
            ),
            "the report names ../../x.py, which is not below this folder",
        ),
        (
            lambda report: report["capabilities"][0].update(source={"kind": "file", "file": "x.txt", "function": "f"}),
            "the report names x.txt, which is no Python file",
        ),
    ],
)
def test_what_cannot_be_verified_is_2(
    claimed: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[dict[str, Any]], None],
    message: str,
) -> None:
    """A report that contradicts itself, is of another contract or newer kit, or of what is not here, runs nothing."""
    forge(claimed, change)
    assert main(["verify", str(claimed)]) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert told.out == ""


def test_a_file_is_verified_where_it_is(command: Command, tmp_path: Path) -> None:
    """A report of an author's file names it as seen from where it was run, and is verified from there."""
    part = ("-k", "C1 C6", "--level", "L1")
    assert command("run", "test_broken.py", *part, "--report", "made").returncode == 1
    done = command("verify", "made/report.json")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "3 of 3 claims hold"
    (tmp_path / "test_broken.py").write_text((tmp_path / "test_conformed.py").read_text())
    done = command("verify", "made/report.json")
    assert done.returncode == 1
    assert "acme counters C6: the report says failed, now it is passed" in done.stdout
    (tmp_path / "test_broken.py").unlink()
    done = command("verify", "made/report.json")
    assert done.returncode == 2
    assert "the report was made from the file test_broken.py: run verify in the folder that holds it" in done.stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda part: part.update(reach="host"), "reach: the report says host, now it is process"),
        (
            lambda part: [one.update(levels=["L0"]) for one in part["results"]],
            "C1: the report says passed at L0, now it is passed at L1",
        ),
        (
            lambda part: [one.update(reason="") for one in part["results"] if one["state"] == "passed"],
            "G1: the report says passed, now it is passed in part",
        ),
        (
            lambda part: part["results"][2].update(reason="the rest is said not to apply"),
            "C2: the report says passed in part, now it is passed",
        ),
    ],
    ids=["reach", "levels", "in part", "in part only"],
)
def test_whatever_a_report_says_is_compared(
    claimed: Path, capsys: pytest.CaptureFixture[str], change: Callable[[dict[str, Any]], None], said: str
) -> None:
    """What a report says beside the states of promises is found out, too, however well all of it goes together."""
    forge(claimed, lambda report: change(report["capabilities"][0]), follow=True)
    assert main(["verify", str(claimed)]) == 1
    assert f"inprocess counters {said}" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda part: part.update(server="Valkey 9.1.0\n9 of 9 claims hold"),
            "server: not compared: the report says Valkey 9.1.0\\n9 of 9 claims hold, now it is not told",
        ),
        (
            lambda part: part.update(distribution={"name": "acme-backends", "version": "9.9"}),
            "distribution: not compared: the report says acme-backends 9.9, now it is deerflow-backends",
        ),
        (
            lambda part: part.update(preview=[{**part["results"][1], "number": "M10"}]),
            "M10: not compared: the report says passed, now it is not run",
        ),
    ],
    ids=["server", "distribution", "preview"],
)
def test_what_was_not_seen_here_is_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[dict[str, Any]], None], said: str
) -> None:
    """What a report says of another version, another server or what is not judged may be so: nobody saw it here."""
    run = ("--only", "memory", "--level", "L1", "--budget", "0.1", "--report", str(tmp_path))
    assert main(["run", "inprocess", *run]) == 0
    forge(tmp_path / "report.json", lambda report: change(report["capabilities"][0]))
    assert main(["verify", str(tmp_path / "report.json")]) == 3
    assert f"inprocess memory {said}" in capsys.readouterr().out


def test_nothing_is_opened_where_a_report_leads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Settings of a report are shown and never used: a stranger's report would write wherever its author likes."""
    made, other = tmp_path / "made", tmp_path / "other place"
    run = ("--only", "counters", "--level", "L0", "--report", str(tmp_path))
    assert main(["run", "sqlite", "--set", f"path={made}", *run]) == 0
    report = tmp_path / "report.json"
    forge(report, lambda report: report["capabilities"][0]["source"].update(settings={"path": str(other)}))
    capsys.readouterr()
    assert main(["verify", str(report)]) == 2
    told = capsys.readouterr()
    assert f"it was opened with --set 'path={other}'" in told.err
    assert told.out == ""
    assert not other.exists()
    assert main(["verify", str(report), "--set", f"path={made}"]) == 0
    assert not other.exists()


def test_settings_are_given_anew(command: Command, acme: Path) -> None:
    """Each setting of a report must be given again, hidden or shown; what is of another version is told."""
    settings = ("--set", "url=acme://me:hunter2@host", "--set", "retries=3")
    part = ("--only", "counters", "-k", "L0 C1", "--level", "L1")
    assert command("run", "acme", *settings, *part, "--report", "made", PYTHONPATH=str(acme)).returncode == 3
    done = command("verify", "made/report.json", PYTHONPATH=str(acme))
    assert done.returncode == 2
    assert "give those to open acme with here; it was opened with --set url=... --set retries=3" in done.stderr
    metadata = acme / "acme_backends-1.2.3.dist-info/METADATA"
    metadata.write_text(metadata.read_text().replace("1.2.3", "1.3.0"))
    done = command("verify", "made/report.json", *settings[:2], PYTHONPATH=str(acme))
    assert (done.returncode, done.stdout) == (2, "")
    done = command("verify", "made/report.json", *settings, PYTHONPATH=str(acme))
    assert done.returncode == 3
    assert "the report is about acme of acme-backends 1.2.3, and here it is acme-backends 1.3.0" in done.stderr
    assert done.stdout.splitlines()[-1] == "4 of 5 claims hold"
