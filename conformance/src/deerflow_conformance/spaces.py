"""What an author's function opens its capability on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deerflow_backends.clocks import Clock
from deerflow_conformance.routes import Routes


@dataclass(frozen=True, slots=True)
class Space:
    """One place for data: the same space is the same data, another space none of it.

    Attributes:
        name: Unique, ``[a-z][a-z0-9_]*``: fit for a namespace, a schema, a database or a key prefix.
        options: The capability's options to open with.
        folder: A folder of this run for backends that keep files, the same for all of its spaces; removed afterwards.
        clock: Microseconds since 1970, for backends that take a clock; virtual where the run's time is.
        timeout_seconds: How long a call may wait for its server.
        publish_timeout_seconds: How long a call that publishes may.
    """

    name: str
    options: Any
    folder: Path
    clock: Clock
    timeout_seconds: float = 5.0
    publish_timeout_seconds: float = 60.0
    routes: Routes = field(default_factory=Routes, repr=False, compare=False)

    def via(self, url: str) -> str:
        """Return the address to connect to in place of *url*.

        It is *url* itself but where the kit disturbs the network: then its hosts and ports are those of the kit's
        proxies, everything else stays.

        Args:
            url: Such as ``redis://user:password@localhost:6379/0`` or ``mongodb://one:27017,two:27017/``.

        Raises:
            BrokenUse: The kit is to stand between, and *url* has no host and port to stand before.
        """
        return self.routes.through(url)
