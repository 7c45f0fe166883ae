"""report.json, its schema and what reads it agree: on what is a report, and on what is none."""

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any, Final, get_args

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deerflow_backends import Reach
from deerflow_conformance.promises import (
    CAPABILITIES,
    HARNESS,
    LEVELS,
    PROMISES,
    Capability,
    Level,
    may_not_apply,
    promises_of,
)
from deerflow_conformance.reports import BadReport, FileSource, Part, PluginSource, Report, read_report
from deerflow_conformance.reports.model import Distribution
from deerflow_conformance.results import Exit, Failure, Kind, Result, State, Verdict

SCHEMA = json.loads(resources.files("deerflow_conformance.reports").joinpath("schema.json").read_text("utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

REACHES: Final[list[Reach | None]] = ["process", "host", "network", None]
#: What a backend may say.
TEXTS = st.sampled_from(["", "it", "\x00\x1b[2J", "<b>&amp;", "\u202e\U0001f600", "x" * 5_000])
SAID = TEXTS.filter(bool)
WORDS = st.text("abcæ.-", min_size=1, max_size=8)


def result(draw: st.DrawFn, number: str, capability: Capability, state: State, verdict: Verdict) -> Result:
    """Anything that can have come of one promise, for a *verdict* that has no results yet."""
    if state is State.NOT_APPLICABLE and not may_not_apply(number, capability, verdict.levels):
        state = State.COULD_NOT_RUN
    failure = None
    if state in (State.FAILED, State.KNOWN_FAILURE):
        program, history = draw(st.none() | TEXTS), draw(st.none() | TEXTS)
        check, sentence, message, trace, cause, snippet = (draw(TEXTS) for _ in range(6))
        kind = draw(st.sampled_from(Kind))
        failure = Failure(kind, check, sentence, message, program, trace, history, cause, snippet)
    reason = draw(TEXTS if state in (State.PASSED, State.FAILED) else SAID)
    ran = [one for one in verdict.levels if one != "L3" or verdict.reach in ("host", "network")]
    levels = draw(st.lists(st.sampled_from(ran), unique=True, min_size=1))
    return Result(number, capability, state, reason, failure, tuple(levels), draw(st.sampled_from([0.0, 1.25, 1e9])))


@st.composite
def parts(draw: st.DrawFn, backend: str, capability: Capability, level: Level, budget: float) -> Part:
    """One capability, tested in whole or in part, of which anything can have come."""
    verdict = Verdict(capability, level, (), draw(st.sampled_from(REACHES)), budget)
    numbers = [HARNESS.number, *(one.number for one in promises_of(capability, level))]
    numbers = draw(st.lists(st.sampled_from(numbers), unique=True, min_size=1) | st.just(numbers))
    states = draw(st.sampled_from([[State.PASSED], [State.PASSED, State.NOT_APPLICABLE], list(State)]))
    found = [result(draw, number, capability, draw(st.sampled_from(states)), verdict) for number in numbers]
    source = draw(
        st.builds(PluginSource, st.just(backend), st.dictionaries(TEXTS, st.none() | TEXTS, max_size=2))
        | st.builds(FileSource, WORDS, WORDS)
    )
    distribution = draw(st.none() | st.builds(Distribution, WORDS, WORDS))
    preview = [number for number, one in PROMISES.items() if not one.counted and capability in one.capabilities]
    preview = preview if level != "L0" else []
    extra = tuple(result(draw, number, capability, State.PASSED, verdict) for number in preview if draw(st.booleans()))
    return Part(backend, source, distribution, draw(st.none() | TEXTS), replace(verdict, results=tuple(found)), extra)


@st.composite
def reports(draw: st.DrawFn) -> Report:
    """Anything that a run can come to and a report may say."""
    asked: Level | None = draw(st.sampled_from([None, *LEVELS]))
    pairs = draw(
        st.lists(st.tuples(st.sampled_from(["acme", "redis"]), st.sampled_from(CAPABILITIES)), unique=True, min_size=1)
    )
    budget = draw(st.floats(0.01, 100))
    found = tuple(draw(parts(backend, capability, asked or "load", budget)) for backend, capability in pairs[:2])
    moment = draw(st.datetimes(datetime(2026, 1, 1), datetime(2100, 1, 1))).replace(tzinfo=UTC, microsecond=0)  # noqa: DTZ001
    return Report(found, draw(WORDS), draw(WORDS), moment, draw(st.integers()), budget, asked)


def kept(report: Report) -> bool:
    """Whether it is not of the one kind that no run gives: conformant though nothing was kept."""
    return all(part.passed or part.verdict.exit is not Exit.CONFORMANT or report.level == "L0" for part in report.parts)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(reports().filter(kept))
def test_what_is_written_is_valid_and_comes_back_equal(report: Report) -> None:
    """Whatever a run comes to, its JSON validates, and reads as the same report again."""
    text = json.dumps(report.as_json())
    VALIDATOR.validate(json.loads(text))
    assert Report.from_json(text) == report


@pytest.fixture
def written() -> dict[str, Any]:
    """A report with all kinds of results and sources in it."""
    failure = Failure(Kind.UNKEPT, "reset_resets", "A reset resets.", "wanted 0, got 1", "p", "t", "h", "c", "s")
    levels: tuple[Level, ...] = ("L1",)
    states = {"C1": State.FAILED, "C2": State.KNOWN_FAILURE, "C3": State.COULD_NOT_RUN, "G3": State.NOT_APPLICABLE}
    counters = []
    for promise in [*promises_of("counters", "L1")[:5], PROMISES["G3"]]:
        state = states.get(promise.number, State.PASSED)
        failed = failure if state in (State.FAILED, State.KNOWN_FAILURE) else None
        counters.append(Result(promise.number, "counters", state, "for a reason", failed, levels, 1.5))
    memory = [
        Result(one.number, "memory", State.PASSED, "", None, levels, 1.5) for one in promises_of("memory", "L1")[:2]
    ]
    preview = (Result("M10", "memory", State.PASSED, "", None, levels, 1.5),)
    plugin = PluginSource("acme", {"path": "/x", "url": None})
    distribution = Distribution("acme-backends", "1.2.3")
    counted = Verdict("counters", "L1", tuple(counters), "host", 0.5)
    remembered = Verdict("memory", "L1", tuple(memory), "host", 0.5)
    made = (
        Part("acme", plugin, distribution, "Acme 4", counted),
        Part("acme", FileSource("a.py", "f"), None, None, remembered, preview),
    )
    report = Report(made, "1.0.0", "CPython 3.11", datetime(2026, 2, 1, tzinfo=UTC), 7, 0.5, "L1")
    return report.as_json()


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where everything in a document is, but what is inside of settings, whose names are free."""
    yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in items:
        if place[-1:] != ("settings",):
            yield from places(one, (*place, key))


def found(value: Any, place: tuple[Any, ...]) -> Any:
    for step in place:
        value = value[step]
    return value


def with_extra(document: Any, place: tuple[Any, ...]) -> bool:
    """Add what is not known there."""
    target = found(document, place)
    if isinstance(target, dict):
        target["extra"] = 1
    return isinstance(target, dict)


def without(document: Any, place: tuple[Any, ...]) -> bool:
    """Leave out a key."""
    holder = found(document, place[:-1]) if place else None
    if isinstance(holder, dict):
        del holder[place[-1]]
    return isinstance(holder, dict)


def of_another_type(document: Any, place: tuple[Any, ...]) -> bool:
    """Put something else there."""
    if not place:
        return False
    value = found(document, place)
    wrong: Any = (
        {}
        if isinstance(value, list)
        else []
        if isinstance(value, dict)
        else "x"
        if isinstance(value, int | float)
        else 7
    )
    found(document, place[:-1])[place[-1]] = wrong
    return True


@pytest.mark.parametrize("breach", [with_extra, without, of_another_type], ids=lambda one: one.__name__)
def test_what_is_broken_is_refused_by_both(
    written: dict[str, Any], breach: Callable[[Any, tuple[Any, ...]], bool]
) -> None:
    """Wherever a report has a key too many or too few, or a value of a wrong type, schema and reader refuse it."""
    VALIDATOR.validate(written)
    assert Report.from_json(json.dumps(written)).as_json() == written
    tried = 0
    for place in places(written):
        broken = copy.deepcopy(written)
        if not breach(broken, place):
            continue
        tried += 1
        assert not VALIDATOR.is_valid(broken), place
        with pytest.raises(BadReport) as refused:
            Report.from_json(json.dumps(broken))
        assert ": " in str(refused.value), place
    assert tried > 15


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("format",), 2),
        (("created_at",), "yesterday"),
        (("budget",), 0),
        (("asked",), "L9"),
        (("exit",), 5),
        (("capabilities",), []),
        (("capabilities", 0, "capability"), "stream"),
        (("capabilities", 0, "reach"), "world"),
        (("capabilities", 0, "source", "kind"), "url"),
        (("capabilities", 0, "source", "plugin"), "Acme; rm"),
        (("capabilities", 0, "source", "settings", "path"), 7),
        (("capabilities", 0, "passed"), -1),
        (("capabilities", 0, "results", 0, "state"), "fine"),
        (("capabilities", 0, "results", 0, "number"), "c1"),
        (("capabilities", 0, "results", 0, "seconds"), -1),
        (("capabilities", 0, "results", 0, "levels"), ["L4"]),
        (("capabilities", 0, "results", 0, "failure", "kind"), "odd"),
        (("capabilities", 0, "results", 0, "failure"), None),
        (("capabilities", 0, "results", 0, "state"), "passed"),
    ],
    ids=str,
)
def test_wrong_values_are_refused_by_both(written: dict[str, Any], place: tuple[Any, ...], value: Any) -> None:
    """A value that no report has is refused by the schema and by the reader, which names the place."""
    found(written, place[:-1])[place[-1]] = value
    assert not VALIDATOR.is_valid(written)
    with pytest.raises(BadReport) as refused:
        Report.from_json(json.dumps(written))
    assert str(place[-1]) in str(refused.value) or "capabilities[0].results, C1" in str(refused.value)


@pytest.mark.parametrize(
    ("place", "value", "fault"),
    [
        (("exit",), 0, "exit: it says 0, and its results come to 1"),
        (("capabilities", 1, "exit"), 0, "capabilities[1].exit: it says 0, and its results come to 3"),
        (("capabilities", 0, "passed"), 3, "capabilities[0].passed: it says 3, and its results come to 2"),
        (("capabilities", 0, "wanted"), 15, "capabilities[0].wanted: it says 15, and its results come to 16"),
        (
            ("capabilities", 0, "missing"),
            [],
            "capabilities[0].missing: it says none, and its results come to C6, C7, G1",
        ),
        (("capabilities", 0, "levels"), ["L0", "L1", "L2"], "capabilities[0].levels: it says L0, L1, L2"),
        (("capabilities", 0, "results", 4, "number"), "C8", "capabilities[0].results: counters has no promise C8"),
        (("capabilities", 0, "results", 4, "number"), "M1", "capabilities[0].results: counters has no promise M1"),
        (("capabilities", 0, "results", 4, "number"), "C4", "capabilities[0].results: C4 is there 2 times"),
        (("capabilities", 0, "results", 4, "levels"), [], "results, C5: it passed, at no level"),
        (("capabilities", 0, "results", 5, "reason"), "", "results, G3: it is not applicable without a reason"),
        (("capabilities", 0, "results", 5, "number"), "C7", "C7: it is not applicable, and some check of it applies"),
        (("capabilities", 0, "results", 5, "number"), "G7", "capabilities[0].results: G7 is not tested at L1"),
        (("capabilities", 0, "results", 4, "levels"), ["L1", "L3"], "C5: it was checked at L3, and what ran is L0, L1"),
        (("capabilities", 1, "preview", 0, "levels"), ["load"], "M10: it was checked at load, and what ran is L0, L1"),
        (("capabilities", 0, "verdict"), "certified", "capabilities[0].verdict: it says 'certified', and its results"),
        (("capabilities", 0, "verdict"), "x" * 9_999, f"it says '{'x' * 300}…', and its results come to 'counters/1.0"),
        (("budget",), 0.01, "capabilities[0].verdict: it says 'counters/1.0 L1 · 2/16 passed"),
        (("meaning",), "conformant", "meaning: it says 'conformant', and its results come to 'not conformant'"),
        (("capabilities", 1, "results", 0, "number"), "M10", "results: M10 is not counted by a verdict"),
        (("capabilities", 1, "preview", 0, "number"), "M1", "preview: M1 is counted by a verdict"),
        (("capabilities", 1, "capability"), "counters", "counters of 'acme' is there 2 times"),
        (("created_at",), "2026-02-30T00:00:00Z", "created_at: 2026-02-30T00:00:00Z is no time"),
        (("contract",), "1.1", "it is about contract '1.1', and this kit knows 1.0"),
        (("format",), 2, "its format is 2, and this kit reads 1"),
    ],
    ids=str,
)
def test_a_contradiction_is_refused(written: dict[str, Any], place: tuple[Any, ...], value: Any, fault: str) -> None:
    """What a report claims must follow from its results, and its results must be such as a run can give."""
    found(written, place[:-1])[place[-1]] = value
    with pytest.raises(BadReport) as refused:
        Report.from_json(json.dumps(written))
    assert fault in str(refused.value)


def test_a_lost_result_is_noticed(written: dict[str, Any]) -> None:
    """Whoever takes a failed promise out of a report has a report that contradicts itself."""
    counters = written["capabilities"][0]
    counters["results"] = [one for one in counters["results"] if one["failure"] is None]
    with pytest.raises(BadReport, match=r"missing: it says C6, C7, .*, and its results come to C1, C2, C6"):
        Report.from_json(json.dumps(written))


def test_conformant_without_a_kept_promise_is_refused(written: dict[str, Any]) -> None:
    """Where nothing applies nothing was kept: such a report is no good one."""
    del written["capabilities"][0]
    (memory,) = written["capabilities"]
    for result in memory["results"]:
        result.update(state="not applicable", reason="so it is said")
    memory["results"] = [{**memory["results"][0], "number": one.number} for one in promises_of("memory", "L1")]
    memory.update(passed=0, wanted=0, missing=[], exit=0)
    written["exit"] = 0
    with pytest.raises(BadReport, match="no promise was kept, and it calls that conformant"):
        Report.from_json(json.dumps(written))


def test_sentences_may_be_of_another_version(written: dict[str, Any]) -> None:
    """Sentences of promises are for people: a later kit may make them plainer, and still reads the report."""
    written["capabilities"][0]["results"][0]["sentence"] = "otherwise"
    assert Report.from_json(json.dumps(written)).exit == 1


@pytest.mark.parametrize("text", ["", "null", "[]", "{", '{"format": 1}', '{"format": NaN}', "[" * 99_999, '"\\ud800"'])
def test_what_is_no_report_is_refused(text: str, tmp_path: Path) -> None:
    """Any file may be given: what is no report is said to be none, by its name."""
    path = tmp_path / "some.json"
    path.write_text(text)
    with pytest.raises(BadReport, match=r"some\.json: "):
        read_report(path)


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    """A file that is larger than any report is not read into memory."""
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(BadReport, match="no report is larger than"):
        read_report(path)


def test_the_schema_is_one_and_knows_what_the_kit_knows() -> None:
    """The shipped schema is valid, and lists the capabilities, levels, states and kinds that there are."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    definitions = SCHEMA["$defs"]
    assert tuple(definitions["capability"]["properties"]["capability"]["enum"]) == get_args(Capability)
    assert tuple(definitions["level"]["enum"]) == LEVELS
    assert definitions["result"]["properties"]["state"]["enum"] == [state.value for state in State]
    assert definitions["failure"]["properties"]["kind"]["enum"] == [kind.value for kind in Kind]
    assert definitions["exit"]["enum"] == [int(code) for code in Exit]
