"""The kit's served backend keeps every promise as long as it has no fault: pytest collects these one by one."""

from deerflow_conformance.mutants.served.conformances import counters, memory, stream_bridge, thread_index

__all__ = ["counters", "memory", "stream_bridge", "thread_index"]
