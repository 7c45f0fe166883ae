"""The conformance kit: the contract's promises as tests that any backend can run."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deerflow_conformance.conformances import conform, conform_plugin
    from deerflow_conformance.reruns import rerun
    from deerflow_conformance.results import BrokenUse, KnownFailure
    from deerflow_conformance.spaces import Space

__all__ = ["BrokenUse", "KnownFailure", "Space", "conform", "conform_plugin", "rerun"]

_HOMES = {
    "BrokenUse": "results",
    "KnownFailure": "results",
    "Space": "spaces",
    "conform": "conformances",
    "conform_plugin": "conformances",
    "rerun": "reruns",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used: pytest imports this package in every run of every project."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"deerflow_conformance.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
