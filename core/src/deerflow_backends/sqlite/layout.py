"""Everything this backend owns, by name: two files a namespace, what marks them as ours, and their tables.

``<namespace>-streams.sqlite3`` holds the streams, ``<namespace>.sqlite3`` memory, threads and counters: in one file
every flush of the counters would wake all subscribers. SQLite keeps a ``-wal`` and a ``-shm`` file beside each while
it is open, or after a crash. Only files and tables of capabilities that were chosen are created.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final, Literal

from deerflow_backends.errors import ConfigError

#: The newest layout that this code knows: the highest number among the steps. Kept as ``user_version``.
VERSION: Final = 4

#: As in `ConnectionSettings`; also keeps the two files of two namespaces apart.
_NAMESPACE: Final = re.compile(r"[a-z][a-z0-9_]{0,47}")

#: The table that names the steps done, in every file of ours.
STEPS_TABLE: Final = "steps"

#: The table that never holds anything but one row.
ONE_ROW_TABLE: Final = "marks"


@dataclass(frozen=True, slots=True)
class Kind:
    """One of the two files.

    Attributes:
        suffix: What follows the namespace in its name.
        application_id: SQLite keeps it in the header, and ``file`` shows it; another one is not ours.
        secure_delete: Whether deleted content is overwritten at any cost (`database.open_database`).
    """

    suffix: str
    application_id: int
    secure_delete: Literal["ON", "FAST"]

    def path(self, folder: Path, namespace: str) -> Path:
        """Name the file of a namespace."""
        if not _NAMESPACE.fullmatch(namespace):
            raise ConfigError(f"namespace must match {_NAMESPACE.pattern}, not {namespace!r}")
        return folder / f"{namespace}{self.suffix}"


#: "DFst" and "DFme", read as numbers.
STREAMS: Final = Kind("-streams.sqlite3", 0x44467374, "FAST")
STATE: Final = Kind(".sqlite3", 0x44466D65, "ON")

#: Which file a capability's tables are in.
KIND_OF: Final = {"stream_bridge": STREAMS, "memory": STATE, "thread_index": STATE, "counters": STATE}

#: The steps that make a capability's tables, in order; each a file in ``migrations``.
STEPS_OF: Final = {
    "stream_bridge": ("0001_streams",),
    "memory": ("0002_memory",),
    "thread_index": ("0003_threads",),
    "counters": ("0004_counters",),
}

#: A capability's tables.
TABLES_OF: Final = {
    "stream_bridge": (ONE_ROW_TABLE, "heads", "events", "discarded"),
    "memory": ("memory_users", "memory_bodies", "memory_facts"),
    "thread_index": ("threads",),
    "counters": ("counter_totals", "counter_buckets", "counter_tokens"),
}


def step_sql(step: str) -> str:
    """Read a step's statements."""
    return (files(__package__) / "migrations" / f"{step}.sql").read_text(encoding="utf-8")
