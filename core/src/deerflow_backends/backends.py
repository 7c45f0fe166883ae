"""`open_backends`: from names in a configuration to four live capabilities, and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

from deerflow_backends import distributions, plugins
from deerflow_backends.buffering import BufferedCounters, buffered
from deerflow_backends.capabilities import CAPABILITIES
from deerflow_backends.configuration import Choice, Configuration, load_configuration
from deerflow_backends.counters import CounterOptions
from deerflow_backends.errors import BackendsError, BackendUnavailable, ConfigError, PluginError
from deerflow_backends.hookspecs import Finding
from deerflow_backends.memories import MemoryStore
from deerflow_backends.mistakes import Mistake, Place, refuse, secrets_in
from deerflow_backends.plugins import Plugin
from deerflow_backends.settings import ConnectionSettings, connection_settings, secrets_of
from deerflow_backends.streams import StreamBridge
from deerflow_backends.threads import ThreadIndex


@dataclass(frozen=True, slots=True)
class PlannedConnection:
    """A connection that at least one capability goes over; not open yet.

    Attributes:
        name: As in the configuration.
        plugin: Its backend, loaded.
        settings: Validated; None if the backend takes none.
        choices: The capabilities that go over it.
    """

    name: str
    plugin: Plugin
    settings: ConnectionSettings | None
    choices: tuple[Choice, ...]

    @property
    def mode(self) -> str:
        """What its ``migrate`` says."""
        return self.settings.migrate if self.settings else "auto"

    async def migrate(self, *, apply: bool) -> list[str]:
        """Take the schema steps that its capabilities need, or name the due ones."""
        capabilities = [choice.capability for choice in self.choices]
        return await self.plugin.migrate(self.settings, capabilities, apply=apply)

    def connect(self) -> AbstractAsyncContextManager[Any]:
        """Return what opens it."""
        return self.plugin.connect(self.name, self.settings)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a configuration comes to: plugins loaded, settings validated, nothing opened.

    Attributes:
        configuration: What it was made from.
        connections: Those that are chosen, in the order of their first capability.
    """

    configuration: Configuration
    connections: tuple[PlannedConnection, ...]

    async def migrate(self) -> None:
        """Do for each connection what its ``migrate`` says, after looking at all of them.

        Raises:
            ConfigError: A connection is wrong, or ``check`` and steps are due, on whichever connections.
            BackendsError: As a plugin raises it. While looking, no step was taken.
        """
        due, mistakes = await self._look([connection for connection in self.connections if connection.mode != "off"])
        for connection, steps in due:
            if steps and connection.mode == "check":
                problem = (
                    f"'check' opens nothing while steps are due ({', '.join(steps)}); run 'deerflow-backends migrate'"
                )
                mistakes.append(self.configuration.mistake(("connections", connection.name, "migrate"), problem))
        refuse(mistakes)
        for connection, steps in due:
            if steps:
                await connection.migrate(apply=True)

    async def due(self) -> list[tuple[PlannedConnection, list[str]]]:
        """Name the due steps of every connection, whatever its ``migrate`` says, and take none.

        Raises:
            ConfigError: At least one connection is wrong; one line for each.
            BackendsError: As a plugin raises it.
        """
        due, mistakes = await self._look(self.connections)
        refuse(mistakes)
        return due

    async def _look(
        self, connections: Sequence[PlannedConnection]
    ) -> tuple[list[tuple[PlannedConnection, list[str]]], list[Mistake]]:
        """Ask each connection what is due; one that is wrong, or does not answer, keeps no other from being asked."""
        due, mistakes = [], []
        failure: BackendsError | None = None
        for connection in connections:
            try:
                due.append((connection, await connection.migrate(apply=False)))
            except ConfigError as error:
                mistakes.append(self._mistake(connection, str(error)))
            except BackendsError as error:
                failure = failure or error
        if failure is not None:
            refuse(mistakes)
            raise failure
        return due, mistakes

    def _mistake(self, connection: PlannedConnection, problem: str) -> Mistake:
        place = ("connections", connection.name)
        chosen = () if connection.name in self.configuration.connections else (connection.choices[0].capability,)
        return self.configuration.mistake(place, problem, because=chosen)


def plan(configuration: Configuration) -> Plan:
    """Load the chosen plugins and validate the settings of their connections, without opening anything.

    Raises:
        PluginError: Every mistake is the installation's: a plugin is missing or broken.
        ConfigError: There are others too. One line for each mistake.
    """
    planning = _Planning(configuration)
    connections = planning.connections()
    refuse(planning.mistakes)
    return Plan(configuration, connections)


class _Planning:
    """Notes every mistake on the way to a `Plan`."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.mistakes: list[Mistake] = []
        self._loaded: dict[str, Plugin | None] = {}

    def connections(self) -> tuple[PlannedConnection, ...]:
        chosen: dict[str, list[Choice]] = {}
        for choice in self.configuration.choices.values():
            self._offered(choice)
            chosen.setdefault(choice.connection, []).append(choice)
        blocks = self.configuration.connections
        installed = distributions.names()
        for block in blocks.values():
            if block.backend not in self._loaded and block.backend not in installed:
                self._load(block.backend, ("connections", block.name, "backend"), of=block.name)
        planned = [self._connection(name, chosen.get(name, ())) for name in dict.fromkeys([*chosen, *blocks])]
        return tuple(connection for connection in planned if connection is not None and connection.choices)

    def _offered(self, choice: Choice) -> None:
        place = (choice.capability, "backend")
        named = self.configuration.says(place)
        plugin = self._load(choice.backend, place, of=None if named else choice.connection)
        if plugin is not None and choice.capability not in plugin.capabilities:
            others = ", ".join(plugins.offering(choice.capability)) or "nothing installed"
            problem = f"the backend {choice.backend!r} does not offer {choice.capability}; offered by: {others}"
            self._note(place, problem)

    def _load(self, backend: str, place: Place, *, of: str | None) -> Plugin | None:
        """Load a plugin; one that fails is one mistake, wherever else it is named.

        Args:
            of: The connection whose backend it is, if that is why.
        """
        if backend not in self._loaded and of is not None and self._is_nameless(of):
            self._loaded[backend] = None
            problem = f"names no backend, so it would be that of {backend!r}, which is not installed"
            self._note(("connections", of), f"{problem}; add 'backend: ...'")
        if backend not in self._loaded:
            self._loaded[backend] = None
            try:
                self._loaded[backend] = plugins.load(backend)
            except PluginError as error:
                self._note(place, str(error), in_plugin=True)
        return self._loaded[backend]

    def _is_nameless(self, connection: str) -> bool:
        """Whether it is configured without a backend, and its own name is none that one could install."""
        configured = self.configuration.says(("connections", connection))
        named = self.configuration.says(("connections", connection, "backend"))
        return configured and not named and connection not in {*distributions.names(), *distributions.KNOWN}

    def _note(self, place: Place, problem: str, *, because: Place = (), in_plugin: bool = False) -> None:
        self.mistakes.append(self.configuration.mistake(place, problem, because=because, in_plugin=in_plugin))

    def _connection(self, name: str, choices: Sequence[Choice]) -> PlannedConnection | None:
        block = self.configuration.connections.get(name)
        plugin = self._loaded.get(block.backend if block else choices[0].backend)
        if plugin is None:
            return None
        place = ("connections", name)
        values = block.values if block else {}
        plugin = plugin.keeping(secrets_in(values))
        try:
            with plugin.blamed("the model of deerflow_settings"):
                model = plugin.settings_model()
                found = connection_settings(model, values, place) if model else None
        except PluginError as error:
            self._note(place, str(error), in_plugin=True)
            return None
        if isinstance(found, list):
            for wrong, problem in found:
                self._note(wrong, problem, because=() if block else (choices[0].capability,))
            return None
        if model is None and values:
            self._note(place, f"the backend {plugin.name!r} takes no settings; remove {', '.join(sorted(values))}")
        return PlannedConnection(name, plugin.keeping(secrets_of(found, values)), found, tuple(choices))


@dataclass(frozen=True, slots=True)
class Backends:
    """The four capabilities, live until their ``async with`` block is left.

    Attributes:
        stream_bridge: The run events.
        memory: What agents remember of users.
        thread_index: Which threads a user has.
        counters: How models do, buffered: recording costs no I/O.
        chosen: Which backend and connection each capability has, for display.
    """

    stream_bridge: StreamBridge
    memory: MemoryStore
    thread_index: ThreadIndex
    counters: BufferedCounters
    chosen: Mapping[str, Choice]
    _connections: Mapping[str, tuple[PlannedConnection, Any]] = field(repr=False)

    async def ping(self) -> None:
        """Ask all four at once whether they answer: fit for a readiness probe.

        Raises:
            BackendUnavailable: At least one did not; the message names each.
        """
        pings = (getattr(self, capability).ping() for capability in CAPABILITIES)
        answers = await asyncio.gather(*pings, return_exceptions=True)
        failed = [(name, answer) for name, answer in zip(CAPABILITIES, answers, strict=True) if answer is not None]
        for _, error in failed:
            if not isinstance(error, BackendUnavailable):
                raise error
        if failed:
            raise BackendUnavailable("; ".join(f"{name}: {error}" for name, error in failed)) from failed[0][1]

    async def findings(self) -> dict[str, list[Finding]]:
        """Return what an operator should know about each open connection, by its name."""
        found = {}
        for name, (planned, live) in self._connections.items():
            found[name] = await planned.plugin.check(live)
        return found


@asynccontextmanager
async def open_backends(
    configuration: Configuration | Mapping[str, Any] | None = None,
) -> AsyncIterator[Backends]:
    """Open what is configured: four capabilities, each connection once.

    Args:
        configuration: From `load_configuration`, or the arguments for it.

    Raises:
        ConfigError: The configuration is wrong, or schema steps are due where ``migrate`` is ``check``.
        PluginError: A chosen plugin is missing or broken.
        BackendUnavailable: A backend did not answer; or, on leaving, did not finish within ``drain_seconds`` and was
            cancelled, so that what it had accepted may not be stored.

    Whatever fails, all that was opened is closed again. On leaving, what was accepted is stored and counters are
    flushed; an exception of the body stays the one raised, with what went wrong while closing as its notes.
    """
    if not isinstance(configuration, Configuration):
        configuration = load_configuration(configuration)
    async with _stacked(configuration) as (planned, stack):
        connections, opened = await _open(planned, stack)
        choices = configuration.choices
        options = cast(CounterOptions, choices["counters"].options)
        counters = buffered(opened["counters"], token_seconds=options.token_seconds)
        opened["counters"] = await stack.enter("counters", connections[choices["counters"].connection][0], counters)
        yield Backends(**opened, chosen=choices, _connections=connections)


@asynccontextmanager
async def open_capability(configuration: Configuration, capability: str) -> AsyncIterator[Any]:
    """Open one capability of what is configured, and no connection but its own.

    Counters come as the plugin opens them, without the buffer that `open_backends` puts in front.

    Raises:
        BackendsError: As `open_backends` does.
    """
    alone = replace(configuration, choices={capability: configuration.choices[capability]})
    async with _stacked(alone) as (planned, stack):
        _, opened = await _open(planned, stack)
        yield opened[capability]


@asynccontextmanager
async def _stacked(configuration: Configuration) -> AsyncIterator[tuple[Plan, _Stack]]:
    """Plan and migrate, and give a stack for what is to be opened, which is closed whatever happens."""
    planned = plan(configuration)
    await planned.migrate()
    stack = _Stack(configuration.drain_seconds)
    try:
        yield planned, stack
    except BaseException as error:
        for late in await stack.close(error):
            error.add_note(f"while closing: {late}")
        raise
    failures = await stack.close(None)
    if failures:
        # A cancellation is not ours to keep from the caller.
        first = next((failure for failure in failures if not isinstance(failure, Exception)), failures[0])
        for late in failures:
            if late is not first:
                first.add_note(f"while closing: {late}")
        raise first


async def _open(planned: Plan, stack: _Stack) -> tuple[dict[str, tuple[PlannedConnection, Any]], dict[str, Any]]:
    """Open every planned connection and chosen capability; both by name."""
    connections: dict[str, tuple[PlannedConnection, Any]] = {}
    for connection in planned.connections:
        live = await stack.enter(f"connection {connection.name!r}", connection, connection.connect())
        connections[connection.name] = (connection, live)
    opened: dict[str, Any] = {}
    for capability, choice in planned.configuration.choices.items():
        connection, live = connections[choice.connection]
        context = connection.plugin.open(capability, live, choice.options)
        opened[capability] = await stack.enter(capability, connection, context)
        connection.plugin.check_capability(capability, opened[capability])
    return connections, opened


class _Stack:
    """What is open. Closing takes at most ``drain_seconds`` in all, and goes on whatever fails."""

    def __init__(self, drain_seconds: float) -> None:
        self._drain_seconds = drain_seconds
        self._open: list[tuple[str, PlannedConnection, AbstractAsyncContextManager[Any]]] = []

    async def enter(self, what: str, connection: PlannedConnection, context: AbstractAsyncContextManager[Any]) -> Any:
        with connection.plugin.blamed(f"opening {what}"):
            opened = await context.__aenter__()
        self._open.append((what, connection, context))
        return opened

    async def close(self, error: BaseException | None) -> list[BaseException]:
        """Close everything, the last opened first, and return what failed."""
        failures: list[BaseException] = []
        deadline = asyncio.get_running_loop().time() + self._drain_seconds
        while self._open:
            what, connection, context = self._open.pop()
            try:
                with connection.plugin.blamed(f"closing {what}"):
                    await self._leave(what, context, error, deadline)
            except BaseException as late:
                failures.append(late)
        return failures

    async def _leave(
        self, what: str, context: AbstractAsyncContextManager[Any], error: BaseException | None, deadline: float
    ) -> None:
        limit = asyncio.timeout_at(deadline)
        try:
            async with limit:
                await context.__aexit__(type(error) if error else None, error, error.__traceback__ if error else None)
        except BaseException as late:
            if late is error:
                return
            if not (isinstance(late, TimeoutError) and limit.expired()):
                raise
            problem = f"closing {what} did not finish within drain_seconds ({self._drain_seconds:g}) and was cancelled"
            raise BackendUnavailable(f"{problem}; what it still held may be lost", maybe_written=True) from None
