"""Plugins: found by their entry points, loaded by name and only when chosen. The only caller of pluggy's manager."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Awaitable, Collection, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, get_args, get_type_hints

import pluggy

from deerflow_backends import hookspecs
from deerflow_backends.capabilities import CAPABILITIES, Options
from deerflow_backends.counters import ModelCounters
from deerflow_backends.distributions import Offer, find, offers, rivalry
from deerflow_backends.errors import BackendsError, PluginError
from deerflow_backends.memories import MemoryStore
from deerflow_backends.mistakes import one_line, scrub, unknown
from deerflow_backends.settings import ConnectionSettings
from deerflow_backends.streams import Reach, StreamBridge
from deerflow_backends.threads import ThreadIndex

#: Modules that call plugins, whose place in a traceback says nothing.
_MACHINERY: Final = (
    *("importlib", "contextlib", "asyncio", "pluggy", "pydantic", __name__),
    *("deerflow_backends.distributions", "deerflow_backends.backends"),
)
_LEVELS: Final = get_args(get_type_hints(hookspecs.Finding)["level"])
_PROTOCOLS: Final[Mapping[str, type]] = {
    "stream_bridge": StreamBridge,
    "memory": MemoryStore,
    "thread_index": ThreadIndex,
    "counters": ModelCounters,
}
_HOOKS: Final = tuple(name for name in vars(hookspecs) if name.startswith("deerflow_"))


@dataclass(frozen=True, slots=True)
class InstalledPlugin:
    """An entry point as found, whether it works or not.

    Attributes:
        name: The backend's name.
        distribution: Who offers it.
        version: Of that distribution.
        capabilities: What it offers, empty if it cannot be loaded.
        requires: The core versions it asks for, such as ``">=1.0,<2"``; None if it does not say.
        error: Why it cannot be used, or None.
    """

    name: str
    distribution: str
    version: str
    capabilities: tuple[str, ...]
    requires: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Plugin:
    """A loaded plugin: its hooks, with what they return checked.

    Attributes:
        name: The backend's name.
        distribution: Who offers it.
        version: Of that distribution.
        capabilities: What it offers, in the order of `CAPABILITIES`.
        label: What messages call it.
    """

    name: str
    distribution: str
    version: str
    capabilities: tuple[str, ...]
    label: str
    _manager: pluggy.PluginManager = field(repr=False)
    _secrets: frozenset[str] = field(default=frozenset(), repr=False)

    def settings_model(self) -> type[ConnectionSettings] | None:
        """Return the model of its connections' settings, or None if it takes none.

        Raises:
            PluginError: The hook failed, or returned something else.
        """
        if not self._implements("deerflow_settings"):
            return None
        model = self._call("deerflow_settings")
        if not (isinstance(model, type) and issubclass(model, ConnectionSettings)):
            raise self._wrong("deerflow_settings", model, "a subclass of deerflow_backends.ConnectionSettings")
        return model

    def connect(self, name: str, settings: Any) -> AbstractAsyncContextManager[Any]:
        """Return what opens a connection; it gives None if the plugin has none to open.

        Raises:
            PluginError: The hook failed, or returned no async context manager.
        """
        if not self._implements("deerflow_connect"):
            return nullcontext()
        return self._context("deerflow_connect", name=name, settings=settings)

    def open(self, capability: str, connection: Any, options: Options) -> AbstractAsyncContextManager[Any]:
        """Return what opens one of its capabilities on an open connection.

        Raises:
            PluginError: The hook failed, or returned no async context manager.
        """
        return self._context(f"deerflow_{capability}", connection=connection, options=options)

    async def migrate(self, settings: Any, capabilities: Collection[str], *, apply: bool) -> list[str]:
        """Take the schema steps that *capabilities* need, or name the due ones; none without the hook.

        Raises:
            PluginError: The hook failed, or returned no list of steps.
        """
        asked = {"settings": settings, "capabilities": frozenset(capabilities), "apply": apply}
        found = await self._list("deerflow_migrate", "an awaitable list of texts", **asked)
        self._check_items("deerflow_migrate", found, str, "an awaitable list of texts")
        return found

    async def check(self, connection: Any) -> list[hookspecs.Finding]:
        """Tell what an operator should know; nothing without the hook.

        Raises:
            PluginError: The hook failed, or returned no list of findings.
        """
        wanted = f"an awaitable list of deerflow_backends.Finding, of level {' or '.join(_LEVELS)}"
        found = await self._list("deerflow_check", wanted, connection=connection)
        self._check_items("deerflow_check", found, hookspecs.Finding, wanted)
        for finding in found:
            if finding.level not in _LEVELS or not isinstance(finding.message, str):
                raise PluginError(f"{self.label}: deerflow_check returned a bad Finding; it must return {wanted}")
        return [replace(finding, message=scrub(finding.message, self._secrets)) for finding in found]

    def check_capability(self, capability: str, opened: Any) -> None:
        """Refuse what is not the capability that its hook promises.

        Raises:
            PluginError: It is None, lacks something of the protocol, or has no such reach.
        """
        hook = f"deerflow_{capability}"
        if opened is None:
            raise PluginError(f"{self.label}: entering what {hook} returned gave None")
        with self.blamed(f"looking at what {hook} yielded"):
            promised = [name for name in vars(_PROTOCOLS[capability]) if not name.startswith("_")]
            lacking = [name for name in promised if name != "reach" and not callable(getattr(opened, name, None))]
            reach = getattr(opened, "reach", None)
        if lacking:
            raise PluginError(f"{self.label}: what {hook} yielded lacks {', '.join(lacking)}")
        if reach not in get_args(Reach):
            allowed = ", ".join(get_args(Reach))
            problem = scrub(f"what {hook} yielded has the reach {reach!r}; allowed: {allowed}", self._secrets)
            raise PluginError(f"{self.label}: {problem}")

    def keeping(self, secrets: frozenset[str]) -> Plugin:
        """Return the same plugin, with none of *secrets* in what is told about its defects."""
        return replace(self, _secrets=secrets)

    @contextmanager
    def blamed(self, doing: str) -> Iterator[None]:
        """Report any exception in the block that is none of ours as this plugin's defect; ours lose what is secret.

        Args:
            doing: What the plugin was asked, such as ``deerflow_connect``.

        Raises:
            PluginError: In place of that exception.
        """
        try:
            yield
        except BackendsError as error:
            _cleanse(error, self._secrets)
            raise
        except Exception as error:
            problem = f"{doing} raised {_summary(error)}"
        else:
            return
        raise PluginError(f"{self.label}: {scrub(problem, self._secrets)}") from None

    def _implements(self, hook: str) -> bool:
        return bool(getattr(self._manager.hook, hook).get_hookimpls())

    def _call(self, hook: str, **arguments: Any) -> Any:
        with self.blamed(hook):
            return getattr(self._manager.hook, hook)(**arguments)

    def _context(self, hook: str, **arguments: Any) -> AbstractAsyncContextManager[Any]:
        found = self._call(hook, **arguments)
        if isinstance(found, AbstractAsyncContextManager):
            return found
        raise self._wrong(hook, found, "an async context manager, without awaiting anything")

    async def _list(self, hook: str, wanted: str, **arguments: Any) -> list[Any]:
        if not self._implements(hook):
            return []
        found = self._call(hook, **arguments)
        if isinstance(found, Awaitable):
            with self.blamed(hook):
                found = await found
        if not isinstance(found, list):
            raise self._wrong(hook, found, wanted)
        return found

    def _check_items(self, hook: str, found: list[Any], kind: type, wanted: str) -> None:
        for item in found:
            if not isinstance(item, kind):
                what = f"a list with {type(item).__name__} in it"
                raise PluginError(f"{self.label}: {hook} returned {what}; it must return {wanted}")

    def _wrong(self, hook: str, found: Any, wanted: str) -> PluginError:
        if inspect.iscoroutine(found):
            found.close()
        what = "None" if found is None else f"{found!r}" if isinstance(found, type) else type(found).__name__
        return PluginError(f"{self.label}: {hook} returned {what}; it must return {wanted}")


def load(name: str) -> Plugin:
    """Load the plugin that offers the backend *name*, and no other.

    Raises:
        PluginError: It is missing, offered twice, badly named, made for another contract version, or broken; the
            message names the distribution, its version and the fix. Unless it is broken, nothing was imported.
    """
    return _load(find(name))


def installed() -> list[InstalledPlugin]:
    """Look at every installed plugin, loading each; a broken one tells why. Sorted by name; never raises."""
    found = offers()
    return [_look(offer, [rival for rival in found if rival.backend == offer.backend]) for offer in found]


def offering(capability: str) -> list[str]:
    """Return the names of the working backends that offer *capability*."""
    return [plugin.name for plugin in installed() if capability in plugin.capabilities]


def _look(offer: Offer, rivals: list[Offer]) -> InstalledPlugin:
    requires = ",".join(str(requirement.specifier) for requirement in offer.requires) or None
    capabilities: tuple[str, ...] = ()
    problem = rivalry(rivals) if len(rivals) > 1 else None
    if problem is None:
        try:
            capabilities = _load(offer).capabilities
        except PluginError as error:
            problem = str(error)
    return InstalledPlugin(offer.backend, offer.source.name, offer.source.version, capabilities, requires, problem)


def _load(offer: Offer) -> Plugin:
    try:
        module = offer.load()
    except PluginError as error:
        _cleanse(error, ())
        raise
    except (Exception, SystemExit) as error:
        problem = scrub(f"importing {offer.point.value} raised {_summary(error)}", ())
        raise PluginError(f"{offer.label} is installed but broken: {problem}") from None
    manager = _registered(module, offer)
    offered = tuple(name for name in CAPABILITIES if getattr(manager.hook, f"deerflow_{name}").get_hookimpls())
    return Plugin(offer.backend, offer.source.name, offer.source.version, offered, offer.label, manager)


def _registered(module: Any, offer: Offer) -> pluggy.PluginManager:
    """Register *module* with a manager of its own: on a shared one, another plugin answers for a hook it lacks."""
    label = offer.label
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(module, offer.backend)
    except pluggy.PluginValidationError as error:
        raise PluginError(f"{label}: {one_line(str(error))}") from None
    for name in _HOOKS:
        if inspect.isroutine(getattr(module, name, None)) and manager.parse_hookimpl_opts(module, name) is None:
            raise PluginError(f"{label}: {name} exists but is not marked with @deerflow_backends.hookimpl")
    callers = manager.get_hookcallers(module) or []
    if not callers:
        raise PluginError(f"{label}: {_named(module)} has no hook; mark its functions with @deerflow_backends.hookimpl")
    for caller in callers:
        if not caller.has_spec():
            raise PluginError(f"{label}: {unknown(f'there is no hook {caller.name!r}', caller.name, _HOOKS)}")
        for implementation in caller.get_hookimpls():
            _check_parameters(implementation.function, caller.name, label)
    return manager


def _check_parameters(function: Any, hook: str, label: str) -> None:
    """Refuse what pluggy would not pass: it passes arguments by position, and not to those with a default."""
    for parameter in inspect.signature(function).parameters.values():
        keyword_only = parameter.kind is parameter.KEYWORD_ONLY
        if keyword_only or parameter.default is not parameter.empty:
            problem = f"{parameter.name!r} of {hook} {'is keyword-only' if keyword_only else 'has a default'}"
            raise PluginError(f"{label}: {problem}; hooks take their arguments by position, without defaults")


def _named(module: Any) -> str:
    return getattr(module, "__name__", None) or type(module).__name__


def _cleanse(error: BackendsError, secrets: Collection[str]) -> None:
    """Take *secrets* out of all texts of *error*, in place; causes that tell one are left out of its traceback."""
    error.args = tuple(_cleansed(value, secrets) for value in error.args)
    for name, value in vars(error).items():
        setattr(error, name, _cleansed(value, secrets))
    behind, seen = error.__cause__ or error.__context__, set[int]()
    while behind is not None and id(behind) not in seen:
        seen.add(id(behind))
        if scrub(text := str(behind), secrets) != text:
            error.__cause__ = error.__context__ = None
            return
        behind = behind.__cause__ or behind.__context__


def _cleansed(value: Any, secrets: Collection[str]) -> Any:
    if isinstance(value, list):  # its notes
        return [_cleansed(item, secrets) for item in value]
    return scrub(value, secrets) if isinstance(value, str) else value


def _summary(error: BaseException) -> str:
    """Say what was raised, where and why, in one line."""
    at = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        if not frame.f_globals.get("__name__", "").startswith(_MACHINERY):
            at = f" in {Path(frame.f_code.co_filename).name}, line {line}"
    return one_line(f"{type(error).__name__}{at}: {error}")
