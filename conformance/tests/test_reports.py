"""What a run writes: each file says the same, shows nothing that steers or leaks, and is whole or not there."""

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from deerflow_conformance.promises import HARNESS, Capability, Level, promises_of
from deerflow_conformance.reports import FileSource, Part, PluginSource, Report, part_of, prepare, write_reports
from deerflow_conformance.reports.badge import badge, badge_text
from deerflow_conformance.reports.junit import junit
from deerflow_conformance.reports.matrix import matrix_of, matrix_page, why
from deerflow_conformance.reports.page import report_page, took, wanted_and_got
from deerflow_conformance.reports.writing import FILES
from deerflow_conformance.results import BrokenUse, Exit, Failure, Kind, KnownFailure, Result, State, Verdict

NASTY = "</pre><script>alert(1)</script><img src=x onerror=alert(2)> \x1b[2J \u202e \x00 ' \" & ]]>"
#: States that make a run of one promise what the code says.
CODES = {
    Exit.CONFORMANT: (State.PASSED, State.PASSED),
    Exit.NOT_CONFORMANT: (State.PASSED, State.FAILED),
    Exit.BROKEN: (State.FAILED, State.COULD_NOT_RUN),
    Exit.INCOMPLETE: (State.PASSED, State.COULD_NOT_RUN),
}


def made(number: str, capability: Capability, state: State, text: str = "because") -> Result:
    failure = None
    if state in (State.FAILED, State.KNOWN_FAILURE):
        message = f"wanted 0, got {text}"
        failure = Failure(Kind.UNKEPT, "check_name", text, message, text, text, text, text, text)
    reason = "" if state in (State.PASSED, State.FAILED) else text
    return Result(number, capability, state, reason, failure, ("L1", "load"), 0.25)


def part(
    capability: Capability = "counters",
    harness: State = State.PASSED,
    last: State = State.PASSED,
    *,
    level: Level = "load",
    budget: float = 1.0,
    text: str = "because",
    leave_out: Iterable[str] = (),
) -> Part:
    """A capability whose harness check and last promise came out so, and all other promises passed."""
    numbers = [one.number for one in promises_of(capability, level) if one.number not in leave_out]
    results = [made(number, capability, State.PASSED) for number in numbers[:-1]]
    results.append(made(numbers[-1], capability, last, text))
    results.insert(0, made(HARNESS.number, capability, harness, text))
    source = PluginSource("acme", {"path": "/srv/x y", "url": None})
    return part_of("acme", source, Verdict(capability, level, tuple(results), "host", budget), server="Acme 4")


def harness_part(state: State = State.PASSED) -> Part:
    """A capability of which only the harness check was asked for."""
    results = (made(HARNESS.number, "memory", state),)
    return part_of("acme", FileSource("a.py", "f"), Verdict("memory", "L0", results, "host"))


def report(*parts: Part, asked: Level | None = None) -> Report:
    budget = parts[0].verdict.budget
    return Report(parts, "1.0.0", "CPython 3.11", datetime(2026, 2, 1, tzinfo=UTC), 7, budget, asked)


class Page(HTMLParser):
    """Takes a page apart, as a browser would."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self._skipped = 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "br", "path", "circle", "use"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("path", "circle", "use"):
            assert self.open.pop() == tag
            self.text += " "

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data


# ---------------------------------------------------------------------- the page


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
def test_the_page_says_the_verdict_first_and_in_words(code: Exit) -> None:
    """The first thing on a page is what the run came to; only a conformant one has the green of good."""
    page = report_page(report(part("memory"), part("counters", *CODES[code])))
    word = {0: "Conformant", 1: "Not conformant", 2: "Broken", 3: "Incomplete"}[code]
    assert f"<title>{word}: acme" in page
    (style,) = re.findall(r'<section id="verdict" class="verdict (\S+)"', page)
    assert (style == "conformant") == (code is Exit.CONFORMANT)
    text = " ".join(Page(page).text.split())
    assert text.index(f"acme {word}") < text.index("What ran")
    assert f"Exit code {int(code)}, {word.lower()}" in text


def test_a_part_of_a_run_is_never_green() -> None:
    """What did not run is named, by number and in the verdict: it is not taken for what passed."""
    page = report_page(report(part(leave_out=["C3", "G2"])))
    assert 'class="verdict incomplete"' in page
    text = " ".join(Page(page).text.split())
    assert "Nothing is proven: of 20 promises, 18 passed and 2 did not run." in text
    for number in ("C3", "G2"):
        assert f"{number} not run" in text


def test_less_than_all_is_conformant_at_its_level_only() -> None:
    """Whoever asked for a lower level reads that in the verdict, and of the harness alone that it is no promise."""
    assert "Conformant at L1" in Page(report_page(report(part(level="L1"), asked="L1"))).text
    text = " ".join(Page(report_page(report(harness_part(), asked="L0"))).text.split())
    assert "Conformant at L0" in text
    assert "No promise was tested." in text
    assert "harness passed" in text
    broken = " ".join(Page(report_page(report(harness_part(State.FAILED), asked="L0"))).text.split())
    assert "harness failed" in broken
    assert "harness passed" not in broken


def test_few_programs_are_told() -> None:
    """Whoever drew fewer programs than the kit means to says so in each verdict, and the page says what it means."""
    told = report(part(budget=0.01))
    assert told.parts[0].verdict.line() == "counters/1.0 L3 + load · 20/20 passed · budget 0.01"
    text = " ".join(Page(report_page(told)).text.split())
    assert "At budget 0.01 fewer programs were drawn than at 1, so a fault may have gone unseen." in text
    assert "L3 + load, budget 0.01" in text
    for enough in (report(part()), report(part(budget=3.0)), report(harness_part(), asked="L0")):
        assert "udget 0" not in enough.parts[0].verdict.line()
        assert "fewer programs" not in report_page(enough)


def test_the_page_tells_everything_about_a_failure() -> None:
    """A failure shows what was wanted and got, the check, history, program, cause, place, replay and snippet, open."""
    failure = Failure(
        Kind.UNKEPT, "reset_resets", "A reset resets.", "wanted zero, got one", "[Reset()]", "File x", "0.1 reset",
        "It forgets buckets.", "rerun('C7')",
    )  # fmt: skip
    results = [*part().verdict.results]
    results[7] = Result("C7", "counters", State.FAILED, "", failure, ("L1",), 1.25)
    source = FileSource("tests/test_acme.py", "counters")
    told = report(part_of("acme", source, Verdict("counters", "load", tuple(results), "host", 0.5)))
    page = report_page(told)
    text = " ".join(Page(page).text.split())
    details = text[text.index("C7 Any model name counts, ten thousand models in one call. failed · 1.2 s") :]
    said = (
        "Wanted zero", "Got one", "Check reset_resets A reset resets.", "Timeline 0.1 reset", "Program [Reset()]",
        "Usual cause It forgets buckets.", "Where File x",
        "See it again deerflow-conformance run tests/test_acme.py::counters --only counters -k C7 --seed 7 --budget",
        "In a debugger rerun('C7')", "Checked at L1, in 1.2 s.",
    )  # fmt: skip
    places = [details.index(one) for one in said]
    assert places == sorted(places)
    assert re.search(r'<details class="promise failed" open>', page)
    assert 'href="#counters-C7"' in page
    assert 'id="counters-C7"' in page


def test_every_promise_is_on_the_page_with_its_state_as_text() -> None:
    """Each promise, general ones with each capability, is in the matrix and in the list, and its state is a word."""
    told = report(part("memory", last=State.NOT_APPLICABLE), part("counters", last=State.KNOWN_FAILURE))
    page = Page(report_page(told))
    cells = [
        attributes for tag, attributes in page.tags if tag == "a" and "cell" in (attributes.get("class") or "").split()
    ]
    for one in told.parts:
        for result in one.verdict.results:
            (cell,) = [cell for cell in cells if cell["href"] == f"#{one.capability}-{result.number}"]
            assert (cell["title"] or "").startswith(f"{result.number} {result.state}: ")
    hidden = sum(one == ("span", {"class": "hidden"}) for one in page.tags)
    assert hidden == len(cells) == sum(len(one.verdict.results) for one in told.parts)


def test_the_page_needs_nothing_and_runs_nothing() -> None:
    """A page loads nothing from anywhere, has no script, and what others wrote in it is only text."""
    told = report(part(last=State.FAILED, text=NASTY), part("memory", last=State.KNOWN_FAILURE, text=NASTY))
    page = Page(report_page(told))
    assert page.open == []
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "img", "iframe", "object", "embed", "form", "base", "audio", "video"}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("href", "src", "action", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#") or (tag, attributes["href"]) == ("link", "data:,")
    assert "</pre><script>alert(1)</script>" in page.text
    assert "\\x1b[2J \\u202e \\x00" in page.text
    for mark in "\x1b\u202e\x00":
        assert mark not in page.text
    (policy,) = [one for tag, one in page.tags if tag == "meta" and "http-equiv" in one]
    assert (policy["content"] or "").startswith("default-src 'none'")
    style = re.search(r"<style>(.*?)</style>", report_page(told), re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_only_web_addresses_become_links() -> None:
    """The address of a known failure can be followed; any other scheme stays text."""
    known = KnownFailure("javascript:alert(1) says it", "https://example.org/issues/7?a=1&b=2", "2026-01-31")
    told = report(part(last=State.KNOWN_FAILURE, text=f"{known} file:///x data:,x"))
    links = [one for tag, one in Page(report_page(told)).tags if tag == "a" and not (one["href"] or "").startswith("#")]
    assert [(one["href"], one["rel"]) for one in links] == [
        ("https://example.org/issues/7?a=1&b=2", "noreferrer nofollow")
    ]


def test_headings_and_anchors_are_in_order() -> None:
    """A screen reader finds one main heading, no level left out, a name for each section, and no id twice."""
    page = Page(report_page(report(part(last=State.FAILED), part("memory"))))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    ids = [one["id"] for _, one in page.tags if "id" in one]
    assert len(ids) == len(set(ids))
    for _, one in page.tags:
        for name in ("aria-labelledby", "href"):
            if (one.get(name) or "").removeprefix("#") and (name != "href" or (one["href"] or "").startswith("#")):
                assert (one[name] or "").removeprefix("#") in ids
    assert all("aria-labelledby" in one for tag, one in page.tags if tag in ("section", "article"))


# ---------------------------------------------------------------------- the matrix


@pytest.mark.parametrize(
    ("told", "asked", "said"),
    [
        ([report(part())], None, "Every promise that applies was kept by the 1 backend, at L3 + load."),
        (
            [report(part()), report(part(level="L1"), asked="L1")],
            "L1",
            "Every promise that applies was kept by each of 2 reports, at L3 + load and L1.",
        ),
        ([report(harness_part(), asked="L0")], "L0", "What opens the backend works. No promise was tested."),
        (
            [report(part()), report(harness_part(), asked="L0")],
            "L0",
            "Every promise that applies was kept by the 1 report, at L3 + load. Of 1 report no promise was tested.",
        ),
        (
            [report(part(level="L1"), asked="L1"), report(part(last=State.FAILED))],
            "L1",
            "1 of 2 reports is conformant, at L1.",
        ),
        ([report(part(last=State.FAILED))], None, "0 of 1 backend are conformant."),
        (
            [report(part(budget=0.01)), report(part(budget=0.2)), report(part())],
            None,
            "Every promise that applies was kept by each of 3 reports, at L3 + load. "
            "At budget 0.01 and budget 0.2 fewer programs were drawn than at 1, so a fault may have gone unseen.",
        ),
    ],
    ids=["all", "two levels", "harness alone", "harness among others", "bad", "worse", "few programs"],
)
def test_a_matrix_says_what_was_tested(told: Sequence[Report], asked: Level | None, said: str) -> None:
    """Many reports come to no more than they say each: at which levels, of which no promise, with how few programs."""
    matrix = matrix_of([(str(number), one) for number, one in enumerate(told)])
    assert matrix.asked == asked
    assert why(matrix) == said
    text = " ".join(Page(matrix_page(matrix)).text.split())
    assert said in text
    assert ("Conformant at L0" in text) is (asked == "L0")


# ---------------------------------------------------------------------- colours


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_every_text_can_be_read() -> None:
    """In both schemes each colour of text has the contrast that WCAG AA asks for, on each ground that it stands on."""
    style = re.search(r"<style>(.*?)</style>", report_page(report(part())), re.DOTALL)
    assert style is not None
    light, dark = re.findall(r":root \{(.*?)\}", style[1], re.DOTALL)
    for scheme in (light, dark):
        colours = dict(re.findall(r"--(\S+): (#[0-9a-f]{6});", scheme))
        pairs = [(text, ground) for text in ("text", "soft", "link") for ground in ("page", "card", "code")]
        for kind in ("good", "bad", "warn", "none"):
            pairs += [(kind, ground) for ground in ("page", "card", f"{kind}-tint")]
            pairs += [("text", f"{kind}-tint"), ("link", f"{kind}-tint"), ("soft", f"{kind}-tint")]
            assert contrast("#ffffff", colours[f"{kind}-solid"]) >= 4.5, kind
        for text, ground in pairs:
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)


# ---------------------------------------------------------------------- JUnit and the badge


def test_junit_shows_what_did_not_run_as_an_error() -> None:
    """CI that reads JUnit sees one case a promise; what failed, could not run or is missing is never green there."""
    told = report(
        part("memory", last=State.FAILED, text=NASTY),
        part("counters", last=State.COULD_NOT_RUN, leave_out=["C3"]),
        part("thread_index", last=State.KNOWN_FAILURE),
        part("stream_bridge", last=State.NOT_APPLICABLE),
    )
    root = ElementTree.fromstring(junit(told))
    suites = {suite.get("name"): suite for suite in root}
    assert list(suites) == ["acme.memory", "acme.counters", "acme.thread_index", "acme.stream_bridge"]
    for name, tags in {
        "acme.memory": {"G13": "failure"},
        "acme.counters": {"C3": "error", "G13": "error"},
        "acme.thread_index": {"G13": "failure"},
        "acme.stream_bridge": {"G13": "skipped"},
    }.items():
        cases = {case.get("name"): [child.tag for child in case] for case in suites[name]}
        assert {number: children[0] for number, children in cases.items() if children} == tags
        one = next(part for part in told.parts if f"acme.{part.capability}" == name)
        assert set(cases) == {"L0", *(promise.number for promise in promises_of(one.capability))}
        assert suites[name].get("tests") == str(len(cases))
    assert {name: root.get(name) for name in ("failures", "errors", "skipped")} == {
        "failures": "2", "errors": "2", "skipped": "1",
    }  # fmt: skip
    failure = root.find(".//failure")
    assert failure is not None
    assert "deerflow-conformance run acme --set 'path=/srv/x y' --set url=... --only memory -k G13" in (
        failure.text or ""
    )


@pytest.mark.parametrize(
    ("told", "text", "green"),
    [
        (report(part("memory")), "memory L3 + load 24/24", True),
        (report(part("memory", level="L1"), asked="L1"), "memory L1 21/21", True),
        (report(part("memory"), part("counters")), "acme L3 + load 44/44", True),
        (report(part("memory", last=State.FAILED)), "memory L3 + load 23/24 not conformant", False),
        (report(part("memory", leave_out=["M3"])), "memory L3 + load 23/24 incomplete", False),
        (report(part("memory", harness=State.FAILED)), "memory L3 + load 24/24 broken", False),
        (report(harness_part(), asked="L0"), "memory L0 no promise tested", False),
        (report(harness_part(State.FAILED), asked="L0"), "memory L0 broken", False),
        (report(part("memory", budget=0.01)), "memory L3 + load 24/24, budget 0.01", True),
        (
            report(part("memory", last=State.FAILED, budget=0.2)),
            "memory L3 + load 23/24 not conformant, budget 0.2",
            False,
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_badge_says_it_in_words(told: Report, text: str, green: bool) -> None:
    """A badge names what was tested, to which level, how many promises and with how few programs.

    Only promises that were kept are green.
    """
    assert badge_text(told) == text
    root = ElementTree.fromstring(badge(told))
    assert root.get("aria-label") == f"conformance: {text}"
    assert [one.text for one in root.iter("{http://www.w3.org/2000/svg}text")] == ["conformance", text]
    colours = [one.get("fill") for one in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert ("#1a7f37" in colours) is green
    assert all(contrast("#ffffff", colour) >= 4.5 for colour in colours if colour)


def test_a_badge_escapes_what_it_shows() -> None:
    """A backend's name cannot break out of the badge."""
    parts = [part_of(f'a"<b>&{NASTY}', one.source, one.verdict) for one in (part("memory"), part("counters"))]
    root = ElementTree.fromstring(badge(report(*parts)))
    assert "<script>" in (root.get("aria-label") or "")
    assert {one.tag.rpartition("}")[2] for one in root.iter()} == {"svg", "title", "clipPath", "rect", "g", "text"}


# ---------------------------------------------------------------------- files


def test_four_files_are_written_and_say_the_same(tmp_path: Path) -> None:
    """All reports are there, readable, and nothing else is, not even from an earlier run."""
    folder = tmp_path / "deep" / "made"
    folder.mkdir(parents=True)
    (folder / "report.json").write_text("old")
    (folder / "mine.txt").write_text("mine")
    prepare(folder)
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]
    told = report(part(last=State.FAILED, text=f"{NASTY} \ud800"))
    write_reports(folder, told)
    assert sorted(path.name for path in folder.iterdir()) == [
        "badge.svg", "junit.xml", "mine.txt", "report.html", "report.json",
    ]  # fmt: skip
    assert Report.from_json((folder / "report.json").read_bytes()) == told
    assert "Not conformant" in (folder / "report.html").read_text("utf-8")
    ElementTree.parse(folder / "junit.xml")
    ElementTree.parse(folder / "badge.svg")


@pytest.mark.parametrize("earlier", [{}, dict.fromkeys(FILES, "an earlier one")], ids=["empty", "an earlier set"])
def test_a_set_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: dict[str, str]
) -> None:
    """When the disk is full, what was there before still is, and nothing else: never half of a set."""
    for name, text in earlier.items():
        (tmp_path / name).write_text(text)
    write = Path.open

    def full(self: Path, *arguments: object, **more: object) -> object:
        if "badge.svg" in self.name:
            raise OSError(28, "No space left on device")
        return write(self, *arguments, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(BrokenUse, match="cannot be written: No space left on device"):
        write_reports(tmp_path, report(part()))
    monkeypatch.undo()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == earlier


def test_a_folder_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    """Where reports cannot go is wrong usage: a file, below a file, or a folder that takes no files."""
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file/x", Path("/proc/self/task")):
        with pytest.raises(BrokenUse, match="cannot hold reports"):
            prepare(folder)


# ---------------------------------------------------------------------- texts


def test_places_of_this_machine_stay_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report names files as seen from here or from where they are imported, so it can be given away."""
    monkeypatch.chdir(tmp_path)
    text = f'File "{os.getcwd()}/tests/x.py" File "{Path(json.__file__).parents[1]}/json/y.py" \ud800'
    (harness, *_) = part_of(
        "acme", FileSource("a.py", "f"), Verdict("memory", "L0", (made("L0", "memory", State.FAILED, text),))
    ).verdict.results
    assert harness.failure is not None
    assert harness.failure.trace == 'File "tests/x.py" File "json/y.py" \\ud800'


@pytest.mark.parametrize(
    ("message", "halves"),
    [
        ("wanted 1, got 2", ("1", "2")),
        ("wanted a, b, got c", ("a, b", "c")),
        ("wanted 1, got 2, got 3", ("", "")),
        ("OSError: x, got 3", ("", "")),
        ("wanted much", ("", "")),
    ],
)
def test_a_message_is_halved_where_that_is_sure(message: str, halves: tuple[str, str]) -> None:
    """What was wanted and what came stand side by side only where nobody can mistake one for the other."""
    assert wanted_and_got(Failure(Kind.UNKEPT, "c", "s", message)) == halves


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "under 10 ms"), (0.25, "250 ms"), (1.25, "1.2 s"), (59.99, "60.0 s"), (125, "2 min 5 s")]
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    """A duration has two figures or so, and its unit."""
    assert took(seconds) == text


def test_reports_are_loaded_when_used() -> None:
    """Whoever has the kit has its plugin in every run of pytest, which must not load templates and validators too."""
    script = (
        "import sys, deerflow_conformance.pytest_plugin, deerflow_conformance.reports\n"
        "print([name for name in ('jinja2', 'pydantic', 'typer', 'rich') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
