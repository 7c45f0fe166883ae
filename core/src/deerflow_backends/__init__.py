"""Pluggable backends that let DeerFlow run as many replicas.

Everything public is here, loaded when first used: importing this package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from deerflow_backends.backends import Backends, open_backends
    from deerflow_backends.buffering import BufferedCounters, buffered
    from deerflow_backends.codec import JSON, to_json
    from deerflow_backends.configuration import Choice, Configuration, load_configuration
    from deerflow_backends.counters import MAX_COUNT, CounterOptions, Counts, ModelCounters, Recorded
    from deerflow_backends.errors import (
        BackendsError,
        BackendUnavailable,
        Closed,
        ConfigError,
        Conflict,
        Corrupt,
        InvalidArgument,
        PluginError,
        RevisionConflict,
        StreamEnded,
    )
    from deerflow_backends.hookspecs import Finding, hookimpl
    from deerflow_backends.memories import (
        ABSENT,
        ALL,
        ANY,
        All,
        Applied,
        Change,
        DeleteFact,
        Expected,
        Fact,
        FactMatch,
        Guard,
        Memory,
        MemoryOptions,
        MemoryStore,
        PutBody,
        PutFact,
        Record,
    )
    from deerflow_backends.namespaces import NamespaceView, namespace
    from deerflow_backends.paging import Page
    from deerflow_backends.settings import ConnectionSettings
    from deerflow_backends.streams import (
        END_SENTINEL,
        HEARTBEAT_SENTINEL,
        Reach,
        StreamBridge,
        StreamEvent,
        StreamGap,
        StreamItem,
        StreamOptions,
        StreamStatus,
    )
    from deerflow_backends.threads import (
        ANY_USER,
        KEEP,
        MAX_EXAMINED,
        PINNED_KEY,
        AnyUser,
        Keep,
        NewThread,
        Scope,
        Thread,
        ThreadIndex,
        ThreadOptions,
    )
    from deerflow_backends.verdicts import Health, health

#: The version of the contract: the four Protocols and the hooks. Its major is this distribution's.
CONTRACT_VERSION: Final = "1.0"

__all__ = [
    "ABSENT",
    "ALL",
    "ANY",
    "ANY_USER",
    "CONTRACT_VERSION",
    "END_SENTINEL",
    "HEARTBEAT_SENTINEL",
    "JSON",
    "KEEP",
    "MAX_COUNT",
    "MAX_EXAMINED",
    "PINNED_KEY",
    "All",
    "AnyUser",
    "Applied",
    "BackendUnavailable",
    "Backends",
    "BackendsError",
    "BufferedCounters",
    "Change",
    "Choice",
    "Closed",
    "ConfigError",
    "Configuration",
    "Conflict",
    "ConnectionSettings",
    "Corrupt",
    "CounterOptions",
    "Counts",
    "DeleteFact",
    "Expected",
    "Fact",
    "FactMatch",
    "Finding",
    "Guard",
    "Health",
    "InvalidArgument",
    "Keep",
    "Memory",
    "MemoryOptions",
    "MemoryStore",
    "ModelCounters",
    "NamespaceView",
    "NewThread",
    "Page",
    "PluginError",
    "PutBody",
    "PutFact",
    "Reach",
    "Record",
    "Recorded",
    "RevisionConflict",
    "Scope",
    "StreamBridge",
    "StreamEnded",
    "StreamEvent",
    "StreamGap",
    "StreamItem",
    "StreamOptions",
    "StreamStatus",
    "Thread",
    "ThreadIndex",
    "ThreadOptions",
    "buffered",
    "health",
    "hookimpl",
    "load_configuration",
    "namespace",
    "open_backends",
    "to_json",
]

_MODULES: Final = {
    "backends": ("Backends", "open_backends"),
    "buffering": ("BufferedCounters", "buffered"),
    "codec": ("JSON", "to_json"),
    "configuration": ("Choice", "Configuration", "load_configuration"),
    "counters": ("MAX_COUNT", "CounterOptions", "Counts", "ModelCounters", "Recorded"),
    "errors": (
        "BackendsError",
        "BackendUnavailable",
        "Closed",
        "ConfigError",
        "Conflict",
        "Corrupt",
        "InvalidArgument",
        "PluginError",
        "RevisionConflict",
        "StreamEnded",
    ),
    "hookspecs": ("Finding", "hookimpl"),
    "memories": (
        "ABSENT",
        "ALL",
        "ANY",
        "All",
        "Applied",
        "Change",
        "DeleteFact",
        "Expected",
        "Fact",
        "FactMatch",
        "Guard",
        "Memory",
        "MemoryOptions",
        "MemoryStore",
        "PutBody",
        "PutFact",
        "Record",
    ),
    "namespaces": ("NamespaceView", "namespace"),
    "paging": ("Page",),
    "settings": ("ConnectionSettings",),
    "streams": (
        "END_SENTINEL",
        "HEARTBEAT_SENTINEL",
        "Reach",
        "StreamBridge",
        "StreamEvent",
        "StreamGap",
        "StreamItem",
        "StreamOptions",
        "StreamStatus",
    ),
    "threads": (
        "ANY_USER",
        "KEEP",
        "MAX_EXAMINED",
        "PINNED_KEY",
        "AnyUser",
        "Keep",
        "NewThread",
        "Scope",
        "Thread",
        "ThreadIndex",
        "ThreadOptions",
    ),
    "verdicts": ("Health", "health"),
}
_HOME: Final = {name: module for module, names in _MODULES.items() for name in names}


if not TYPE_CHECKING:  # or type checkers would believe in every misspelt name

    def __getattr__(name: str) -> Any:
        """Load the module of a public name when the name is first used (PEP 562)."""
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
