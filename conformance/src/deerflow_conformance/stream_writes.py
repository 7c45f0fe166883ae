"""Every kind of call that writes to a stream bridge."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from deerflow_backends.errors import StreamEnded
from deerflow_backends.streams import END_SENTINEL, HEARTBEAT_SENTINEL, StreamEvent
from deerflow_conformance.writes import UNHEARD, Write, Writes, marked


@dataclass(frozen=True, slots=True)
class _Stream:
    """What is seen of a run.

    Attributes:
        events: All that is retained: id, name, data.
        ended: Whether its end was published.
        is_due: Whether a cleanup is scheduled: it disappears much earlier than a run that is left alone, by its epoch.
    """

    events: tuple[tuple[str, str, Any], ...]
    ended: bool = False
    is_due: bool = False


async def _stream(bridge: Any, run_id: str) -> _Stream | None:
    status = await bridge.status(run_id)
    if status is None:
        return None
    events: list[tuple[str, str, Any]] = []
    iterator = bridge.subscribe(run_id, heartbeat_interval=15.0)
    try:
        while len(events) < status.length:
            item = await anext(iterator)
            if item in (HEARTBEAT_SENTINEL, END_SENTINEL) or not isinstance(item, StreamEvent):
                break  # there are fewer events than the status tells: then the state shows that
            events.append((item.id, item.event, item.data))
    finally:
        await iterator.aclose()
    begun_at = datetime.fromtimestamp(int(status.latest_id.partition("-")[0]) / 1_000, UTC)
    is_due = status.expires_at - begun_at < timedelta(hours=12)
    return _Stream(tuple(events), status.ended, is_due)


def _batch(name: str) -> list[tuple[str, Any]]:
    return [("n", marked(name, number)) for number in range(3)]


def _seq(event_id: str) -> int:
    return int(event_id.partition("-")[2])


def _is_appended(name: str, before: _Stream | None, after: _Stream | None, ids: Any, count: int) -> bool:
    earlier = before.events if before is not None else ()
    if after is None or after.events[: len(earlier)] != earlier:
        return False
    new = after.events[len(earlier) :]
    return (
        [data for _, _, data in new] == [marked(name, number) for number in range(count)]
        and [_seq(event_id) for event_id, _, _ in new] == list(range(len(earlier) + 1, len(earlier) + 1 + count))
        and (ids is UNHEARD or [event_id for event_id, _, _ in new] == ids)
    )


def _published(name: str, before: Any, after: Any, answer: Any) -> bool:
    return _is_appended(name, before, after, answer if answer is UNHEARD else [answer], 1)


def _published_many(name: str, before: Any, after: Any, answer: Any) -> bool:
    return _is_appended(name, before, after, answer, 3)


async def _begin_run(bridge: Any, name: str) -> None:
    await bridge.publish(name, "n", "first")


async def _publish_later(bridge: Any, name: str) -> None:
    with suppress(StreamEnded):
        await bridge.publish(name, "n", "later")


STREAM_WRITES: Final = Writes(
    _stream,
    (
        Write(
            "publish",
            lambda bridge, name: bridge.publish(name, "n", marked(name)),
            _published,
            _begin_run,
            _publish_later,
        ),
        Write(
            "publish to a new run",
            lambda bridge, name: bridge.publish(name, "n", marked(name)),
            _published,
            later=_publish_later,
        ),
        Write(
            "publish_many",
            lambda bridge, name: bridge.publish_many(name, _batch(name)),
            _published_many,
            _begin_run,
            _publish_later,
        ),
        Write(
            "publish_end",
            lambda bridge, name: bridge.publish_end(name),
            lambda name, before, after, answer: after == _Stream(before.events, ended=True),
            _begin_run,
            _publish_later,
        ),
        Write(
            "cleanup",
            lambda bridge, name: bridge.cleanup(name),
            lambda name, before, after, answer: after is None,
            _begin_run,
            _publish_later,
        ),
        Write(
            "cleanup in an hour",
            lambda bridge, name: bridge.cleanup(name, delay=3600),
            lambda name, before, after, answer: after == _Stream(before.events, is_due=True),
            _begin_run,
            _publish_later,
        ),
    ),
)
