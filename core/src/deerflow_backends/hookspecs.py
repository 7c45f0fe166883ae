"""The hooks: what a plugin offers, and when it is asked.

A plugin is a module registered under the entry-point group ``deerflow_backends``; the entry point's name is the
backend's name in configuration. The module implements some or all of these hooks::

    from deerflow_backends import hookimpl

    @hookimpl
    def deerflow_memory(connection, options):
        return open_memory(connection, options)

A capability is offered exactly if its hook is implemented; nothing declares it a second time. A hook may leave out
arguments at the end or anywhere it does not need; it takes them by position, so none is keyword-only or has a
default. Its distribution requires ``deerflow-backends>=1.0,<2``: a plugin for another contract is not even imported.

Hooks are plain functions that return at once and never connect: entering the context manager they return does, and
leaving it gives back every task, connection, thread and file handle, also after the body raised. They are called once
for each opening, in this order: `deerflow_settings`; `deerflow_migrate`; `deerflow_connect`; then the capabilities',
in the order below, on what `deerflow_connect` gave. Closing goes the other way round.

What a plugin raises is one of the errors of ``deerflow_backends``: `ConfigError` for a setting that only the server can
tell is wrong, `PluginError` for a driver that is too old, `BackendUnavailable` for a server that does not answer. None
shows a secret. Any other exception counts as the plugin's defect, and is reported as `PluginError` with its name.
"""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Final, Literal

import pluggy

from deerflow_backends.counters import CounterOptions, ModelCounters
from deerflow_backends.memories import MemoryOptions, MemoryStore
from deerflow_backends.settings import ConnectionSettings
from deerflow_backends.streams import StreamBridge, StreamOptions
from deerflow_backends.threads import ThreadIndex, ThreadOptions

#: pluggy's name for us, and the entry-point group.
PROJECT: Final = "deerflow_backends"

hookspec = pluggy.HookspecMarker(PROJECT)
#: Marks a plugin's implementation of a hook.
hookimpl = pluggy.HookimplMarker(PROJECT)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that an operator should know about the server behind a connection.

    Attributes:
        level: ``info`` is good to know, a ``warning`` may cost data or time, an ``error`` breaks a promise.
        message: One sentence with the remedy, without a secret.
    """

    level: Literal["info", "warning", "error"]
    message: str


@hookspec(firstresult=True)
def deerflow_settings() -> type[ConnectionSettings]:
    """Return the model of this backend's connection settings: a subclass of `ConnectionSettings`.

    Asked first, before anything connects. Without this hook the backend takes no settings, not even the common ones,
    and its hooks get None for them.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def deerflow_connect(name: str, settings: Any) -> AbstractAsyncContextManager[Any]:
    """Return what opens one connection: all that the capabilities over it share, such as pools and listeners.

    Entered once for each connection that is chosen, before its capabilities. Without this hook they get None.

    Args:
        name: The connection's name in the configuration.
        settings: Validated, of the class that `deerflow_settings` returned, or None.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def deerflow_migrate(settings: Any, capabilities: frozenset[str], apply: bool) -> Awaitable[list[str]]:
    """Bring the schema up to date, or tell what that would take.

    Called before `deerflow_connect`, with connections of its own, as ``migrate`` of the connection says; usually
    an ``async def``. Safe when twenty replicas start at once on an empty database. Nothing to do is an empty list.

    Args:
        settings: As for `deerflow_connect`.
        capabilities: Only what these need.
        apply: Whether to take the steps, or to change nothing and only name them.

    Returns:
        The steps done, or due: one short line each, for people.

    Raises:
        PluginError: The database is newer than this code, which is to be upgraded; nothing was changed.
        BackendUnavailable: No answer in time; steps not done are due.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def deerflow_check(connection: Any) -> Awaitable[list[Finding]]:
    """Look at the server for what an operator should know: versions, eviction, privileges, clock skew.

    Called by ``deerflow-backends check`` on an open connection; usually an ``async def``. It changes nothing. The first
    finding of level ``info`` says what the server is, such as ``Valkey 9.1.0``: reports of conformance show that one.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def deerflow_stream_bridge(connection: Any, options: StreamOptions) -> AbstractAsyncContextManager[StreamBridge]:
    """Return what opens a stream bridge on *connection*, keeping promises S1 to S16 and G1 to G13."""
    raise NotImplementedError


@hookspec(firstresult=True)
def deerflow_memory(connection: Any, options: MemoryOptions) -> AbstractAsyncContextManager[MemoryStore]:
    """Return what opens a memory store on *connection*, keeping promises M1 to M12 and G1 to G13."""
    raise NotImplementedError


@hookspec(firstresult=True)
def deerflow_thread_index(connection: Any, options: ThreadOptions) -> AbstractAsyncContextManager[ThreadIndex]:
    """Return what opens a thread index on *connection*, keeping promises T1 to T11 and G1 to G13."""
    raise NotImplementedError


@hookspec(firstresult=True)
def deerflow_counters(connection: Any, options: CounterOptions) -> AbstractAsyncContextManager[ModelCounters]:
    """Return what opens model counters on *connection*, keeping promises C1 to C7 and G1 to G13.

    Buffering is not the backend's: `open_backends` puts it in front.
    """
    raise NotImplementedError
