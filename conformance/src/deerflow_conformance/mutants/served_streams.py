"""Faults of streams whose server is away, restarts, or is not heard (S3, S8, S14, S16): in the served backend."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from deerflow_backends.cursors import Entry, Head, Read
from deerflow_backends.errors import BackendUnavailable
from deerflow_backends.events import NewEvent
from deerflow_backends.hub import Hub
from deerflow_backends.streams import HEARTBEAT_SENTINEL, StreamItem
from deerflow_backends.subscription import Subscription
from deerflow_conformance.mutants import Patched, methods, together
from deerflow_conformance.mutants.served.capabilities import ServedStreamBridge
from deerflow_conformance.mutants.served.client import Lost
from deerflow_conformance.mutants.served.faults import fault

_changed = ServedStreamBridge._changed
_read = ServedStreamBridge._read
_subscribe = ServedStreamBridge.subscribe
_publish_end = ServedStreamBridge.publish_end
_publish_many = ServedStreamBridge.publish_many
_next = Subscription._next

_bridge = partial(methods, ServedStreamBridge)

_EVERY_FAULT = "a_subscriber_stays_through_every_fault"
_RESTART = "a_subscriber_stays_through_a_restart"


@fault("S1", "stream_bridge", by="all_rivals_see_one_order", elsewhere=True)
def a_batch_beside_a_subscriber_ends_the_process() -> Patched:
    """A process that publishes a batch while one of its subscribers waits ends, as by a fault of its driver."""
    waiting = 0

    async def following(self: Subscription) -> StreamItem:
        nonlocal waiting
        waiting += 1
        try:
            return await _next(self)
        finally:
            waiting -= 1

    async def publish_many(self: ServedStreamBridge, *arguments: Any) -> list[str]:
        if waiting:
            os._exit(139)
        return await _publish_many(self, *arguments)

    return together(methods(Subscription, _next=following), _bridge(publish_many=publish_many))


@fault("S16", "stream_bridge", by=_EVERY_FAULT)
def an_outage_ends_subscriptions() -> Patched:
    """What a subscriber reads raises BackendUnavailable as every other call does."""

    async def read_until_answered(self: Hub, *arguments: Any) -> Read:
        return await self._read(*arguments)

    return methods(Hub, _read_until_answered=read_until_answered)


@fault("S16", "stream_bridge", by=(_EVERY_FAULT, _RESTART))
def heartbeats_come_from_the_server() -> Patched:
    """A heartbeat comes only if the server has given a sign of life."""

    async def with_signs(self: ServedStreamBridge, iterator: AsyncIterator[StreamItem]) -> AsyncIterator[StreamItem]:
        async for item in iterator:
            if item is HEARTBEAT_SENTINEL:
                with suppress(BackendUnavailable):
                    await self.ping()
                    yield item
            else:
                yield item

    def subscribe(self: ServedStreamBridge, run_id: str, **options: Any) -> AsyncIterator[StreamItem]:
        return with_signs(self, _subscribe(self, run_id, **options))

    return _bridge(subscribe=subscribe)


def _subscriptions(hub: Hub, run_id: str | None = None) -> list[Subscription]:
    """Return who reads a run, or any run."""
    watches = [watch for watch in hub._watches.values() if run_id in (None, watch.run_id)]
    return [one for watch in watches for reference in watch.subscriptions if (one := reference()) is not None]


@fault("S16", "stream_bridge", by=(_EVERY_FAULT, _RESTART), for_ever=True)
def an_outage_is_skipped() -> Patched:
    """After an outage a subscriber goes on with what comes next, as if nothing had been meanwhile."""

    def changed(self: ServedStreamBridge, run_id: str | None) -> None:
        if run_id is None:
            self.__dict__.setdefault("skipping", set()).update(self.hub.watched)
        _changed(self, run_id)

    async def read(self: ServedStreamBridge, run_id: str, *rest: int) -> Read:
        found = await _read(self, run_id, *rest)
        skipping: set[str] = self.__dict__.setdefault("skipping", set())
        if run_id in skipping and found.head is not None:
            skipping.discard(run_id)
            for one in _subscriptions(self.hub, run_id):
                if one._place.created is not None:
                    one._place.delivered(Entry(found.head.latest, "", b""))
            return Read(found.head)
        return found

    return _bridge(_changed=changed, _read=read)


@fault("S3", "stream_bridge", by=("nobody_misses_anything_on_a_bad_network",))
@fault("S16", "stream_bridge", by=(_EVERY_FAULT, _RESTART))
def the_last_event_comes_again() -> Patched:
    """Having connected anew a subscriber begins with the event that it was given last."""

    def changed(self: ServedStreamBridge, run_id: str | None) -> None:
        if run_id is None:
            for one in _subscriptions(self.hub):
                one._place.seq = max(0, one._place.seq - 1)
        _changed(self, run_id)

    return _bridge(_changed=changed)


async def _look_at_nothing(self: ServedStreamBridge, run_ids: Sequence[str]) -> list[Head | None]:
    """Tell the hub what it knows."""
    return [watch.head if (watch := self.hub._watches.get(run_id)) is not None else None for run_id in run_ids]


@fault("S14", "stream_bridge", by="what_happened_to_a_run_meanwhile_is_learnt", for_ever=True)
@fault("S16", "stream_bridge", by=_EVERY_FAULT, for_ever=True)
def what_changed_in_an_outage_is_not_looked_for() -> Patched:
    """A subscriber looks only when it is told, and what it was not told during an outage it never learns."""

    def changed(self: ServedStreamBridge, run_id: str | None) -> None:
        if run_id is not None:
            _changed(self, run_id)

    return _bridge(_changed=changed, _look=_look_at_nothing)


@fault("S14", "stream_bridge", by="what_happened_to_a_run_meanwhile_is_learnt", for_ever=True)
def a_lost_wake_up_is_not_made_up_for() -> Patched:
    """Nobody looks again whether a wake-up was lost: on a dead connection one waits for ever."""
    return _bridge(_look=_look_at_nothing)


@fault("G7", "stream_bridge", by="publishing_outlasts_a_restart")
def an_interrupted_publication_counts_as_done() -> Patched:
    """What was under way when the connection was lost is taken for published, under ids that nobody gave."""

    async def publish(self: ServedStreamBridge, run_id: str, new: list[NewEvent]) -> list[str]:
        loop = asyncio.get_running_loop()
        wire = await self._link._connected()
        try:
            ids: list[str] = await wire.request("publish", (run_id, new), secrets.token_hex(16), loop.time() + 10.0)
        except Lost:
            return [f"1-{secrets.randbelow(10**9)}" for _ in new]
        return ids

    return _bridge(_publish=publish)
