"""The engine: every state that a promise can be in, and what a failure says."""

import asyncio
import itertools
import json
import sys
import unittest
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from deerflow_backends.errors import Closed
from deerflow_conformance import checks, conform_plugin, privacy, runs
from deerflow_conformance.bench import Bench
from deerflow_conformance.causes import CAUSES, cause_of
from deerflow_conformance.checks import Check, NotApplicable, Unkept, expect
from deerflow_conformance.expectations import UNSEEN_WORK
from deerflow_conformance.isolation import Blocked
from deerflow_conformance.promises import HARNESS, PROMISES, Level, promises_of
from deerflow_conformance.reference import REFERENCE
from deerflow_conformance.reruns import rerun_text
from deerflow_conformance.results import BrokenUse, Exit, Failure, Kind, KnownFailure, Result, State, Verdict, exit_of
from deerflow_conformance.runs import KitDefect, Run
from deerflow_conformance.spaces import Space

Checks = dict[str, list[Callable[[Bench], None]]]
KNOWN = KnownFailure("gaps are late", "https://example.org/1", "2026-11-01")


def passes(bench: Bench) -> None:
    """It holds."""


def fails(bench: Bench) -> None:
    """It does not hold."""
    expect(False, "one", 2)


def crashes(bench: Bench) -> None:
    """It raises."""

    async def body() -> None:
        raise LookupError("no such thing")

    bench.run(body)


def leaves(bench: Bench) -> None:
    """It leaves a task."""
    tasks = []

    async def body() -> None:
        tasks.append(asyncio.create_task(asyncio.sleep(3_600)))

    bench.run(body)


def hangs(bench: Bench) -> None:
    """It never ends."""

    async def body() -> None:
        await asyncio.Event().wait()

    bench.run(body)


def exempts(bench: Bench) -> None:
    """It does not apply."""
    bench.not_applicable("no files here")


def lacks(bench: Bench) -> None:
    """It needs what is not there."""
    bench.could_not_run("nothing leads through the proxy")


#: For promises that are not asked for.
NEVER = [Check("S1", "passes", "It holds.", passes)]


@pytest.fixture
def run_with(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Run]]:
    """Return a function that makes a run of the in-process bridge with the given checks in place of the kit's."""
    started: list[Run] = []

    def make(checks: Checks, **changes: Any) -> Run:
        monkeypatch.setattr(
            runs,
            "checks_of",
            lambda number: [
                Check(number, function.__name__, str(function.__doc__), function) for function in checks.get(number, [])
            ],
        )
        started.append(Run(replace(REFERENCE[0], **changes)))
        return started[-1]

    yield make
    for run in started:
        run.close()


def test_what_could_not_be_looked_at_is_never_passed(run_with: Callable[..., Run]) -> None:
    """One check that could not run leaves its promise open, whatever others say; one that fails decides it."""
    result = run_with({"S1": [passes, lacks, exempts]}).judge("S1")
    assert result == Result("S1", "stream_bridge", State.COULD_NOT_RUN, "nothing leads through the proxy")
    assert run_with({"S1": [lacks, fails]}).judge("S1").state is State.FAILED


def of_levels(monkeypatch: pytest.MonkeyPatch, number: str, checks: dict[Level, Callable[[Bench], None]]) -> None:
    """Have the promise *number* tested by these checks alone."""
    given = [Check(number, str(level), str(one.__doc__), one, level) for level, one in checks.items()]
    monkeypatch.setattr(runs, "checks_of", lambda asked: given if asked == number else NEVER)


@pytest.mark.parametrize(
    ("level", "state", "levels"),
    [
        ("L1", State.PASSED, ("L1",)),
        ("L2", State.PASSED, ("L1", "L2")),
        ("L3", State.COULD_NOT_RUN, ()),
        ("load", State.FAILED, ("L1", "L2", "load")),
    ],
)
def test_the_checks_of_the_levels_asked_for_run(
    monkeypatch: pytest.MonkeyPatch, level: Level, state: State, levels: tuple[Level, ...]
) -> None:
    """Those up to the level, or all that the reach allows; what it does not allow is not passed when asked for."""
    of_levels(monkeypatch, "S1", {"L1": passes, "L2": passes, "L3": crashes, "load": fails})
    run = Run(REFERENCE[0], level=level)
    result = run.judge("S1")
    assert (result.state, result.levels) == (state, levels)
    assert run.verdict.exit is {State.PASSED: Exit.INCOMPLETE, State.COULD_NOT_RUN: Exit.INCOMPLETE}.get(
        state, Exit.NOT_CONFORMANT
    )
    run.close()


def test_a_promise_of_l3_does_not_apply_within_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can come between one process and its own memory, and the verdict says so."""
    of_levels(monkeypatch, "S16", {"L3": crashes})
    run = Run(REFERENCE[0])
    result = run.judge("S16")
    assert result.state is State.NOT_APPLICABLE
    assert "one process" in result.reason
    assert "L2 + load" in run.verdict.line()
    run.close()


def test_a_failure_says_how_to_run_it_again(run_with: Callable[..., Run]) -> None:
    """The snippet is a program that raises what the check found, and its line in the author's file."""
    failure = run_with({"S1": [fails]}).judge("S1").failure
    assert failure is not None
    assert "'inprocess'" in failure.snippet
    with pytest.raises(BrokenUse, match="S1 has no check 'fails'"):
        exec(compile(failure.snippet, "snippet", "exec"), {})


def test_a_plugins_settings_are_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The snippet for a plugin opens it as it was opened; of what may be secret it says what is to be filled in."""
    monkeypatch.setattr(checks, "checks_of", lambda _: [Check("C1", "fails", "", fails)])
    plugin = conform_plugin("sqlite", connection={"path": tmp_path, "synchronous": "NORMAL"})
    counters = next(one for one in plugin.conformances() if one.capability == "counters")
    text = rerun_text(counters, Check("C1", "fails", "", fails), seed=0, budget=1)
    assert f"connection={{'path': {str(tmp_path)!r}, 'synchronous': 'NORMAL'}},\n" in text
    with pytest.raises(Unkept, match="wanted one, got 2"):
        exec(compile(text, "snippet", "exec"), {})
    monkeypatch.setattr(privacy, "shown_settings", lambda *_: {"path": None, "synchronous": "NORMAL"})
    text = rerun_text(counters, Check("C1", "fails", "", fails), seed=0, budget=1)
    assert "connection={'path': ..., 'synchronous': 'NORMAL'},  # fill in what is ...\n" in text
    with pytest.raises(BrokenUse, match=r"fill in connection\['path'\]"):
        exec(compile(text, "snippet", "exec"), {})


def test_a_server_says_what_it_is(run_with: Callable[..., Run]) -> None:
    """A report can name the server; what is no text is the author's mistake."""
    run = run_with({}, server=lambda: "Acme 9.1")
    run.start()
    assert run.server == "Acme 9.1"
    with pytest.raises(BrokenUse, match="server= must return a str"):
        run_with({}, server=lambda: 9.1).start()


def test_a_check_that_holds_passes(run_with: Callable[..., Run]) -> None:
    """A promise is passed when all its checks hold."""
    result = run_with({"S1": [passes, passes]}).judge("S1")
    assert result == Result("S1", "stream_bridge", State.PASSED)


@pytest.mark.parametrize(
    ("check", "kind", "message"),
    [
        (fails, Kind.UNKEPT, "wanted one, got 2"),
        (crashes, Kind.ERROR, "LookupError: no such thing"),
        (leaves, Kind.LEFTOVER, "left running"),
        (hangs, Kind.HANG, "no end within 600 s"),
    ],
)
def test_a_check_that_does_not_hold_fails(
    run_with: Callable[..., Run], check: Callable[[Bench], None], kind: Kind, message: str
) -> None:
    """A promise fails with the first check that does not hold, and says how."""
    result = run_with({"S1": [passes, check, passes]}).judge("S1")
    assert result.state is State.FAILED
    assert result.failure is not None
    assert (result.failure.kind, result.failure.check) == (kind, check.__name__)
    assert message in result.failure.message


def test_a_generated_failure_shows_the_shortest_program(run_with: Callable[..., Run]) -> None:
    """What Hypothesis found is shown, shortened, and nothing of what Hypothesis is made of."""

    def too_long(bench: Bench) -> None:
        """No list is long."""

        async def body(program: list[int]) -> None:
            expect(len(program) < 3, "a short list", program)

        bench.explore(st.lists(st.integers(0, 9), max_size=20), body)

    failure = run_with({"S1": [too_long]}).judge("S1").failure
    assert failure is not None
    assert failure.program == "[0, 0, 0]"
    assert "test_runs.py" in failure.trace
    assert "hypothesis" not in failure.trace


def test_lines_of_what_the_backend_raised_are_shown(run_with: Callable[..., Run]) -> None:
    """Where a check says what it makes of an error, the line that raised it comes first, and the check's own after."""

    def breaks() -> None:
        error = LookupError("no such thing")
        error.add_note("in the other process: line 7")
        raise error

    def notices(bench: Bench) -> None:
        """It breaks."""
        try:
            breaks()
        except LookupError as error:
            expect(False, "no error", repr(error))

    failure = run_with({"S1": [notices]}).judge("S1").failure
    assert failure is not None
    first, check = failure.trace.split("noticed at\n")
    assert "in breaks\n" in first
    assert first.endswith("in the other process: line 7\n")
    assert "in notices\n" in check
    assert "in breaks\n" not in check


@pytest.mark.parametrize("error", [LookupError("only once"), Unkept("it", "only once")])
def test_an_error_that_does_not_come_again_is_told(run_with: Callable[..., Run], error: Exception) -> None:
    """What fails once and then no more has failed: a backend must not be right by chance."""
    examples = itertools.count()

    def fails_once(bench: Bench) -> None:
        """It fails the second time only."""

        async def body(_: int) -> None:
            if next(examples) == 1:
                raise error

        bench.explore(st.integers(), body)

    result = run_with({"S1": [fails_once]}).judge("S1")
    assert result.state is State.FAILED
    assert result.failure is not None
    assert "only once\nIt does not fail every time" in result.failure.message


def test_a_finding_comes_before_what_came_of_it(run_with: Callable[..., Run]) -> None:
    """When closing fails as well, or tasks fail in a group, what the check found is what is told."""

    def fails_twice(bench: Bench) -> None:
        """It fails, and so does leaving."""
        try:
            fails(bench)
        finally:
            raise LookupError("while closing")

    def fails_in_a_group(bench: Bench) -> None:
        """It fails among other things."""

        async def fail() -> None:
            fails(bench)

        async def body() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())

        bench.run(body)

    run = run_with({"S1": [fails_twice], "S9": [fails_in_a_group]})
    failures = [run.judge(number).failure for number in ("S1", "S9")]
    assert [(one.kind, one.message) for one in failures if one] == [(Kind.UNKEPT, "wanted one, got 2")] * 2


@pytest.mark.parametrize("explored", [False, True])
@pytest.mark.parametrize(
    "error", [unittest.SkipTest("no"), pytest.skip.Exception("no"), NotApplicable("no"), asyncio.CancelledError("no")]
)
def test_a_backend_cannot_skip_its_checks(
    run_with: Callable[..., Run], error: BaseException, *, explored: bool
) -> None:
    """Only the kit says that a promise does not apply: a backend that raises what ends tests quietly has failed."""

    def skipped(bench: Bench) -> None:
        """It is skipped from inside."""

        async def body(_: object = None) -> None:
            raise error

        bench.explore(st.integers(), body) if explored else bench.run(body)

    result = run_with({"S1": [skipped]}).judge("S1")
    assert result.state is State.FAILED
    assert result.failure is not None
    assert type(error).__name__ in result.failure.message


def test_an_exit_is_a_failure(run_with: Callable[..., Run]) -> None:
    """A backend that ends the process fails, and does not end the run with exit code 0."""

    def exits(bench: Bench) -> None:
        """It exits."""

        async def body() -> None:
            sys.exit(0)

        bench.run(body)

    result = run_with({"S1": [exits]}).judge("S1")
    assert result.state is State.FAILED
    assert result.failure is not None
    assert "SystemExit" in result.failure.message


def test_checks_that_wait_do_so_together(run_with: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    """In real time they run at once and each has a result of its own; one that fails so is judged alone, too."""
    running: list[str] = []
    alone = 0

    def waits(bench: Bench) -> None:
        """It waits for the other one."""

        async def body() -> None:
            running.append("one")
            while len(running) < 2:
                await asyncio.sleep(0)

        bench.run(body)

    def waits_and_fails(bench: Bench) -> None:
        """It waits for the other one, and fails."""

        async def body() -> None:
            nonlocal alone
            running.append("other")
            while len(running) < 2:
                await asyncio.sleep(0)
            alone += 1
            expect(False, "one", 2)

        bench.run(body)

    checks = {
        "S13": [Check("S13", "waits", "It waits.", waits, waits=True)],
        "S14": [Check("S14", "fails", "It fails.", waits_and_fails, waits=True)],
    }
    run = run_with({}, virtual_time=False)
    monkeypatch.setattr(runs, "checks_of", lambda number: checks.get(number, NEVER))
    run.results[HARNESS.number] = Result(HARNESS.number, "stream_bridge", State.PASSED)
    assert run.judge("S13").state is State.PASSED
    assert running == ["one", "other"]
    assert run.judge("S14").state is State.FAILED
    assert (running, alone) == (["one", "other", "other"], 2)


def test_what_waiting_checks_leave_is_found(run_with: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    """If something is left over of a common wait, each is judged alone, and the one that left it fails."""
    checks = {
        "S13": [Check("S13", "leaves", "It leaves a task.", leaves, waits=True)],
        "S14": [Check("S14", "passes", "It holds.", _waits_for_nothing, waits=True)],
    }
    run = run_with({}, virtual_time=False)
    monkeypatch.setattr(runs, "checks_of", lambda number: checks.get(number, NEVER))
    run.results[HARNESS.number] = Result(HARNESS.number, "stream_bridge", State.PASSED)
    assert run.judge("S14").state is State.PASSED
    assert run.judge("S13").state is State.FAILED


def _waits_for_nothing(bench: Bench) -> None:
    bench.run(partial(asyncio.sleep, 0))


def test_what_does_not_apply_says_why(run_with: Callable[..., Run]) -> None:
    """All checks exempt: not applicable. Some: passed, with the reason kept."""
    run = run_with({"S1": [exempts, exempts], "S2": [exempts, passes]})
    whole, part = run.judge("S1"), run.judge("S2")
    assert (whole.state, whole.reason) == (State.NOT_APPLICABLE, "no files here")
    assert (part.state, part.reason) == (State.PASSED, "no files here")


def _memory_that_exempts_itself(exempt: dict[str, str]) -> Any:
    (memory,) = [one for one in REFERENCE if one.capability == "memory"]

    async def opened(space: Space) -> AsyncIterator[Any]:
        async with memory.open(space) as store:
            store.exempt = exempt
            yield store

    return replace(memory, function=opened)


def test_what_a_backend_may_declare_as_not_applying_is_shown_so() -> None:
    """A backend that says that M9 does not apply to it is not judged by it, and the verdict gives its reason."""
    run = Run(_memory_that_exempts_itself({"M9": "its files are written whole"}))
    try:
        result = run.judge("M9")
        assert run.judge("M1").state is State.PASSED
    finally:
        run.close()
    assert (result.state, result.reason) == (State.NOT_APPLICABLE, "the backend says: its files are written whole")
    assert "(not applicable: M9; not run:" in Verdict("memory", "L1", (result,)).line()


@pytest.mark.parametrize("exempt", [{"M2": "it is hard"}, {"M9": ""}, {"M9": "slow", "M10": "no files"}])
def test_nothing_else_can_be_declared_away(exempt: dict[str, str]) -> None:
    """A backend that exempts itself from a promise that the contract makes, or gives no reason, fails the harness."""
    run = Run(_memory_that_exempts_itself(exempt))
    try:
        assert run.judge("M9").state is State.COULD_NOT_RUN
    finally:
        run.close()
    assert run.results["L0"].state is State.FAILED


@pytest.mark.parametrize(
    ("capability", "given", "numbers"),
    [
        ("stream_bridge", "owned", ["G11"]),
        ("memory", "owned", ["G11"]),
        ("memory", "work", ["M9"]),
        ("thread_index", "work", ["T3", "T8", "T9"]),
        ("counters", "owned", ["C4", "G11"]),
    ],
)
def test_a_count_that_counts_nothing_leaves_promises_open(capability: str, given: str, numbers: list[str]) -> None:
    """Where the author's count does not rise with what is written nobody knows, and how to mend it is told."""
    (reference,) = (one for one in REFERENCE if one.capability == capability)
    changes: dict[str, Any] = {given: lambda *_: 7}
    run = Run(replace(reference, **changes))
    try:
        results = [run.judge(number) for number in numbers]
    finally:
        run.close()
    assert [result.state for result in results] == [State.COULD_NOT_RUN] * len(numbers)
    assert all(result.reason.startswith(f"{given}= was no more after 8 writes") for result in results)


def test_what_is_done_out_of_sight_is_said_not_to_be_seen(tmp_path: Path) -> None:
    """Of a backend that does its work in another process or thread, and counts none, costs are judged in part."""
    found = conform_plugin("sqlite", connection={"path": str(tmp_path)}).conformances()
    (conformance,) = (one for one in found if one.capability == "thread_index")
    counted = replace(conformance, work=itertools.count().__next__)
    for one, reason in ((conformance, UNSEEN_WORK), (counted, "")):
        run = Run(one, level="L1")
        try:
            result = run.judge("T9")
        finally:
            run.close()
        assert (result.state, result.reason) == (State.PASSED, reason)


def test_dependents_of_a_failure_could_not_run(run_with: Callable[..., Run]) -> None:
    """What builds on a failed promise could not run, over several steps, and says on what; the rest runs."""
    run = run_with({number: [fails if number == "S1" else passes] for number in ("S1", "S8", "S9", "S13", "G1", "G9")})
    states = {number: run.judge(number).state for number in ("S1", "S8", "S9", "S13", "G1", "G9")}
    assert states == {
        "S1": State.FAILED,
        "S8": State.COULD_NOT_RUN,
        "S9": State.PASSED,
        "S13": State.COULD_NOT_RUN,
        "G1": State.COULD_NOT_RUN,
        "G9": State.PASSED,
    }
    assert run.results["S8"].reason == "it builds on S1, which failed"


def test_what_cannot_apply_is_not_applicable_whatever_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not apply to a capability, or to a reach, is not counted either where what it builds on failed."""
    counters = next(one for one in REFERENCE if one.capability == "counters")
    given = {number: [Check(number, number, "It.", fails)] for number in ("C1", "G3")}
    given["G7"] = [Check("G7", "G7", "It.", fails, "L3")]
    monkeypatch.setattr(runs, "checks_of", given.__getitem__)
    run = Run(counters)
    try:
        assert run.judge("C1").state is State.FAILED
        assert run.judge("G3") == Result("G3", "counters", State.NOT_APPLICABLE, "counters take no values")
        assert run.judge("G7").state is State.NOT_APPLICABLE
    finally:
        run.close()


def test_a_dependent_alone_does_run(run_with: Callable[..., Run]) -> None:
    """A promise that is asked for alone is judged alone."""
    assert run_with({"S1": [fails], "S8": [passes]}).judge("S8").state is State.PASSED


def test_a_known_failure_shows_as_such(run_with: Callable[..., Run]) -> None:
    """A declared failure that fails is a known failure with reason, link and date; it does not stop dependents."""
    run = run_with({"S1": [fails], "S8": [passes]}, known_failures={"S1": KNOWN})
    result = run.judge("S1")
    assert (result.state, result.reason) == (
        State.KNOWN_FAILURE,
        "gaps are late (https://example.org/1, 2026-11-01)",
    )
    assert run.judge("S8").state is State.PASSED


def test_a_known_failure_that_passes_fails(run_with: Callable[..., Run]) -> None:
    """What is declared as failing and passes is a failure, until the declaration is taken out."""
    result = run_with({"S1": [passes]}, known_failures={"S1": KNOWN}).judge("S1")
    assert result.state is State.FAILED
    assert result.failure is not None
    assert result.failure.kind is Kind.FIXED


def test_a_promise_without_check_is_a_defect(run_with: Callable[..., Run]) -> None:
    """A promise that nothing tests is never passed."""
    with pytest.raises(KitDefect, match="S1 has no check"):
        run_with({}).judge("S1")


async def opens_nothing(space: Any) -> AsyncIterator[Any]:
    if space is None:
        yield


async def opens_something_else(space: Any) -> AsyncIterator[Any]:
    yield object()


async def forgets(space: Any) -> AsyncIterator[Any]:
    async with REFERENCE[0].open(replace(space, name=f"{space.name}_{id(object())}_{len(opened)}")) as bridge:
        opened.append(bridge)
        yield bridge


async def mixes_up(space: Any) -> AsyncIterator[Any]:
    async with REFERENCE[0].open(replace(space, name="always_the_same")) as bridge:
        yield bridge


async def leaves_a_task(space: Any) -> AsyncIterator[Any]:
    async with REFERENCE[0].open(space) as bridge:
        opened.append(asyncio.create_task(asyncio.sleep(3_600)))
        yield bridge


async def cannot_open(space: Any) -> AsyncIterator[Any]:
    if space is not None:
        raise ConnectionRefusedError("nobody listens")
    yield


opened: list[Any] = []


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (opens_nothing, "didn't yield"),
        (opens_something_else, "wanted a StreamBridge"),
        (forgets, "wanted a second instance on the same space to see"),
        (mixes_up, "wanted another space to be empty"),
        (leaves_a_task, "left running"),
        (cannot_open, "nobody listens"),
    ],
)
def test_a_broken_function_is_told_before_anything_else(
    run_with: Callable[..., Run], function: Any, message: str
) -> None:
    """A function that does not do what the kit needs fails L0, and every promise could not run."""
    run = run_with({"S1": [passes]}, function=function)
    assert run.judge("S1") == Result("S1", "stream_bridge", State.COULD_NOT_RUN, "the harness check L0 failed")
    failure = run.results["L0"].failure
    assert failure is not None
    assert message in failure.message
    verdict = Verdict("stream_bridge", "L1", tuple(run.results.values()))
    assert verdict.exit is Exit.BROKEN


def test_start_and_stop_frame_a_run(run_with: Callable[..., Run]) -> None:
    """The author's start runs before anything and stop after everything, awaited if they are coroutines."""
    calls: list[str] = []

    async def start() -> None:
        await asyncio.sleep(0)
        calls.append("start")

    run = run_with({"S1": [passes]}, start=start, stop=lambda: calls.append("stop"))
    run.start()
    assert calls == ["start"]
    run.judge("S1")
    run.close()
    assert calls == ["start", "stop"]


def test_a_start_that_fails_is_told(run_with: Callable[..., Run]) -> None:
    """A server that does not start is broken use, and what had started is stopped."""
    calls: list[str] = []

    def start() -> None:
        raise OSError("no docker")

    run = run_with({}, start=start, stop=lambda: calls.append("stop"))
    with pytest.raises(BrokenUse, match="no docker"):
        run.start()
    run.close()
    assert calls == ["stop"]


def _verdict(**states: State) -> Verdict:
    numbers = [promise.number for promise in promises_of("counters", "L1")]
    results = [Result(one, "counters", states.get(one, State.PASSED)) for one in numbers if one != states.get("less")]
    return Verdict("counters", "L1", tuple(results))


def test_verdicts_count_and_name() -> None:
    """The line counts what passed of what applies, and names everything else."""
    count = len(promises_of("counters", "L1"))
    line = _verdict().line()
    assert line == f"counters/1.0 L1 · {count}/{count} passed (not at this level: G5, G7, G12)"
    line = _verdict(C2=State.FAILED, G11=State.NOT_APPLICABLE, C6=State.COULD_NOT_RUN, C7=State.KNOWN_FAILURE).line()
    assert line == (
        f"counters/1.0 L1 · {count - 4}/{count - 1} passed (failed: C2; known failure: C7; could not run: C6; "
        "not applicable: G11; not at this level: G5, G7, G12)"
    )


def test_verdicts_name_what_was_not_run() -> None:
    """Numbers in a row are told as a range."""
    missing = ("C2", "C3", "C4", "C6", "C7")
    results = [one for one in _verdict().results if one.number not in missing]
    assert "not run: C2-C4, C6, C7; " in Verdict("counters", "L1", tuple(results)).line()


@pytest.mark.parametrize(
    ("verdict", "code"),
    [
        (_verdict(), Exit.CONFORMANT),
        (_verdict(G11=State.NOT_APPLICABLE), Exit.CONFORMANT),
        (_verdict(C2=State.FAILED), Exit.NOT_CONFORMANT),
        (_verdict(C2=State.KNOWN_FAILURE), Exit.NOT_CONFORMANT),
        (_verdict(C2=State.FAILED, C3=State.COULD_NOT_RUN), Exit.NOT_CONFORMANT),
        (_verdict(C3=State.COULD_NOT_RUN), Exit.INCOMPLETE),
        (Verdict("counters", "L1", _verdict().results[1:]), Exit.INCOMPLETE),
        (Verdict("counters", "L1", ()), Exit.INCOMPLETE),
        (Verdict("counters", "L0", ()), Exit.INCOMPLETE),
    ],
)
def test_exit_codes(verdict: Verdict, code: Exit) -> None:
    """Only a complete run without any failure is conformant; nothing at all is incomplete."""
    assert verdict.exit is code
    assert exit_of([_verdict(), verdict]) is code
    assert exit_of([]) is Exit.INCOMPLETE


def test_results_travel() -> None:
    """A result survives being sent as plain values."""
    failure = Failure(Kind.HANG, "check", "A check.", "message", "program", "trace", "history", "cause", "snippet")
    result = Result("S1", "stream_bridge", State.FAILED, "", failure, ("L1", "L3"), 1.5)
    there_and_back = Result.from_json(json.loads(json.dumps(result.as_json())))
    assert there_and_back == result
    assert (there_and_back.levels, there_and_back.seconds) == (("L1", "L3"), 1.5)
    assert all(type(value) is str for value in result.as_json()["failure"].values())


@pytest.mark.parametrize(
    "arguments",
    [
        (" ", "https://example.org/1", "2026-11-01"),
        ("late", "issue 1", "2026-11-01"),
        ("late", "https://example.org/1", "yesterday"),
    ],
)
def test_a_known_failure_says_what_where_and_since_when(arguments: tuple[str, str, str]) -> None:
    """Reason, link and date are all needed."""
    with pytest.raises(ValueError, match=r"reason|link|date|Invalid"):
        KnownFailure(*arguments)


def test_the_reference_names_every_capability() -> None:
    """The in-process reference is there for all four capabilities, in virtual time."""
    assert all(one.virtual_time for one in REFERENCE)
    assert [one.capability for one in REFERENCE] == ["stream_bridge", "memory", "thread_index", "counters"]


@pytest.mark.parametrize(
    ("check", "cause"),
    [
        (fails, CAUSES["S1"]),
        (crashes, "translate the driver's errors"),
        (leaves, "is not ended and awaited"),
        (hangs, "waits without a limit"),
    ],
)
def test_the_usual_cause_is_that_of_the_kind(
    run_with: Callable[..., Run], check: Callable[[Bench], None], cause: str
) -> None:
    """What a failure's kind says is looked at first; only a finding leads to what usually breaks its promise."""
    failure = run_with({"S1": [check]}).judge("S1").failure
    assert failure is not None
    assert cause in failure.cause


def test_the_usual_cause_is_that_of_what_a_finding_came_from() -> None:
    """An error of the contract is translated already; a foreign one, or a wait, behind a finding is what to look at."""
    found = Unkept("an answer", "none")
    assert cause_of("G7", Kind.ERROR, Closed("closed")) == CAUSES["G7"]
    for error, cause in ((OSError(), "translate"), (Closed("closed"), CAUSES["G5"]), (Blocked(), "waits without")):
        found.__cause__ = error
        assert cause in cause_of("G5", Kind.UNKEPT, found)


def test_every_failure_names_its_usual_cause() -> None:
    """Each counted promise has one, and nothing else has."""
    counted = {number for number, promise in PROMISES.items() if promise.counted}
    assert CAUSES.keys() == counted
    assert all(cause.endswith(".") for cause in CAUSES.values())
