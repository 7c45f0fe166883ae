"""The worker of the demo: it streams one run, keeps its thread's entry up to date and counts its model calls.

Run as ``python -m deerflow_backends.cli.demo.worker RUN_ID THREAD_ID USER_ID MODEL_PREFIX``; the configuration comes
from the environment. It begins when the program says so, and reports every event that it published.
"""

from __future__ import annotations

import asyncio
import sys
import time
from functools import partial
from typing import Final

from deerflow_backends.backends import Backends, open_backends
from deerflow_backends.cli.demo.child import hear, report, run_child
from deerflow_backends.cli.demo.script import NODES, digest, run_events
from deerflow_backends.threads import NewThread

#: About as fast as a good model streams its tokens to one user.
_EVENTS_PER_SECOND: Final = 170.0


async def stream_run(backends: Backends, run_id: str, thread_id: str) -> None:
    """Publish the run's events at a steady pace, one at a time as a worker does, and end the run."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    for event, data in run_events(run_id, thread_id):
        await asyncio.sleep(max(0.0, due - loop.time()))
        due += 1.0 / _EVENTS_PER_SECOND
        at = time.time()
        event_id = await backends.stream_bridge.publish(run_id, event, data)
        report(id=event_id, digest=digest(event, data), at=at)
    await backends.stream_bridge.publish_end(run_id)


async def work(run_id: str, thread_id: str, user_id: str, model_prefix: str) -> None:
    """Do what DeerFlow's worker does for one run."""
    task = asyncio.current_task()
    begin = asyncio.Event()
    async with open_backends() as backends:
        if task is not None:
            hear(told=begin.set, gone=task.cancel)
        report(ready=True)
        await begin.wait()
        threads = backends.thread_index
        await threads.create(NewThread(thread_id, user_id, assistant_id="lead_agent", status="running"))
        await stream_run(backends, run_id, thread_id)
        for node in NODES:
            await backends.counters.record(f"{model_prefix}{node.model}", calls=1, successes=1)
        await threads.update(
            thread_id, user_id=user_id, status="idle", display_name="Red deer in winter", expected_status="running"
        )
    report(done=True)


if __name__ == "__main__":
    sys.exit(run_child(partial(work, *sys.argv[1:5])))
