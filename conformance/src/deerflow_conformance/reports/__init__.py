"""Reports of a run: JSON, JUnit, one HTML page and a badge. What others wrote is read as what it is: theirs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deerflow_conformance.reports.model import Distribution, FileSource, Part, PluginSource, Report
    from deerflow_conformance.reports.reading import BadReport, read_report
    from deerflow_conformance.reports.versions import part_of, report_of
    from deerflow_conformance.reports.writing import prepare, write_reports

_HOMES = {
    "BadReport": "reading",
    "Distribution": "model",
    "FileSource": "model",
    "Part": "model",
    "PluginSource": "model",
    "Report": "model",
    "part_of": "versions",
    "prepare": "writing",
    "read_report": "reading",
    "report_of": "versions",
    "write_reports": "writing",
}

__all__ = [
    "BadReport",
    "Distribution",
    "FileSource",
    "Part",
    "PluginSource",
    "Report",
    "part_of",
    "prepare",
    "read_report",
    "report_of",
    "write_reports",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used: reading loads pydantic, and writing a template engine."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
