"""The bench: what checks stand on has to be firm itself."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import strategies as st

from deerflow_backends.streams import Reach
from deerflow_conformance import bench as benches
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import NotApplicable, Unkept, check, checks_of, expect, unkept
from deerflow_conformance.conformances import PluginRecipe
from deerflow_conformance.promises import CAPABILITIES, HARNESS, LEVELS, PROMISES, levels_of, promises_of
from deerflow_conformance.reference import REFERENCE
from deerflow_conformance.virtual_time import START_MICROSECONDS


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench(REFERENCE[0])
    yield bench
    bench.close()


def bench_of(**changes: Any) -> Bench:
    return Bench(replace(REFERENCE[0], **changes))


def test_spaces_are_told_apart(bench: Bench) -> None:
    """Each space has a name of its own, fit for a namespace, also in another run, and the options asked for."""
    other = Bench(REFERENCE[0])
    names = [one.space().name for one in (bench, bench, other)]
    other.close()
    assert len(set(names)) == 3
    assert all(name.isascii() and name.replace("_", "").isalnum() and name[0].islower() for name in names)
    assert bench.space(max_events=3).options.max_events == 3
    short = bench.space(max_events=3)
    long = bench.space_like(short)
    assert long.name.startswith(short.name)
    assert long.options == short.options
    assert long.name not in {bench.space().name for _ in range(3)} | {short.name}


def test_the_folder_goes_with_the_bench() -> None:
    """The folder for files is there during a run and gone afterwards."""
    bench = Bench(REFERENCE[0])
    folder = bench.space().folder
    assert folder.is_dir()
    bench.close()
    assert not folder.exists()


def test_two_openings_and_a_replica_share_a_space(bench: Bench) -> None:
    """Instances on one space see the same data; within one process a replica is a second instance."""

    async def body() -> None:
        space = bench.space()
        async with bench.open(space) as one, bench.open(space) as two, bench.replica(space) as three:
            await one.publish("run", "event", 1)
            assert (await two.status("run")).length == (await three.status("run")).length == 1
            assert len({id(one), id(two), id(three)}) == 3

    bench.run(body)


def test_exploring_is_reproducible() -> None:
    """The same seed draws the same programs, another one others; the budget scales how many."""

    def drawn(seed: int, budget: float = 1.0) -> list[int]:
        bench = Bench(REFERENCE[0], seed=seed, budget=budget)
        programs: list[int] = []

        async def body(program: int) -> None:
            programs.append(program)

        bench.explore(st.integers(0, 10**9), body)
        bench.close()
        return programs

    assert drawn(1) == drawn(1) != drawn(2)
    assert len(drawn(1)) == 16
    assert len(drawn(1, budget=0.25)) == 4
    assert len(drawn(1, budget=0.001)) == 3


def test_each_example_has_an_event_loop_of_its_own(bench: Bench) -> None:
    """No example sees what another one left in the loop, and virtual time begins anew."""
    loops: list[asyncio.AbstractEventLoop] = []
    times: set[float] = set()

    async def body(program: int) -> None:
        loops.append(asyncio.get_running_loop())
        times.add(loops[-1].time())
        await bench.sleep(100)

    bench.explore(st.integers(), body)
    assert len({id(loop) for loop in loops}) == len(loops) > 3
    assert len(times) == 1


def test_a_failing_program_is_shortened(bench: Bench) -> None:
    """The failure that is raised is the shortest program's, and that program is kept."""

    async def body(program: list[str]) -> None:
        await bench.sleep(1)
        expect("b" not in program, "no b", program)

    with pytest.raises(Unkept) as failed:
        bench.explore(st.lists(st.sampled_from("abc")), body)
    assert failed.value.got == "['b']"
    assert bench.program == "['b']"


def test_a_program_may_be_shortened_too_little(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the time for it is over the shortest that was found is kept, and says that it may not be the shortest."""
    monkeypatch.setattr(benches, "_SHRINK_SECONDS", 0.0)

    async def body(program: list[str]) -> None:
        expect("b" not in program, "no b", program)

    with pytest.raises(Unkept):
        bench.explore(st.lists(st.sampled_from("abc"), min_size=9), body)
    assert bench.program is not None
    assert bench.program.splitlines()[1:] == ["# the shortest that was found in 0 s"]


def test_a_failure_that_comes_and_goes_is_a_failure(bench: Bench) -> None:
    """A backend that fails only sometimes fails, and the reader is told."""
    calls: list[int] = []

    async def body(program: int) -> None:
        calls.append(program)
        expect(len(calls) != 5, "luck", "none")

    with pytest.raises(Unkept) as failed:
        bench.explore(st.integers(), body)
    assert "not deterministic" in failed.value.__notes__[0]
    assert bench.program is not None


def test_a_passing_run_leaves_no_program(bench: Bench) -> None:
    """A program of an earlier failure is not shown with a later one."""

    async def fail(program: int) -> None:
        unkept("nothing", program)

    async def body() -> None:
        raise LookupError

    with pytest.raises(Unkept):
        bench.explore(st.integers(), fail)
    with pytest.raises(LookupError):
        bench.run(body)
    assert bench.program is None


@pytest.mark.parametrize(
    ("changes", "reach", "words"),
    [
        ({}, "host", "its reach is one host: there is no server that could be killed"),
        ({"start": print}, "host", "the function was not given durable=True, so no server was killed"),
        ({}, "network", "the function was not given durable=True, so no server was killed"),
        (
            {"recipe": PluginRecipe("acme", "counters", {})},
            "network",
            "only a test file's function can be given durable=True, so no server was killed",
        ),
    ],
)
def test_what_nobody_could_give_is_not_asked_for(changes: dict[str, Any], reach: Reach, words: str) -> None:
    """Where there is no server, or no function, the reason for a part that does not apply says so."""
    bench = bench_of(**changes)
    bench.declared(reach, {})
    with pytest.raises(NotApplicable, match=f"^{words}$"):
        bench.without_server("durable=True", "killed")
    bench.close()


def test_not_applicable_is_not_explored_further(bench: Bench) -> None:
    """What does not apply says so once, without being taken for a failure."""
    calls: list[int] = []

    async def body(program: int) -> None:
        calls.append(program)
        bench.not_applicable("no such thing")

    with pytest.raises(NotApplicable, match="no such thing"):
        bench.explore(st.integers(), body)
    assert len(calls) == 1


def test_soon_has_a_deadline(bench: Bench) -> None:
    """What comes in time is returned, what raises raises, and what does not come fails the check by name."""

    async def answer(seconds: float) -> int:
        await asyncio.sleep(seconds)
        return 7

    async def raises() -> None:
        raise TimeoutError("the backend's own")

    async def body() -> None:
        assert await bench.soon(answer(14)) == 7
        with pytest.raises(TimeoutError, match="own"):
            await bench.soon(raises())
        with pytest.raises(Unkept, match=r"answer within 15 s, got nothing"):
            await bench.soon(answer(16))
        with pytest.raises(Unkept, match=r"answer within 2 s"):
            await bench.soon(answer(3), seconds=2)

    bench.run(body)


def test_the_clock_is_virtual_with_the_time(bench: Bench) -> None:
    """A space's clock goes with virtual time where that is asked for, and is the host's clock elsewhere."""

    async def body() -> None:
        clock = bench.space().clock
        before = clock()
        await bench.sleep(12)
        assert clock() - before == 12_000_000
        assert before > START_MICROSECONDS

    bench.run(body)
    real = bench_of(virtual_time=False)
    assert real.space().clock() != START_MICROSECONDS
    assert (real.virtual, bench.virtual) == (False, True)
    real.close()


def _work_of(bench: Bench, call: Callable[[], Any]) -> int:
    measured: list[int] = []

    async def body() -> None:
        before = bench.work()
        call()
        measured.append(bench.work() - before)

    bench.run(body)
    return measured[0]


def test_work_counts_lines(bench: Bench) -> None:
    """Twice the loop is about twice the work, though nothing is called; the same work counts the same."""

    def loop(rounds: int) -> Callable[[], int]:
        return lambda: sum(1 for _ in range(rounds))

    few, many = _work_of(bench, loop(100)), _work_of(bench, loop(10_000))
    assert many > 50 * few > 0
    assert _work_of(bench, loop(100)) == few


def test_work_is_the_authors_count_where_there_is_one() -> None:
    """The backend's own count of statements is taken instead."""
    statements = [5]
    bench = bench_of(work=lambda: statements[0])
    assert _work_of(bench, lambda: statements.append(statements.pop() + 3)) == 3
    bench.close()


def test_owned_is_the_authors_count_or_none(bench: Bench) -> None:
    """The author's count is taken, awaited or not; without one there is None."""

    async def owned(space: Any) -> int:
        return 4

    without, counting, plain = bench_of(owned=None), bench_of(owned=owned), bench_of(owned=lambda space: 3)

    async def body() -> None:
        assert await without.owned(bench.space()) is None
        assert await counting.owned(bench.space()) == 4
        assert await plain.owned(bench.space()) == 3

    bench.run(body)
    for one in (without, counting, plain):
        one.close()


def test_checks_register_by_number_with_a_docstring() -> None:
    """A check names an existing promise and says what it tests, under a name of its own."""
    with pytest.raises(ValueError, match="no promise 'S17'"):
        check("S17")

    def undocumented(bench: Bench) -> None: ...

    with pytest.raises(ValueError, match="docstring"):
        check("S1")(undocumented)
    taken = checks_of("S1")[0]
    with pytest.raises(ValueError, match="already"):
        check("S1")(taken.function)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_promise_has_a_check_at_its_level(capability: Any) -> None:
    """No counted promise is without a test at the level that it counts from, and none is tested below it."""
    for promise in promises_of(capability):
        levels = [one.level for one in checks_of(promise.number)]
        assert levels, promise.number
        assert min(levels, key=LEVELS.index) == promise.level, promise.number


def test_a_check_is_not_below_its_promise() -> None:
    """A check of a level that its promise does not count at yet is a mistake: the promise would look tested."""

    def early(bench: Bench) -> None:
        """It comes early."""

    with pytest.raises(ValueError, match="S16 is tested from L3 on, not at L1"):
        check("S16")(early)


def test_what_runs_follows_from_what_is_asked_for_and_the_reach() -> None:
    """L3 needs a reach beyond one process, and is not silently left out where it was asked for by name."""
    assert levels_of("L1", "network") == ("L0", "L1")
    assert levels_of("load", "process") == ("L0", "L1", "L2", "load")
    assert levels_of("load", "host") == levels_of("load", "network") == LEVELS
    assert levels_of("L3", "process") == levels_of("L3", "host") == ("L0", "L1", "L2", "L3")


def test_promises_are_numbered_without_holes() -> None:
    """The numbers are those of contract 1.0, each with a sentence, building on promises of the same capability."""
    wanted = [
        f"{letter}{n}" for letter, most in zip("GSMTC", (13, 16, 12, 11, 7), strict=True) for n in range(1, most + 1)
    ]
    assert list(PROMISES) == wanted
    for capability in CAPABILITIES:
        order = [promise.number for promise in promises_of(capability)]
        for promise in promises_of(capability):
            assert promise.sentence.endswith(".")
            needed = promise.needed_for(capability)
            assert all(order.index(one) < order.index(promise.number) for one in needed)
    assert HARNESS.number not in PROMISES
    assert [promise.number for promise in PROMISES.values() if not promise.counted] == ["M10"]
    assert {n for n, promise in PROMISES.items() if promise.level == "L3"} == {"G7", "G12", "S16"}
    assert {n for n, promise in PROMISES.items() if promise.level == "L2"} == {"G5"}
