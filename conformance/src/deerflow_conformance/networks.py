"""The network between a backend and its servers, in the kit's hands: one proxy for each server, disturbed together."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace

from deerflow_conformance.proxies import Proxy, open_proxy
from deerflow_conformance.routes import Address, Routes
from deerflow_conformance.spaces import Space


class Network:
    """What `Bench.network` gives. Its switches work on all servers of the space at once; see `Proxy` for each.

    Attributes:
        space: The space to open, also in other processes: its addresses lead through the proxies.
        proxies: One for each server that the author's function asked `Space.via` for.
    """

    def __init__(self, space: Space) -> None:
        self.proxies: list[Proxy] = []
        self.space = replace(space, routes=Routes(self._proxy_before))

    def _proxy_before(self, address: Address) -> Address:
        # Not awaited: `Space.via` is called in the middle of the author's function.
        infos = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
        made = open_proxy(infos[0][0], infos[0][4])
        self.proxies.append(made)
        return made.host, made.port

    @property
    def made(self) -> int:
        """How many connections were made so far."""
        return sum(one.made for one in self.proxies)

    @property
    def open(self) -> int:
        """How many connections are open at present."""
        return sum(one.open for one in self.proxies)

    @property
    def requests(self) -> int:
        """How many pieces of requests were passed on so far: what was written at once comes in one piece, mostly."""
        return sum(one.requests for one in self.proxies)

    @property
    def passed_bytes(self) -> int:
        """How many bytes were passed on so far, in both directions: what is asked together shows here all the same."""
        return sum(one.passed_bytes for one in self.proxies)

    def cut(self) -> None:
        """Reset every present connection."""
        for one in self.proxies:
            one.cut()

    def refuse(self) -> None:
        """Refuse new connections; the present ones stay."""
        for one in self.proxies:
            one.refuse()

    def accept(self) -> None:
        """Accept new connections again."""
        for one in self.proxies:
            one.accept()

    def hold(self) -> None:
        """Pass nothing on, and lose nothing."""
        for one in self.proxies:
            one.hold()

    def release(self) -> None:
        """End `hold`, `half_open` for new connections, and `throttle`."""
        for one in self.proxies:
            one.release()

    def half_open(self) -> None:
        """Swallow everything on present connections for good, and on new ones until `release`."""
        for one in self.proxies:
            one.half_open()

    def throttle(self, bytes_per_second: float) -> None:
        """Pass on so much in each direction of each connection, until `release`."""
        for one in self.proxies:
            one.throttle(bytes_per_second)

    def lose_reply(self, match: bytes = b"") -> Loss:
        """Let a server do the next request that contains *match*, and end the connection in place of its answer."""
        return Loss([one.lose_reply(match) for one in self.proxies])

    def lose_request(self, match: bytes = b"") -> Loss:
        """End the next connection on which *match* is sent, before a server gets that."""
        return Loss([one.lose_request(match) for one in self.proxies])

    def mend(self) -> None:
        """Take back everything that is still to be lost, and pass on what is held: the network is whole again."""
        for one in self.proxies:
            one.forget_losses()
            one.release()
            one.accept()

    async def close(self) -> None:
        """Reset every connection and remove the proxies."""
        await asyncio.gather(*(one.close() for one in self.proxies))


class Loss:
    """One reply or request that is to be lost, on whichever server it comes to first."""

    def __init__(self, events: list[asyncio.Event]) -> None:
        self._events = events

    @property
    def happened(self) -> bool:
        """Whether it was lost: if not, nothing that went through the network contained the match."""
        return any(event.is_set() for event in self._events)
