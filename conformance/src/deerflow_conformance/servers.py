"""The author's server, stopped and started as he says, also in the middle of a check."""

from __future__ import annotations

import asyncio
import inspect
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from deerflow_conformance.results import BrokenUse

if TYPE_CHECKING:
    from deerflow_conformance.conformances import Conformance, Switch, Told


class Server:
    """Switches a conformance's server off and on; without ``start`` and ``stop`` both do nothing."""

    def __init__(self, conformance: Conformance) -> None:
        self._conformance = conformance
        self._stopped = False

    async def stop(self) -> None:
        """Stop it. The event loop goes on meanwhile, as do the kit's proxies.

        Raises:
            BrokenUse: The author's stop failed.
        """
        self._stopped = True
        await _aside(self._conformance.stop, "stop")

    async def start(self) -> None:
        """Start it again.

        Raises:
            BrokenUse: The author's start failed.
        """
        await _aside(self._conformance.start, "start")
        self._stopped = False

    def mend(self) -> None:
        """Start it if a check that failed half-way has left it stopped."""
        if self._stopped:
            self._stopped = False
            switch(self._conformance.start, "start")


def switch(function: Switch | None, name: str) -> None:
    """Call what the author gave as *name*, outside of any event loop.

    Raises:
        BrokenUse: It failed.
    """
    if function is not None:
        _called(function, name)


def told(function: Told | None) -> str | None:
    """Return what the author's ``server`` says, outside of any event loop; None if there is none.

    Raises:
        BrokenUse: It failed, or says something else than a text.
    """
    if function is None:
        return None
    answer = _called(function, "server")
    if answer is not None and not isinstance(answer, str):
        raise BrokenUse(f"server= must return a str, such as 'Valkey 9.1.0', not {answer!r}")
    return answer


def _called(function: Callable[[], Any], name: str) -> Any:
    try:
        answer = function()
        if not inspect.isawaitable(answer):
            return answer

        async def wait() -> Any:
            return await answer

        return asyncio.run(wait())
    except (KeyboardInterrupt, BrokenUse):
        raise
    except BaseException as error:
        raise BrokenUse(f"{name}= failed{_place(function, error)}: {error!r}") from None


def _place(function: Callable[[], Any], error: BaseException) -> str:
    """Say where *error* came from: in the file of *function* if it has one, else wherever it was raised."""
    own = getattr(getattr(function, "__code__", None), "co_filename", "")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    last = next((frame for frame in reversed(frames) if frame.filename == own), frames[-1] if frames else None)
    return "" if last is None else f" in {last.filename}, line {last.lineno}"


async def _aside(function: Switch | None, name: str) -> None:
    """Call it in a thread: it may block, and what it awaits belongs to a loop of its own."""
    with ThreadPoolExecutor(1, thread_name_prefix="the author's server") as executor:
        await asyncio.get_running_loop().run_in_executor(executor, switch, function, name)
