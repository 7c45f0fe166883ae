"""One body in one event loop: its failure comes first, then whatever it left over, and no hang is for ever."""

import asyncio
import contextlib
import sys
import threading
import time
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from deerflow_conformance import isolation
from deerflow_conformance.isolation import Blocked, Hang, Leftover, run_isolated

both = pytest.mark.parametrize("virtual", [True, False], ids=["virtual", "real"])
Body = Callable[[], Coroutine[Any, Any, None]]


async def forget_a_task() -> None:
    await asyncio.sleep(0)
    forgotten.append(asyncio.create_task(asyncio.sleep(3_600), name="forgotten"))


async def forget_to_await() -> None:
    asyncio.sleep(1)  # type: ignore[unused-coroutine]


async def lose_an_exception() -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    asyncio.ensure_future(fail())  # noqa: RUF006  # that nobody looks at it is the point
    await asyncio.sleep(0.01)


async def fail_in_del() -> None:
    class Failing:
        def __del__(self) -> None:
            raise ZeroDivisionError

    Failing()


async def silence_the_loop_and_lose_an_exception() -> None:
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    await lose_an_exception()


async def silence_warnings() -> None:
    warnings.simplefilter("ignore")


async def silence_warnings_of_leaks() -> None:
    warnings.simplefilter("ignore", ResourceWarning)


async def take_warnings() -> None:
    warnings.showwarning = lambda *told, **more: None


async def silence_what_cannot_be_raised() -> None:
    sys.unraisablehook = lambda what: None


async def leave_a_cycle() -> None:
    class Failing:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            raise ZeroDivisionError

    Failing()


forgotten: list[Any] = []


@both
@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (forget_a_task, "task 'forgotten' of sleep"),
        (forget_to_await, "was never awaited"),
        (lose_an_exception, "ZeroDivisionError"),
        (fail_in_del, "ZeroDivisionError"),
        (leave_a_cycle, "ZeroDivisionError"),
        (silence_the_loop_and_lose_an_exception, "ZeroDivisionError"),
        (silence_warnings, "RuntimeWarnings are ignored[^§]*ResourceWarnings are ignored"),
        (silence_warnings_of_leaks, "ResourceWarnings are ignored"),
        (take_warnings, "showwarning was replaced"),
        (silence_what_cannot_be_raised, "unraisablehook was replaced"),
    ],
)
def test_what_is_left_over_is_told(body: Body, complaint: str, virtual: bool) -> None:
    """A task, an un-awaited coroutine or an exception that nobody gets fails the body, by name."""
    with pytest.raises(Leftover, match=complaint):
        run_isolated(body, virtual=virtual)


@both
def test_what_is_quiet_about_little_is_no_leftover(virtual: bool) -> None:
    """A filter for warnings of one's own, of one module or for a moment hides nothing; nor does a handler by itself."""

    async def body() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        warnings.filterwarnings("ignore", message="size changed")
        warnings.filterwarnings("ignore", module="acme")
        warnings.simplefilter("ignore", DeprecationWarning)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")

    run_isolated(body, virtual=virtual)


@both
@pytest.mark.parametrize("left", [True, False], ids=["left over", "hanging"])
def test_where_a_task_stands_is_told(left: bool, virtual: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a task that is left over, and of each that hangs, the line at which it waits is shown, however deep."""
    monkeypatch.setattr(isolation, "REAL_SECONDS", 0.2)

    async def innermost() -> None:
        await asyncio.sleep(3_600)

    async def outer() -> None:
        await innermost()

    async def body() -> None:
        if not left:
            await outer()
        forgotten.append(asyncio.create_task(outer(), name="forgotten"))
        await asyncio.sleep(0)

    with pytest.raises(Leftover if left else Hang) as told:
        run_isolated(body, virtual=virtual)
    line = innermost.__code__.co_firstlineno + 1
    what = "'forgotten' of test_where_a_task_stands_is_told.<locals>.outer" if left else "'the check' of "
    assert what in str(told.value)
    assert f"{__file__}, line {line}, in innermost" in str(told.value)


def test_an_open_file_is_told(tmp_path: Path) -> None:
    """A file handle that outlives the body fails it, naming the file."""
    path = tmp_path / "left open"

    async def body() -> None:
        forgotten.append(path.open("w"))

    with pytest.raises(Leftover, match="left open"):
        run_isolated(body, virtual=False)
    forgotten.pop().close()


def test_a_running_thread_is_told() -> None:
    """A thread that outlives the body fails it, by name."""
    done = threading.Event()

    async def body() -> None:
        threading.Thread(target=done.wait, name="worker").start()

    with pytest.raises(Leftover, match="'worker' still runs"):
        run_isolated(body, virtual=False)
    done.set()


@both
def test_what_ends_in_time_is_no_leftover(virtual: bool) -> None:
    """Iterators that are dropped and tasks that are ending leave nothing over."""

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0.01)

    async def body() -> None:
        assert await anext(numbers()) == 1
        task = asyncio.create_task(asyncio.sleep(3_600))
        await asyncio.sleep(0)
        task.cancel()

    run_isolated(body, virtual=virtual)


@both
def test_a_failure_comes_before_leftovers(virtual: bool) -> None:
    """What the body raises is what is seen, whatever it leaves over."""

    async def body() -> None:
        await forget_a_task()
        raise LookupError("the point")

    with pytest.raises(LookupError, match="the point"):
        run_isolated(body, virtual=virtual)


def test_a_hang_in_virtual_time_is_told() -> None:
    """A body that waits for ever ends with the place where it waits."""

    async def body() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Hang, match=r"no end within 600 s[^§]*asyncio.Event\(\).wait\(\)"):
        run_isolated(body, virtual=True)


def test_a_body_may_take_hours_of_virtual_time() -> None:
    """A body that sleeps longer than 600 s ends if it was said that it does, and not later than that."""

    async def body() -> None:
        await asyncio.sleep(7_200)

    run_isolated(body, virtual=True, virtual_seconds=7_300)
    with pytest.raises(Hang, match="no end within 7000 s"):
        run_isolated(body, virtual=True, virtual_seconds=7_000)


def test_a_hang_in_real_time_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in real time, also if the body resists being cancelled."""
    monkeypatch.setattr(isolation, "REAL_SECONDS", 0.1)

    async def body() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.sleep(0.01)

    with pytest.raises(Hang, match=r"asyncio.Event\(\).wait\(\)"):
        run_isolated(body, virtual=False)


@both
def test_a_blocked_loop_is_ended(monkeypatch: pytest.MonkeyPatch, virtual: bool) -> None:
    """A body that blocks its thread is ended too, where no event loop could."""
    monkeypatch.setattr(isolation, "REAL_SECONDS", -9.8)

    async def body() -> None:
        time.sleep(30)  # blocking is the point

    with pytest.raises(Blocked, match="blocked"):
        run_isolated(body, virtual=virtual)
