"""The demo's gateway and client speak the same server-sent events, whatever an event holds and however it is cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deerflow_backends import END_SENTINEL, HEARTBEAT_SENTINEL, StreamEvent, StreamGap, StreamItem
from deerflow_backends.cli.demo.clients import Frame, frames
from deerflow_backends.cli.demo.gateway import sse_frame, sse_frames
from deerflow_backends.codec import decode

TEXTS = st.text(st.sampled_from("a: \n\r\u2028\u2029\x85\x00🦌"), max_size=8)


class Chunks(httpx.AsyncByteStream):
    def __init__(self, *chunks: bytes) -> None:
        self._chunks = chunks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk


def read(*chunks: bytes) -> list[Frame]:
    async def body() -> list[Frame]:
        return [frame async for frame in frames(httpx.Response(200, stream=Chunks(*chunks)))]

    return asyncio.run(body())


@given(data=st.lists(TEXTS, min_size=1, max_size=4), cut=st.integers(0, 200))
def test_events_arrive_whole_wherever_the_connection_cuts_them(data: list[str], cut: int) -> None:
    """What a client reads is what the gateway wrote: line ends inside a text end no frame, nor does a cut."""
    wire = b"".join(sse_frame("messages", text, f"7-{number}") for number, text in enumerate(data, 1))
    found = read(wire[:cut], wire[cut:])
    assert [(frame.id, frame.event, decode(frame.data)) for frame in found] == [
        (f"7-{number}", "messages", text) for number, text in enumerate(data, 1)
    ]


@pytest.mark.parametrize("missing", [1, 2, 10])
def test_a_frame_that_the_connection_cut_off_is_not_delivered(missing: int) -> None:
    """Half an event is no event: the client asks for it again with the last id that it has whole."""
    wire = sse_frame("messages", "one", "7-1") + sse_frame("messages", "two", "7-2")
    assert [frame.id for frame in read(wire[:-missing])] == ["7-1"]


def test_only_events_bear_ids() -> None:
    """Heartbeats are comments; END and gap are frames without an id, so that no cursor ever points at them."""

    async def items() -> AsyncIterator[StreamItem]:
        yield StreamEvent("7-1", "end", None)
        yield HEARTBEAT_SENTINEL
        yield StreamGap("7-1", "7-5", "7-9")
        yield END_SENTINEL

    async def body() -> list[bytes]:
        return [frame async for frame in sse_frames(items())]

    event, heartbeat, gap, end = read(b"".join(asyncio.run(body())))
    assert (event.event, event.id) == ("end", "7-1")
    assert (heartbeat.event, heartbeat.id) == ("", None)
    assert (gap.event, gap.id, decode(gap.data)["latest_available_event_id"]) == ("gap", None, "7-9")
    assert (end.event, end.id) == ("end", None)
