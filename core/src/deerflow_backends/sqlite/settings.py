"""What a connection to SQLite files is told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from deerflow_backends.settings import ConnectionSettings, Seconds


def _check_path(value: Any) -> Any:
    """Refuse what would silently be another folder than the one that is meant."""
    text = str(value) if isinstance(value, Path) else value
    if isinstance(text, str) and (not text.strip() or text.startswith("~") or "$" in text or "://" in text):
        raise ValueError(
            "must name a folder: no empty text, no '~', no URL, and '$NAME' only as the whole value in a file"
        )
    return value


class Settings(ConnectionSettings):
    """The folder and how it is used; besides what every connection has.

    Attributes:
        path: The folder that holds the files; made, for its owner alone, if its parent exists. Relative to where the
            process was started; an absolute one is better. Not on a network file system.
        synchronous: ``FULL``: an acknowledged write survives a power loss. ``NORMAL`` is several times faster, and
            the last writes before a power loss may be lost; a crash of processes loses nothing either way.
        sweep_seconds: How often what has expired is freed.
    """

    path: Annotated[Path, BeforeValidator(_check_path)]
    synchronous: Literal["FULL", "NORMAL"] = "FULL"
    sweep_seconds: Seconds = 60.0
