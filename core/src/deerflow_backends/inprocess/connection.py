"""What all in-process backends of one name and namespace share: plain tables, kept until the process ends (G6)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from deerflow_backends.clocks import Clock, wall_clock

T = TypeVar("T")


@dataclass(slots=True)
class Tables:
    """The data of one name and namespace. Held under `lock`: several event loops of the process may share it."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    by_capability: dict[str, Any] = field(default_factory=dict)

    def table(self, capability: str, make: Callable[[], T]) -> T:
        """Return the table of a capability, made on first use."""
        with self.lock:
            if capability not in self.by_capability:
                self.by_capability[capability] = make()
            found: T = self.by_capability[capability]
            return found


_tables: dict[tuple[str, str], Tables] = {}
_tables_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Connection:
    """One opening of a name and namespace.

    Attributes:
        tables: The shared data.
        clock: Expiry, ordering and windows go by it.
        sweepers: Called every ``sweep_seconds`` to free what has expired (G11).
    """

    tables: Tables
    clock: Clock
    sweepers: list[Callable[[], None]]


@asynccontextmanager
async def connect(
    name: str = "inprocess",
    *,
    namespace: str = "deerflow",
    clock: Clock = wall_clock,
    sweep_seconds: float = 60.0,
) -> AsyncIterator[Connection]:
    """Open the data of *name* and *namespace*, empty when first opened in this process.

    Args:
        name: The connection's name in the configuration.
        namespace: Two namespaces share nothing.
        clock: Microseconds since 1970; every opening of one name and namespace should have the same.
        sweep_seconds: How often expired data is freed.
    """
    with _tables_lock:
        tables = _tables.setdefault((name, namespace), Tables())
    connection = Connection(tables, clock, [])
    sweeping = asyncio.create_task(_sweep(connection, sweep_seconds))
    try:
        yield connection
    finally:
        sweeping.cancel()
        await asyncio.wait([sweeping])  # unlike awaiting the task, this does not swallow a cancellation of ours


async def _sweep(connection: Connection, sweep_seconds: float) -> None:
    while True:
        await asyncio.sleep(sweep_seconds)
        for sweeper in connection.sweepers:
            sweeper()
