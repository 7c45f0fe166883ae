"""Under pytest: one item a promise, every state visible, nothing silently green."""

import importlib
import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from deerflow_conformance.checks import checks_of
from deerflow_conformance.promises import promises_of

pytest_plugins = ["pytester"]

# Pytester forgets what is first imported inside of it. The register of checks does not, and importlib_metadata, which
# finds plugins, would be lost to sys.meta_path.
importlib.import_module("deerflow_conformance.plugin_opening")
for number in ("G1", "S1", "M1", "T1", "C1"):
    checks_of(number)

COUNT = len(promises_of("counters"))

AUTHOR = '''
    from contextlib import asynccontextmanager
    from deerflow_backends import inprocess
    from deerflow_conformance import KnownFailure, conform

    class Broken:
        """Counters that do not reset."""

        def __init__(self, counters):
            self._counters = counters

        def __getattr__(self, name):
            return getattr(self._counters, name)

        async def reset(self, model_name):
            pass

    KNOWN = {"C6": KnownFailure("reset does nothing", "https://example.org/6", "2026-11-02")}

    @asynccontextmanager
    async def opened(space):
        async with inprocess.connect(namespace=space.name, clock=space.clock) as connection:
            async with inprocess.open_counters(connection, space.options) as counters:
                yield counters
'''
GOOD = """
    @conform("counters", plugin="acme", virtual_time=True)
    async def good(space):
        async with opened(space) as counters:
            yield counters
"""
BROKEN = """
    @conform("counters", plugin="acme", virtual_time=True)
    async def broken(space):
        async with opened(space) as counters:
            yield Broken(counters)
"""

LOG = """
    from pathlib import Path

    def log(text):
        path = Path("log")
        path.write_text((path.read_text() if path.exists() else "") + text + " ")
"""

Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    """Return a function that runs pytest on an author's file with these functions."""

    def run(*functions: str, arguments: tuple[str, ...] = ()) -> pytest.RunResult:
        source = "\n".join(map(textwrap.dedent, (AUTHOR, *functions)))
        pytester.makepyfile(test_conformance=source)
        return pytester.runpytest("-W", "error", "--conformance-budget", "0.1", *arguments)

    return run


def test_one_item_a_promise(run: Run) -> None:
    """The harness check and every promise of the level are items, their numbers the names."""
    result = run(GOOD, arguments=("--collect-only", "-q"))
    numbers = ["L0", *(promise.number for promise in promises_of("counters"))]
    assert [line for line in result.outlines if "::" in line] == [
        f"test_conformance.py::good::{number}" for number in numbers
    ]


def test_a_conformant_backend_is_green(run: Run) -> None:
    """All pass, the summary says of how many and what was not tested, and the exit code is 0."""
    result = run(GOOD)
    result.stdout.fnmatch_lines(["acme: counters/1.0 L2 + load · */* passed (*not applicable: *G7, G12)"])
    assert result.ret == pytest.ExitCode.OK


def test_the_level_is_chosen(run: Run) -> None:
    """At L0 only the harness is checked, and the summary says so."""
    result = run(GOOD, arguments=("--conformance-level", "L0"))
    result.stdout.fnmatch_lines(["acme: counters/1.0 L0 · passed"])
    result.assert_outcomes(passed=1)


def test_a_failure_is_explained(run: Run) -> None:
    """It shows the sentence, wanted and got, and a command that replays just this one."""
    result = run(BROKEN, arguments=("-k", "C6"))
    assert "Failing test case" not in result.stdout.str()  # Hypothesis' own words, of what was drawn
    result.stdout.fnmatch_lines(
        [
            "*counters C6: Reset removes a model*",
            "*not kept: wanted *, got *",
            '*replay    pytest "test_conformance.py::broken::C6" --conformance-seed 0 --conformance-budget 0.1',
            "acme: counters/1.0 L2 + load · 0/* passed (failed: C6; *",
        ]
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_one_promise_runs_alone(run: Run) -> None:
    """A promise is run by its node id, and the summary says that the others were not."""
    result = run(GOOD, arguments=("test_conformance.py::good::C2",))
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["acme: counters/1.0 L2 + load · 1/* passed (not run: C1, *"])


def test_what_could_not_run_is_never_green(run: Run) -> None:
    """Promises that could not run make the run fail, even where no failed item does."""
    function = """
    @conform("counters", plugin="acme", virtual_time=True)
    async def missing(space):
        yield None
    """
    result = run(function, arguments=("--deselect", "test_conformance.py::missing::L0"))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["    C1 could not run: the harness check L0 failed", f"*{COUNT} could not run*"])
    assert "passed" not in result.outlines[-1]


def test_known_failures_are_shown_and_do_not_fail(run: Run) -> None:
    """A declared failure is told with reason, link and date, and pytest stays green."""
    result = run(BROKEN.replace("virtual_time=True", "virtual_time=True, known_failures=KNOWN"), arguments=("-k", "C6"))
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        ["*known failure: C6*", "    C6 known failure: reset does nothing (https://example.org/6, 2026-11-02)"]
    )


def test_a_known_failure_that_passes_fails(run: Run) -> None:
    """A declaration that is no longer true is a failure."""
    result = run(GOOD.replace("virtual_time=True", "virtual_time=True, known_failures=KNOWN"), arguments=("-k", "C6"))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*it passes now; take it out of known_failures*"])


def test_two_functions_of_one_name_are_refused(run: Run) -> None:
    """The second would silently replace the first: exit 2, naming both lines."""
    result = run(GOOD, GOOD.replace("acme", "other"))
    assert result.ret == 2
    result.stdout.fnmatch_lines(["*two functions are named 'good' (lines *"])


def test_a_capability_given_twice_is_refused(run: Run) -> None:
    """One capability of one plugin has one function: exit 2, naming both lines."""
    result = run(GOOD, BROKEN)
    assert result.ret == 2
    result.stdout.fnmatch_lines(["*counters of 'acme' is given twice (lines *"])


def test_a_capability_given_twice_in_two_files_is_refused(run: Run, pytester: pytest.Pytester) -> None:
    """Also where the two are in different files."""
    pytester.makepyfile(test_more=textwrap.dedent(AUTHOR) + textwrap.dedent(BROKEN))
    result = run(GOOD)
    assert result.ret == 2
    result.stdout.fnmatch_lines(["counters of 'acme' is given twice: by test_conformance.py::good and by *"])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (GOOD.replace('"counters",', '"counter",'), "there is no capability 'counter'"),
        (GOOD.replace("async def", "def").replace("async with", "with"), "must be an async generator function"),
        (GOOD.replace("virtual_time=True", "known_failures={'S1': 1}"), "no promise of counters"),
        (GOOD.replace("virtual_time=True", "known_failures={'C6': 'todo'}"), "gives C6 as 'todo': it must be a KnownF"),
        (GOOD.replace("virtual_time=True", "start=print"), "start= needs stop="),
        (
            'test_it = __import__("deerflow_conformance").conform_plugin("a", known_failures={"memory": {"M1": "x"}})',
            "gives M1 as 'x': it must be a KnownFailure",
        ),
        ('test_it = __import__("deerflow_conformance").conform_plugin("nothing_such")', "nothing_such"),
        ('test_it = __import__("deerflow_conformance").conform_plugin("inprocess", connection={"urll": 1})', "urll"),
        ('test_it = __import__("deerflow_conformance").conform_plugin("a", connection={"namespace": 1})', "namespace"),
    ],
)
def test_wrong_use_is_refused(run: Run, function: str, message: str) -> None:
    """What cannot be tested as asked stops the collection: exit 2, naming what is wrong."""
    result = run(function)
    assert result.ret == 2
    result.stdout.fnmatch_lines([f"*{message}*"])


def test_a_plugin_is_tested_by_name(run: Run) -> None:
    """`conform_plugin` opens every capability of an installed plugin, in real time."""
    result = run(
        'test_it = __import__("deerflow_conformance").conform_plugin("inprocess")', arguments=("-k", "L0 or C2 or T5")
    )
    result.stdout.fnmatch_lines(
        ["inprocess: stream_bridge/*", "inprocess: memory/*", "inprocess: thread_index/*", "inprocess: counters/*"]
    )
    assert result.ret == pytest.ExitCode.OK


def test_start_and_stop_frame_the_items(run: Run, pytester: pytest.Pytester) -> None:
    """The server is started before the first item, stopped after the last, and not started for nothing."""
    log = pytester.path / "log"
    function = GOOD.replace(
        "virtual_time=True", "virtual_time=True, start=lambda: log('start'), stop=lambda: log('stop')"
    )
    function = function.replace("async with", "log('open')\n        async with")
    run(LOG, function, arguments=("--collect-only",))
    assert not log.exists()
    run(LOG, function, arguments=("-k", "C1"))
    first, *between, last = log.read_text().split()
    assert (first, set(between), last) == ("start", {"open"}, "stop")


def test_a_server_that_does_not_start_is_an_error(run: Run) -> None:
    """No promise is judged, and the reason is shown."""
    result = run(GOOD.replace("virtual_time=True", "start=lambda: 1 / 0, stop=print"))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(errors=COUNT + 1)
    result.stdout.fnmatch_lines(["*start= failed: ZeroDivisionError*"])


def test_a_server_that_is_skipped_is_an_error(run: Run) -> None:
    """A start that skips, for want of a server, is no pass."""
    result = run(GOOD.replace("virtual_time=True", "start=lambda: __import__('pytest').skip('no server'), stop=print"))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*start= failed: *no server*"])


def test_a_function_that_skips_fails(run: Run) -> None:
    """The author's function cannot skip what it is to open: L0 fails, and the promises could not run."""
    result = run(GOOD.replace("async with", "__import__('pytest').skip('no server')\n        async with"))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*Skipped: no server*", f"*1 failed, {COUNT} could not run*"])


def test_marks_do_not_make_it_green(run: Run) -> None:
    """Promises that are skipped by a mark could not run, and a failure that is expected by a mark is one."""
    for mark, function, line in (
        ("skip('later')", GOOD, "    C1 could not run: it was skipped: *later*"),
        ("xfail", BROKEN, "acme: counters/1.0 L2 + load · */* passed (failed: C*"),
    ):
        result = run(f"pytestmark = __import__('pytest').mark.{mark}", function)
        result.stdout.fnmatch_lines([line])
        assert result.ret == pytest.ExitCode.TESTS_FAILED


@pytest.mark.parametrize("budget", ["0", "-1", "nan", "inf"])
def test_a_budget_is_a_factor(run: Run, budget: str) -> None:
    """A budget that draws nothing, or without end, is refused."""
    result = run(GOOD, arguments=("--conformance-budget", budget))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--conformance-budget must be more than 0 and finite, not *"])


@pytest.mark.parametrize("suppressed", ["Exception", "BaseException", "asyncio.CancelledError"])
def test_a_function_that_swallows_errors_fails(run: Run, suppressed: str) -> None:
    """A function out of which no error comes would hide every failure: L0 says so, and nothing passes."""
    function = f"""
    import asyncio
    import contextlib

    @conform("counters", plugin="acme", virtual_time=True)
    async def swallows(space):
        async with opened(space) as counters:
            with contextlib.suppress({suppressed}):
                yield Broken(counters)
    """
    result = run(function)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*raised at the yield to come out, got it is swallowed*"])
    result.stdout.fnmatch_lines([f"*1 failed, {COUNT} could not run*"])


def test_every_item_is_a_junit_case(run: Run, pytester: pytest.Pytester) -> None:
    """Promises are cases of the author's module, failures with their text."""
    run(BROKEN, arguments=("--junit-xml=out.xml", "-k", "C1 or C6"))
    cases = ElementTree.parse(pytester.path / "out.xml").iter("testcase")
    found = {case.get("name"): case.find("failure") for case in cases}
    assert set(found) == {"C1", "C6"}
    assert found["C1"] is None
    assert found["C6"] is not None
    assert "wanted" in (found["C6"].text or "")


def test_results_come_back_from_other_processes(run: Run) -> None:
    """With pytest-xdist the summary is the same."""
    result = run(BROKEN, arguments=("-n", "2", "-k", "C6 or C2"))
    result.stdout.fnmatch_lines(["acme: counters/1.0 L2 + load · 1/* passed (failed: C6; *"])
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_other_projects_pay_nothing(pytester: pytest.Pytester) -> None:
    """In a project without conformance functions the plugin loads neither Hypothesis nor any backend."""
    pytester.makepyfile(
        """
        import sys

        def test_it():
            assert not {"hypothesis.strategies", "deerflow_backends", "deerflow_conformance.bench"} & set(sys.modules)
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:hypothesispytest")
    result.assert_outcomes(passed=1)
    assert "conformance" not in result.stdout.str().replace("deerflow-conformance", "").replace("plugins:", "")


def test_reports_are_written(run: Run) -> None:
    """With a folder, reports say what the summary says, also where other processes judged."""
    result = run(GOOD, BROKEN.replace("acme", "other"), arguments=("--conformance-report", "reports", "-n", "2"))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    report = json.loads(Path("reports", "report.json").read_text(encoding="utf-8"))
    assert (report["exit"], report["meaning"], report["asked"]) == (1, "not conformant", None)
    good, broken = report["capabilities"]
    assert (good["backend"], good["exit"], good["missing"]) == ("acme", 0, [])
    assert good["source"] == {"kind": "file", "file": "test_conformance.py", "function": "good"}
    assert "C6" in [one["number"] for one in broken["results"] if one["state"] == "failed"]
    assert [one["number"] for one in broken["results"]] == ["L0", *(one.number for one in promises_of("counters"))]
    assert {path.name for path in Path("reports").iterdir()} == {"report.html", "report.json", "junit.xml", "badge.svg"}


def test_reports_that_cannot_be_written_are_told_first(run: Run) -> None:
    """A folder that is a file is a usage error, before anything is judged."""
    Path("reports").write_text("mine", encoding="utf-8")
    result = run(GOOD, arguments=("--conformance-report", "reports"))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "--conformance-report: reports cannot hold reports" in result.stderr.str()
    assert Path("reports").read_text(encoding="utf-8") == "mine"
