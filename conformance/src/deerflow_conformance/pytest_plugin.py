"""Makes pytest collect what ``@conform`` and ``conform_plugin`` made: one item a promise, its number the name."""

from __future__ import annotations

import math
import sys
from collections.abc import Generator, Iterable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import pytest

from deerflow_conformance.promises import EVERYTHING, LEVELS
from deerflow_conformance.pytest_summary import Claim, Forwarder, Summary, asked_of
from deerflow_conformance.results import BrokenUse, Result, State
from deerflow_conformance.texts import result_text

if TYPE_CHECKING:
    from deerflow_conformance.conformances import Conformance, PluginConformance
    from deerflow_conformance.runs import Run

#: The rest of the kit is imported only once a test file has done so: pytest loads this module in every project.
_KIT: Final = "deerflow_conformance.conformances"

_LEVEL_HELP: Final = "up to this level; without it, or with 'load', the highest that applies, and load"

_collected = pytest.StashKey[dict[tuple[str, str], str]]()
_summary = pytest.StashKey[Forwarder | Summary]()
#: Why a function, or a whole plugin, could not be started; None once an item has said so.
_not_started = pytest.StashKey[str | None]()

#: How the states that pytest does not know show: word, letter, long word.
_SHOWN: Final = {
    "not applicable": ("not applicable", "n", "NOT APPLICABLE"),
    "could not run": ("could not run", "?", "COULD NOT RUN"),
    "known failure": ("known failure", "k", "KNOWN FAILURE"),
}


class Unkept(Exception):
    """Carries the result of a promise that failed to `PromiseItem.repr_failure`."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that the command has too."""
    group = parser.getgroup("conformance", "deerflow-conformance")
    group.addoption("--conformance-level", choices=LEVELS, default=EVERYTHING, help=_LEVEL_HELP)
    group.addoption("--conformance-seed", type=int, default=0, help="what generated programs are drawn from")
    group.addoption("--conformance-budget", type=float, default=1.0, help="factor on the number of programs")
    group.addoption("--conformance-report", type=Path, metavar="DIR", help="write HTML, JSON, junit and a badge there")


def pytest_configure(config: pytest.Config) -> None:
    """Prepare to notice a capability that is given twice, and to sum up."""
    budget = config.getoption("conformance_budget")
    if not 0 < budget < math.inf:
        raise pytest.UsageError(f"--conformance-budget must be more than 0 and finite, not {budget}")
    config.stash[_collected] = {}
    summary: Forwarder | Summary
    if hasattr(config, "workerinput"):
        summary = Forwarder()
    else:
        folder = config.getoption("conformance_report")
        if folder is not None:
            from deerflow_conformance.reports import prepare  # noqa: PLC0415  # loads templates, which few runs need

            try:
                prepare(folder)
            except BrokenUse as error:
                raise pytest.UsageError(f"--conformance-report: {error}") from None
        summary = Summary(folder, config.getoption("conformance_level"), budget)
    config.stash[_summary] = summary
    config.pluginmanager.register(summary, "deerflow_conformance_summary")


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Collector, name: str, obj: object) -> pytest.Collector | None:
    """Collect a conformance from whatever module has it."""
    kit = sys.modules.get(_KIT)
    if kit is None:
        return None
    if isinstance(obj, kit.Conformance):
        return ConformanceCollector.from_parent(collector, name=name, conformance=obj)
    if isinstance(obj, kit.PluginConformance):
        return PluginCollector.from_parent(collector, name=name, plugin_conformance=obj)
    return None


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Let a module fail that conforms something which it does not hold: pytest would not see it."""
    report = yield
    kit = sys.modules.get(_KIT)
    module = collector.obj if isinstance(collector, pytest.Module) and report.passed else None
    if kit is not None and isinstance(module, ModuleType):  # a text of doctests is a Module without one
        try:
            kit.refuse_lost(vars(module))
        except BrokenUse as error:
            report.outcome, report.longrepr, report.result = "failed", str(error), []
    return report


def pytest_collection_finish(session: pytest.Session) -> None:
    """Note what is to be judged, so that nothing of it can be lost."""
    if session.config.getoption("collectonly") or session.config.getoption("setuponly", False):
        return
    claims: dict[str, Claim] = {}
    for item in session.items:
        if isinstance(item, PromiseItem):
            conformance = item.parent.conformance
            empty: Claim = {"plugin": conformance.plugin, "capability": conformance.capability, "items": {}}
            claims.setdefault(item.parent.nodeid, empty)["items"][item.nodeid] = item.name
    session.config.stash[_summary].claim(claims)


class PluginCollector(pytest.Collector):
    """All capabilities of one plugin."""

    def __init__(self, *, plugin_conformance: PluginConformance, **more: Any) -> None:
        super().__init__(**more)
        self._plugin_conformance = plugin_conformance

    def collect(self) -> Iterable[pytest.Collector]:
        """Give one collector a capability; a plugin that cannot be loaded is an error of collection."""
        try:
            conformances = self._plugin_conformance.conformances()
        except BrokenUse as error:
            raise self.CollectError(str(error)) from None
        for conformance in conformances:
            yield ConformanceCollector.from_parent(self, name=conformance.name, conformance=conformance)


class ConformanceCollector(pytest.Collector):
    """One capability: starts the author's server before its first item and stops it after its last."""

    def __init__(self, *, conformance: Conformance, **more: Any) -> None:
        super().__init__(**more)
        self.conformance = conformance
        self._run: Run | None = None
        self._secrets = frozenset[str]()

    def collect(self) -> Iterable[pytest.Item]:
        """Give the harness check and the promises of the level asked for."""
        key = (self.conformance.plugin, self.conformance.capability)
        first = self.config.stash[_collected].setdefault(key, self.nodeid)
        if first != self.nodeid:
            raise self.CollectError(f"{key[1]} of {key[0]!r} is given twice: by {first} and by {self.nodeid}")
        for number in asked_of(self.conformance.capability, self.config.getoption("conformance_level")):
            yield PromiseItem.from_parent(self, name=number)

    @property
    def _whole(self) -> pytest.Collector:
        """What need not be started again if it could not be: of a plugin that does not open, all capabilities."""
        return self.parent if isinstance(self.parent, PluginCollector) else self

    def setup(self) -> None:
        """Start the server, if the author said how; `check_started` tells if that failed."""
        from deerflow_conformance.privacy import secrets_in  # noqa: PLC0415  # dear, and not needed by who has no such
        from deerflow_conformance.runs import Run  # noqa: PLC0415  # item, as this

        if _not_started in self._whole.stash:
            return
        self._secrets = secrets_in(self.conformance.plugin, getattr(self.conformance.recipe, "connection", {}))
        self._run = Run(
            self.conformance,
            level=self.config.getoption("conformance_level"),
            seed=self.config.getoption("conformance_seed"),
            budget=self.config.getoption("conformance_budget"),
        )
        try:
            self._run.start()
        except BrokenUse as error:
            self._whole.stash[_not_started] = str(error)

    def check_started(self) -> None:
        """Fail an item if its server could not be started; skip the others, for which there is no more to say."""
        if _not_started in self._whole.stash:
            why, self._whole.stash[_not_started] = self._whole.stash[_not_started], None
            if why is None:
                pytest.skip("it could not be started")
            pytest.fail(why, pytrace=False)

    def teardown(self) -> None:
        """End everything that the checks started, and the server."""
        if self._run is None:
            return
        try:
            self._run.close()
        except BrokenUse as error:
            pytest.fail(str(error), pytrace=False)

    def judge(self, number: str) -> Result:
        """Return what comes of one promise."""
        if self._run is None:
            raise RuntimeError("judged before setup")
        from deerflow_conformance.reports.texts import scrubbed  # noqa: PLC0415  # as above

        return scrubbed(self._run.judge(number), self._secrets)

    def facts(self) -> dict[str, Any]:
        """Return what the run has found out about the backend, fit for other processes."""
        return {
            "reach": None if self._run is None else self._run.verdict.reach,
            "server": None if self._run is None else self._run.server,
        }


class PromiseItem(pytest.Item):
    """One promise of one capability."""

    parent: ConformanceCollector
    result: Result | None = None

    def runtest(self) -> None:
        """Judge the promise, and tell pytest in its own terms."""
        self.parent.check_started()
        self.result = self.parent.judge(self.name)
        if self.result.state is State.FAILED:
            raise Unkept
        if self.result.state is not State.PASSED:
            pytest.skip(f"{self.result.state}: {self.result.reason}")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Explain the failure of a promise in the kit's words; anything else in pytest's."""
        if isinstance(excinfo.value, Unkept) and self.result is not None:
            return result_text(self.result, self._replay())
        return super().repr_failure(excinfo, style)

    def _replay(self) -> str:
        seed, budget = (self.config.getoption(f"conformance_{name}") for name in ("seed", "budget"))
        more = "" if budget == 1 else f" --conformance-budget {budget:g}"
        return f'pytest "{self.nodeid}" --conformance-seed {seed}{more}'

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Tell where the author's function is."""
        line = self.parent.conformance.line
        return self.path, line - 1 if line else None, f"{self.parent.name} {self.name}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the result into the report, which travels between processes where the item does not."""
    report = yield
    if isinstance(item, PromiseItem):
        result = item.result if call.when == "call" else None
        report.__dict__["conformance"] = {**item.parent.facts(), "result": result and result.as_json()}
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """Show the states that pytest has no words for; what a mark skips could not run."""
    conformance = getattr(report, "conformance", None)
    if conformance is None or not report.skipped:
        return None
    result = conformance["result"]
    return _SHOWN.get(State.COULD_NOT_RUN if result is None else result["state"])
