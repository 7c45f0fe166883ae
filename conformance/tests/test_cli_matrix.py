"""``matrix``: several reports side by side, good only if each of them is."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deerflow_backends.inprocess.counters import InProcessModelCounters
from deerflow_conformance.cli import main
from deerflow_conformance.promises import promises_of

#: What is said where a budget below 1 was asked for.
FEW = "At budget 0.1 fewer programs were drawn than at 1, so a fault may have gone unseen."


async def _nothing(*_: Any, **__: Any) -> None:
    """Do nothing."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reports of every kind: conformant ones of two capabilities, one that is not, one incomplete, one broken."""
    folder = tmp_path_factory.mktemp("reports")

    def run(name: str, capability: str, *more: str, code: int) -> None:
        quick = ("--level", "L1", "--budget", "0.1")
        made = str(folder / name)
        assert main(["run", "inprocess", "--only", capability, *quick, *more, "--report", made]) == code

    run("good", "counters", code=0)
    run("harness", "counters", "--level", "L0", code=0)
    run("memory", "memory", code=0)
    run("part", "counters", "-k", "C1", code=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InProcessModelCounters, "reset", _nothing)
        run("bad", "counters", code=1)
        patch.setattr(InProcessModelCounters, "record", _nothing)
        run("broken", "counters", code=2)
    return folder


@pytest.fixture
def matrix(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def show(*names: str, more: tuple[str, ...] = ()) -> tuple[int, str]:
        code = main(["matrix", *(str(folder / name / "report.json") for name in names), *more])
        return code, capsys.readouterr().out

    return show


@pytest.mark.parametrize(
    ("names", "code", "said"),
    [
        (["good"], 0, f"conformant at L1  Every promise that applies was kept by the 1 backend, at L1. {FEW}"),
        (
            ["good", "memory"],
            0,
            f"conformant at L1  Every promise that applies was kept by each of 2 reports, at L1. {FEW}",
        ),
        (["harness"], 0, "conformant at L0  What opens the backend works. No promise was tested."),
        (["good", "part"], 3, f"incomplete  1 of 2 reports is conformant, at L1. {FEW}"),
        (["part", "bad", "good"], 1, f"not conformant  1 of 3 reports is conformant, at L1. {FEW}"),
        (["bad", "broken", "part"], 2, f"broken  0 of 3 reports are conformant. {FEW}"),
        (
            ["good", "good"],
            0,
            f"conformant at L1  Every promise that applies was kept by each of 2 reports, at L1. {FEW}",
        ),
    ],
    ids=str,
)
def test_a_matrix_is_as_good_as_its_worst(
    matrix: Callable[..., tuple[int, str]], names: list[str], code: int, said: str
) -> None:
    """The exit code is 0 only if every report is conformant, else the gravest of them; the last words say so.

    They say at which level, too, that a harness alone is no promise, and that few programs prove little.
    """
    found, out = matrix(*names)
    assert found == code
    assert " ".join(out.split()).endswith(said.replace("  ", " "))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["good"], "counters: 16 of 16 "),
        (["good", "part"], "counters: 16 of 16 "),
        (["part"], "counters: 1 of 1 "),
        (["good", "bad"], r"counters: \d of 16 "),
        (["good", "memory"], "memory: 21 of 21 "),
    ],
    ids=str,
)
def test_what_applies_to_nobody_or_nobody_was_asked_is_not_counted(
    matrix: Callable[..., tuple[int, str]], names: list[str], said: str
) -> None:
    """A promise that does not apply (G3 of counters), is of a higher level or was left out, nobody failed to keep."""
    _, out = matrix(*names)
    assert re.search(rf"^{said}promises were kept by all that were asked$", out, re.MULTILINE)


def test_backends_by_capabilities_and_promises_by_backends(matrix: Callable[..., tuple[int, str]]) -> None:
    """Each backend has a row with its score, and each promise that not all simply kept has a row with each state."""
    _, out = matrix("good", "bad", "memory")
    lines = [line.strip() for line in out.splitlines()]
    assert lines[1].split() == ["backend", "memory", "counters"]
    assert "16/16 L1, budget 0.1" in " ".join(out.split())
    (row,) = [line.split() for line in lines if line.startswith("C6 ")]
    assert row == ["C6", "passed", "failed"]
    assert not [line for line in lines if line.startswith("C1 ")]
    assert "memory: " in out


def test_json_holds_every_state(matrix: Callable[..., tuple[int, str]]) -> None:
    """For scripts each row has the state of every promise of each capability, those not asked for among them."""
    code, out = matrix("good", "part", more=("--json",))
    plain = json.loads(out)
    assert (code, plain["exit"], plain["meaning"]) == (3, 3, "incomplete")
    good, part = plain["rows"]
    assert (good["asked"], good["budget"]) == ("L1", 0.1)
    assert good["label"] != part["label"]
    assert set(good["capabilities"]["counters"]["states"]) == {one.number for one in promises_of("counters")}
    assert good["capabilities"]["counters"]["states"]["G1"] == "passed in part"
    assert good["capabilities"]["counters"]["states"]["G7"] == "not at this level"
    assert part["capabilities"]["counters"]["states"]["C2"] == "not run"
    assert part["capabilities"]["counters"]["exit"] == 3


def test_two_reports_of_one_backend_both_show(folder: Path, matrix: Callable[..., tuple[int, str]]) -> None:
    """Reports of the same backend and capability never replace each other: each has a label of its own."""
    code, out = matrix("good", "bad", "good", more=("--json",))
    labels = [row["label"] for row in json.loads(out)["rows"]]
    good, bad = (str(folder / name / "report.json") for name in ("good", "bad"))
    assert labels == [f"inprocess ({good})", f"inprocess ({bad})", f"inprocess ({good}, 3)"]
    assert code == 1


def test_the_page_shows_all_of_it(tmp_path: Path, matrix: Callable[..., tuple[int, str]]) -> None:
    """The page has every promise of every capability, each backend's state in words, and the verdict first."""
    path = tmp_path / "matrix.html"
    code, _ = matrix("good", "bad", "memory", more=("--html", str(path)))
    page = path.read_text("utf-8")
    assert code == 1
    assert page.index("Not conformant") < page.index("Backends by capabilities")
    for capability in ("counters", "memory"):
        for promise in promises_of(capability):
            assert f"<b>{promise.number}</b>" in page
    assert "not in its report" in page
    assert "L1, budget 0.1" in page
    assert FEW in page
    assert "not at this level" in page
    assert "<script" not in page
    assert page.rstrip().endswith("</html>")


def test_a_page_that_cannot_be_written_is_2(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A matrix that was to be written and was not is no success."""
    report = str(folder / "good/report.json")
    assert main(["matrix", report, "--html", f"{report}/x.html"]) == 2
    assert "x.html cannot be written: " in capsys.readouterr().err


def test_one_bad_report_spoils_the_matrix(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A report that contradicts itself, in its words too, is named, and nothing is shown of the others."""
    path = tmp_path / "forged.json"
    good = folder / "bad/report.json"
    path.write_text(good.read_text().replace('"exit": 1', '"exit": 0'))
    assert main(["matrix", str(good), str(path)]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "forged.json: capabilities[0].exit: it says 0, and its results come to 1" in told.err
    path.write_text(good.read_text().replace("9/16 passed", "16/16 passed"))
    assert main(["matrix", str(good), str(path)]) == 2
    assert "forged.json: capabilities[0].verdict: it says 'counters/1.0 L1 · " in capsys.readouterr().err


@pytest.mark.parametrize(
    "target",
    [("inprocess",), ("sqlite", "--set", "path=.", "--only", "memory", "--level", "L1")],
    ids=["in process", "without owned"],
)
def test_what_a_run_finds_not_applicable_may_be_so(
    target: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what the kit writes nothing is refused for promises that it could not apply, however little it was given."""
    monkeypatch.chdir(tmp_path)
    code = main(["run", *target, "--budget", "0.01", "--report", "made"])
    assert main(["matrix", "made/report.json"]) == code == 0
