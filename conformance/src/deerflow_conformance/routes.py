"""Where addresses lead while the kit disturbs the network: to its proxies, in every process that opens the space."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from deerflow_conformance.results import BrokenUse

Address: TypeAlias = tuple[str, int]

#: The ports of schemes whose URLs may do without one.
_PORTS: Final = {"redis": 6379, "rediss": 6379, "valkey": 6379, "postgresql": 5432, "postgres": 5432, "mongodb": 27017}


class Routes:
    """Replaces addresses in URLs by others; by none, if not told to.

    It travels to other processes with what it knows, and makes no further routes there.

    Args:
        make: Returns the address to use in place of one that is asked for for the first time.

    Attributes:
        known: The address to use for each that was asked for.
    """

    def __init__(self, make: Callable[[Address], Address] | None = None) -> None:
        self.known: dict[Address, Address] = {}
        self._make = make

    def __reduce__(self) -> tuple[object, ...]:
        """Leave out what makes routes: proxies live in one process only."""
        return _known_routes, (self.known,)

    def through(self, url: str) -> str:
        """Return *url* with each of its addresses replaced by the route there.

        Raises:
            BrokenUse: There is no address in it.
        """
        if self._make is None and not self.known:
            return url
        try:
            parts = urlsplit(url)
            credentials, at, hosts = parts.netloc.rpartition("@")
            addresses = [_address(host, _PORTS.get(parts.scheme.partition("+")[0])) for host in hosts.split(",")]
        except ValueError:
            # The value is not shown: it may hold a password.
            raise BrokenUse(
                "space.via() takes a URL with a host and a port for each server, such as redis://host:6379"
            ) from None
        routed = ",".join(f"{host}:{port}" for host, port in map(self._route, addresses))
        return parts._replace(netloc=f"{credentials}{at}{routed}").geturl()

    def _route(self, address: Address) -> Address:
        if address not in self.known and self._make is not None:
            self.known[address] = self._make(address)
        return self.known.get(address, address)


def _known_routes(known: dict[Address, Address]) -> Routes:
    routes = Routes()
    routes.known = known
    return routes


def _address(text: str, default_port: int | None) -> Address:
    parts = urlsplit(f"//{text}")
    port = parts.port or default_port
    if not parts.hostname or port is None:
        raise ValueError(text)
    return parts.hostname, port
