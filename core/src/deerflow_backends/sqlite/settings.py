"""What a connection to SQLite files is told."""

from __future__ import annotations

from typing import Literal

from deerflow_backends.settings import ConnectionSettings, Folder, Seconds


class Settings(ConnectionSettings):
    """The folder and how it is used; besides what every connection has.

    Attributes:
        path: The folder that holds the files; made, for its owner alone, if its parent exists. Relative to where the
            process was started; an absolute one is better. Not on a network file system.
        synchronous: ``FULL``: an acknowledged write survives a power loss. ``NORMAL`` is several times faster, and
            the last writes before a power loss may be lost; a crash of processes loses nothing either way.
        sweep_seconds: How often what has expired is freed.
    """

    path: Folder
    synchronous: Literal["FULL", "NORMAL"] = "FULL"
    sweep_seconds: Seconds = 60.0
