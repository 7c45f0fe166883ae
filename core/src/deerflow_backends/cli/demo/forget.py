"""Removes what the demo wrote from a backend that outlives it.

Run as ``python -m deerflow_backends.cli.demo.forget RUN_ID USER_ID MODEL...`` once nobody writes any more; the
configuration comes from the environment.
"""

from __future__ import annotations

import sys
from functools import partial

from deerflow_backends.backends import open_backends
from deerflow_backends.cli.demo.child import report, run_child


async def forget(run_id: str, user_id: str, *models: str) -> None:
    """Remove the run's events, the user's memory and threads, and what was counted for the models."""
    async with open_backends() as backends:
        await backends.stream_bridge.cleanup(run_id)
        await backends.memory.erase(user_id)
        while threads := (await backends.thread_index.list(user_id)).items:
            for thread in threads:
                await backends.thread_index.delete(thread.thread_id, user_id=user_id)
        for model in models:
            await backends.counters.reset(model)
    report(done=True)


if __name__ == "__main__":
    sys.exit(run_child(partial(forget, *sys.argv[1:])))
