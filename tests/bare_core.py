"""Check core as `pip install deerflow-backends` leaves it: no extra, no pytest. The session `tests` runs this."""

import asyncio
import os
import shutil
import subprocess
import sys
import sysconfig

import deerflow_backends


async def publish() -> str:
    """Open what an unconfigured program gets and use it once; return the first event's id."""
    async with deerflow_backends.open_backends() as backends:
        return await backends.stream_bridge.publish("run", "values", {"step": 1})


def main() -> None:
    """Leave with a message at the first thing that is not as promised."""
    for name in deerflow_backends.__all__:
        getattr(deerflow_backends, name)

    for variable in [name for name in os.environ if name.startswith(("DEERFLOW", "DEER_FLOW"))]:
        del os.environ[variable]
    if not asyncio.run(publish()):
        sys.exit("publishing in process gave no id")

    command = shutil.which("deerflow-backends", path=sysconfig.get_path("scripts"))
    if command is None:
        sys.exit("the command deerflow-backends is not installed")
    run = subprocess.run([command, "list"], capture_output=True, text=True, timeout=60, check=False)
    if run.returncode == 0 or "Traceback" in run.stderr or "deerflow-backends[cli]" not in run.stderr:
        sys.exit(f"without its extra the command does not say what to install:\n{run.stdout}{run.stderr}")


main()
