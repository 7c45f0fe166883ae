"""Times as DeerFlow writes them: ISO 8601 text, in UTC where it names no zone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from deerflow_backends.clocks import to_datetime, to_microseconds

#: The latest time that a record may carry: the end of the year 9000.
_LATEST: Final = to_microseconds(datetime(9001, 1, 1, tzinfo=UTC)) - 1


def to_moment(text: Any) -> int | None:
    """Return the microseconds since 1970 that *text* says; None if it says no time from 1970 to the year 9000."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
        microseconds = to_microseconds(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        return None
    return microseconds if 0 <= microseconds <= _LATEST else None


def to_text(microseconds: int) -> str:
    """Write a time as DeerFlow does."""
    return to_datetime(microseconds).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def of_file(modified_ns: int) -> int:
    """Return a file's time of change as a record may carry it."""
    return min(max(modified_ns // 1_000, 0), _LATEST)


def of_fact(value: dict[str, Any], otherwise: int) -> tuple[int, int]:
    """Return when a fact was created and last changed, as it says itself, or *otherwise*."""
    changed = to_moment(value.get("updatedAt"))
    created = to_moment(value.get("createdAt"))
    if created is None:
        created = otherwise if changed is None else min(changed, otherwise)
    return created, created if changed is None else changed
