"""Under pytest: one item a promise, every state visible, nothing silently green."""

import fnmatch
import importlib
import json
import re
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest

from deerflow_conformance.checks import checks_of
from deerflow_conformance.promises import promises_of
from deerflow_conformance.reports import read_report
from deerflow_conformance.results import State

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
        options = ("-W", "error", "--conformance-budget", "0.1", *arguments)
        return pytester.runpytest_inprocess(*options, no_reraise_ctrlc=True)

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
    result.stdout.fnmatch_lines(["acme: counters/1.0 L2 + load · */* passed (*not applicable: *G7, G12) · budget 0.1"])
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
    """A promise is run by its node id, and the summary says that the others were not: that is no pass."""
    result = run(GOOD, arguments=("test_conformance.py::good::C2",))
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "acme: counters/1.0 L2 + load · 1/* passed (not run: C1, *",
            f"incomplete: acme counters: {COUNT - 1} of {COUNT} promises were not run (deselected)",
        ]
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        (("-k", "C2"), "{all_but_one} of {all} promises were not run (deselected)"),
        (("-k", "C2", "-n", "1"), "{all_but_one} of {all} promises were not run (deselected)"),
        (("--deselect", "test_conformance.py::good::C2"), "1 of {all} promises were not run (deselected)"),
        (("-x", "test_a.py", "test_conformance.py"), "{all} of {all} promises were not run (not reached)"),
        (
            ("-x", "-k", "first or C2", "test_a.py", "test_conformance.py"),
            "{all} of {all} promises were not run ({all_but_one} deselected, 1 not reached)",
        ),
    ],
    ids=["chosen", "chosen for a worker", "deselected", "not reached", "both"],
)
def test_an_incomplete_run_is_never_green(
    run: Run, pytester: pytest.Pytester, arguments: Sequence[str], left: str
) -> None:
    """However promises of a conformance were left out, the run fails and says how many, and why."""
    pytester.makepyfile(test_a="def test_first(pytestconfig): assert 'test_a.py' not in pytestconfig.args")
    result = run(GOOD, arguments=("--conformance-level", "L1", *arguments))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    count = len(promises_of("counters", "L1"))
    result.stdout.fnmatch_lines([f"incomplete: acme counters: {left.format(all=count, all_but_one=count - 1)}"])


def test_what_was_not_chosen_claims_nothing(run: Run, pytester: pytest.Pytester) -> None:
    """Whoever runs a test of their own, or only collects, is not told that promises are missing."""
    pytester.makepyfile(test_a="def test_mine(): pass")
    for arguments in (("-k", "test_mine"), ("test_a.py",), ("--collect-only",), ("-k", "test_mine", "-n", "1")):
        result = run(GOOD, arguments=arguments)
        assert result.ret == pytest.ExitCode.OK
        assert "incomplete" not in result.stdout.str()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(("-k", "test_mine"), 1), (("--setup-only",), 1), (("-k", "nothing"), 1), (("--collect-only",), 0)],
    ids=str,
)
def test_a_report_of_nothing_is_no_success(
    run: Run, pytester: pytest.Pytester, arguments: tuple[str, ...], code: int
) -> None:
    """A report was asked for and nothing was judged: the run fails, says so, and leaves no earlier report there."""
    pytester.makepyfile(test_a="def test_mine(): pass")
    pytester.mkdir("made").joinpath("report.json").write_text("{}")
    result = run(GOOD, arguments=("--conformance-report", "made", *arguments))
    assert result.ret == code
    assert ("no report: nothing was judged" in result.stdout.str()) == bool(code)
    assert list(Path("made").iterdir()) == []


def test_what_could_not_run_is_never_green(run: Run) -> None:
    """Promises that could not run make the run fail, even where no failed item does."""
    function = """
    @conform("counters", plugin="acme", virtual_time=True)
    async def missing(space):
        yield None
    """
    result = run(function, arguments=("--deselect", "test_conformance.py::missing::L0"))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["    C1 *G13 could not run: the harness check L0 failed", f"*{COUNT} could not run*"])
    assert "passed" not in result.outlines[-1]


def test_known_failures_are_shown_and_do_not_fail(run: Run) -> None:
    """A declared failure is told with reason, link and date, and pytest stays green."""
    function = """
    class Few(Broken):
        reset = property(lambda self: self._counters.reset)

        async def record_many(self, counts, **more):
            if isinstance(counts, list) and len(counts) >= 10_000:
                raise OSError("too many")
            await self._counters.record_many(counts, **more)

    KNOWN = {"C7": KnownFailure("few at once", "https://example.org/7", "2026-11-02")}

    @conform("counters", plugin="acme", virtual_time=True, known_failures=KNOWN)
    async def few(space):
        async with opened(space) as counters:
            yield Few(counters)
    """
    result = run(function)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        ["*known failure: C7*", "    C7 known failure: few at once (https://example.org/7, 2026-11-02)"]
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


def test_what_is_lost_is_refused(pytester: pytest.Pytester, loss: tuple[str, str]) -> None:
    """What a module conforms and then loses is an error of its collection, which tells the place."""
    text, message = loss
    pytester.path.joinpath("test_lost.py").write_text(f"{text}\ndef test_mine(): ...\n")
    result = pytester.runpytest("--conformance-level", "L0")
    assert result.ret == 2
    assert f"test_lost.py{message}: give it a name of its own" in result.stdout.str()


def test_doctests_are_left_alone(run: Run, pytester: pytest.Pytester) -> None:
    """Texts and modules with doctests are collected beside a conformance."""
    pytester.maketxtfile(test_text=">>> 1 + 1\n2\n")
    result = run(GOOD, arguments=("--doctest-modules", "--conformance-level", "L0"))
    result.assert_outcomes(passed=2)


def test_a_function_may_make_several(pytester: pytest.Pytester, authors_files: Path) -> None:
    """What one function makes is not lost as long as each has a name, also where the module is loaded again."""
    conformed = authors_files.joinpath("test_conformed.py").read_text().replace('"acme", virtual', "name, virtual")
    made = f"def make(name):{textwrap.indent(conformed, '    ')}    return counters"
    pytester.makepyfile(test_made=f"{made}\n\n\none, two = make('one'), make('two')\n")
    pytester.makepyfile(test_again="import importlib, test_made\nimportlib.reload(test_made)\nfrom test_made import *")
    for path in ("test_made.py", "test_again.py"):
        result = pytester.runpytest("--conformance-level", "L0", path)
        result.stdout.fnmatch_lines(["one: counters/1.0 L0 · passed", "two: counters/1.0 L0 · passed"])
        assert result.ret == pytest.ExitCode.OK


@pytest.mark.parametrize("by_name", [False, True], ids=["by function", "by name"])
@pytest.mark.parametrize("options", [("-p", "no:deerflow_conformance"), ()], ids=["blocked", "not looked for"])
def test_without_the_plugin_nothing_is_green(
    pytester: pytest.Pytester,
    authors_files: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    by_name: bool,
) -> None:
    """Where pytest would not see a conformance its file cannot be collected, and the remedy that it tells works."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "" if options else "1")
    text = authors_files.joinpath("test_conformed.py").read_text()
    if by_name:
        text = 'from deerflow_conformance import conform_plugin\nit = conform_plugin("inprocess")\n'
    pytester.makepyfile(test_it=f"{text}\ndef test_mine(): ...\n")
    result = pytester.runpytest_subprocess(*options)
    assert result.ret == 2
    result.stdout.fnmatch_lines(["*BrokenUse: *give it -p deerflow_conformance.pytest_plugin, *"])
    remedy = ("-p", "deerflow_conformance.pytest_plugin", "--conformance-level", "L0")
    assert pytester.runpytest_subprocess(*options, *remedy).ret == 0


def test_without_the_plugin_the_kit_can_be_imported(pytester: pytest.Pytester, authors_files: Path) -> None:
    """A test may use the kit itself, and the command, also where pytest does not know of it."""
    text = """
    from deerflow_conformance import conform_plugin, reference

    def test_mine():
        from test_conformed import counters
        from deerflow_conformance.cli import main
        assert len(conform_plugin("inprocess").conformances()) == 4
        assert main(["run", "inprocess", "--only", "counters", "--level", "L0"]) == 0
        assert main(["run", "test_conformed.py", "--level", "L0"]) == 0
    """
    pytester.makepyfile(test_it=text, test_conformed=authors_files.joinpath("test_conformed.py").read_text())
    result = pytester.runpytest_subprocess("-p", "no:deerflow_conformance", "test_it.py")
    result.assert_outcomes(passed=1)


def test_a_useless_plugin_is_refused(run: Run, acme: Path, monkeypatch: pytest.MonkeyPatch, useless: str) -> None:
    """A plugin that exits, fails or offers nothing before it is tested stops the collection."""
    monkeypatch.syspath_prepend(acme)
    result = run('test_it = __import__("deerflow_conformance").conform_plugin("acme", connection={"url": "x"})')
    assert result.ret == 2
    assert useless in result.stdout.str()


def test_a_plugin_is_tested_by_name(run: Run) -> None:
    """`conform_plugin` opens every capability of an installed plugin, in real time."""
    result = run(
        'test_it = __import__("deerflow_conformance").conform_plugin("inprocess")',
        arguments=("--conformance-level", "L0"),
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
    """No promise is judged, and the reason is shown, once."""
    result = run(GOOD.replace("virtual_time=True", "start=lambda: 1 / 0, stop=print"))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"*1 failed, {COUNT} could not run*"])
    (line,) = [line for line in result.outlines if line.startswith("start= failed in ")]
    assert re.search(r"test_conformance\.py, line \d+: ZeroDivisionError", line)
    assert "exception" not in result.stdout.str()


def test_a_plugin_that_does_not_open_is_an_error(run: Run, pytester: pytest.Pytester) -> None:
    """It is tried once, whatever it offers, and told in one sentence."""
    (pytester.path / "file").touch()
    result = run('test_it = __import__("deerflow_conformance").conform_plugin("sqlite", connection={"path": "file"})')
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["sqlite cannot be opened: path 'file': * is no folder; *", "*= 1 failed, 100 could not run*"]
    )


def test_a_server_that_is_skipped_is_an_error(run: Run) -> None:
    """A start that skips, for want of a server, is no pass."""
    result = run(GOOD.replace("virtual_time=True", "start=lambda: __import__('pytest').skip('no server'), stop=print"))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["start= failed in *.py, line *: no server"])


def test_a_function_that_skips_fails(run: Run) -> None:
    """The author's function cannot skip what it is to open: L0 fails, and the promises could not run."""
    result = run(GOOD.replace("async with", "__import__('pytest').skip('no server')\n        async with"))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*Skipped: no server*", f"*1 failed, {COUNT} could not run*"])


def test_marks_do_not_make_it_green(run: Run) -> None:
    """Promises that are skipped by a mark could not run, and a failure that is expected by a mark is one."""
    for mark, function, line in (
        ("skip('later')", GOOD, "    L0 C1 *G13 could not run: it was skipped: later"),
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


@pytest.mark.parametrize(
    ("second", "arguments", "code", "reason"),
    [
        ("start=lambda: 1 / 0, stop=print", (), 1, "start= failed in *: ZeroDivisionError*"),
        ("stop=lambda: 1 / 0", (), 1, "stop= failed in *: ZeroDivisionError*"),
        ("start=lambda: exec('raise KeyboardInterrupt'), stop=print", (), 2, ""),
        (
            "start=lambda: __import__('os')._exit(0), stop=print",
            ("-n", "1"),
            1,
            "worker 'gw0' crashed while running *other::L0'",
        ),
        ("stop=lambda: __import__('os')._exit(0)", ("-n", "1"), 1, "worker 'gw0' crashed while running *other::L0'"),
    ],
    ids=["no start", "no stop", "interrupted", "crashed", "crashed at the end"],
)
def test_a_report_leaves_nothing_out(run: Run, second: str, arguments: tuple[str, ...], code: int, reason: str) -> None:
    """A capability of which nothing came is in the report, with what went wrong, and the report is not conformant."""
    other = GOOD.replace("good", "other").replace("acme", "other").replace("virtual_time=True", second)
    result = run(GOOD, other, arguments=("--conformance-level", "L0", "--conformance-report", "made", *arguments))
    assert result.ret == code
    report = read_report(Path("made/report.json"))
    assert [(part.backend, part.verdict.exit) for part in report.parts] == [("acme", 0), ("other", 3)]
    found = report.parts[1].verdict.results
    assert [one.state for one in found] == [State.COULD_NOT_RUN] * bool(reason)
    assert all(fnmatch.fnmatchcase(one.reason, reason) for one in found)


def test_a_report_waits_for_what_cannot_be_collected(run: Run, pytester: pytest.Pytester) -> None:
    """Nobody knows what a file that does not import conforms: a report without it would claim too much."""
    pytester.makepyfile(test_a="import nothing_such")
    arguments = ("--conformance-report", "made", "--continue-on-collection-errors", "--conformance-level", "L0")
    result = run(GOOD, arguments=arguments)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["no report: what could not be collected would be missing from it"])
    assert list(Path("made").iterdir()) == []


def test_ordinary_tests_are_not_in_the_report(run: Run, pytester: pytest.Pytester) -> None:
    """The report tells of the backend alone, also where the run fails for another reason."""
    pytester.makepyfile(test_a="def test_mine(): assert 0")
    result = run(GOOD, arguments=("--conformance-report", "made", "--conformance-level", "L0"))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert read_report(Path("made/report.json")).exit == 0


def test_what_is_judged_twice_counts_once(run: Run) -> None:
    """Where a file is given twice the worse result of each promise counts."""
    function = BROKEN.replace("opened(space) as counters:", "opened(space) as counters:\n            calls.append(1)")
    function = function.replace("Broken(counters)", "counters if len(calls) > 2 else Broken(counters)")
    once = run("calls = []", function, arguments=("--conformance-level", "L1"))
    result = run(
        "calls = []",
        function,
        arguments=("--conformance-level", "L1", "test_conformance.py", "test_conformance.py", "--keep-duplicates"),
    )
    lines = [[line for line in one.outlines if line.startswith("acme: ")] for one in (once, result)]
    assert lines[0] == lines[1]
    assert "failed" not in lines[0][0]
