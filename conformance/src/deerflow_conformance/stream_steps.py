"""What the checks of the stream bridge ask often: an id's parts, a run's status, and whether it is gone."""

from __future__ import annotations

import re
from typing import Final

from deerflow_backends.streams import (
    StreamBridge,
    StreamStatus,
)
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import expect, unkept
from deerflow_conformance.expectations import until

#: Any run.
RUN: Final = "run:1"
#: Runs that a careless store takes for ``run``, or ``run`` for them.
NAMED_ALIKE: Final = ("ru", "run:", "run:1", "run1", "run*", "r?n", "[r]un", "r.n", "Run", "run ")
_ID = re.compile(r"(0|[1-9][0-9]{0,18})-(0|[1-9][0-9]{0,18})", re.ASCII)


def split_id(event_id: str) -> tuple[int, int]:
    """Return epoch and seq of an id."""
    match = _ID.fullmatch(event_id)
    if match is None:
        unkept("an id <epoch>-<seq>, both decimal", event_id)
    return int(match[1]), int(match[2])


def epoch_of(event_id: str) -> int:
    """Return the epoch of an id."""
    return int(event_id.partition("-")[0])


async def status_of(bridge: StreamBridge, run_id: str) -> StreamStatus:
    """Return the status of a run that must be there."""
    status = await bridge.status(run_id)
    if status is None:
        unkept(f"a stream of {run_id!r}", status)
    return status


async def is_gone(bridge: StreamBridge, run_id: str) -> None:
    """Expect that there is no stream."""
    status, exists = await bridge.status(run_id), await bridge.stream_exists(run_id)
    expect(status is None and exists is False, f"{run_id!r}: status None, stream_exists False", (status, exists))


async def until_gone(bench: Bench, bridge: StreamBridge, run_id: str) -> None:
    """Wait until a stream of a short ttl has expired."""
    await until(bench, lambda: has_no_status(bridge, run_id), bench.short_ttl + 15)


async def has_no_status(bridge: StreamBridge, run_id: str) -> bool:
    """Whether there is no stream."""
    return await bridge.status(run_id) is None
