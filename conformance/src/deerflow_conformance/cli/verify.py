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
from deerflow_conformance.reports.model import set_options
from deerflow_conformance.reports.versions import distribution_of
from deerflow_conformance.results import BrokenUse, Exit, Result, State


@dataclass(frozen=True, slots=True)
class Comparison:
    """One claim, and what came now.

    Attributes:
        what: What it is about: a promise, or something else that a report says of a backend.
        claimed: What the report says.
        found: What it is now.
        holds: Whether the claim holds; None where nobody can tell from here.
    """

    what: str
    claimed: str
    found: str
    holds: bool | None


def verify(path: Path, *, pairs: Sequence[str] | None) -> Exit:
    """Run the report in *path* again: 0 if each claim holds and the run is conformant, 1 if one does not hold.

    The kit writes wherever a backend's settings lead, so none is taken from the report: *pairs* gives them all.

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
        BrokenUse: It is not here, or it has settings that nobody gave.
    """
    source = part.source
    if isinstance(source, PluginSource):
        if missing := {name: value for name, value in source.settings.items() if name not in given}:
            raise BrokenUse(
                f"settings are not taken from a report: give those to open {source.plugin} with here; "
                f"it was opened with{set_options(missing)}"
            )
        found = subjects(source.plugin, given)
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
        who = f"{claimed.backend} {claimed.capability}"
        yield from _of_the_backend(who, claimed, now)
        again = {result.number: result for result in now.verdict.results}
        for result in (*claimed.verdict.results, *claimed.preview):
            yield _of_a_promise(f"{who} {result.number}", result, again.get(result.number))


def _of_the_backend(who: str, claimed: Part, now: Part) -> Iterator[Comparison]:
    """Compare what a report says of the backend. Of another version or server it may be true, and was not seen here."""
    if (reach := claimed.verdict.reach) is not None:
        again = now.verdict.reach
        yield Comparison(f"{who} reach", reach, again or "not told", None if again is None else again == reach)
    about = {"distribution": (claimed.distribution, now.distribution), "server": (claimed.server, now.server)}
    for name, (then, here) in about.items():
        if then is not None:
            yield Comparison(f"{who} {name}", str(then), str(here or "not told"), then == here or None)


def _of_a_promise(what: str, claimed: Result, now: Result | None) -> Comparison:
    """Compare states, and levels where those are the same: a newer kit may check at more, and never at fewer."""
    if now is None or State.COULD_NOT_RUN in (claimed.state, now.state):
        return Comparison(what, claimed.word, "not run" if now is None else now.word, None)
    if claimed.word != now.word or set(claimed.levels) <= set(now.levels):
        return Comparison(what, claimed.word, now.word, claimed.word == now.word)
    said, came = (f"{one.word} at {', '.join(one.levels) or 'no level'}" for one in (claimed, now))
    return Comparison(what, said, came, holds=False)


def _told(compared: Sequence[Comparison], found: Report) -> Exit:
    """Print what became of the claims and return the exit code."""
    broken = [one for one in compared if one.holds is False]
    open_ones = [one for one in compared if one.holds is None]
    lines = [f"{one.what}: the report says {one.claimed}, now it is {one.found}" for one in broken]
    lines += [f"{one.what}: not compared: the report says {one.claimed}, now it is {one.found}" for one in open_ones]
    say(*(line.replace("\n", "\\n") for line in lines))  # no report writes lines of its own
    held = sum(one.holds is True for one in compared)
    say(f"{held} of {len(compared)} claims hold")
    if broken:
        return Exit.NOT_CONFORMANT
    if open_ones and found.exit is Exit.CONFORMANT:
        return Exit.INCOMPLETE
    return found.exit
