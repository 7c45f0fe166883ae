"""One gateway replica of the demo: it serves the four capabilities as DeerFlow's gateway does, and nothing else.

Run as ``python -m deerflow_backends.cli.demo.gateway``; the configuration comes from the environment, as in a pod.
"""

from __future__ import annotations

import dataclasses
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any, Final

import anyio.lowlevel
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from deerflow_backends.backends import Backends, open_backends
from deerflow_backends.capabilities import CAPABILITIES
from deerflow_backends.cli.demo.child import hear, report, run_child
from deerflow_backends.codec import JSON, decode, encode
from deerflow_backends.errors import BackendUnavailable, Conflict, InvalidArgument, RevisionConflict
from deerflow_backends.memories import PutFact
from deerflow_backends.streams import END_SENTINEL, HEARTBEAT_SENTINEL, StreamGap, StreamItem
from deerflow_backends.threads import NewThread

_HEARTBEAT_SECONDS: Final = 1.0


def sse_frame(event: str, data: JSON, event_id: str | None = None) -> bytes:
    """Return one server-sent event as it goes over the wire."""
    lines = [b"event: " + event.encode(), b"data: " + encode(data)]
    if event_id is not None:
        lines.append(b"id: " + event_id.encode())
    return b"\n".join(lines) + b"\n\n"


async def sse_frames(items: AsyncIterator[StreamItem]) -> AsyncIterator[bytes]:
    """Turn a subscription into frames. Only events carry an id, so what a client last saw is always an event."""
    async for item in items:
        if isinstance(item, StreamGap):
            yield sse_frame("gap", dataclasses.asdict(item))
        elif item is HEARTBEAT_SENTINEL:
            yield b": heartbeat\n\n"
        elif item is END_SENTINEL:
            yield sse_frame("end", None)
        else:
            yield sse_frame(item.event, item.data, item.id)


def _answer(value: JSON, status: int = 200) -> Response:
    return Response(encode(value), status_code=status, media_type="application/json")


class Gateway:
    """The endpoints, over one process's open backends."""

    def __init__(self, backends: Backends) -> None:
        self._backends = backends

    async def ready(self, request: Request) -> Response:
        """Answer a readiness probe."""
        await self._backends.ping()
        return _answer({"ready": True})

    async def stream(self, request: Request) -> Response:
        """Serve a run's events from after ``Last-Event-ID`` on."""
        items = self._backends.stream_bridge.subscribe(
            request.path_params["run_id"],
            last_event_id=request.headers.get("last-event-id"),
            heartbeat_interval=_HEARTBEAT_SECONDS,
        )
        headers = {"cache-control": "no-cache"}
        return StreamingResponse(sse_frames(items), media_type="text/event-stream", headers=headers)

    async def threads(self, request: Request) -> Response:
        """List one page of a user's threads."""
        page = await self._backends.thread_index.list(
            request.path_params["user_id"],
            limit=int(request.query_params.get("limit", "50")),
            cursor=request.query_params.get("cursor"),
        )
        return _answer({"threads": page.items, "next_cursor": page.next_cursor})

    async def create_thread(self, request: Request) -> Response:
        """Create one thread of a user."""
        asked = decode(await request.body())
        user_id = request.path_params["user_id"]
        thread = NewThread(asked["thread_id"], user_id, display_name=asked["display_name"])
        return _answer(await self._backends.thread_index.create(thread), 201)

    async def memory(self, request: Request) -> Response:
        """Show what is remembered of a user."""
        memory = await self._backends.memory.load(request.path_params["user_id"])
        facts = {fact.fact_id: fact.value for fact in memory.facts}
        return _answer({"revision": memory.revision, "facts": facts})

    async def put_fact(self, request: Request) -> Response:
        """Remember one fact, if the user's memory still has the revision that the caller saw."""
        asked = decode(await request.body())
        applied = await self._backends.memory.apply(
            request.path_params["user_id"],
            [PutFact(None, asked["fact_id"], asked["value"])],
            expected_revision=asked["expected_revision"],
        )
        return _answer({"revision": applied.revision})

    async def counts(self, request: Request) -> Response:
        """Show what was counted for a model, by all processes."""
        return _answer(await self._backends.counters.totals(request.path_params["model"]))

    async def count(self, request: Request) -> Response:
        """Count one call of a model."""
        outcome = decode(await request.body())
        await self._backends.counters.record(request.path_params["model"], calls=1, **outcome)
        return _answer(None)


async def _refuse(request: Request, error: Exception) -> Response:
    status = {InvalidArgument: 400, BackendUnavailable: 503}.get(type(error), 409)
    found = error.found if isinstance(error, RevisionConflict) else None
    return _answer({"detail": str(error), "found": found}, status)


def create_app(backends: Backends) -> Starlette:
    """Return the ASGI application over open *backends*."""
    gateway = Gateway(backends)
    routes = [
        Route("/ready", gateway.ready),
        Route("/api/runs/{run_id}/stream", gateway.stream),
        Route("/api/users/{user_id}/threads", gateway.threads),
        Route("/api/users/{user_id}/threads", gateway.create_thread, methods=["POST"]),
        Route("/api/users/{user_id}/memory", gateway.memory),
        Route("/api/users/{user_id}/memory", gateway.put_fact, methods=["POST"]),
        Route("/api/models/{model}", gateway.counts),
        Route("/api/models/{model}/calls", gateway.count, methods=["POST"]),
    ]
    refusals: Any = dict.fromkeys((Conflict, InvalidArgument, BackendUnavailable), _refuse)
    return Starlette(routes=routes, exception_handlers=refusals)


async def serve() -> None:
    """Open what is configured, serve it on a free port of this host until the program is gone, and close it."""
    async with open_backends() as backends:
        await anyio.lowlevel.checkpoint()  # loads anyio's backend now, not while the first reader waits
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(
            create_app(backends),
            lifespan="off",
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        hear(told=lambda: None, gone=lambda: setattr(server, "should_exit", True))
        reach = {name: getattr(backends, name).reach for name in CAPABILITIES}
        report(port=listener.getsockname()[1], reach=reach)
        await server.serve(sockets=[listener])


if __name__ == "__main__":
    sys.exit(run_child(serve))
