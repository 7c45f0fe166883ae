"""Which installed distributions offer which backends, and for which contract: told by metadata, importing none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, cast

from importlib_metadata import Distribution, EntryPoint, entry_points, version
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from deerflow_backends import CONTRACT_VERSION
from deerflow_backends.errors import PluginError
from deerflow_backends.mistakes import scrub, unknown
from deerflow_backends.sources import NAME

#: The entry-point group.
GROUP: Final = "deerflow_backends"
CORE: Final = "deerflow-backends"

#: What to install for the backends of our own distributions.
KNOWN: Final = {"redis": "deerflow-redis", "postgres": "deerflow-postgres", "mongo": "deerflow-mongo"}


class Offer(NamedTuple):
    """An installed distribution's offer of a backend, unseen.

    Attributes:
        point: Names the backend, and where its hooks are.
        source: The distribution.
    """

    point: EntryPoint
    source: Distribution

    @property
    def backend(self) -> str:
        """The name in configuration."""
        return self.point.name

    @property
    def who(self) -> str:
        """The distribution and its version."""
        return f"{self.source.name} {self.source.version}"

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"{self.who}, backend {self.backend!r}"

    @property
    def requires(self) -> list[Requirement]:
        """What the distribution, without its extras, requires of core on this machine."""
        found = []
        for line in self.source.requires or []:
            try:
                requirement = Requirement(line)
            except InvalidRequirement:
                continue
            marker = requirement.marker
            if canonicalize_name(requirement.name) == CORE and (marker is None or marker.evaluate({"extra": ""})):
                found.append(requirement)
        return found

    def load(self) -> Any:
        """Import the plugin, if its name and its metadata allow it.

        Raises:
            PluginError: The backend has a bad name, or is made for other versions of core; nothing was imported.
            Exception: Whatever the plugin raises.
        """
        if not NAME.fullmatch(self.backend):
            raise PluginError(
                f"{self.who} offers a backend called {self.backend!r}; its name must match {NAME.pattern}"
            )
        if canonicalize_name(self.source.name) != CORE:
            self._check_contract()
        return self.point.load()

    def _check_contract(self) -> None:
        requires = self.requires
        if not requires:
            major = int(CONTRACT_VERSION.partition(".")[0])
            remedy = f"its dependencies must include '{CORE}>={CONTRACT_VERSION},<{major + 1}'"
            raise PluginError(f"{self.label} does not say which contract it is made for; {remedy}")
        core = version(CORE)
        for requirement in requires:
            if not requirement.specifier.contains(core, prereleases=True):
                ours = f"{CORE} {core} with contract {CONTRACT_VERSION} is installed"
                wanted = f"{CORE}{requirement.specifier}"
                raise PluginError(f"{self.label} requires {wanted}, but {ours}; install versions that go together")


def offers() -> list[Offer]:
    """Return every offer, by backend; a distribution that is on the path twice counts as the first one."""
    found = [Offer(point, cast(Distribution, point.dist)) for point in entry_points(group=GROUP)]
    return sorted(found, key=lambda offer: (offer.backend, offer.who))


def names() -> list[str]:
    """Return the names of all installed backends, sorted."""
    return sorted({offer.backend for offer in offers()})


def find(backend: str) -> Offer:
    """Return the one offer of *backend*.

    Raises:
        PluginError: There is none, or more than one.
    """
    found = [offer for offer in offers() if offer.backend == backend]
    if not found:
        raise PluginError(_missing(backend))
    if len(found) > 1:
        raise PluginError(rivalry(found))
    return found[0]


def rivalry(found: Sequence[Offer]) -> str:
    """Say that several distributions offer one backend."""
    both = "both" if len(found) == 2 else "all"
    return f"{' and '.join(offer.who for offer in found)} {both} offer the backend {found[0].backend!r}; keep one"


def _missing(backend: str) -> str:
    if not NAME.fullmatch(backend):
        return scrub(f"{backend!r} is no backend's name; such a name matches {NAME.pattern}", ())
    if backend in KNOWN:
        return f"the backend {backend!r} is not installed; pip install {KNOWN[backend]}"
    return unknown(f"no installed distribution offers the backend {backend!r}", backend, names(), these="installed")
