"""The results as JUnit XML, which every CI reads. What did not run is an error there: skipped would look green."""

from __future__ import annotations

from typing import Final
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from deerflow_conformance.reports.model import Part, Report
from deerflow_conformance.reports.texts import visible
from deerflow_conformance.results import Result, State
from deerflow_conformance.texts import result_text, sentence_of

#: The element that tells each state; none for what passed.
_TAGS: Final = {
    State.FAILED: "failure",
    State.KNOWN_FAILURE: "failure",
    State.COULD_NOT_RUN: "error",
    State.NOT_APPLICABLE: "skipped",
}


def junit(report: Report) -> str:
    """Write one suite a capability and one case a promise; a counted promise without a result is a case, too."""
    root = Element("testsuites", name="deerflow-conformance")
    for part in report.parts:
        root.append(_suite(report, part))
    for attribute in ("tests", "failures", "errors", "skipped"):
        root.set(attribute, str(sum(int(suite.get(attribute, "0")) for suite in root)))
    root.set("time", f"{sum(part.seconds for part in report.parts):.3f}")
    indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{tostring(root, encoding="unicode")}\n'


def _suite(report: Report, part: Part) -> Element:
    stamp = report.created_at.strftime("%Y-%m-%dT%H:%M:%S")
    name = visible(f"{part.backend}.{part.capability}")
    suite = Element("testsuite", name=name, timestamp=stamp, time=f"{part.seconds:.3f}")
    for result in part.verdict.results:
        case = _case(suite, name, result)
        if tag := _TAGS.get(result.state):
            told = SubElement(case, tag, type=str(result.state), message=visible(_message(result)))
            told.text = visible(result_text(result, report.command(part, result.number)))
    for number in part.verdict.missing:
        case = SubElement(suite, "testcase", classname=name, name=number, time="0.000")
        SubElement(case, "error", type="not run", message="it did not run").text = sentence_of(number)
    suite.set("tests", str(len(suite)))
    for tag, attribute in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        suite.set(attribute, str(len(suite.findall(f"testcase/{tag}"))))
    return suite


def _case(suite: Element, classname: str, result: Result) -> Element:
    return SubElement(suite, "testcase", classname=classname, name=result.number, time=f"{result.seconds:.3f}")


def _message(result: Result) -> str:
    if result.state is State.FAILED and result.failure is not None:
        return result.failure.message
    return f"{result.state}: {result.reason}"
