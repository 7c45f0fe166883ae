"""The four capabilities: their names, in the order in which everything lists and opens them, and their options."""

from __future__ import annotations

from typing import Final, TypeAlias

from deerflow_backends.counters import CounterOptions
from deerflow_backends.memories import MemoryOptions
from deerflow_backends.streams import StreamOptions
from deerflow_backends.threads import ThreadOptions

Options: TypeAlias = StreamOptions | MemoryOptions | ThreadOptions | CounterOptions

OPTIONS: Final[dict[str, type[Options]]] = {
    "stream_bridge": StreamOptions,
    "memory": MemoryOptions,
    "thread_index": ThreadOptions,
    "counters": CounterOptions,
}
CAPABILITIES: Final = tuple(OPTIONS)
