"""``verify``: run again what a report claims, and compare promise by promise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.version import InvalidVersion, Version

from deerflow_conformance.cli.output import remark, say
from deerflow_conformance.cli.running import Settings, judged
from deerflow_conformance.cli.screen import open_screen
from deerflow_conformance.cli.subjects import Subject, settings_of, subjects
from deerflow_conformance.reports import BadReport, FileSource, Part, PluginSource, Report, read_report
from deerflow_conformance.reports.versions import distribution_of
from deerflow_conformance.results import BrokenUse, Exit, Result, State


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was claimed of one promise, and what came now.

    Attributes:
        what: Which promise of what.
        claimed: Its state in the report.
        found: Its state now, or None: it was not judged.
    """

    what: str
    claimed: State
    found: State | None

    @property
    def holds(self) -> bool | None:
        """Whether the claim holds; None where one of the two says nothing about the promise."""
        if self.found in (None, State.COULD_NOT_RUN) or self.claimed is State.COULD_NOT_RUN:
            return None
        return self.claimed is self.found


def verify(path: Path, *, pairs: Sequence[str] | None) -> Exit:
    """Run the report in *path* again: 0 if each claim holds and the run is conformant, 1 if one does not hold.

    Raises:
        BrokenUse: It cannot be read or contradicts itself, or what it is about cannot be run here.
    """
    try:
        report = read_report(path)
    except BadReport as error:
        raise BrokenUse(str(error)) from None
    _check_kit(report)
    settings = settings_of(pairs)
    again = [(_subject(part, settings), _numbers(part)) for part in report.parts]
    for part in report.parts:
        _warn(part)
    with open_screen() as screen:
        found = judged(again, Settings(report.asked, report.seed, report.budget), screen)
        screen.end(found.parts)
    return _told(list(_comparisons(report, found)), found)


def _check_kit(report: Report) -> None:
    ours = metadata.version("deerflow-conformance")
    try:
        newer = Version(report.kit) > Version(ours)
    except InvalidVersion:
        raise BrokenUse(f"the report says it is of deerflow-conformance {report.kit!r}, which is no version") from None
    if newer:
        raise BrokenUse(f"the report is of deerflow-conformance {report.kit}, and this is {ours}: upgrade to verify it")


def _subject(part: Part, given: Mapping[str, str]) -> Subject:
    """Return what *part* was about, found again.

    Raises:
        BrokenUse: It is not here, or it has settings whose values the report hides and nobody gave.
    """
    source = part.source
    if isinstance(source, PluginSource):
        known = {name: value for name, value in source.settings.items() if value is not None}
        settings = {**known, **given}
        if hidden := [name for name in source.settings if name not in settings]:
            needed = " ".join(f"--set {name}=..." for name in hidden)
            raise BrokenUse(f"the report hides how it opened {source.plugin}: give {needed}")
        found = subjects(source.plugin, settings)
    else:
        found = _in_file(source, given)
    for one in found:
        if (one.conformance.plugin, one.conformance.capability) == (part.backend, part.capability):
            return one
    raise BrokenUse(f"the report is about {part.capability} of {part.backend!r}, which is not what is here")


def _in_file(source: FileSource, given: Mapping[str, str]) -> list[Subject]:
    """Import the file that a report names: never one from outside of where the command was started."""
    if not Path(source.file).resolve().is_relative_to(Path.cwd()):
        raise BrokenUse(f"the report names {source.file}, which is not below this folder: go to where it was made")
    if not source.file.endswith(".py"):
        raise BrokenUse(f"the report names {source.file}, which is no Python file")
    if not Path(source.file).is_file():
        raise BrokenUse(f"the report was made from the file {source.file}: run verify in the folder that holds it")
    return subjects(f"{source.file}::{source.function}", given)


def _numbers(part: Part) -> list[str]:
    return [result.number for result in part.verdict.results]


def _warn(part: Part) -> None:
    """Say where what is tested now is another version than what was tested then."""
    here = distribution_of(part.backend)
    if here != part.distribution:
        then, now = part.distribution or "no distribution", here or "of no distribution"
        remark(f"warning: the report is about {part.backend} of {then}, and here it is {now}", style="yellow")


def _comparisons(report: Report, found: Report) -> Iterator[Comparison]:
    for claimed, now in zip(report.parts, found.parts, strict=True):
        states: dict[str, Result] = {result.number: result for result in now.verdict.results}
        for result in claimed.verdict.results:
            again = states.get(result.number)
            what = f"{claimed.backend} {claimed.capability} {result.number}"
            yield Comparison(what, result.state, None if again is None else again.state)


def _told(compared: Sequence[Comparison], found: Report) -> Exit:
    """Print what became of the claims and return the exit code."""
    broken = [one for one in compared if one.holds is False]
    open_ones = [one for one in compared if one.holds is None]
    for one in broken:
        say(f"{one.what}: the report says {one.claimed}, now it is {one.found}")
    for one in open_ones:
        say(f"{one.what}: not compared: the report says {one.claimed}, now it is {one.found or 'not run'}")
    held = sum(one.holds is True for one in compared)
    say(f"{held} of {len(compared)} claims hold")
    if broken:
        return Exit.NOT_CONFORMANT
    if open_ones and found.exit is Exit.CONFORMANT:
        return Exit.INCOMPLETE
    return found.exit
