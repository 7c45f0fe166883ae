"""Contract of the stream bridge: a run's events, published anywhere, read anywhere, replayed after a reconnect.

Promises carry numbers (S1 to S16, and G1 to G13 for every capability); the conformance kit tests and reports by them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, Protocol, TypeAlias

from deerflow_backends.arguments import check_integer, check_seconds
from deerflow_backends.codec import JSON

#: How far a backend carries: one process, all processes of one host, or all that reach its server.
Reach: TypeAlias = Literal["process", "host", "network"]


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One event of a run.

    Attributes:
        id: ``<epoch>-<seq>``, both decimal. Within one stream seq counts 1, 2, 3 without holes; no id ever names two
            events. Sentinels have the empty id.
        event: Its name, opaque here; nothing about a name is special.
        data: Any JSON value, the receiver's own.
    """

    id: str
    event: str
    data: JSON


@dataclass(frozen=True, slots=True)
class StreamGap:
    """Events are missing between what the subscriber has and what is retained; its iterator ends after this.

    To go on without the lost ones, reload the run's state and subscribe at `latest_available_event_id`.

    Attributes:
        requested_event_id: The last event delivered, or else the cursor asked for.
        earliest_available_event_id: The first event still retained, None if there is none.
        latest_available_event_id: Where to go on; None if nothing at all is known of the run.
    """

    requested_event_id: str | None
    earliest_available_event_id: str | None
    latest_available_event_id: str | None


#: "Nothing new, still connected". Compare with ``is``.
HEARTBEAT_SENTINEL: Final = StreamEvent("", "__heartbeat__", None)
#: "The run has ended and you have all of it". Compare with ``is``.
END_SENTINEL: Final = StreamEvent("", "__end__", None)

#: What a subscription gives: events, the two sentinels among them, or one gap as its last item.
StreamItem: TypeAlias = StreamEvent | StreamGap


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """What is known of a run's stream.

    Attributes:
        earliest_id: The first event that can be replayed, None if there is none.
        latest_id: The last id given; ``<epoch>-0`` before the first event.
        length: How many events can be replayed.
        ended: `StreamBridge.publish_end` was called.
        expires_at: When it disappears, by expiry or scheduled cleanup, if nothing more is written.
    """

    earliest_id: str | None
    latest_id: str
    length: int
    ended: bool
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """How much of a run is kept. The same meaning on every backend.

    Attributes:
        max_events: How many events of a run can be replayed.
        max_bytes: How many bytes of their data, as encoded; at least one event is always kept.
        ttl_seconds: A stream disappears, whole, this long after its last write; a cleaned stream's trace too.
        max_buffered_events: How many events one process keeps ready for all its local subscribers of a run.
    """

    max_events: int = 256
    max_bytes: int = 32 * 1024 * 1024
    ttl_seconds: float = 86_400.0
    max_buffered_events: int = 1_024

    def __post_init__(self) -> None:
        check_integer("max_events", self.max_events, least=1, most=10_000_000)
        check_integer("max_bytes", self.max_bytes, least=1, most=2**40)
        check_seconds("ttl_seconds", self.ttl_seconds)
        check_integer("max_buffered_events", self.max_buffered_events, least=1, most=10_000_000)


class StreamBridge(Protocol):
    """Carries the events of runs from whoever publishes them to whoever reads them.

    Every call may raise `Closed`; every coroutine may raise `BackendUnavailable` after its timeout. A cancelled
    publish may have stored its events, once, whole (S1, G5).
    """

    @property
    def reach(self) -> Reach:
        """How far this backend carries (G6); a plain class attribute will do."""

    async def publish(self, run_id: str, event: str, data: JSON) -> str:
        """Append one event to the run and return its id; the stream is created if there is none.

        All subscribers see all publishers' events in one order (S1), ids without holes (S2). A run that was cleaned
        up without an end starts again in a higher epoch (S13).

        Raises:
            StreamEnded: The run has ended; nothing was stored (S8).
            InvalidArgument: A bad name or value, or data over 8 MiB; nothing was stored.
            BackendUnavailable: No answer within the publish timeout; `maybe_written` says whether it may be stored.
        """

    async def publish_many(self, run_id: str, events: Sequence[tuple[str, JSON]]) -> list[str]:
        """Append 1 to ``max_events`` events together, at most 8 MiB of data, and return their ids.

        All are stored, contiguous, or none (S1). Raises as `publish` does.
        """

    async def publish_end(self, run_id: str) -> None:
        """End the run, for every present and later subscriber.

        Durable and idempotent, safe from several replicas at once; on an unknown run it makes an ended, empty stream
        (S8). On what a cleanup left of an unended run it makes that ended.
        """

    def subscribe(
        self, run_id: str, *, last_event_id: str | None = None, heartbeat_interval: float = 15.0
    ) -> AsyncIterator[StreamItem]:
        """Read the run: what is retained after the cursor, then what comes, until END or a gap.

        Subscribing begins at the first ``__anext__``, which also raises what is wrong with the arguments. A
        cancelled ``__anext__`` loses nothing: the next one goes on. ``aclose()`` gives everything back, and so does
        dropping the last reference.

        Args:
            last_event_id: The last event seen. None or ``0-0``: everything retained (S4). A well-formed id that is
                not exactly retained: one `StreamGap` (S6). Anything else: the live tail only (S7).
            heartbeat_interval: Seconds of waiting in ``__anext__`` after which it returns `HEARTBEAT_SENTINEL` (S9).

        Yields:
            Each event exactly once in order (S3), `HEARTBEAT_SENTINEL` while nothing comes, and as the last item
            either `END_SENTINEL` (S8) or a `StreamGap` (S6, S13, S14).

        An outage does not end it: heartbeats go on, and then it continues without loss or gives a gap (S16).
        """

    async def status(self, run_id: str) -> StreamStatus | None:
        """Tell about the run's stream; None if there is none, or only the trace that a cleanup left."""

    async def stream_exists(self, run_id: str) -> bool:
        """Whether `status` would tell anything."""

    async def cleanup(self, run_id: str, *, delay: float = 0) -> None:
        """Hide all events of the run, now or after *delay* seconds, leaving a small trace for ``ttl_seconds``.

        With a delay the backend does it then, whatever happens to this process. The earliest scheduled cleanup wins,
        publishing does not postpone it, and cleaning with 0 does it at once (S13). On an unknown run it does nothing.
        """

    async def ping(self) -> None:
        """Return if the backend answers, without opening a connection: fit for a readiness probe (G13).

        Raises:
            BackendUnavailable: It did not, within the timeout.
        """
