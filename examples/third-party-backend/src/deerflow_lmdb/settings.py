"""What a connection to LMDB is told."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from deerflow_backends import ConnectionSettings
from deerflow_backends.settings import Folder, Seconds


class LmdbSettings(ConnectionSettings):
    """The folder and how it is used; besides what every connection has.

    Attributes:
        path: The folder that holds one folder for each namespace; made, with its parents. Not on a network file system.
        map_bytes: How far a namespace's file may grow. It costs address space and nothing else, so be generous; all
            processes should say the same. Within one process the one who opens a namespace first decides.
        sweep_seconds: How often what has expired is freed.
    """

    path: Folder
    map_bytes: Annotated[int, Field(ge=64 * 1024**2)] = 64 * 1024**3
    sweep_seconds: Seconds = 60.0
