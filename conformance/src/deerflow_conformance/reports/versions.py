"""Puts a report together: what ran, and which versions it ran with."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from typing import Final

from deerflow_conformance.promises import Level
from deerflow_conformance.reports.model import Distribution, Part, Report, Source, counted
from deerflow_conformance.reports.texts import portable, whole
from deerflow_conformance.results import Result, Verdict

#: The entry-point group of plugins.
_GROUP: Final = "deerflow_backends"
_KIT: Final = "deerflow-conformance"


def part_of(backend: str, source: Source, verdict: Verdict, *, server: str | None = None) -> Part:
    """Return what a report says of one capability.

    Args:
        backend: The plugin's name.
        source: How it was opened.
        verdict: All results; those of promises that no verdict counts are told apart.
        server: What it ran on, in the author's words.
    """
    results: tuple[Result, ...]
    results, preview = counted(map(portable, verdict.results))
    judged = dataclasses.replace(verdict, results=results)
    return Part(backend, source, distribution_of(backend), None if server is None else whole(server), judged, preview)


def report_of(parts: Sequence[Part], *, seed: int, budget: float, asked: Level | None) -> Report:
    """Return the report of a run that has just ended."""
    now = datetime.now(UTC).replace(microsecond=0)
    python = f"{platform.python_implementation()} {platform.python_version()} on {platform.system()}"
    return Report(tuple(parts), metadata.version(_KIT), python, now, seed, budget, asked)


def distribution_of(backend: str) -> Distribution | None:
    """Return the installed distribution that offers *backend*, or None where none or more than one does."""
    found = {
        (point.dist.name, point.dist.version)
        for point in metadata.entry_points(group=_GROUP, name=backend)
        if point.dist is not None
    }
    return Distribution(*found.pop()) if len(found) == 1 else None
