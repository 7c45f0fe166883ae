"""The in-process backend, the readable specification, keeps every promise: pytest collects these one by one."""

from deerflow_conformance.reference import counters, memory, stream_bridge, thread_index

__all__ = ["counters", "memory", "stream_bridge", "thread_index"]
