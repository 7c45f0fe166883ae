"""Reads a report that anybody may have written: its form is validated, and what it claims must follow from itself."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from deerflow_conformance.promises import (
    CONTRACT_VERSION,
    EVERYTHING,
    HARNESS,
    LEVELS,
    PROMISES,
    Capability,
    Level,
    may_not_apply,
)
from deerflow_conformance.reports.model import (
    FORMAT,
    MEANINGS,
    Distribution,
    FileSource,
    Part,
    PluginSource,
    Report,
    Source,
)
from deerflow_conformance.results import Failure, Kind, Result, State, Verdict

_Form = TypeVar("_Form", bound=BaseModel)

#: No report is as large: a longer one is refused before it fills the memory.
_LIMIT_BYTES: Final = 64 * 1024 * 1024


class BadReport(Exception):
    """What was read is no report, or one that contradicts itself; the message says where."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


_Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
_Number = Annotated[str, StringConstraints(pattern=r"^[A-Z][0-9]{1,3}$")]
_Word = Annotated[str, Field(min_length=1, max_length=200)]
_Count = Annotated[int, Field(ge=0)]
_Seconds = Annotated[float, Field(ge=0)]


class _Failure(_Model):
    kind: Kind
    check: str
    check_sentence: str
    message: str
    program: str | None
    trace: str
    history: str | None
    cause: str
    snippet: str


class _Result(_Model):
    number: _Number
    sentence: str
    state: State
    reason: str
    failure: _Failure | None
    levels: list[Level]
    seconds: _Seconds


class _Distribution(_Model):
    name: _Word
    version: _Word


class _PluginSource(_Model):
    kind: Literal["plugin"]
    plugin: _Name
    settings: dict[str, str | None]


class _FileSource(_Model):
    kind: Literal["file"]
    file: _Word
    function: _Word


class _Part(_Model):
    backend: _Word
    capability: Capability
    source: Annotated[_PluginSource | _FileSource, Field(discriminator="kind")]
    distribution: _Distribution | None
    server: str | None
    reach: Literal["process", "host", "network"] | None
    levels: list[Level]
    exit: Annotated[int, Field(ge=0, le=4)]
    verdict: str
    passed: _Count
    wanted: _Count
    missing: list[_Number]
    results: list[_Result]
    preview: list[_Result]


class _Head(_Model):
    """What every format has, whatever else there is."""

    model_config = ConfigDict(extra="ignore")

    format: int
    contract: str


class _Report(_Model):
    format: Literal[1]
    contract: _Word
    kit: _Word
    python: _Word
    created_at: Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
    seed: int
    budget: Annotated[float, Field(gt=0)]
    asked: Level | None
    exit: Annotated[int, Field(ge=0, le=4)]
    meaning: str
    capabilities: Annotated[list[_Part], Field(min_length=1)]


def read_report(path: Path) -> Report:
    """Read the report in *path*.

    Raises:
        BadReport: It cannot be read, or is no report, or contradicts itself.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_LIMIT_BYTES + 1)
    except IsADirectoryError:
        raise BadReport(f"{path} is a folder: name the report in it, {path / 'report.json'}") from None
    except OSError as error:
        raise BadReport(f"{path}: {error.strerror or error}") from None
    if len(text) > _LIMIT_BYTES:
        raise BadReport(f"{path}: no report is larger than {_LIMIT_BYTES} bytes")
    try:
        return parsed(text)
    except BadReport as error:
        raise BadReport("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from None


def parsed(text: str | bytes) -> Report:
    """Read the JSON document *text*.

    Raises:
        BadReport: It is no report, or contradicts itself.
    """
    head = _validated(_Head, text)
    if head.format != FORMAT:
        raise BadReport(f"its format is {head.format}, and this kit reads {FORMAT}: use the kit that wrote it")
    if head.contract != CONTRACT_VERSION:
        raise BadReport(f"it is about contract {head.contract!r}, and this kit knows {CONTRACT_VERSION}")
    model = _validated(_Report, text)
    report = _report(model)
    if faults := list(_strange(model)) or list(_contradictions(model, report)) or list(_misworded(model, report)):
        raise BadReport("\n".join(faults[:10]))
    return report


def _validated(model: type[_Form], text: str | bytes) -> _Form:
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise BadReport("\n".join(f"{_place(one['loc'])}: {one['msg']}" for one in found[:10])) from None


def _place(loc: Iterable[int | str]) -> str:
    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in loc)
    return re.sub(r"\.source\.(plugin|file)\.", ".source.", place.lstrip(".")) or "the report"


def _report(model: _Report) -> Report:
    try:
        created_at = datetime.strptime(model.created_at, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise BadReport(f"created_at: {model.created_at} is no time") from None
    parts = tuple(_part(part, model.asked or EVERYTHING, model.budget) for part in model.capabilities)
    return Report(parts, model.kit, model.python, created_at, model.seed, model.budget, model.asked, model.contract)


def _part(model: _Part, level: Level, budget: float) -> Part:
    results = tuple(_result(one, model.capability) for one in model.results)
    distribution = None
    if model.distribution is not None:
        distribution = Distribution(model.distribution.name, model.distribution.version)
    return Part(
        model.backend,
        _source(model.source),
        distribution,
        model.server,
        Verdict(model.capability, level, results, model.reach, budget),
        tuple(_result(one, model.capability) for one in model.preview),
    )


def _source(model: _PluginSource | _FileSource) -> Source:
    if isinstance(model, _PluginSource):
        return PluginSource(model.plugin, dict(model.settings))
    return FileSource(model.file, model.function)


def _result(model: _Result, capability: Capability) -> Result:
    failure = None if model.failure is None else Failure(**model.failure.model_dump())
    return Result(
        model.number, capability, model.state, model.reason, failure, tuple(model.levels), float(model.seconds)
    )


def _strange(model: _Report) -> Iterator[str]:
    """Yield what no run of this kit can have written."""
    seen = Counter((part.backend, part.capability) for part in model.capabilities)
    for (backend, capability), times in seen.items():
        if times > 1:
            yield f"capabilities: {capability} of {backend!r} is there {times} times"
    for index, part in enumerate(model.capabilities):
        if model.asked != HARNESS.level and part.exit == 0 and part.passed == 0:
            yield f"capabilities[{index}]: no promise was kept, and it calls that conformant"
        for name, counted in (("results", True), ("preview", False)):
            place = f"capabilities[{index}].{name}"
            results: list[_Result] = getattr(part, name)
            for number, times in Counter(one.number for one in results).items():
                promise = PROMISES.get(number)
                harness = number == HARNESS.number and counted
                if not harness and (promise is None or part.capability not in promise.capabilities):
                    yield f"{place}: {part.capability} has no promise {number}"
                elif promise is not None and promise.counted is not counted:
                    yield f"{place}: {number} is {'not ' if counted else ''}counted by a verdict"
                elif promise is not None and LEVELS.index(promise.level) > LEVELS.index(model.asked or EVERYTHING):
                    yield f"{place}: {number} is not tested at {model.asked}"
                if times > 1:
                    yield f"{place}: {number} is there {times} times"
            yield from (f"{place}, {one.number}: {fault}" for one in results if (fault := _unlikely(part, one)))


def _unlikely(part: _Part, result: _Result) -> str:
    """Say in which way a result contradicts itself or what is said of its backend, if it does."""
    failed = result.state in (State.FAILED, State.KNOWN_FAILURE)
    if failed and result.failure is None:
        return f"it {result.state} without a failure" if result.state is State.FAILED else "no failure is told"
    if not failed and result.failure is not None:
        return f"it has a failure, and is {result.state}"
    if result.state is State.PASSED and not result.levels:
        return "it passed, at no level"
    if result.state in (State.NOT_APPLICABLE, State.COULD_NOT_RUN, State.KNOWN_FAILURE) and not result.reason:
        return f"it is {result.state} without a reason"
    beyond = part.reach in ("host", "network")  # one process: L3 may be asked for there, and never runs
    ran = [level for level in part.levels if level != "L3" or beyond]
    if above := [level for level in result.levels if level not in ran]:
        return f"it was checked at {_shown(above)}, and what ran is {_shown(ran)}"
    if result.state is State.NOT_APPLICABLE and not may_not_apply(result.number, part.capability, part.levels):
        return "it is not applicable, and some check of it applies to every backend"
    return ""


def _contradictions(model: _Report, report: Report) -> Iterator[str]:
    """Yield each claim that does not follow from the results."""
    for index, (claimed, part) in enumerate(zip(model.capabilities, report.parts, strict=True)):
        follows: dict[str, Any] = part.as_json()
        for name in ("levels", "exit", "passed", "wanted", "missing"):
            if getattr(claimed, name) != follows[name]:
                claim, fact = _shown(getattr(claimed, name)), _shown(follows[name])
                yield f"capabilities[{index}].{name}: it says {claim}, and its results come to {fact}"
    if model.exit != report.exit:
        yield f"exit: it says {model.exit}, and its results come to {int(report.exit)}"


def _misworded(model: _Report, report: Report) -> Iterator[str]:
    """Yield each verdict that is put in other words than this format has for it."""
    claims = [("meaning", model.meaning, MEANINGS[report.exit])]
    for index, (claimed, part) in enumerate(zip(model.capabilities, report.parts, strict=True)):
        claims.append((f"capabilities[{index}].verdict", claimed.verdict, part.verdict.line()))
    for place, claim, fact in claims:
        if claim != fact:
            yield f"{place}: it says {_shown(claim)}, and its results come to {_shown(fact)}"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "none"
    if isinstance(value, str):
        return repr(value if len(value) < 300 else f"{value[:300]}…")
    return str(value)
