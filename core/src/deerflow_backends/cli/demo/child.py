"""The side of a child process: it reports to the program over stdout, and hears of it over stdin."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from deerflow_backends.codec import encode
from deerflow_backends.errors import BackendsError, ConfigError, PluginError

#: How long a child may take to end itself once the program is gone.
_GRACE_SECONDS: Final = 5.0


def report(**facts: Any) -> None:
    """Tell the program one thing, as one line of JSON."""
    print(encode(facts).decode(), flush=True)  # noqa: T201  # this is the channel to the program


def hear(*, told: Callable[[], object], gone: Callable[[], object]) -> None:
    """Call *told* in this event loop when the program writes to stdin, and *gone* when it closes that or dies.

    The process is ended the hard way if it is still there some seconds after that.
    """
    loop = asyncio.get_running_loop()

    def wait() -> None:
        while os.read(0, 1):
            loop.call_soon_threadsafe(told)
        loop.call_soon_threadsafe(gone)
        time.sleep(_GRACE_SECONDS)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def run_child(main: Callable[[], Coroutine[Any, Any, None]]) -> int:
    """Run *main*, report an error of the backends as one line, and return the exit code."""
    try:
        asyncio.run(main())
    except BackendsError as error:
        report(error=str(error), ours_to_fix=isinstance(error, ConfigError | PluginError))
        return 2
    except asyncio.CancelledError:
        return 1  # the program is gone, and nobody is left to be told
    return 0
