"""What publishers pass, checked and encoded before anything is sent: shared by every stream bridge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from deerflow_backends.arguments import check_identifier
from deerflow_backends.codec import JSON, check_size, encode
from deerflow_backends.errors import InvalidArgument
from deerflow_backends.streams import StreamOptions


class NewEvent(NamedTuple):
    """An event to be stored: its name and its encoded data."""

    event: str
    data: bytes


def check_event(run_id: str, event: str, data: JSON) -> list[NewEvent]:
    """Check and encode what `StreamBridge.publish` was given."""
    check_identifier("run_id", run_id)
    return [NewEvent(check_identifier("event", event), encode(data, "data"))]


def check_events(run_id: str, events: Any, options: StreamOptions) -> list[NewEvent]:
    """Check and encode what `StreamBridge.publish_many` was given.

    Raises:
        InvalidArgument: No events, more than are retained, over 8 MiB of data together, or a bad one (named).
    """
    check_identifier("run_id", run_id)
    if not isinstance(events, Sequence) or isinstance(events, str | bytes):
        raise InvalidArgument("events", f"must be a sequence of (event, data) pairs, not {type(events).__name__}")
    if not 1 <= len(events) <= options.max_events:
        raise InvalidArgument("events", f"must be 1 to max_events ({options.max_events}) events, not {len(events)}")
    new = [_new_event(f"events[{i}]", pair) for i, pair in enumerate(events)]
    check_size(sum(len(event.data) for event in new), "events")
    return new


def _new_event(place: str, pair: Any) -> NewEvent:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise InvalidArgument(place, f"must be an (event, data) pair, not {type(pair).__name__}")
    return NewEvent(check_identifier(f"{place}.event", pair[0]), encode(pair[1], f"{place}.data"))
