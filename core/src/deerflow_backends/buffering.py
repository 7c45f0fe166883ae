"""Counting without waiting: a buffer in front of any model counters, flushed in the background (C5).

What is recorded goes into slots: all counts of one model within a short time are one entry with one time, so memory
does not grow with the number of calls, and an entry's age stays true however long an outage holds it back. A flush
takes the oldest slots as a batch with a token of its own, which is sent again, unchanged but for its ages, until it is
known to have been counted, or the token may be forgotten: then counting it twice would be worse than losing it.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from deerflow_backends.arguments import check_identifier, check_integer, check_seconds
from deerflow_backends.binding import Binding
from deerflow_backends.buckets import check_recordings
from deerflow_backends.counters import MAX_COUNT, Counts, ModelCounters, Recorded
from deerflow_backends.errors import BackendUnavailable, InvalidArgument
from deerflow_backends.streams import Reach

_log = logging.getLogger("deerflow_backends")

#: How far apart two counts of one entry may be: the precision of ages while all is well.
SLOT_SECONDS: Final = 0.25
#: In an outage slots grow with it, to this share of its length ...
SLOT_SHARE: Final = 0.01
#: ... but only to so much, since counts belong into buckets; until half of MAX_ENTRIES are held.
LONGEST_SLOT_SECONDS: Final = 5.0
#: With so many entries held back, new counts join their model's newest entry: memory before precision.
MAX_ENTRIES: Final = 100_000
#: A batch is whole slots, further ones only up to so many entries.
BATCH_ENTRIES: Final = 10_000
#: How long before its token may be forgotten a batch is sent for the last time, at most half of that time: a call may
#: be that long on its way.
GIVE_UP_SECONDS: Final = 10.0


class _Entry:
    """Sums of one model that share one time, `at`, by the event loop's clock."""

    __slots__ = ("at", "calls", "failures", "joined", "model_name", "negative", "positive", "successes")

    def __init__(self, model_name: str, at: float) -> None:
        self.model_name = model_name
        self.at = at
        self.joined = 0  # how many recordings it is the sum of
        self.calls = self.successes = self.failures = self.positive = self.negative = 0

    def recordings(self, now: float) -> Iterator[Recorded]:
        """Give what to record now; several where a sum is more than one recording may count."""
        age = max(0.0, now - self.at)
        rest = [self.calls, self.successes, self.failures, self.positive, self.negative]
        while True:
            part = [max(-MAX_COUNT, min(MAX_COUNT, value)) for value in rest]
            calls, successes, failures, positive, negative = part
            yield Recorded(self.model_name, calls, successes, failures, positive, negative, age)
            rest = [value - taken for value, taken in zip(rest, part, strict=True)]
            if not any(rest):
                return


@dataclass(slots=True)
class _Batch:
    """Entries on their way; nothing is added to them, so sending them again under `token` is the same call.

    `maybe_counted_at` is when the first try began of whose end nobody knows, None if there was none.
    """

    entries: list[_Entry]
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    maybe_counted_at: float | None = None


class BufferedCounters:
    """`ModelCounters` whose recordings return at once and whose reads see all of them.

    `record` and `record_many` never wait and never fail for an outage; what they count is at the backend after at most
    ``flush_seconds``, or when it answers again. Killing the process loses what was not flushed. A batch whose reply
    was lost is sent again for nearly ``token_seconds``; if the backend has not answered by then, the batch is given up
    with a warning, since it may be counted already: nothing is counted twice.

    Attributes:
        refused: How many recordings were dropped: the buffer held counts of ``max_models`` other models, or their batch
            was given up (of those some or all may have been counted).
    """

    def __init__(self, counters: ModelCounters, binding: Binding, *, max_models: int, token_seconds: float) -> None:
        self.refused = 0
        self._counters = counters
        self._check_binding = binding.check
        self._max_models = max_models
        self._again_seconds = token_seconds - min(GIVE_UP_SECONDS, token_seconds / 2)
        self._time = asyncio.get_running_loop().time
        # The open slot: entries by model, those of aged counts by model and time.
        self._slot: dict[str | tuple[str, int], _Entry] = {}
        self._slot_begins = self._slot_ends = 0.0
        # Closed slots with their beginnings, the oldest first, and the batch that was taken from them last.
        self._closed: deque[tuple[float, list[_Entry]]] = deque()
        self._slots_taken = 0
        self._batch: _Batch | None = None
        # Entries in slots, the newest of each model there, and all models held, those of the batch included.
        self._entries = 0
        self._newest: dict[str, _Entry] = {}
        self._models: set[str] = set()
        self._flushing = asyncio.Lock()
        self._failures = 0
        self._failure: BackendUnavailable | None = None

    @property
    def reach(self) -> Reach:
        """How far the backend carries."""
        return self._counters.reach

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
        """Count at once, without I/O.

        Raises:
            InvalidArgument: Also for any *token*: the buffer has its own.
        """
        self._check_binding()
        if token is not None:
            raise _token_refused()
        now = self._time()
        # Most calls find a model's entry (so its name is valid) and plain small numbers; Recorded judges the others.
        # Only a str is looked up: the slot has other keys, too.
        entry = self._slot.get(model_name) if type(model_name) is str and now < self._slot_ends else None
        if (
            entry is None
            or not type(calls) is type(successes) is type(failures) is type(positive) is type(negative) is int
            or not 0 <= calls <= MAX_COUNT
            or not 0 <= successes <= MAX_COUNT
            or not 0 <= failures <= MAX_COUNT
            or not -MAX_COUNT <= positive <= MAX_COUNT
            or not -MAX_COUNT <= negative <= MAX_COUNT
        ):
            self._add(Recorded(model_name, calls, successes, failures, positive, negative), now)
            return
        entry.joined += 1
        entry.calls += calls
        entry.successes += successes
        entry.failures += failures
        entry.positive += positive
        entry.negative += negative

    async def record_many(self, counts: Sequence[Recorded], *, token: str | None = None) -> None:
        """Count for many models at once, without I/O; refuses a *token* as `record` does."""
        self._check_binding()
        if token is not None:
            raise _token_refused()
        now = self._time()
        for recorded in check_recordings(counts):
            self._add(recorded, now)

    def _add(self, recorded: Recorded, now: float) -> None:
        if now >= self._slot_ends:
            self._open_slot(now)
        entry = self._entry_for(recorded, now)
        if entry is None:
            self.refused += 1
            return
        entry.joined += 1
        entry.calls += recorded.calls
        entry.successes += recorded.successes
        entry.failures += recorded.failures
        entry.positive += recorded.positive
        entry.negative += recorded.negative

    def _entry_for(self, recorded: Recorded, now: float) -> _Entry | None:
        """Find or make the entry for *recorded* in the open slot; None if its model is one too many."""
        model_name, at = recorded.model_name, now - recorded.age_seconds
        key = (model_name, int(at / SLOT_SECONDS)) if recorded.age_seconds else model_name
        entry = self._slot.get(key)
        if entry is not None:
            return entry
        newest = self._newest.get(model_name)
        if newest is not None and self._entries >= MAX_ENTRIES:
            return newest
        if model_name not in self._models:
            if len(self._models) >= self._max_models:
                return None
            self._models.add(model_name)
        entry = self._slot[key] = self._newest[model_name] = _Entry(model_name, at)
        self._entries += 1
        return entry

    def _open_slot(self, now: float) -> None:
        self._close_slot()
        oldest = self._closed[0][0] if self._closed else now
        self._slot_begins = now
        share = (now - oldest) * SLOT_SHARE
        if self._entries < MAX_ENTRIES // 2:
            share = min(share, LONGEST_SLOT_SECONDS)
        self._slot_ends = now + max(SLOT_SECONDS, share)

    def _close_slot(self) -> None:
        if self._slot:
            self._closed.append((self._slot_begins, list(self._slot.values())))
        self._slot = {}
        self._slot_ends = 0.0

    async def totals(self, model_name: str) -> Counts:
        """Flush, then sum everything recorded for a model."""
        self._check_binding()
        check_identifier("model_name", model_name)
        await self._flush_to_read()
        return await self._counters.totals(model_name)

    async def all_totals(self) -> dict[str, Counts]:
        """Flush, then sum everything recorded for each model."""
        await self._flush_to_read()
        return await self._counters.all_totals()

    async def window(self, model_name: str, *, seconds: int) -> Counts:
        """Flush, then sum a model's buckets of the last *seconds*."""
        self._check_binding()
        check_identifier("model_name", model_name)
        await self._flush_to_read()
        return await self._counters.window(model_name, seconds=seconds)

    async def all_windows(self, *, seconds: int) -> dict[str, Counts]:
        """Flush, then sum each model's buckets of the last *seconds*."""
        await self._flush_to_read()
        return await self._counters.all_windows(seconds=seconds)

    async def reset(self, model_name: str) -> None:
        """Flush, then remove a model; if the flush fails nothing is removed."""
        self._check_binding()
        check_identifier("model_name", model_name)
        await self._flush_to_read()
        await self._counters.reset(model_name)

    async def ping(self) -> None:
        """Return if the backend answers."""
        self._check_binding()
        await self._counters.ping()

    async def _flush_to_read(self) -> None:
        self._check_binding()
        try:
            await self._flush()
        except BackendUnavailable as error:
            raise BackendUnavailable(f"what was recorded before could not be counted yet: {error}") from error

    async def _flush(self) -> None:
        """Send everything that was recorded before this call.

        Raises:
            BackendUnavailable: It was not all counted; what was not is kept, and is sent again by the next flush.
        """
        failures = self._failures
        async with self._flushing:
            if self._failure is not None and self._failures != failures:
                # One failed while this one waited for it: a try of its own would make the caller wait as long again.
                raise BackendUnavailable(str(self._failure)) from self._failure
            if self._batch is not None:
                if self._is_too_late(self._batch):
                    self._give_up(self._batch)
                else:
                    await self._send(self._batch)
            self._close_slot()  # not before: in an outage the slots would be as short as the pauses between tries
            wanted = self._slots_taken + len(self._closed)
            while self._slots_taken < wanted:
                self._batch = self._take_batch()
                await self._send(self._batch)

    def _take_batch(self) -> _Batch:
        entries: list[_Entry] = []
        while self._closed and (not entries or len(entries) + len(self._closed[0][1]) <= BATCH_ENTRIES):
            entries += self._closed.popleft()[1]
            self._slots_taken += 1
        self._entries -= len(entries)
        for entry in entries:
            if self._newest.get(entry.model_name) is entry:
                del self._newest[entry.model_name]
        return _Batch(entries)

    async def _send(self, batch: _Batch) -> None:
        now = self._time()
        recordings = [recorded for entry in batch.entries for recorded in entry.recordings(now)]
        try:
            await self._counters.record_many(recordings, token=batch.token)
        except BackendUnavailable as error:
            self._failures += 1
            self._failure = error
            if error.maybe_written and batch.maybe_counted_at is None:
                batch.maybe_counted_at = now
            raise
        except BaseException:  # cancelled, above all
            if batch.maybe_counted_at is None:
                batch.maybe_counted_at = now
            raise
        self._failure = None
        self._done()

    def _is_too_late(self, batch: _Batch) -> bool:
        """Whether the backend may have counted *batch* and, when it is sent again, have forgotten that."""
        since = batch.maybe_counted_at
        return since is not None and self._time() - since >= self._again_seconds

    def _give_up(self, batch: _Batch) -> None:
        dropped = sum(entry.joined for entry in batch.entries)
        self.refused += dropped
        self._done()
        _log.warning(
            "counters.batch_given_up",
            extra={"recordings": dropped, "calls": sum(entry.calls for entry in batch.entries)},
        )

    def _done(self) -> None:
        """Drop the batch, and the models of which nothing else is held."""
        self._batch = None
        self._models = set(self._newest)

    async def _flush_forever(self, flush_seconds: float) -> None:
        """Flush every *flush_seconds*, through outages, until cancelled; each outage is logged once."""
        failing = False
        while True:
            await asyncio.sleep(flush_seconds)
            try:
                await self._flush()
            except Exception as error:
                if not failing:
                    outage = isinstance(error, BackendUnavailable)
                    _log.log(
                        logging.WARNING if outage else logging.ERROR,
                        "counters.flush_failed",
                        exc_info=None if outage else error,
                        extra={"error": str(error), "models": len(self._models)},
                    )
                failing = True
            else:
                if failing:
                    _log.info("counters.flush_recovered", extra={"refused": self.refused})
                failing = False

    async def _close(self, flushing: asyncio.Task[None]) -> None:
        """End the flushing in the background and send the rest; on failure tell how much is lost."""
        flushing.cancel()
        try:
            await asyncio.wait([flushing])
            await self._flush()
        except BaseException as error:
            lost = f"{self._held()} are lost"
            if not isinstance(error, BackendUnavailable):
                error.add_note(f"The last counts could not be flushed: {lost}.")
                raise
            maybe_counted = self._batch is not None and self._batch.maybe_counted_at is not None
            message = f"the last counts could not be flushed, {lost}: {error}"
            raise BackendUnavailable(message, maybe_written=maybe_counted) from error

    def _held(self) -> str:
        """Say what is recorded here but not known to be counted at the backend."""
        entries = [entry for _, slot in self._closed for entry in slot]
        entries += self._slot.values()
        entries += self._batch.entries if self._batch else ()
        return f"{sum(entry.calls for entry in entries)} calls of {len({entry.model_name for entry in entries})} models"


def _token_refused() -> InvalidArgument:
    return InvalidArgument("token", "must not be given here: the buffer counts once by tokens of its own")


@asynccontextmanager
async def buffered(
    counters: ModelCounters, *, flush_seconds: float = 1.0, max_models: int = 10_000, token_seconds: float = 600.0
) -> AsyncIterator[BufferedCounters]:
    """Put a buffer in front of *counters*; leaving it flushes. *counters* stays open.

    If the last flush fails, the message says how much was lost: of a `BackendUnavailable`, or, if the block was left
    by an error or a cancellation, in a note on that, which goes on as it came.

    Args:
        flush_seconds: How often what was recorded is sent; more than 0.
        max_models: Counts of at most so many different models are held back by an outage; 1 or more.
        token_seconds: That of the options of *counters*, or less; more than 0. A batch that may have been counted is
            sent again until 10 s before that (of less than 20 s, until half of it) and then given up: it is logged,
            and its recordings are added to `BufferedCounters.refused`.

    Raises:
        InvalidArgument: A figure out of range.
        BackendUnavailable: On leaving, if the last flush failed.
    """
    check_seconds("flush_seconds", flush_seconds)
    check_integer("max_models", max_models, least=1)
    token_seconds = check_seconds("token_seconds", token_seconds)
    binding = Binding("this counter buffer")
    buffer = BufferedCounters(counters, binding, max_models=max_models, token_seconds=token_seconds)
    flushing = asyncio.create_task(buffer._flush_forever(flush_seconds))
    try:
        yield buffer
    except BaseException as error:
        binding.close()
        try:
            await buffer._close(flushing)
        except Exception as late:
            error.add_note(f"while leaving the counter buffer: {late}")
        raise
    binding.close()
    await buffer._close(flushing)
