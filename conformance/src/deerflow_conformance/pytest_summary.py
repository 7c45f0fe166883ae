"""Sums up what pytest judged: nothing that was to be judged is left out, however the run went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypedDict

import pytest

from deerflow_conformance.promises import CAPABILITIES, EVERYTHING, HARNESS, Capability, Level, promises_of
from deerflow_conformance.results import Result, State, Verdict

if TYPE_CHECKING:
    from deerflow_backends.streams import Reach

#: From the state that hides all others of the same promise to the one that hides none.
_WORST: Final = (
    State.FAILED,
    State.KNOWN_FAILURE,
    State.COULD_NOT_RUN,
    State.NOT_APPLICABLE,
    State.PASSED,
)


class Claim(TypedDict):
    """A conformance of which something is to be judged, as it travels between processes.

    Attributes:
        plugin: Whose.
        capability: Which.
        items: The promise's number by the node id of each item.
    """

    plugin: str
    capability: Capability
    items: dict[str, str]


def asked_of(capability: Capability, level: Level) -> list[str]:
    """Return the numbers of the harness check and of the promises that *level* counts, in the order of judging."""
    return [HARNESS.number, *(promise.number for promise in promises_of(capability, level))]


@dataclass
class Judged:
    """What came of one conformance so far, in the process that reports.

    Attributes:
        claim: What is to be judged.
        level: What was asked for.
        budget: The factor on how many programs are drawn.
        reach: What the backend says of itself, once somebody has asked.
        server: What it runs on, the same.
        results: By promise number.
    """

    claim: Claim
    level: Level
    budget: float
    reach: Reach | None = None
    server: str | None = None
    results: dict[str, Result] = field(default_factory=dict)

    def take(self, result: Result) -> None:
        """Take what came of a promise; of a second result of the same one, the worse counts."""
        known = self.results.get(result.number, result)
        self.results[result.number] = min(known, result, key=lambda one: _WORST.index(one.state))

    @property
    def verdict(self) -> Verdict:
        """What the results amount to, in the order in which one process judges."""
        capability = self.claim["capability"]
        results = [self.results[number] for number in asked_of(capability, EVERYTHING) if number in self.results]
        return Verdict(capability, self.level, tuple(results), self.reach, self.budget)

    def lack(self) -> str:
        """Say how many promises have no result, and why; empty if all that were asked for have one."""
        asked = asked_of(self.claim["capability"], self.level)
        if self.level != HARNESS.level:
            asked.remove(HARNESS.number)  # it is judged before the first promise in any case
        missing = [number for number in asked if number not in self.results]
        chosen = set(self.claim["items"].values())
        counts = {
            "deselected": sum(number not in chosen for number in missing),
            "not reached": sum(number in chosen for number in missing),
        }
        why = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
        if len(missing) in counts.values():
            why = why.partition(" ")[2]  # one reason for all of them
        return f"{len(missing)} of {len(asked)} promises were not run ({why})" if missing else ""


class Forwarder:
    """Tells the process that reports what is to be judged, with the first report of one that does not report."""

    def __init__(self) -> None:
        self._claims: Mapping[str, Claim] = {}

    def claim(self, claims: Mapping[str, Claim]) -> None:
        """Remember what is to be judged, by the node id of each conformance."""
        self._claims = claims

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Put it into the first report, whatever that is of: any later one may not come."""
        if self._claims:
            report.__dict__["conformances"] = self._claims
            self._claims = {}


class Summary:
    """Sums up what was judged, in the process that reports; with a *folder*, in reports too."""

    def __init__(self, folder: Path | None, level: Level, budget: float) -> None:
        self._folder, self._level, self._budget = folder, level, budget
        self._judged: dict[str, Judged] = {}
        self._errors: dict[str, str] = {}  # why an item has no result, by its node id; ordinary tests are among them
        self._uncollected = False

    def claim(self, claims: Mapping[str, Claim]) -> None:
        """Take note of what is to be judged, by the node id of each conformance."""
        for node, claim in claims.items():
            self._judged.setdefault(node, Judged(claim, self._level, self._budget))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Notice a file that cannot be collected: nobody knows what it conforms."""
        self._uncollected |= report.failed

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the result out of a report, or why there is none."""
        self.claim(getattr(report, "conformances", {}))
        conformance = getattr(report, "conformance", None)
        judged = self._judged.get(report.nodeid.rpartition("::")[0])
        if conformance and judged:
            judged.reach = conformance["reach"] or judged.reach
            judged.server = conformance["server"] or judged.server
            if conformance["result"]:
                judged.take(Result.from_json(conformance["result"]))
                return
        if not report.passed:
            self._errors.setdefault(report.nodeid, _reason(report))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the reports; exit 1 if something could not run, was left out, or failed where that was expected.

        pytest takes the first for skipped, the second for nothing and the third for passed. A conformance of which
        nothing was chosen claims nothing, but whoever asks for a report wants something judged.
        """
        if session.config.getoption("collectonly"):
            self._folder = None
            return
        for judged in self._judged.values():
            for item, number in judged.claim["items"].items():
                if item in self._errors:
                    reason = self._errors[item]
                    judged.take(Result(number, judged.claim["capability"], State.COULD_NOT_RUN, reason))
        states = {result.state for judged in self._judged.values() for result in judged.results.values()}
        lacking = any(judged.lack() for judged in self._judged.values())
        empty = self._folder is not None and not self._judged
        good = session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
        if good and (states & {State.COULD_NOT_RUN, State.FAILED} or lacking or empty):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if self._folder is not None and self._judged and not self._uncollected:
            self._write_reports(self._folder, session.config)

    def _write_reports(self, folder: Path, config: pytest.Config) -> None:
        from deerflow_conformance.reports import FileSource, part_of, report_of, write_reports  # noqa: PLC0415

        parts = []
        for node, judged in self._in_order():
            file, _, function = node.partition("::")
            source = FileSource(file, function.partition("::")[0])
            parts.append(part_of(judged.claim["plugin"], source, judged.verdict, server=judged.server))
        seed = config.getoption("conformance_seed")
        asked = None if self._level == EVERYTHING else self._level
        write_reports(folder, report_of(parts, seed=seed, budget=self._budget, asked=asked))

    def _in_order(self) -> list[tuple[str, Judged]]:
        """Return them by plugin and in the order of the contract, whatever order other processes ended in."""

        def key(entry: tuple[str, Judged]) -> tuple[str, int]:
            claim = entry[1].claim
            return claim["plugin"], CAPABILITIES.index(claim["capability"])

        return sorted(self._judged.items(), key=key)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Write one line a capability, one for every promise that neither passed nor failed, and what is missing."""
        if not self._judged and self._folder is None:
            return
        terminalreporter.section("conformance")
        for _, judged in self._in_order():
            terminalreporter.write_line(f"{judged.claim['plugin']}: {judged.verdict.line()}")
            alike: dict[str, list[str]] = {}
            for result in judged.verdict.results:
                if result.state is not State.FAILED and result.reason:
                    part = "in part not applicable" if result.state is State.PASSED else result.state
                    alike.setdefault(f"{part}: {result.reason}", []).append(result.number)
            for what, numbers in alike.items():
                terminalreporter.write_line(f"    {' '.join(numbers)} {what}")
        for _, judged in self._in_order():
            if lack := judged.lack():
                terminalreporter.write_line(
                    f"incomplete: {judged.claim['plugin']} {judged.claim['capability']}: {lack}"
                )
        if self._folder is None:
            return
        if self._uncollected:
            terminalreporter.write_line("no report: what could not be collected would be missing from it")
        elif not self._judged:
            terminalreporter.write_line("no report: nothing was judged")
        else:
            terminalreporter.write_line(f"reports: {self._folder / 'report.html'}, report.json, junit.xml, badge.svg")


def _reason(report: pytest.TestReport) -> str:
    """Say in one line why a report has no result: it was skipped by a mark, its process crashed, the server failed."""
    if report.skipped:
        told: Any = report.longrepr
        said = told[2].removeprefix("Skipped: ") if isinstance(told, tuple | list) else "by a mark"
        return f"it was skipped: {said}"
    lines = report.longreprtext.strip().splitlines()
    return lines[-1] if lines else f"its {report.when} failed"
