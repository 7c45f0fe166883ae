"""A badge: what was tested and what came of it, for a README."""

from __future__ import annotations

from typing import Final
from xml.sax.saxutils import escape

from deerflow_conformance.promises import HARNESS
from deerflow_conformance.reports.model import MEANINGS, Report
from deerflow_conformance.reports.texts import visible
from deerflow_conformance.results import Exit

_LABEL: Final = "conformance"
#: Dark enough for white text beside them (WCAG AA).
_COLOURS: Final = {Exit.CONFORMANT: "#1a7f37", Exit.INCOMPLETE: "#8f5a00"}
_RED: Final = "#b42318"
#: Of what is conformant since no promise was tested.
_GREY: Final = "#5a616c"
#: Widths of characters in 11 px Verdana, where they differ much from the others'.
_NARROW: Final = frozenset("fijlrtI.,:;|!'()[]/ -·1")
_WIDE: Final = frozenset("mwMW%@+")


def badge_text(report: Report) -> str:
    """Return what the badge says beside its label: what, up to which level, how many promises; never only a colour."""
    what = report.parts[0].capability if len(report.parts) == 1 else ", ".join(report.backends)
    words = [what, " and ".join(dict.fromkeys(part.verdict.level_text for part in report.parts))]
    if report.level != HARNESS.level:
        words.append(f"{_passed(report)}/{sum(part.wanted for part in report.parts)}")
    if report.exit is not Exit.CONFORMANT:
        words.append(MEANINGS[report.exit])
    elif not _passed(report):
        words.append("no promise tested")
    budgets = dict.fromkeys(part.verdict.small_budget for part in report.parts if part.verdict.small_budget)
    return ", ".join([" ".join(words), *budgets])


def badge(report: Report) -> str:
    """Draw the badge as SVG, in the shape that such badges have everywhere."""
    text = visible(badge_text(report)).replace("\n", " ")
    left, right = _width(_LABEL) + 12, _width(text) + 12
    title = escape(f"{_LABEL}: {text}", {'"': "&quot;"})
    colour = _COLOURS.get(report.exit, _RED) if _passed(report) or report.exit is not Exit.CONFORMANT else _GREY
    size = f'width="{left + right}" height="20"'
    return f"""<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{title}">
<title>{title}</title>
<clipPath id="r"><rect {size} rx="3"/></clipPath>
<g clip-path="url(#r)">
<rect width="{left}" height="20" fill="#3b4048"/>
<rect x="{left}" width="{right}" height="20" fill="{colour}"/>
</g>
<g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,Geneva,sans-serif" font-size="11">
<text x="{left / 2:g}" y="14" textLength="{left - 12}">{_LABEL}</text>
<text x="{left + right / 2:g}" y="14" textLength="{right - 12}">{escape(text)}</text>
</g>
</svg>
"""


def _passed(report: Report) -> int:
    return sum(part.passed for part in report.parts)


def _width(text: str) -> int:
    """Return about how many pixels *text* takes; ``textLength`` makes it exactly so many."""
    return round(sum(4.2 if mark in _NARROW else 10.2 if mark in _WIDE else 7.0 for mark in text))
