"""The four Protocols by capability, and what kinds of methods they have."""

from __future__ import annotations

import inspect
from typing import Final

from deerflow_backends.counters import ModelCounters
from deerflow_backends.memories import MemoryStore
from deerflow_backends.streams import StreamBridge
from deerflow_backends.threads import ThreadIndex
from deerflow_conformance.promises import Capability

PROTOCOLS: Final[dict[Capability, type]] = {
    "stream_bridge": StreamBridge,
    "memory": MemoryStore,
    "thread_index": ThreadIndex,
    "counters": ModelCounters,
}


def _methods(capability: Capability) -> dict[str, object]:
    members = vars(PROTOCOLS[capability]).items()
    return {name: member for name, member in members if inspect.isfunction(member) and not name.startswith("_")}


def coroutines_of(capability: Capability) -> list[str]:
    """Return the names of the methods to await."""
    return [name for name, method in _methods(capability).items() if inspect.iscoroutinefunction(method)]


def iterators_of(capability: Capability) -> list[str]:
    """Return the names of the methods that give async iterators."""
    return [name for name, method in _methods(capability).items() if not inspect.iscoroutinefunction(method)]
