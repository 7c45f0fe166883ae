"""Configuration, validated: which backend each capability has, over which connection, with which options.

Options belong to the contract and mean the same on every backend. Settings belong to a connection, and what they are
is the plugin's to say: its model is a subclass of `ConnectionSettings`, validated when the plugin is loaded.
"""

from __future__ import annotations

import os
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from deerflow_backends.arguments import check_seconds
from deerflow_backends.capabilities import CAPABILITIES, OPTIONS, Options
from deerflow_backends.errors import InvalidArgument
from deerflow_backends.mistakes import Mistake, Place, is_url, refuse, scrub, unknown
from deerflow_backends.sources import NAME, Layer, from_arguments, from_environment, from_file, from_host

DEFAULT_BACKEND: Final = "inprocess"
DEFAULT_DRAIN_SECONDS: Final = 10.0
#: How many characters of a wrong option are shown.
_SHOWN: Final = 40


@dataclass(frozen=True, slots=True)
class Choice:
    """What a capability is to be.

    Attributes:
        capability: Its name.
        backend: The entry point's name of the plugin that offers it.
        connection: The connection it goes over; the default one of a backend bears the backend's name.
        options: The contract's options.
    """

    capability: str
    backend: str
    connection: str
    options: Options


@dataclass(frozen=True, slots=True)
class ConnectionBlock:
    """A connection as configured; its values are the plugin's to validate.

    Attributes:
        name: What capabilities call it.
        backend: The plugin it belongs to.
        values: As given; kept out of the ``repr``, since they hold secrets.
    """

    name: str
    backend: str
    values: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Configuration:
    """A validated configuration; no plugin has been loaded for it. Made by `load_configuration`.

    Attributes:
        choices: One for each capability.
        connections: Those configured, by name; of others every setting has its default.
        drain_seconds: How long closing may take.
    """

    choices: Mapping[str, Choice]
    connections: Mapping[str, ConnectionBlock]
    drain_seconds: float
    _layers: tuple[Layer, ...] = field(repr=False, compare=False)

    @property
    def file(self) -> str | None:
        """The file that was read, with the section if it is another's; None if there is none."""
        return self._layers[2].origins.get(())

    @property
    def variables(self) -> int:
        """How many environment variables were read."""
        return len({origin for layer in (self._layers[1], self._layers[3]) for origin in layer.origins.values()})

    def says(self, place: Place) -> bool:
        """Whether any source says anything about *place*."""
        return any(layer.holds(place) for layer in self._layers)

    def mistake(self, place: Place, problem: str, *, because: Place = (), in_plugin: bool = False) -> Mistake:
        """Describe a mistake at *place*, such as ``("connections", "redis", "url")``.

        Args:
            because: The place whose origin is told, if it is another one.
        """
        return Mistake(".".join(place), _origin(self._layers, because or place), problem, in_plugin)


def load_configuration(arguments: Mapping[str, Any] | None = None) -> Configuration:
    """Read the configuration: arguments before environment before file before defaults.

    By default everything is in process, but where `DEER_FLOW_HOME` names DeerFlow's folder memory is in files there.

    Args:
        arguments: In the shape of the file, such as ``{"memory": "sqlite"}``.

    Raises:
        ConfigError: One line for each mistake, naming the key, its origin and what is allowed.
    """
    environment = dict(os.environ)
    stated = (from_arguments(arguments or {}), from_environment(environment), from_file(environment))
    layers = (*stated, from_host(environment, stated))
    refuse([mistake for layer in layers for mistake in layer.mistakes])
    given: Any = {"layers": layers}
    merged = _Merged(**given)
    mistakes: list[Mistake] = []
    reading = _Reading(layers, mistakes)
    connections = {name: reading.connection(name, block) for name, block in merged.connections.items()}
    choices = {
        capability: reading.choice(capability, getattr(merged, capability), connections) for capability in CAPABILITIES
    }
    drain_seconds = reading.drain_seconds(merged.drain_seconds)
    refuse(mistakes)
    return Configuration(choices, connections, drain_seconds, layers)


class _Merged(BaseSettings):
    """The layers, merged key by key."""

    model_config = SettingsConfigDict(hide_input_in_errors=True)

    stream_bridge: dict[str, Any] = {}
    memory: dict[str, Any] = {}
    thread_index: dict[str, Any] = {}
    counters: dict[str, Any] = {}
    connections: dict[str, dict[str, Any]] = {}
    drain_seconds: Any = DEFAULT_DRAIN_SECONDS

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take our layers, the strongest first, for pydantic-settings' own sources."""
        layers: tuple[Layer, ...] = init_settings()["layers"]
        return tuple(_LayerSource(settings_cls, layer) for layer in layers)


class _LayerSource(PydanticBaseSettingsSource):
    def __init__(self, settings_cls: type[BaseSettings], layer: Layer) -> None:
        super().__init__(settings_cls)
        self._layer = layer

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return self._layer.values.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return _Unshown(self._layer.values)


class _Unshown(dict[str, Any]):
    """Pydantic-settings logs the ``repr`` of what sources give where its own debugging is switched on."""

    def __repr__(self) -> str:
        return "***"


def _origin(layers: tuple[Layer, ...], place: Place) -> str:
    """Return the origin of *place*: the strongest layer that says anything about it or what it lies in."""
    for length in range(len(place), 0, -1):
        for layer in layers:
            if layer.holds(place[:length]):
                return layer.origin(place[:length])
    return ""


@dataclass(frozen=True, slots=True)
class _Reading:
    """Turns merged values into `Configuration`'s, noting every mistake on the way."""

    layers: tuple[Layer, ...]
    mistakes: list[Mistake]

    def note(self, place: Place, problem: str) -> None:
        self.mistakes.append(Mistake(".".join(place), _origin(self.layers, place), problem))

    def connection(self, name: str, block: dict[str, Any]) -> ConnectionBlock:
        place = ("connections", name)
        if not NAME.fullmatch(name):
            self.note(place, f"{name!r} is no connection's name; it must match {NAME.pattern}")
        backend = self._name((*place, "backend"), block["backend"]) if "backend" in block else name
        values = {key: block[key] for key in block if key != "backend"}
        return ConnectionBlock(name, name if backend is None else backend, values)

    def choice(self, capability: str, given: dict[str, Any], connections: dict[str, ConnectionBlock]) -> Choice:
        backend = self._name((capability, "backend"), given.get("backend"))
        connection = self._name((capability, "connection"), given.get("connection"))
        backend, connection = self._connected(capability, backend, connection, connections)
        options = {key: given[key] for key in given if key not in {"backend", "connection"}}
        return Choice(capability, backend, connection, self._options(capability, options))

    def _name(self, place: Place, value: Any) -> str | None:
        if isinstance(value, str) and is_url(value):
            what = place[-1]
            remedy = f"put a URL under 'connections: {{redis: {{url: ...}}}}' and name the {what} here"
            self.note(place, f"{value!r} is no {what}'s name; {remedy}")
            return None
        if value is None or isinstance(value, str):
            return value
        self.note(place, f"must be a name, not {type(value).__name__}")
        return None

    def _connected(
        self, capability: str, backend: str | None, connection: str | None, connections: dict[str, ConnectionBlock]
    ) -> tuple[str, str]:
        """Fill in what is not said, and make sure that the connection is one of the backend's."""
        place = (capability, "connection")
        if connection is None:
            connection = backend = DEFAULT_BACKEND if backend is None else backend
        elif backend is None and connection in connections:
            backend = connections[connection].backend
        if connection not in connections:
            if connection != backend:
                self.note(
                    place,
                    unknown(f"there is no connection {connection!r}", connection, connections, these="configured"),
                )
            return DEFAULT_BACKEND if backend is None else backend, connection
        theirs = connections[connection].backend
        if theirs != backend:
            chosen = _origin(self.layers, (capability, "backend"))
            by = f", the backend chosen by {chosen}" if chosen else ""
            remedy = f"name one that has 'backend: {backend}'"
            self.note(place, f"{connection!r} is a connection of {theirs!r}, not of {backend!r}{by}; {remedy}")
        return theirs, connection

    def _options(self, capability: str, given: dict[str, Any]) -> Options:
        """Build the options; each is tried alone first, so that every mistake is found."""
        options = OPTIONS[capability]
        types = typing.get_type_hints(options)
        known = {option.name: types[option.name] for option in fields(options)}
        values: dict[str, Any] = {}
        for key, value in given.items():
            if key not in known:
                allowed = ["backend", "connection", *known]
                self.note((capability, key), unknown("unknown key", key, allowed))
                continue
            try:
                coerced = _number(key, value, known[key])
                options(**{key: coerced})
            except InvalidArgument as error:
                self.note((capability, error.place), error.problem)
            else:
                values[key] = coerced
        return options(**values)

    def drain_seconds(self, value: Any) -> float:
        try:
            return check_seconds("drain_seconds", _number("drain_seconds", value, float), zero=True)
        except InvalidArgument as error:
            self.note((error.place,), error.problem)
            return DEFAULT_DRAIN_SECONDS


def _number(key: str, value: Any, kind: type[Any]) -> Any:
    """Turn text, which is all that the environment has, into a number; leave the rest to whoever checks it."""
    if not isinstance(value, str):
        return value
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError:
        wanted = "a whole number" if kind is int else "a number"
        shown = scrub(value, ())  # before it is cut, which could keep a password and lose the '@' that tells it
        shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
        raise InvalidArgument(key, f"must be {wanted}, not {shown!r}") from None
