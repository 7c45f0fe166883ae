"""Opens an installed plugin's capabilities from plain settings, as ``open_backends`` would, on a space of the kit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

from deerflow_backends import mistakes, plugins
from deerflow_backends.errors import BackendsError, ConfigError, PluginError
from deerflow_backends.mistakes import Place, unknown
from deerflow_backends.plugins import Plugin
from deerflow_backends.settings import ConnectionSettings, connection_settings, secrets_of
from deerflow_conformance.isolation import REAL_SECONDS
from deerflow_conformance.promises import CAPABILITIES, Capability
from deerflow_conformance.results import BrokenUse
from deerflow_conformance.spaces import Space

#: The settings, besides the namespace, that the kit sets for each space.
TIMES: Final = ("timeout_seconds", "publish_timeout_seconds")
#: A namespace to try settings with; never opened.
_TRIAL: Final = "conformance"


def offered(name: str, connection: Mapping[str, Any]) -> list[Capability]:
    """Return what the plugin *name* offers, its settings tried.

    Raises:
        PluginError: It is missing or broken.
        ConfigError: A setting is bad.
    """
    plugin = plugins.load(name)
    _settings(plugin, connection, _TRIAL)
    return [capability for capability in CAPABILITIES if capability in plugin.capabilities]


def opening(name: str, capability: Capability, connection: Mapping[str, Any]) -> Callable[[Space], AsyncIterator[Any]]:
    """Return the function that opens one capability of the plugin *name* on a space."""
    plugin = plugins.load(name)

    async def opened(space: Space) -> AsyncIterator[Any]:
        through = {key: space.via(value) if key == "url" else value for key, value in connection.items()}
        times = {name: getattr(space, name) for name in TIMES}
        settings = _settings(plugin, {**through, **times}, space.name)
        await plugin.migrate(settings, [capability], apply=True)
        async with plugin.connect(name, settings) as connected, plugin.open(capability, connected, space.options) as it:
            yield it

    return opened


def server(name: str, capability: Capability, connection: Mapping[str, Any]) -> Callable[[], Awaitable[str | None]]:
    """Return what opens the plugin *name* once, before anything is judged, and tells what server its check finds.

    What it returns raises `BrokenUse` in one sentence if the plugin does not open: no promise is worth trying then.
    """
    plugin = plugins.load(name)

    async def told() -> str | None:
        settings = _settings(plugin, connection, _TRIAL)
        opened = plugin.keeping(secrets_of(settings, connection))
        try:
            with opened.blamed("opening it"):
                async with asyncio.timeout(REAL_SECONDS):
                    await opened.migrate(settings, [capability], apply=False)
                    async with opened.connect(name, settings) as connected:
                        return await _found(opened, connected)
        except BackendsError as error:
            raise BrokenUse(f"{name} cannot be opened: {error}") from None

    return told


async def _found(plugin: Plugin, connected: Any) -> str | None:
    """Return the first thing that the plugin's check tells, which is what the server is."""
    try:
        found = await plugin.check(connected)
    except BackendsError:
        return None  # it looks at more than is used: whoever may not ask all of it can be judged
    return next((finding.message for finding in found if finding.level == "info"), None)


def settings_of(name: str, connection: Mapping[str, Any]) -> ConnectionSettings | None:
    """Return *connection* as the plugin *name* understands it; None if it takes no settings.

    Raises:
        PluginError: It is missing or broken.
        ConfigError: A setting is bad.
    """
    return _settings(plugins.load(name), connection, _TRIAL)


def texts_in(value: Any) -> frozenset[str]:
    """Return every text in a setting's *value*, and the passwords of URLs among them."""
    return mistakes.secrets_in(value)


def is_declared_harmless(name: str, value: Any, settings: ConnectionSettings) -> bool:
    """Whether *settings* say that the *value* of the one called *name* is a folder, a number or one of a list."""
    return not secrets_of(settings, {name: value})


def _settings(plugin: Plugin, connection: Mapping[str, Any], namespace: str) -> ConnectionSettings | None:
    model = plugin.settings_model()
    if model is None:
        # Without settings there is no namespace, so spaces could not be told apart.
        raise PluginError(f"the backend {plugin.name!r} takes no settings, so no namespace: use @conform instead")
    found = connection_settings(model, {**connection, "namespace": namespace})
    if not isinstance(found, list):
        return found
    missing = [key for key, one in model.model_fields.items() if one.is_required() and key not in connection]
    lines = [_line(model, place, problem) for place, problem in found if not place or place[0] not in missing]
    lines += [f'{key}: is required; give --set {key}=..., or connection={{"{key}": ...}} in a test' for key in missing]
    raise ConfigError("\n".join(lines))


def _line(model: type[ConnectionSettings], place: Place, problem: str) -> str:
    if len(place) == 1 and problem.startswith("unknown key;"):
        # A file of settings may also say "backend", and what the kit sets itself.
        problem = unknown("unknown key", place[0], model.model_fields.keys() - {"namespace", *TIMES})
    return f"{'.'.join(place)}: {problem}"
