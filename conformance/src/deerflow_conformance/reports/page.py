"""A report as one HTML page that needs nothing else: no network, no script. Whatever it shows is escaped."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jinja2
from markupsafe import Markup

from deerflow_conformance.promises import HARNESS, Level, promises_of
from deerflow_conformance.reports.model import MEANINGS, Part, PluginSource, Report
from deerflow_conformance.reports.texts import visible
from deerflow_conformance.results import Exit, Failure, Kind, Result, State, Verdict
from deerflow_conformance.texts import sentence_of

NOT_RUN: Final = "not run"
#: All states, as the page names them, in the order of its legend.
STATES: Final[tuple[str, ...]] = (*(str(state) for state in State), NOT_RUN)
#: What opens by itself, since it is what a reader came for.
_OPEN: Final = (State.FAILED, State.KNOWN_FAILURE)
#: The order of promises within a capability.
_GRAVITY: Final = {State.FAILED: 0, State.KNOWN_FAILURE: 1, State.COULD_NOT_RUN: 2, NOT_RUN: 3}
_STYLES: Final = {
    Exit.CONFORMANT: ("conformant", "passed"),
    Exit.NOT_CONFORMANT: ("not-conformant", "failed"),
    Exit.BROKEN: ("broken", "known-failure"),
    Exit.INCOMPLETE: ("incomplete", "could-not-run"),
    Exit.KIT_DEFECT: ("defect", "known-failure"),
}
_HEADS: Final = {
    Kind.UNKEPT: "Not kept",
    Kind.ERROR: "An exception that the promise does not allow",
    Kind.HANG: "It hangs",
    Kind.LEFTOVER: "Something is left over",
    Kind.FIXED: "A known failure that passes",
}
_URL: Final = re.compile(r"https?://[^\s<>\"')\],;]+")


@dataclass(frozen=True, slots=True)
class PromiseView:
    """One promise of one capability, as the page shows it."""

    number: str
    sentence: str
    state: str
    anchor: str
    took: str
    checked: str
    reason: str = ""
    replay: str = ""
    failure: dict[str, str] | None = None
    open: bool = False
    in_part: bool = False


def report_page(report: Report) -> str:
    """Write the page of one report."""
    single = len(report.backends) == 1
    views = [_capability(report, part, index, single=single) for index, part in enumerate(report.parts)]
    seconds = sum(part.seconds for part in report.parts)
    return (
        environment()
        .get_template("report.html.jinja")
        .render(
            report=report,
            name=", ".join(report.backends),
            verdict={
                **verdict_view(report.exit, report.asked),
                "why": f"{_why(report)}{few_programs(part.verdict for part in report.parts)}",
                "links": list(_links(report, views)),
            },
            capabilities=views,
            ran=f"{len(views)} {'capability' if len(views) == 1 else 'capabilities'}, {took(seconds)}",
            states=[state for state in STATES if any(one.state == state for view in views for one in view["cells"])],
            facts=list(_facts(report)),
            commands="\n".join(report.command(part) for part in report.parts),
        )
    )


@functools.cache
def environment() -> jinja2.Environment:
    """Return what renders the templates: everything is escaped, and what does not show is made visible."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__ or "", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["slug"] = lambda text: re.sub(r"[^a-z0-9]+", "-", str(text).lower())
    made.filters["linked"] = _linked
    source, _, _ = made.loader.get_source(made, "style.css") if made.loader else ("", None, None)
    made.globals["style"] = Markup(source)  # noqa: S704  # our own file
    return made


def _shown(value: Any) -> Any:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _linked(text: str) -> Markup:
    """Return *text* escaped, and its web addresses as links."""
    made, at = Markup(), 0
    for found in _URL.finditer(visible(text)):
        made += visible(text)[at : found.start()]
        made += Markup('<a href="{0}" rel="noreferrer nofollow">{0}</a>').format(found[0])
        at = found.end()
    return made + visible(text)[at:]


def verdict_view(code: Exit, asked: Level | None = None) -> dict[str, str]:
    """Return how an exit code is shown: in words, by a shape, and in a colour.

    Args:
        code: The exit code.
        asked: The level that was asked for: whoever asked for less than all is conformant at that only.
    """
    style, shape = _STYLES[code]
    word = meaning(code, asked)
    return {"word": word[0].upper() + word[1:], "style": style, "shape": shape}


def meaning(code: Exit, asked: Level | None) -> str:
    """Return an exit code in words, with the level of what is conformant at the level *asked* for only."""
    return f"{MEANINGS[code]} at {asked}" if asked is not None and code is Exit.CONFORMANT else MEANINGS[code]


def few_programs(verdicts: Iterable[Verdict]) -> str:
    """Return a further sentence that says what a small budget means, or nothing where none had one."""
    budgets = list(dict.fromkeys(one.small_budget for one in verdicts if one.small_budget))
    if not budgets:
        return ""
    return f" At {listed(budgets)} fewer programs were drawn than at 1, so a fault may have gone unseen."


def took(seconds: float) -> str:
    """Return a duration for people."""
    if seconds < 0.01:
        return "under 10 ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def plural(count: int, what: str) -> str:
    """Return *count* and its noun."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def _why(report: Report) -> str:
    """Say in a sentence what the verdict comes from."""
    verdicts = [part.verdict for part in report.parts]
    passed, wanted = (sum(getattr(part, name) for part in report.parts) for name in ("passed", "wanted"))
    failed, known, stuck = (
        sum(len(one.numbers(state)) for one in verdicts)
        for state in (State.FAILED, State.KNOWN_FAILURE, State.COULD_NOT_RUN)
    )
    missing = sum(len(one.missing) for one in verdicts)
    unknown = [f"{stuck} could not run"] * bool(stuck) + [f"{missing} did not run"] * bool(missing)
    if report.exit is Exit.CONFORMANT and report.level == HARNESS.level:
        return "What opens the backend works. No promise was tested."
    if report.exit is Exit.CONFORMANT:
        levels = " and ".join(dict.fromkeys(one.level_text for one in verdicts))
        return f"Every promise that applies was kept: {passed} of {wanted}, at {levels}."
    if report.exit is Exit.BROKEN:
        return "The harness check L0 failed: what opens the backend does not work, so its promises could not be judged."
    if report.exit is Exit.INCOMPLETE:
        return f"Nothing is proven: of {wanted} promises, {listed([f'{passed} passed', *unknown])}."
    kinds = [f"{failed} failed"] * bool(failed) + [f"{known} failed as known"] * bool(known)
    return f"Of {plural(wanted, 'promise')}, {listed([*kinds, *unknown])}."


def listed(phrases: Sequence[str]) -> str:
    """Return *phrases* as one: ``a, b and c``."""
    *first, last = phrases
    return f"{', '.join(first)} and {last}" if first else last


def _links(report: Report, views: Sequence[dict[str, Any]]) -> Iterator[dict[str, str]]:
    for view in views:
        for one in view["promises"]:
            if one.open:
                yield {
                    "anchor": one.anchor,
                    "label": f"{view['title']} {one.number}" if len(report.parts) > 1 else one.number,
                    "sentence": one.sentence,
                }


def _capability(report: Report, part: Part, index: int, *, single: bool) -> dict[str, Any]:
    verdict = part.verdict
    anchor = f"{part.capability}-{index}" if not single else part.capability
    shown = [_promise(report, part, result, anchor) for result in verdict.results]
    shown += [
        PromiseView(number, sentence_of(number), NOT_RUN, f"{anchor}-{number}", "", "No check of it ran.")
        for number in verdict.missing
    ]
    order = [HARNESS.number, *(one.number for one in promises_of(part.capability))]
    by_number = sorted(shown, key=lambda one: order.index(one.number))
    states = [str(state) for state in (State.FAILED, State.KNOWN_FAILURE, State.COULD_NOT_RUN, State.NOT_APPLICABLE)]
    counts = {state: sum(one.state == state for one in shown) for state in (*states, NOT_RUN)}
    return {
        "anchor": anchor,
        "title": part.capability if single else f"{part.backend} {part.capability}",
        "score": part.score,
        "came": verdict.harness if verdict.level == HARNESS.level else str(State.PASSED),
        "levels": verdict.scope,
        "counts": [f"{count} {state}" for state, count in counts.items() if count],
        "took": took(part.seconds),
        "line": verdict.line(),
        "cells": by_number,
        "promises": sorted(by_number, key=lambda one: _GRAVITY.get(one.state, 9)),
        "preview": [_promise(report, part, result, anchor) for result in part.preview],
        **verdict_view(verdict.exit, report.asked),
    }


def _promise(report: Report, part: Part, result: Result, anchor: str) -> PromiseView:
    checked = f"Checked at {', '.join(result.levels)}, in {took(result.seconds)}." if result.levels else "Not checked."
    in_part = result.state is State.PASSED and bool(result.reason)
    return PromiseView(
        result.number,
        sentence_of(result.number),
        str(result.state),
        f"{anchor}-{result.number}",
        took(result.seconds) if result.levels else "",
        checked,
        f"In part not applicable: {result.reason}" if in_part else result.reason,
        report.command(part, result.number),
        _failure(result.failure),
        open=result.state in _OPEN,
        in_part=in_part,
    )


def _failure(failure: Failure | None) -> dict[str, str] | None:
    if failure is None:
        return None
    wanted, got = wanted_and_got(failure)
    return {
        "head": _HEADS[failure.kind],
        "message": failure.message,
        "wanted": wanted,
        "got": got,
        "check": failure.check,
        "check_sentence": failure.check_sentence,
        "history": failure.history or "",
        "program": failure.program or "",
        "cause": failure.cause,
        "trace": failure.trace.rstrip(),
        "snippet": failure.snippet,
    }


def wanted_and_got(failure: Failure) -> tuple[str, str]:
    """Return the two halves of a message "wanted ..., got ...", or twice nothing where that is not sure."""
    head, separator, got = failure.message.partition(", got ")
    if not head.startswith("wanted ") or not separator or ", got " in got:
        return "", ""
    return head.removeprefix("wanted "), got


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    yield "Ended", report.created_at.strftime("%Y-%m-%d %H:%M:%S UTC")
    yield "Contract", report.contract
    yield "Kit", f"deerflow-conformance {report.kit}"
    yield "Python", report.python
    for backend in report.backends:
        part = next(one for one in report.parts if one.backend == backend)
        yield "Backend", f"{backend}, of {part.distribution}" if part.distribution else f"{backend}, of no distribution"
    for server in dict.fromkeys(part.server for part in report.parts if part.server):
        yield "Server", server
    yield "Level", report.asked or "not asked for: the highest that applies, and load"
    yield "Seed", str(report.seed)
    yield "Budget", f"{report.budget:g}"
    settings = {
        name: value
        for part in report.parts
        if isinstance(part.source, PluginSource)
        for name, value in part.source.settings.items()
    }
    if settings:
        yield (
            "Settings",
            ", ".join(f"{name}={'(hidden)' if value is None else value}" for name, value in settings.items()),
        )
    yield "Exit code", f"{int(report.exit)}, {MEANINGS[report.exit]}"
