"""A badge: what was tested and what came of it, for a README."""

from __future__ import annotations

from typing import Final
from xml.sax.saxutils import escape

from deerflow_conformance.reports.model import MEANINGS, Report
from deerflow_conformance.reports.texts import visible
from deerflow_conformance.results import Exit

_LABEL: Final = "conformance"
#: Dark enough for white text beside them (WCAG AA).
_COLOURS: Final = {Exit.CONFORMANT: "#1a7f37", Exit.INCOMPLETE: "#8f5a00"}
_RED: Final = "#b42318"
#: Widths of characters in 11 px Verdana, where they differ much from the others'.
_NARROW: Final = frozenset("fijlrtI.,:;|!'()[]/ -·1")
_WIDE: Final = frozenset("mwMW%@+")


def badge_text(report: Report) -> str:
    """Return what the badge says beside its label: what, up to which level, how many promises; never only a colour."""
    capabilities = list(dict.fromkeys(part.capability for part in report.parts))
    what = capabilities[0] if len(report.parts) == 1 else ", ".join(report.backends)
    levels = list(dict.fromkeys(part.verdict.level_text for part in report.parts))
    passed, wanted = (sum(getattr(part, name) for part in report.parts) for name in ("passed", "wanted"))
    score = f"{what} {' and '.join(levels)} {passed}/{wanted}"
    return score if report.exit is Exit.CONFORMANT else f"{score} {MEANINGS[report.exit]}"


def badge(report: Report) -> str:
    """Draw the badge as SVG, in the shape that such badges have everywhere."""
    text = visible(badge_text(report)).replace("\n", " ")
    left, right = _width(_LABEL) + 12, _width(text) + 12
    title = escape(f"{_LABEL}: {text}", {'"': "&quot;"})
    colour = _COLOURS.get(report.exit, _RED)
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


def _width(text: str) -> int:
    """Return about how many pixels *text* takes; ``textLength`` makes it exactly so many."""
    return round(sum(4.2 if mark in _NARROW else 10.2 if mark in _WIDE else 7.0 for mark in text))
