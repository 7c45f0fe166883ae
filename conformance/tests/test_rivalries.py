"""Rivals: what they are let do, what strikes them, and what a reader is shown of it."""

import asyncio
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from deerflow_backends import BackendUnavailable, Conflict, NewThread
from deerflow_backends.inprocess.threads import InProcessThreadIndex
from deerflow_backends.sqlite.threads import SqliteThreadIndex
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import NotApplicable, checks_of
from deerflow_conformance.conformances import conform_plugin
from deerflow_conformance.histories import Call, Outcome
from deerflow_conformance.mutants import Mutant, all_mutants, methods
from deerflow_conformance.promises import HARNESS
from deerflow_conformance.reference import REFERENCE
from deerflow_conformance.replicas import ReplicaDied
from deerflow_conformance.results import Failure, Kind
from deerflow_conformance.rivalries import RIVALS, Ask, Rivalry, Strike, Turn, explore_rivals
from deerflow_conformance.runs import Run
from deerflow_conformance.strikes import kill_rivals, restart_server

FREE = [Ask("create", (NewThread("t", "ann"),)), Ask("get", ("t",), {"user_id": "ann"})]


def rivalry(seen: list[Sequence[Call]]) -> Rivalry:
    """Let all of them create and get, and keep what came of it."""
    return Rivalry(lambda digits, client, place: digits.pick(FREE), FREE[1:], seen.append)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench(next(one for one in REFERENCE if one.capability == "thread_index"))
    yield bench
    bench.close()


@pytest.fixture
def on_host(tmp_path: Path) -> Iterator[Bench]:
    (found,) = (
        one
        for one in conform_plugin("sqlite", connection={"path": str(tmp_path)}).conformances()
        if one.capability == "thread_index"
    )
    run = Run(found)
    run.judge(HARNESS.number)
    run._bench.begin(next(one for one in checks_of("T5") if one.level == "L3"))
    yield run._bench
    run.close()


def failure_of(mutated: Mutant) -> Failure:
    (reference,) = (one for one in REFERENCE if one.capability == mutated.capability)
    (name,) = mutated.by
    check = next(one for one in checks_of(mutated.number) if one.name == name)
    run = Run(reference)
    try:
        run.judge(HARNESS.number)
        with mutated.patch():
            failure = run._finished(mutated.number, [check]).failure
    finally:
        run.close()
    assert failure is not None
    return failure


@pytest.mark.parametrize(
    "name", ["a_deletion_writes_what_it_read", "a_freed_id_is_taken_twice", "thumbs_down_come_later"]
)
def test_a_failure_shows_a_short_program_and_its_history(name: str) -> None:
    """What rivals did wrong is shown as few turns, and as the calls that no order explains."""
    failure = failure_of(next(one for one in all_mutants() if one.name == name))
    assert failure.kind is Kind.UNKEPT
    assert failure.program is not None
    assert 1 <= failure.program.count(" turns later: ") <= 12
    assert failure.history is not None
    lines = failure.history.splitlines()
    assert lines[0].split() == ["from", "to", "ms"]
    assert 2 <= len(lines) <= 30
    assert " -> " in failure.history


def test_all_clients_play_at_once_and_what_they_get_is_recorded(bench: Bench) -> None:
    """Every program's calls are in its history, under their clients, with conflicts and cancelled calls among them."""
    seen: list[Sequence[Call]] = []
    explore_rivals(bench, rivalry(seen))
    calls = [call for history in seen for call in history]
    assert {call.client for call in calls} == {"one", "same", "other", "rival", "rival 2", "afterwards"}
    assert {call.outcome for call in calls} >= {Outcome.RETURNED, Outcome.REFUSED}
    assert all(isinstance(call.value, Conflict) for call in calls if call.outcome is Outcome.REFUSED)
    assert all(history[-1].client == "afterwards" for history in seen)
    assert max(map(len, seen)) > 12


def test_a_program_reads_as_what_is_called() -> None:
    """A turn is shown by its client, its call and what strikes it."""
    turn = Turn(RIVALS[0], 2, Ask("get", ("t",), {"user_id": "ann"}), Strike("cancel", 1, 0.001))
    assert repr(turn) == "<rival, 2 turns later: get('t', user_id='ann'), cancel after 1 turns and 0.001 s>"
    assert repr(dataclasses.replace(turn, strike=None)) == "<rival, 2 turns later: get('t', user_id='ann')>"


def test_an_error_that_is_no_outcome_fails(bench: Bench) -> None:
    """What a backend raises besides a conflict is no maybe that some order explains."""

    async def get(self: Any, thread_id: str, **named: Any) -> None:
        await asyncio.sleep(0)
        raise KeyError(thread_id)

    with methods(InProcessThreadIndex, get=get), pytest.raises(KeyError):
        explore_rivals(bench, rivalry([]))


def test_rivals_die_in_the_middle_of_calls(on_host: Bench) -> None:
    """Each program's two rivals are killed: of their last calls nobody knows the end, and others go on."""
    seen: list[Sequence[Call]] = []
    kill_rivals(on_host, rivalry(seen))
    assert len(seen) == 2
    for history in seen:
        dead = [call for call in history if isinstance(call.value, ReplicaDied)]
        assert 1 <= len(dead) <= 2
        assert {call.client for call in dead} <= {"rival", "rival 2"}
        assert all(call.outcome is Outcome.MAYBE for call in dead)
        assert history[-1].outcome is Outcome.RETURNED


def test_beside_a_killed_rival_the_others_are_answered(on_host: Bench) -> None:
    """That a process is killed is no reason for another one to be told that the backend is away."""

    async def get(self: Any, thread_id: str, **named: Any) -> None:
        raise BackendUnavailable("somebody was killed")

    with methods(SqliteThreadIndex, get=get), pytest.raises(BackendUnavailable):
        kill_rivals(on_host, rivalry([]))


def test_a_server_that_nobody_restarts_is_none(on_host: Bench) -> None:
    """Where nothing acknowledged is said to outlive the server no server is killed, and the check says why."""
    with pytest.raises(NotApplicable, match="its reach is one host: there is no server that could be killed"):
        restart_server(on_host, rivalry([]))
