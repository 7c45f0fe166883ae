"""Plugins: found by their entry points, loaded by name and only when chosen. The only caller of pluggy's manager."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Awaitable, Collection, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import pluggy
from importlib_metadata import Distribution, EntryPoint, entry_points, version
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from deerflow_backends import CONTRACT_VERSION, hookspecs
from deerflow_backends.capabilities import CAPABILITIES, Options
from deerflow_backends.errors import BackendsError, PluginError
from deerflow_backends.mistakes import one_line, scrub, unknown
from deerflow_backends.settings import ConnectionSettings
from deerflow_backends.sources import NAME

CORE: Final = "deerflow-backends"

#: What to install for the backends of our own distributions.
_KNOWN: Final = {"redis": "deerflow-redis", "postgres": "deerflow-postgres", "mongo": "deerflow-mongo"}
#: Modules that call plugins, whose place in a traceback says nothing.
_MACHINERY: Final = ("importlib", "contextlib", "pluggy", "pydantic", "asyncio", __name__, "deerflow_backends.backends")
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
    """

    name: str
    distribution: str
    version: str
    capabilities: tuple[str, ...]
    _manager: pluggy.PluginManager
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
        hook = "deerflow_migrate"
        return await self._list(hook, settings=settings, capabilities=frozenset(capabilities), apply=apply)

    async def check(self, connection: Any) -> list[hookspecs.Finding]:
        """Tell what an operator should know; nothing without the hook.

        Raises:
            PluginError: The hook failed, or returned no list of findings.
        """
        return await self._list("deerflow_check", connection=connection)

    def keeping(self, secrets: frozenset[str]) -> Plugin:
        """Return the same plugin, with none of *secrets* in what is told about its defects."""
        return replace(self, _secrets=secrets)

    @contextmanager
    def blamed(self, doing: str) -> Iterator[None]:
        """Report any exception in the block that is none of ours as this plugin's defect.

        Args:
            doing: What the plugin was asked, such as ``deerflow_connect``.

        Raises:
            PluginError: In place of that exception.
        """
        try:
            yield
        except BackendsError:
            raise
        except Exception as error:
            problem = f"{doing} raised {_summary(error)}"
        else:
            return
        raise PluginError(f"{self.label}: {scrub(problem, self._secrets)}") from None

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"{self.distribution} {self.version}, backend {self.name!r}"

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

    async def _list(self, hook: str, **arguments: Any) -> list[Any]:
        if not self._implements(hook):
            return []
        found = self._call(hook, **arguments)
        if isinstance(found, Awaitable):
            with self.blamed(hook):
                found = await found
        if not isinstance(found, list):
            raise self._wrong(hook, found, "an awaitable list")
        return found

    def _wrong(self, hook: str, found: Any, wanted: str) -> PluginError:
        if inspect.iscoroutine(found):
            found.close()
        what = "None" if found is None else f"{found!r}" if isinstance(found, type) else type(found).__name__
        return PluginError(f"{self.label}: {hook} returned {what}; it must return {wanted}")


def names() -> tuple[str, ...]:
    """Return the names of all installed backends, sorted, without loading any."""
    return tuple(sorted({entry.point.name for entry in _entries()}))


def load(name: str) -> Plugin:
    """Load the plugin that offers the backend *name*, and no other.

    Raises:
        PluginError: It is missing, offered twice, made for another contract version, or broken; the message names
            the distribution, its version and the fix. Of the first three nothing was imported.
    """
    entries = [entry for entry in _entries() if entry.point.name == name]
    if not entries:
        raise PluginError(_missing(name))
    if len(entries) > 1:
        raise PluginError(_rivals(entries))
    return _load(entries[0])


def installed() -> list[InstalledPlugin]:
    """Look at every installed plugin, loading each; a broken one tells why. Never raises."""
    entries = sorted(_entries(), key=lambda entry: (entry.point.name, entry.who))
    return [_look(entry, [rival for rival in entries if rival.point.name == entry.point.name]) for entry in entries]


def offering(capability: str) -> list[str]:
    """Return the names of the working backends that offer *capability*."""
    return [plugin.name for plugin in installed() if capability in plugin.capabilities and not plugin.error]


class _Entry(NamedTuple):
    point: EntryPoint
    distribution: Distribution

    @property
    def who(self) -> str:
        return f"{self.distribution.name} {self.distribution.version}"


def _entries() -> list[_Entry]:
    """Return the entry points of each distribution; of one that is on the path twice, the first's."""
    found = entry_points(group=hookspecs.PROJECT)
    return [_Entry(point, cast(Distribution, point.dist)) for point in found]


def _missing(name: str) -> str:
    if not NAME.fullmatch(name):
        return f"{name!r} is no backend's name; such a name matches {NAME.pattern}"
    if name in _KNOWN:
        return f"the backend {name!r} is not installed; pip install {_KNOWN[name]}"
    return unknown(f"no installed distribution offers the backend {name!r}", name, names(), these="installed")


def _rivals(entries: list[_Entry]) -> str:
    who = " and ".join(sorted(entry.who for entry in entries))
    return f"{who} {'both' if len(entries) == 2 else 'all'} offer the backend {entries[0].point.name!r}; keep one"


def _look(entry: _Entry, rivals: list[_Entry]) -> InstalledPlugin:
    capabilities: tuple[str, ...] = ()
    problem = _rivals(rivals) if len(rivals) > 1 else None
    if problem is None:
        try:
            capabilities = _load(entry).capabilities
        except PluginError as error:
            problem = str(error)
    requires = ",".join(str(one.specifier) for one in _requirements(entry.distribution)) or None
    return InstalledPlugin(
        entry.point.name, entry.distribution.name, entry.distribution.version, capabilities, requires, problem
    )


def _load(entry: _Entry) -> Plugin:
    label = f"{entry.who}, backend {entry.point.name!r}"
    if not NAME.fullmatch(entry.point.name):
        raise PluginError(
            f"{entry.who} offers a backend called {entry.point.name!r}; its name must match {NAME.pattern}"
        )
    _check_contract(entry.distribution, label)
    try:
        module = entry.point.load()
    except Exception as error:
        raise PluginError(
            f"{label} is installed but broken: importing {entry.point.value} raised {_summary(error)}"
        ) from None
    manager = _registered(module, entry.point.name, label)
    offered = tuple(name for name in CAPABILITIES if getattr(manager.hook, f"deerflow_{name}").get_hookimpls())
    return Plugin(entry.point.name, entry.distribution.name, entry.distribution.version, offered, manager)


def _check_contract(distribution: Distribution, label: str) -> None:
    """Refuse a plugin made for other versions of core than the installed one, by its metadata alone."""
    if canonicalize_name(distribution.name) == CORE:
        return
    core = version(CORE)
    requirements = _requirements(distribution)
    if not requirements:
        major = int(CONTRACT_VERSION.partition(".")[0])
        wanted = f"{CORE}>={CONTRACT_VERSION},<{major + 1}"
        raise PluginError(
            f"{label} does not say which contract it is made for; its dependencies must include {wanted!r}"
        )
    for requirement in requirements:
        if not requirement.specifier.contains(core, prereleases=True):
            raise PluginError(
                f"{label} requires {CORE}{requirement.specifier}, but {CORE} {core} with contract "
                f"{CONTRACT_VERSION} is installed; install versions that go together"
            )


def _requirements(distribution: Distribution) -> list[Requirement]:
    """Return what a distribution, without its extras, requires of core here."""
    found = []
    for line in distribution.requires or []:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        marker = requirement.marker
        if canonicalize_name(requirement.name) == CORE and (marker is None or marker.evaluate({"extra": ""})):
            found.append(requirement)
    return found


def _registered(module: Any, name: str, label: str) -> pluggy.PluginManager:
    """Register *module* with a manager of its own: on a shared one, another plugin answers for a hook it lacks."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(module, name)
    except pluggy.PluginValidationError as error:
        raise PluginError(f"{label}: {one_line(str(error))}") from None
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


def _summary(error: Exception) -> str:
    """Say what was raised, where and why, in one line."""
    at = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        if not frame.f_globals.get("__name__", "").startswith(_MACHINERY):
            at = f" in {Path(frame.f_code.co_filename).name}, line {line}"
    return one_line(f"{type(error).__name__}{at}: {error}")
