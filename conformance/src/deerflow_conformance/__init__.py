"""The conformance kit: the contract's promises as tests that any backend can run."""

from deerflow_conformance.bench import Space
from deerflow_conformance.conform import conform, conform_plugin
from deerflow_conformance.results import KnownFailure

__all__ = ["KnownFailure", "Space", "conform", "conform_plugin"]
