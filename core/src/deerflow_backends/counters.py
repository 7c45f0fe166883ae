"""Contract of the model counters: how each model does, now and over a window, summed over all replicas.

Counters are about models, never about runs or users. Promises carry numbers (C1 to C7, and G1 to G13 for every
capability); the conformance kit tests and reports by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from deerflow_backends.arguments import check_identifier, check_integer, check_seconds
from deerflow_backends.streams import Reach

#: The most that one number of one recording may count (and, signed, the least): it takes nine billion such recordings
#: of one model before a sum exceeds the 64 bits that servers keep.
MAX_COUNT: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Recorded:
    """What happened with one model; bad figures raise `InvalidArgument` here, before anything is sent (C1).

    Attributes:
        model_name: Any identifier (C7).
        calls: 0 or more.
        successes: 0 or more.
        failures: 0 or more.
        positive: Thumbs up; signed, since a changed thumb takes one back.
        negative: Thumbs down; signed.
        age_seconds: How long ago it happened; it counts in the bucket of that moment (C4).
    """

    model_name: str
    calls: int = 0
    successes: int = 0
    failures: int = 0
    positive: int = 0
    negative: int = 0
    age_seconds: float = 0.0

    def __post_init__(self) -> None:
        # What is kept is plain: of a subclass of str or int nobody knows how it compares.
        keep = object.__setattr__
        keep(self, "model_name", check_identifier("model_name", self.model_name))
        for name in ("calls", "successes", "failures"):
            keep(self, name, check_integer(name, getattr(self, name), least=0, most=MAX_COUNT))
        for name in ("positive", "negative"):
            keep(self, name, check_integer(name, getattr(self, name), least=-MAX_COUNT, most=MAX_COUNT))
        keep(self, "age_seconds", check_seconds("age_seconds", self.age_seconds, zero=True))


@dataclass(frozen=True, slots=True)
class Counts:
    """Sums for one model, never below 0."""

    calls: int = 0
    successes: int = 0
    failures: int = 0
    positive: int = 0
    negative: int = 0

    @property
    def success_rate(self) -> float | None:
        """Successes among successes and failures, 0.0 to 1.0; None before the first of either."""
        finished = self.successes + self.failures
        return self.successes / finished if finished else None


@dataclass(frozen=True, slots=True)
class CounterOptions:
    """How windows are kept. The same meaning on every backend.

    Attributes:
        bucket_seconds: The width of a bucket; the precision of windows.
        keep_buckets: How many whole buckets are kept besides the current one.
        token_seconds: How long a token is remembered (C2).
    """

    bucket_seconds: int = 60
    keep_buckets: int = 1_440
    token_seconds: float = 600.0

    def __post_init__(self) -> None:
        check_integer("bucket_seconds", self.bucket_seconds, least=1, most=86_400)
        check_integer("keep_buckets", self.keep_buckets, least=1, most=1_000_000)
        check_seconds("token_seconds", self.token_seconds)


class ModelCounters(Protocol):
    """Counts what models do.

    Every call may raise `Closed`, `InvalidArgument` (nothing was counted), and `BackendUnavailable`
    (`maybe_written` tells; asking again with the same token within ``token_seconds`` is safe).
    """

    @property
    def reach(self) -> Reach:
        """How far this backend carries (G6); a plain class attribute will do."""

    async def record(
        self,
        model_name: str,
        *,
        calls: int = 0,
        successes: int = 0,
        failures: int = 0,
        positive: int = 0,
        negative: int = 0,
        token: str | None = None,
    ) -> None:
        """Count, atomically: no reader sees a call without its outcome (C3).

        Args:
            calls: 0 or more, as *successes* and *failures*.
            positive: Signed, as *negative*.
            token: 1 to 64 bytes; one seen within ``token_seconds`` is not counted again (C2).
        """

    async def record_many(self, counts: Sequence[Recorded], *, token: str | None = None) -> None:
        """Count for many models, ten thousand and more, atomically (C3, C7)."""

    async def totals(self, model_name: str) -> Counts:
        """Sum everything ever recorded for a model, since its last reset (C1)."""

    async def all_totals(self) -> dict[str, Counts]:
        """`totals` of every model that was recorded."""

    async def window(self, model_name: str, *, seconds: int) -> Counts:
        """Sum every bucket that intersects the last *seconds* by the server's clock (C4).

        Raises:
            InvalidArgument: *seconds* is below 1 or more than ``bucket_seconds * keep_buckets``.
        """

    async def all_windows(self, *, seconds: int) -> dict[str, Counts]:
        """`window` of every model that was recorded in that time."""

    async def reset(self, model_name: str) -> None:
        """Remove a model, buckets too, atomically; later recordings count from zero (C6)."""

    async def ping(self) -> None:
        """Return if the backend answers, without opening a connection (G13); else `BackendUnavailable`."""
