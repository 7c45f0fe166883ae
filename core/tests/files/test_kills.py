"""Processes killed at random moments: what was acknowledged is there, nothing is half there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

KILLS = 100
SEED = 20_260_131
WRITERS = Path(__file__).with_name("killed_writers.py")


def test_writers_killed_anywhere_leave_whole_changes(tmp_path: Path) -> None:
    """After each of 100 SIGKILLs every change is there in all its parts or in none, and what was acknowledged stays.

    Rivals write on meanwhile. In the end nothing of any dead writer is left (M2, M10, G11, G12).
    """
    arguments = [sys.executable, "-W", "error", str(WRITERS), str(tmp_path / "data"), str(KILLS), str(SEED)]
    ended = subprocess.run(arguments, stdout=subprocess.PIPE, check=True)
    remembered: list[tuple[str, str, int]] = []
    found: dict[str, list[dict[str, Any]]] = {}
    looks = 0
    for line in ended.stdout.splitlines():
        what, *told = json.loads(line)
        if what == "remembered":
            remembered.append((told[0], told[1], told[2]))
        else:
            _check_whole(told[1])
            found[told[0]] = told[1]
            looks += 1
    assert looks >= KILLS
    assert len(remembered) >= KILLS / 2, "the writers were not heard often enough for the test to mean anything"
    assert max(Counter((user_id, revision) for user_id, _, revision in remembered).values()) == 1
    for user_id, mark, _ in remembered:
        assert mark in {fact["fact_id"] for fact in found[user_id][1]["facts"]}
    assert list((tmp_path / "data/deerflow/journals").iterdir()) == []
    assert len(list((tmp_path / "data/deerflow/users").iterdir())) == len(found)


def _check_whole(records: list[dict[str, Any]]) -> None:
    """Each change added one fact to the agent's part, and set body and last fact of the other to its mark."""
    wide, agent = records
    revision = wide["user_revision"]
    assert agent["user_revision"] == wide["body_revision"] == len(agent["facts"]) == revision
    (last,) = wide["facts"]
    assert (last["value"], last["revision"]) == (wide["body"], revision)
    assert wide["body"]["mark"] in {fact["fact_id"] for fact in agent["facts"]}
    assert all(fact["value"] == {"mark": fact["fact_id"]} for fact in agent["facts"])
