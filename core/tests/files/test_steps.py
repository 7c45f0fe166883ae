"""Writers that die at each step in turn: what the next one finds is the state before or after, never between."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deerflow_backends.changes import StoredBody, StoredFact
from deerflow_backends.deerflow_folders import write_folder
from deerflow_backends.records import Part

WRITER = Path(__file__).with_name("dying_writer.py")


def _let_it_die(scenario: str, tmp_path: Path) -> list[Any]:
    moment = 1_700_000_000_000_000
    facts = {"f1": StoredFact(1, b'{"content":"x"}', moment, moment)}
    parts = [Part("bob", agent, 1, moment, StoredBody(1, b'{"a":1}'), facts) for agent in (None, "researcher")]
    write_folder(tmp_path / "source", [*parts, Part("eve", None, 1, moment, None, facts)])
    arguments = [sys.executable, "-W", "error", str(WRITER), scenario, str(tmp_path / "data"), str(tmp_path / "source")]
    ended = subprocess.run(arguments, stdout=subprocess.PIPE, check=True)
    return [json.loads(line) for line in ended.stdout.splitlines()]


@pytest.mark.parametrize("scenario", ["apply", "first apply", "clear", "erase", "restore", "recover", "import"])
def test_a_writer_that_dies_anywhere_leaves_the_state_before_or_after(scenario: str, tmp_path: Path) -> None:
    """Whatever step a writer dies at, all of its changes are there or none, and nothing else is left (M2, M10, G11).

    Who dies while finishing another one's write, or while importing, is finished by the next.
    """
    (_, before, folder_before), (_, after, folder_after), *deaths, (code, last, left) = _let_it_die(scenario, tmp_path)
    assert (code, last, left) == (0, after, folder_after)
    assert {code for code, _, _ in deaths} == {-signal.SIGKILL}
    states = [state for _, state, _ in deaths]
    assert before != after
    undone = 0 if scenario in {"recover", "import"} else states.index(after)
    assert states == [before] * undone + [after] * (len(states) - undone)
    assert [left for _, _, left in deaths] == [folder_before] * undone + [folder_after] * (len(states) - undone)
    # Not too few to mean anything: at least each file is opened, written, synced and renamed.
    assert len(states) - undone >= 10
    assert undone >= 10 or scenario in {"recover", "import"}
