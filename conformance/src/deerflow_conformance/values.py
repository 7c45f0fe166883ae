"""Checks of values and their size, for all four capabilities: G2 and G3."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import pathlib
import uuid
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from hypothesis import strategies as st

from deerflow_backends.codec import MAX_BYTES, encode
from deerflow_backends.counters import MAX_COUNT, Counts, Recorded
from deerflow_backends.memories import PutFact
from deerflow_backends.threads import NewThread
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check, expect, unkept
from deerflow_conformance.expectations import accepted, refused_call
from deerflow_conformance.faces import RUN, USER, Place, face_of
from deerflow_conformance.programs import (
    MAX_DEPTH,
    VALUES,
    bad_values,
    json_values,
    nested,
    same,
)
from deerflow_conformance.subscribers import reading

# ------------------------------------------------------------------------------------------------------ G2 values


def _fit(place: Place, value: Any) -> Any:
    """The value, in an object where the place takes only objects."""
    return {"v": value} if place.is_object and not isinstance(value, dict) else value


async def _comes_back(opened: Any, place: Place, value: Any) -> None:
    value = _fit(place, value)
    await accepted(place.write(opened, value), f"{_short(value)} as {place.name}")
    got = await place.read(opened)
    if not same(got, value):
        unkept(f"{place.name} to come back as {_short(value)}", _short(got))


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except RecursionError:
        return f"<a {type(value).__name__} too deep to show>"
    return text if len(text) <= 300 else f"{text[:300]}… ({len(text)} characters)"


@check("G2")
def odd_values_come_back_as_they_were(bench: Bench) -> None:
    """Huge integers, -0.0, denormals, U+0000, odd keys, 200 levels: what is read equals what was written, by type."""
    face = face_of(bench.capability)

    async def body() -> None:
        async with bench.open(**face.few) as opened:
            for place in face.places:
                deep = [
                    nested(MAX_DEPTH - place.levels, mixed=mixed, innermost=leaf)
                    for mixed in (False, True)
                    for leaf in (None, 1.0)
                ]
                for value in (*VALUES, *deep):
                    await _comes_back(opened, place, value)
            if not face.places:
                await _figures_come_back(opened)

    bench.run(body)


async def _figures_come_back(counters: Any) -> None:
    """Counts are the only values of counters: integers, exact beyond what a float holds."""
    huge = MAX_COUNT - 1
    for _ in range(3):
        await counters.record("huge", calls=huge, successes=huge, positive=huge, negative=-huge)
        await counters.record("huge", negative=huge)
    await counters.record("huge", negative=1)
    totals = await counters.totals("huge")
    wanted = Counts(3 * huge, 3 * huge, 0, 3 * huge, 1)
    expect(totals == wanted, wanted, totals)
    floats = [value for value in dataclasses.astuple(totals) if type(value) is not int]
    expect(not floats, "integers", totals)


@check("G2")
def any_value_comes_back_as_it_was(bench: Bench) -> None:
    """Whatever JSON can say comes back equal: 1, 1.0 and true differ, text and keys are what they were."""
    face = face_of(bench.capability)
    if not face.places:
        bench.not_applicable("counters take no JSON values")

    async def body(values: list[Any]) -> None:
        async with bench.open(**face.few) as opened:
            for place in face.places:
                for value in values:
                    await _comes_back(opened, place, value)

    bench.explore(st.lists(json_values(), min_size=1, max_size=5), body)


@check("G2")
def what_is_no_json_is_refused_by_place(bench: Bench) -> None:
    """NaN, infinities, lone surrogates, other keys than str, cycles, 201 levels: refused with the place, not stored."""
    face = face_of(bench.capability)

    async def body() -> None:
        async with bench.open(**face.few) as opened:
            for place in face.places:
                before = _fit(place, {"before": [place.name]})
                await place.write(opened, before)
                for bad in bad_values():
                    error = await refused_call(partial(place.write, opened, bad.value), f"{bad} in {place.name}")
                    expect(bad.place in str(error), f"a message that names the place {bad.place!r}", str(error))
                    after = await place.read(opened)
                    expect(same(after, before), f"{before} still, after {bad} was refused", _short(after))
            if not face.places:
                await _bad_figures_are_refused(opened)
                expect(await face.is_empty(opened), "nothing counted by refused calls", "something counted")

    bench.run(body)


async def _bad_figures_are_refused(counters: Any) -> None:
    bad: list[Any] = [1.0, 1.5, float("nan"), float("inf"), "1", None, True, [1], MAX_COUNT + 1, 10**30]
    for name in ("calls", "successes", "failures", "positive", "negative"):
        for value in (*bad, *((-1,) if name in {"calls", "successes", "failures"} else (-MAX_COUNT - 1,))):
            figures = {name: value}

            async def recorded(figures: dict[str, Any] = figures) -> None:
                await counters.record_many([Recorded("m", calls=1), Recorded("m", **figures)])

            for call in (recorded, lambda figures=figures: counters.record("m", **figures)):
                error = await refused_call(call, f"{name}={value!r}")
                expect(name in str(error), f"a message that names {name}", str(error))


@check("G2")
def values_are_the_callers_own(bench: Bench) -> None:
    """Changing what was passed, or what was read, changes nothing that is stored or that another reader gets."""
    face = face_of(bench.capability)
    if not face.places:
        bench.not_applicable("counters take no JSON values")

    async def body() -> None:
        async with bench.open() as opened:
            for place in face.places:
                written: dict[str, Any] = {"list": [1], "dict": {"a": [2]}}
                await place.write(opened, written)
                for _ in range(3):
                    _spoil(written)
                    got = await place.read(opened)
                    wanted = {"list": [1], "dict": {"a": [2]}}
                    expect(same(got, wanted), f"{place.name} to stay {wanted}, whatever was done to other copies", got)
                    written = got
            if bench.capability == "stream_bridge":
                await _each_subscriber_has_its_own(bench, opened)

    bench.run(body)


def _spoil(value: dict[str, Any]) -> None:
    value["list"].append("spoiled")
    value["dict"]["a"].clear()
    value["more"] = "spoiled"


async def _each_subscriber_has_its_own(bench: Bench, bridge: Any) -> None:
    async with reading(bench, bridge, "live") as one, reading(bench, bridge, "live") as other:
        for reader in (one, other):
            await reader.waits()
        await bridge.publish("live", "n", {"list": [1], "dict": {"a": [2]}})
        for reader in (one, other):
            (event,) = await reader.events(1)
            expect(same(event.data, {"list": [1], "dict": {"a": [2]}}), "data as published", event.data)
            _spoil(event.data)


@check("G2")
def tuples_and_known_objects_are_encoded(bench: Bench) -> None:
    """Tuples become lists; dates, UUIDs, enums, dataclasses and models go through the codec's one documented hook."""
    face = face_of(bench.capability)
    if not face.places:
        bench.not_applicable("counters take no JSON values")
    moment = datetime.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=datetime.UTC)
    unique = uuid.UUID(int=2**100)
    value = {
        "tuple": (1, (2.0, ()), [(True,)]),
        "moment": moment,
        "uuid": unique,
        "path": pathlib.PurePosixPath("/a"),
        "decimal": decimal.Decimal("1.10"),
        "colour": _Colour.RED,
        "point": _Point(1, (moment,)),
        "model": _Model(),
    }
    wanted = {
        "tuple": [1, [2.0, []], [[True]]],
        "moment": moment.isoformat(),
        "uuid": str(unique),
        "path": "/a",
        "decimal": "1.10",
        "colour": "red",
        "point": {"x": 1, "y": [moment.isoformat()]},
        "model": {"type": "ai", "content": "hi"},
    }

    async def body() -> None:
        async with bench.open() as opened:
            for place in face.places:
                await accepted(place.write(opened, value), f"objects in {place.name}")
                got = await place.read(opened)
                expect(same(got, wanted), wanted, got)

    bench.run(body)


class _Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class _Point:
    x: int
    y: tuple[Any, ...]


class _Model:
    """Has what pydantic models, and so LangChain's messages, have."""

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        return {"type": "ai", "content": "hi"} if mode == "json" else {"content": object()}


# -------------------------------------------------------------------------------------------------------- G3 size


def _of_size(size: int, fill: str = "x") -> dict[str, str]:
    """An object of exactly *size* bytes as JSON."""
    room = size - len(encode({"v": ""}))
    width = len(encode(fill)) - len(encode(""))
    return {"v": fill * (room // width) + "x" * (room % width)}


@check("G3")
def a_value_may_have_8_mib(bench: Bench) -> None:
    """A value of any size up to 8 MiB, as encoded, comes back whole; one byte more is refused and changes nothing."""
    face = face_of(bench.capability)
    # Sizes at which one store or another cuts, or changes how it keeps a value.
    sizes = (8_192, 65_535, 65_536, 65_537, 2**20)

    async def body() -> None:
        for place, most in zip(face.places, (0, 20), strict=True):
            async with bench.open(**face.few) as opened:
                last = _of_size(MAX_BYTES - most, "\x00é")  # within it: a merged value has a key of its own
                values = (*map(_of_size, sizes), _of_size(MAX_BYTES)) if place is face.places[0] else ()
                for value in (*values, last):
                    await _comes_back_whole(opened, place, value)
                for fill in ("x", "é"):
                    await refused_call(partial(place.write, opened, _of_size(MAX_BYTES + 1, fill)), "a byte too many")
                got = await place.read(opened)
                if got != last:
                    unkept(f"{place.name} unchanged by what was refused", _short(got))

    bench.run(body)


async def _comes_back_whole(opened: Any, place: Place, value: dict[str, str]) -> None:
    size = len(encode(value))
    await accepted(place.write(opened, value), f"{size} bytes as {place.name}")
    got = await place.read(opened)
    if got != value:  # said only then: it takes as long as the test
        unkept(f"{size} bytes to come back from {place.name}", f"{len(encode(got))} bytes, not the same")


@check("G3")
def a_batch_may_have_8_mib(bench: Bench) -> None:
    """One publish_many, one apply, one thread's merged metadata: 8 MiB together, and more is refused as a whole."""
    checks: dict[str, Callable[[Any], Awaitable[None]]] = {
        "stream_bridge": _a_large_publish_many,
        "memory": _a_large_apply,
        "thread_index": _large_merged_metadata,
    }

    async def body() -> None:
        async with bench.open() as opened:
            await checks[bench.capability](opened)

    bench.run(body)


async def _a_large_publish_many(bridge: Any) -> None:
    quarter = [("n", _of_size(MAX_BYTES // 4)) for _ in range(4)]
    await refused_call(lambda: bridge.publish_many(RUN, [*quarter, ("n", 1)]), "8 MiB and a byte in publish_many")
    expect(await bridge.status(RUN) is None, "nothing stored of a refused batch", "a stream")
    ids = await accepted(bridge.publish_many(RUN, quarter), "8 MiB in publish_many")
    expect(len(ids) == 4, "4 ids", ids)


async def _a_large_apply(store: Any) -> None:
    # What besides the values counts is the codec's own affair, so the batch stays some bytes below.
    quarter = [PutFact(None, f"f{i}", _of_size(MAX_BYTES // 4 - 1_000)) for i in range(4)]
    more = PutFact(None, "more", _of_size(4_001))
    await refused_call(lambda: store.apply(USER, [*quarter, more]), "over 8 MiB in one apply")
    memory = await store.load(USER)
    expect(memory.revision == 0 and not memory.facts, "nothing written by a refused apply", memory.revision)
    applied = await accepted(store.apply(USER, quarter), "almost 8 MiB in one apply")
    expect(len(applied.facts) == 4, "4 facts", applied.revision)


async def _large_merged_metadata(index: Any) -> None:
    half = MAX_BYTES // 2
    await index.create(NewThread("t", USER, metadata={"a": _of_size(half - 1_000)}))
    await accepted(
        index.update("t", user_id=USER, metadata={"b": _of_size(half - 1_000)}), "almost 8 MiB of merged metadata"
    )
    await refused_call(
        lambda: index.update("t", user_id=USER, metadata={"c": _of_size(4_000)}), "over 8 MiB when merged"
    )
    thread = await index.get("t", user_id=USER)
    expect(sorted(thread.metadata) == ["a", "b"], "the metadata unchanged by a refused merge", sorted(thread.metadata))
