"""One body in one fresh event loop: with a deadline, and with nothing left over afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import random
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Coroutine, Iterator
from types import FrameType
from typing import Any, Final

from deerflow_conformance.virtual_time import Deadlock, VirtualTimeLoop

REAL_SECONDS: Final = 60.0
VIRTUAL_SECONDS: Final = 600.0
#: What a task or thread that was told to end may still take, in real seconds.
_SETTLE_SECONDS: Final = 0.25


class Hang(AssertionError):
    """The body did not end within its deadline."""


class Blocked(BaseException):
    """The body did not even give the event loop a chance to end it. No `Exception`: nothing may swallow it."""


class Leftover(AssertionError):
    """The body ended, and something that it started had not."""


def run_isolated(
    body: Callable[[], Coroutine[Any, Any, None]],
    *,
    virtual: bool,
    shuffled: random.Random | None = None,
    virtual_seconds: float = VIRTUAL_SECONDS,
) -> None:
    """Run *body* to its end in an event loop of its own.

    Args:
        body: Makes the coroutine to run.
        virtual: Whether time is virtual.
        shuffled: In virtual time, draws the order in which tasks go on that could do so at the same moment.
        virtual_seconds: In virtual time, the deadline.

    Raises:
        Hang: It did not end within 60 s, or *virtual_seconds* of virtual time, or waits for nothing that could come.
        Blocked: It blocked its thread for longer than that.
        Leftover: A task, thread, file handle or un-awaited coroutine outlived it, or Python warned of one.

    What *body* itself raises comes before what it left over.
    """
    threads, handles = set(threading.enumerate()), open_handles()
    complaints: list[str] = []
    with _complaints_to(complaints), _blocking_ends_after(REAL_SECONDS + 10):
        loops = functools.partial(VirtualTimeLoop, shuffled) if virtual else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=loops) as runner:
            # In place of what calls its handler, which whoever runs in it can replace, so that nobody would hear.
            loop = runner.get_loop()
            loop.call_exception_handler = lambda context: complaints.append(_told(context))  # type: ignore[method-assign]
            try:
                runner.run(_supervised(body, virtual_seconds if virtual else REAL_SECONDS))
            except Deadlock as error:
                raise Hang(f"{error}\n{_where_tasks_wait(loop)}") from None
        _collect_cycles(complaints)
    complaints += _left_threads(threads) + _left_handles(handles)
    if complaints:
        raise Leftover("\n".join(complaints))


async def _supervised(body: Callable[[], Coroutine[Any, Any, None]], seconds: float) -> None:
    loop = asyncio.get_running_loop()
    task = loop.create_task(body(), name="the check")
    done, _ = await asyncio.wait([task], timeout=seconds)
    if not done:
        where = _where_tasks_wait(loop)
        task.cancel()
        await asyncio.wait([task], timeout=_SETTLE_SECONDS)
        raise Hang(f"no end within {seconds:.0f} s\n{where}")
    task.result()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        _, others = await asyncio.wait(others, timeout=_SETTLE_SECONDS)
    if others:
        raise Leftover("left running: " + ", ".join(sorted(map(described, others))))


def described(task: asyncio.Task[Any]) -> str:
    """Return a task's name, what it runs, and its innermost line that is not asyncio's own."""
    named = f"task {task.get_name()!r} of {getattr(task.get_coro(), '__qualname__', task.get_coro())}"
    frames = _frames_of(task)
    return f"{named}, at {frames[-1].filename}, line {frames[-1].lineno}, in {frames[-1].name}" if frames else named


def _frames_of(task: asyncio.Task[Any]) -> traceback.StackSummary:
    """Return the lines at which a suspended task waits, innermost last; asyncio itself tells the outermost only."""
    frames: list[FrameType] = []
    awaiting: Any = task.get_coro()
    while awaiting is not None:
        frames += [found for name in ("cr_frame", "gi_frame", "ag_frame") if (found := getattr(awaiting, name, None))]
        awaiting = getattr(awaiting, "cr_await", None) or getattr(awaiting, "gi_yieldfrom", None)
    theirs = [(frame, frame.f_lineno) for frame in frames if "/asyncio/" not in frame.f_code.co_filename]
    return traceback.StackSummary.extract(theirs)


def _where_tasks_wait(loop: asyncio.AbstractEventLoop) -> str:
    """Return the innermost lines of every task that is not done."""
    tasks = [task for task in asyncio.all_tasks(loop) if "_supervised" not in repr(task.get_coro())]
    return "\n".join(
        f"{described(task)}\n{''.join(traceback.format_list(_frames_of(task)[-4:])).rstrip()}"
        for task in sorted(tasks, key=described)
    )


def _told(context: dict[str, Any]) -> str:
    error = context.get("exception")
    return str(context["message"]) + (f": {error!r}" if error else "")


@contextlib.contextmanager
def _complaints_to(complaints: list[str]) -> Iterator[None]:
    """Collect what Python only prints: exceptions that nobody gets, and warnings of leaks; and that it may not."""
    before = sys.unraisablehook

    def unraisable(what: Any) -> None:
        complaints.append(f"{what.err_msg or 'exception ignored in'} {what.object!r}: {what.exc_value!r}")

    with warnings.catch_warnings():
        show = warnings.showwarning

        def showwarning(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
            if issubclass(category, RuntimeWarning | ResourceWarning):
                complaints.append(f"{category.__name__}: {message}")
            else:
                show(message, category, *rest, **more)

        warnings.simplefilter("always", RuntimeWarning)
        warnings.simplefilter("always", ResourceWarning)
        warnings.showwarning = showwarning
        sys.unraisablehook = unraisable
        try:
            yield
            complaints += _silenced(showwarning, unraisable)
        finally:
            sys.unraisablehook = before


def _silenced(showwarning: object, unraisable: object) -> list[str]:
    """Tell of what now keeps Python from complaining: to be quiet about all of a kind is for a host to say."""
    found = [
        f"{category.__name__}s are ignored, wherever they come from: a filter of warnings was left, which hides leaks"
        for category in (RuntimeWarning, ResourceWarning)
        if _action(category) == "ignore"
    ]
    if warnings.showwarning is not showwarning:
        found.append("warnings.showwarning was replaced, which hides leaks")
    if sys.unraisablehook is not unraisable:
        found.append("sys.unraisablehook was replaced, which hides exceptions")
    return found


def _action(category: type[Warning]) -> str:
    """Return what is done with every warning of a category, by the first filter that is about all of them."""
    for action, message, filtered, module, line in warnings.filters:
        if message is None and module is None and not line and issubclass(category, filtered):
            return action
    return "default"


def _collect_cycles(complaints: list[str]) -> None:
    """Let what is already unreachable complain now, under this body's name.

    Only the young generations: a full collection takes longer than most bodies, and `Bench` does one at the end.
    """
    gc.collect(1)


@contextlib.contextmanager
def _blocking_ends_after(seconds: float) -> Iterator[None]:
    """Raise `Blocked` in this thread once it has been here for *seconds*.

    Does nothing off the main thread and where somebody else uses the timer (pytest-timeout does): then a blocked
    thread is theirs to end.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or not hasattr(signal, "setitimer")
        or signal.getitimer(signal.ITIMER_REAL)[0]
    ):
        yield
        return

    def ring(*_: object) -> None:
        raise Blocked(f"the event loop was blocked for more than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def open_handles() -> dict[int, str]:
    """Return this process's file handles and what they are open on; empty where the system does not tell."""
    found: dict[int, str] = {}
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


def _left_handles(before: dict[int, str]) -> list[str]:
    left = {handle: target for handle, target in open_handles().items() if before.get(handle) != target}
    if left:
        gc.collect()
        left = {handle: target for handle, target in open_handles().items() if left.get(handle) == target}
    return [f"file handle {handle} is still open on {target}" for handle, target in sorted(left.items())]


def _left_threads(before: set[threading.Thread]) -> list[str]:
    left = [thread for thread in threading.enumerate() if thread not in before]
    deadline = time.monotonic() + _SETTLE_SECONDS
    for thread in left:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [f"thread {thread.name!r} still runs" for thread in left if thread.is_alive()]
