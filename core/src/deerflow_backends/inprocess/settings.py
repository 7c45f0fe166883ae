"""Connection settings of the in-process backend."""

from __future__ import annotations

from deerflow_backends.settings import ConnectionSettings, Seconds


class Settings(ConnectionSettings):
    """Nothing here is needed; ``migrate`` and the timeouts have nothing to act on.

    Attributes:
        sweep_seconds: How often what has expired is freed. It is hidden at once, whatever this says.
    """

    sweep_seconds: Seconds = 60.0
