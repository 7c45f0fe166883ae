"""``@conform`` and ``conform_plugin``: how an author says what to test, in one function or one line."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from deerflow_backends.errors import ConfigError, PluginError
from deerflow_conformance.promises import CAPABILITIES, PROMISES, Capability
from deerflow_conformance.results import BrokenUse, KnownFailure
from deerflow_conformance.spaces import Space

if TYPE_CHECKING:
    from types import FrameType

Opening: TypeAlias = Callable[[Space], AsyncIterator[Any]]
Switch: TypeAlias = Callable[[], Awaitable[None] | None]
Told: TypeAlias = Callable[[], Awaitable[str | None] | str | None]
Owned: TypeAlias = Callable[[Space], Awaitable[int] | int]

#: Where a module keeps what it has conformed, to notice what is given twice or lost.
_REGISTER = "__deerflow_conformance__"
#: What makes pytest see that; loaded only by pytest.
_PYTEST_PLUGIN = "deerflow_conformance.pytest_plugin"


@dataclass(frozen=True, slots=True)
class FileRecipe:
    """How another process finds the author's function again: a file, the module's name, and the name in it."""

    path: str
    module: str
    name: str


@dataclass(frozen=True, slots=True)
class PluginRecipe:
    """How another process opens a plugin's capability. Its settings may hold secrets, so its repr does without."""

    plugin: str
    capability: Capability
    connection: dict[str, Any] = field(repr=False)


Recipe: TypeAlias = FileRecipe | PluginRecipe


@dataclass(frozen=True, slots=True, eq=False)
class Conformance:
    """One capability of one plugin, to be tested.

    Attributes:
        capability: Which.
        plugin: The entry point's name.
        name: The function's, as pytest shows it.
        function: Opens the capability on a space: an async generator function.
        recipe: How another process does the same.
        line: Where the function is, for messages.
        start: Starts the server, called before anything is opened, and again after `stop`.
        stop: Stops it, called at the end, also when start failed half-way, and in between to see it gone.
        durable: What was acknowledged before `stop` is there after `start` (G12).
        server: What the server calls itself, for reports.
        owned: Counts what is stored of a space (G11).
        work: The backend's own count of statements or instructions so far (M9, T9).
        virtual_time: The function uses `Space.clock`, and nothing but the event loop's time and tasks.
        known_failures: By promise number.
    """

    capability: Capability
    plugin: str
    name: str
    function: Opening
    recipe: Recipe
    line: int = 0
    start: Switch | None = None
    stop: Switch | None = None
    durable: bool = False
    server: Told | None = None
    owned: Owned | None = None
    work: Callable[[], int] | None = None
    virtual_time: bool = False
    known_failures: Mapping[str, KnownFailure] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"{self.name} ({self.capability} of {self.plugin!r})"

    def open(self, space: Space) -> AbstractAsyncContextManager[Any]:
        """Open the capability on *space*."""
        return asynccontextmanager(self.function)(space)


def conform(
    capability: str,
    *,
    plugin: str,
    start: Switch | None = None,
    stop: Switch | None = None,
    durable: bool = False,
    server: Told | None = None,
    owned: Owned | None = None,
    work: Callable[[], int] | None = None,
    virtual_time: bool = False,
    known_failures: Mapping[str, KnownFailure] | None = None,
) -> Callable[[Opening], Conformance]:
    """Test the capability that the decorated async generator function opens on a `Space`.

    The same space must be the same data, another space none of it. In a test file pytest collects it, one item a
    promise. Other processes import the file again, so its module level must start nothing.

    Args:
        capability: ``stream_bridge``, ``memory``, ``thread_index`` or ``counters``.
        plugin: The entry point's name.
        start: Starts the server; it goes with *stop*. It is also called in the middle of some checks, to see what a
            restart does: the server must come back at the same address.
        stop: Stops it: best by SIGKILL, as a crash would.
        durable: What was acknowledged before *stop* is there after *start*: the kit holds the backend to it (G12).
        server: Returns what the server calls itself, such as ``"Valkey 9.1.0"``, for reports.
        owned: Counts what is stored of a space: with it the kit checks that nothing expired stays.
        work: The backend's own count of statements so far; without it the kit counts lines of Python, and of a backend
            of more reach than one process says that it has seen a part.
        virtual_time: Time is virtual: for backends without threads, sockets and processes that take ``space.clock``.
        known_failures: Failures that are tracked, by promise number.

    Raises:
        BrokenUse: No such capability or promise, no async generator function, a name or capability given twice,
            *start* without *stop*, *durable* without both, a known failure that is no `KnownFailure`, or pytest runs
            without the kit's plugin.
    """
    if start is not None and stop is None:
        raise BrokenUse("start= needs stop=: give what ends the server, best by SIGKILL, to try a restart")
    if durable and (start is None or stop is None):
        raise BrokenUse("durable=True needs start= and stop=: nobody could hold the backend to it")
    known = next((one for one in CAPABILITIES if one == capability), None)
    if known is None:
        raise BrokenUse(f"there is no capability {capability!r}; there are {', '.join(CAPABILITIES)}")
    failures = dict(known_failures or {})
    _check_failures(failures, known)

    def decorate(function: Opening) -> Conformance:
        if not str(function.__module__).startswith(f"{__package__}."):  # a test file may import the kit's own ones
            _refuse_to_be_missed()
        name, code = getattr(function, "__name__", ""), getattr(function, "__code__", None)
        if code is None or not code.co_flags & 0x200:  # CO_ASYNC_GENERATOR
            raise BrokenUse(f"{name or function!r} must be an async generator function: 'async def' with one 'yield'")
        conformance = Conformance(
            known,
            plugin,
            name,
            function,
            FileRecipe(str(Path(code.co_filename).resolve()), function.__module__, name),
            code.co_firstlineno,
            start,
            stop,
            durable,
            server,
            owned,
            work,
            virtual_time,
            failures,
        )
        _register(function.__globals__, conformance)
        return conformance

    return decorate


def _check_failures(failures: Mapping[str, object], capability: str) -> None:
    for number, failure in failures.items():
        if number not in PROMISES or capability not in PROMISES[number].capabilities:
            raise BrokenUse(f"known_failures names {number!r}, which is no promise of {capability}")
        if not isinstance(failure, KnownFailure):
            wanted = "a KnownFailure(reason, link, date)"
            raise BrokenUse(f"known_failures gives {number} as {failure!r}: it must be {wanted}")


def _register(module: dict[str, Any], conformance: Conformance) -> None:
    """Remember *conformance* in its module, where a second one would silently replace it."""
    given = _given(module)
    for one in given:
        if isinstance(one, PluginConformance) or one.line == conformance.line:
            continue  # the same line again is a loop or a function that makes them: `refuse_lost` sees if one is lost
        where = f"lines {one.line} and {conformance.line} of {module.get('__file__', 'this module')}"
        if one.name == conformance.name:
            raise BrokenUse(f"two functions are named {one.name!r} ({where}): the second would hide the first")
        if (one.plugin, one.capability) == (conformance.plugin, conformance.capability):
            raise BrokenUse(f"{one.capability} of {one.plugin!r} is given twice ({where})")
    given.append(conformance)


def _given(module: dict[str, Any]) -> list[Conformance | PluginConformance]:
    """Return what *module* has conformed so far; one that is loaded again, with a new spec, begins anew."""
    spec: Any = module.get("__spec__")
    known: tuple[Any, list[Conformance | PluginConformance]] | None = module.get(_REGISTER)
    if known is None or known[0] is not spec:
        known = module[_REGISTER] = spec, []
    return known[1]


def refuse_lost(module: dict[str, Any]) -> None:
    """Refuse a module that conforms something which no name at its level holds, since nobody would run that.

    Args:
        module: Its names, after it was imported.

    Raises:
        BrokenUse: There is such a thing; the message has a line for each.
    """
    held = set(map(id, module.values()))
    lost = [one for one in (_given(module) if _REGISTER in module else ()) if id(one) not in held]
    if lost:
        why = "would never run: give it a name of its own at the level of the module, which nothing else takes"
        file = module.get("__file__", "this module")
        raise BrokenUse("\n".join(f"{file}:{one.line}: {one.label} {why}" for one in lost))


def _refuse_to_be_missed() -> None:
    """Refuse to be called while pytest imports a test file without the kit's plugin: it would run none of it.

    Raises:
        BrokenUse: That is so.
    """
    frame: FrameType | None = None if _PYTEST_PLUGIN in sys.modules else sys._getframe(1)
    while frame is not None:
        if (frame.f_globals.get("__name__"), frame.f_code.co_name) == ("_pytest.python", "importtestmodule"):
            raise BrokenUse(
                "pytest runs without the plugin of deerflow-conformance and would leave this out: "
                f"give it -p {_PYTEST_PLUGIN}, or do without PYTEST_DISABLE_PLUGIN_AUTOLOAD or -p no:..."
            )
        frame = frame.f_back


def _module_frame() -> FrameType | None:
    """Return where the module that is being imported has come to, if one is."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != "<module>":
        frame = frame.f_back
    return frame


@dataclass(frozen=True, slots=True, eq=False)
class PluginConformance:
    """Every capability that one installed plugin offers, to be tested; found out when asked for, not at import."""

    plugin: str
    connection: Mapping[str, Any] = field(repr=False)
    known_failures: Mapping[str, Mapping[str, KnownFailure]]
    line: int = 0

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"conform_plugin({self.plugin!r})"

    def conformances(self) -> list[Conformance]:
        """Load the plugin and return its capabilities.

        Raises:
            BrokenUse: It is not installed or broken, offers nothing, or a setting is bad.
        """
        from deerflow_conformance import plugin_opening  # noqa: PLC0415  # loads pydantic, which @conform does not need

        try:
            offered = plugin_opening.offered(self.plugin, self.connection)
        except (PluginError, ConfigError) as error:
            raise BrokenUse(str(error)) from None
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a hook or a validator that exits, or skips a test, would pass for a success
            raise BrokenUse(
                f"the backend {self.plugin!r} is broken: it raised {type(error).__name__}: {error}"
            ) from error
        if not offered:
            raise BrokenUse(f"the backend {self.plugin!r} offers no capability, so there is nothing to test")
        return [
            Conformance(
                capability,
                self.plugin,
                capability,
                plugin_opening.opening(self.plugin, capability, self.connection),
                PluginRecipe(self.plugin, capability, dict(self.connection)),
                server=plugin_opening.server(self.plugin, capability, self.connection),
                known_failures=self.known_failures.get(capability, {}),
            )
            for capability in offered
        ]


def conform_plugin(
    plugin: str,
    *,
    connection: Mapping[str, Any] | None = None,
    known_failures: Mapping[str, Mapping[str, KnownFailure]] | None = None,
) -> PluginConformance:
    """Test every capability of an installed plugin that plain settings are enough to open.

    Assign it to a name in a test file: ``test_acme = conform_plugin("acme", connection={"url": URL})``.

    Args:
        plugin: The entry point's name.
        connection: Its connection settings; the kit sets ``namespace``, never to the default one, and the timeouts.
        known_failures: Failures that are tracked, by capability and promise number.

    Raises:
        BrokenUse: *connection* sets a namespace or a timeout, *known_failures* is wrong as in `conform`, or pytest runs
            without the kit's plugin.
    """
    _refuse_to_be_missed()
    settings = dict(connection or {})
    for name in ("namespace", "timeout_seconds", "publish_timeout_seconds"):
        if name in settings:
            raise BrokenUse(f"--set, or connection= in a test, must not set {name}: each space of the kit has its own")
    failures = known_failures or {}
    for capability, by_number in failures.items():
        _check_failures(by_number, capability)
    frame = _module_frame()
    conformance = PluginConformance(plugin, settings, failures, 0 if frame is None else frame.f_lineno)
    if frame is not None:
        _given(frame.f_globals).append(conformance)
    return conformance
