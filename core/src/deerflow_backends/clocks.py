"""Times: integers of microseconds since 1970 inside and at the server, aware UTC datetimes outside."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

#: Microseconds since 1970-01-01 UTC. Embedded backends take one, so that tests can turn it (G10).
Clock: TypeAlias = Callable[[], int]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
MICROSECONDS = 1_000_000


def wall_clock() -> int:
    """The host's clock."""
    return time.time_ns() // 1_000


def to_datetime(microseconds: int) -> datetime:
    """Turn microseconds since 1970 into an aware UTC datetime, at most the last moment of the year 9999."""
    try:
        return _EPOCH + microseconds * _MICROSECOND
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)


def to_microseconds(moment: datetime) -> int:
    """Turn an aware datetime into microseconds since 1970."""
    return (moment - _EPOCH) // _MICROSECOND
