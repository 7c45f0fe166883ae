"""The command ``tail``: a run's events as they come, until its end."""

from __future__ import annotations

import dataclasses
from typing import Final

from rich.text import Text

from deerflow_backends.backends import open_backends
from deerflow_backends.cli.output import console, print_json, printable, quoted, remark, warn_of_reach
from deerflow_backends.configuration import Configuration
from deerflow_backends.streams import END_SENTINEL, HEARTBEAT_SENTINEL, StreamBridge, StreamEvent, StreamGap

#: How long nothing may come before that is a reason to look up: following goes on, printing what is there ends.
_LIVE_SECONDS: Final = 15.0
_RETAINED_SECONDS: Final = 1.0


async def tail(
    configuration: Configuration, run_id: str, *, last_event_id: str | None, follow: bool, as_json: bool
) -> bool:
    """Print the run's events after *last_event_id*; return False if there was a gap, or no such run.

    Args:
        follow: Wait for what comes, until the run's end; else print only what is there.
        as_json: One JSON object a line for each event; a gap is ``{"gap": ...}``.

    Raises:
        BackendsError: As `deerflow_backends.open_backends` does.
    """
    async with open_backends(configuration) as backends:
        bridge = backends.stream_bridge
        what = f"the stream bridge {backends.chosen['stream_bridge'].backend!r}"
        warn_of_reach(bridge.reach, what, "no event of another process arrives here")
        status = await bridge.status(run_id)
        if status is None:
            remark(f"There is no stream of the run {printable(run_id)!r}{' yet; waiting for it' if follow else ''}.")
        if status is None and not follow:
            return False
        last = None if follow or status is None else status.latest_id
        return await _print_items(bridge, run_id, last_event_id, last=last, as_json=as_json)


async def _print_items(
    bridge: StreamBridge, run_id: str, last_event_id: str | None, *, last: str | None, as_json: bool
) -> bool:
    """Print until END, a gap or the event *last*; False for a gap."""
    quiet_seconds = _LIVE_SECONDS if last is None else _RETAINED_SECONDS
    async for item in bridge.subscribe(run_id, last_event_id=last_event_id, heartbeat_interval=quiet_seconds):
        if isinstance(item, StreamGap):
            _print_gap(item, as_json=as_json)
            return False
        if item is END_SENTINEL:
            remark("The run has ended.", style="dim")
            return True
        if item is not HEARTBEAT_SENTINEL:
            _print_event(item, as_json=as_json)
        if last is not None and (item is HEARTBEAT_SENTINEL or item.id == last):
            return True
    return True


def _print_event(event: StreamEvent, *, as_json: bool) -> None:
    if as_json:
        print_json(event)
        return
    parts = ((printable(event.id), "dim"), "  ", (printable(event.event), "cyan"), "  ", quoted(event.data))
    out = console()
    # A screen shows the beginning of each event on one line; a pipe gets all of it, on one line as well.
    out.print(Text.assemble(*parts), no_wrap=True, overflow="ellipsis", soft_wrap=not out.is_terminal)


def _print_gap(gap: StreamGap, *, as_json: bool) -> None:
    if as_json:
        print_json({"gap": dataclasses.asdict(gap)})
    after = f" after {printable(gap.requested_event_id)}" if gap.requested_event_id is not None else ""
    latest = gap.latest_available_event_id
    remedy = f"; go on with --last-event-id {latest}" if latest is not None else "; nothing of the run is left"
    remark(f"gap: the events{after} are no longer all there{remedy}", style="yellow")
