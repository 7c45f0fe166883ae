"""Checks of identifiers, for all four capabilities: G1."""

from __future__ import annotations

from functools import partial
from typing import Any

from hypothesis import strategies as st

from deerflow_backends.threads import NewThread
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check, expect
from deerflow_conformance.expectations import accepted, refused_call
from deerflow_conformance.faces import USER, Slot, face_of
from deerflow_conformance.programs import (
    BAD_IDENTIFIERS,
    IDENTIFIERS,
    identifiers,
)

# ------------------------------------------------------------------------------------------------- G1 identifiers


async def _kept_apart(slot: Slot, opened: Any, names: list[str]) -> None:
    numbers = {name: i + 1 for i, name in enumerate(names)}
    for name, number in numbers.items():
        await accepted(slot.put(opened, name, number), f"the {slot.name} {name!r}")
    found = await slot.read(opened, names)
    wrong = {name: found.get(name) for name, number in numbers.items() if found.get(name) != number}
    expect(not wrong, f"each {slot.name} with what was written under it, {_those(numbers, wrong)}", wrong)
    if slot.listed is not None:
        listed = await slot.listed(opened)
        expect(sorted(listed) == sorted(names), f"these {slot.name}s: {sorted(names)}", sorted(listed))
        if slot.ordered:
            in_order = sorted(listed, key=str.encode)
            expect(listed == in_order, f"{slot.name}s in the order of their UTF-8 bytes: {in_order}", listed)


def _those(numbers: dict[str, int], names: dict[str, Any]) -> dict[str, int]:
    return {name: numbers[name] for name in names}


@check("G1")
def no_two_identifiers_collide(bench: Bench) -> None:
    """Identifiers that differ only by case, normal form, padding, separator or prefix are different ones."""
    face = face_of(bench.capability)

    async def body() -> None:
        for slot in face.slots:
            async with bench.open() as opened:
                await _kept_apart(slot, opened, list(IDENTIFIERS))

    bench.run(body)


@check("G1")
def any_characters_make_an_identifier(bench: Bench) -> None:
    """Any str of 1 to 512 UTF-8 bytes is taken, and comes back as it was."""
    face = face_of(bench.capability)

    async def body(drawn: tuple[int, list[str]]) -> None:
        which, names = drawn
        async with bench.open() as opened:
            await _kept_apart(face.slots[which], opened, names)

    names = st.lists(identifiers(), min_size=1, max_size=8, unique=True)
    bench.explore(st.tuples(st.integers(0, len(face.slots) - 1), names), body)


@check("G1")
def bad_identifiers_are_refused(bench: Bench) -> None:
    """Empty, over 512 bytes, with a lone surrogate or no str: InvalidArgument from every call, and nothing written."""
    face = face_of(bench.capability)

    async def body() -> None:
        async with bench.open() as opened:
            for slot in face.slots:
                for bad in BAD_IDENTIFIERS:
                    for name, call in slot.calls(opened, bad).items():
                        await refused_call(call, f"{slot.name}={bad!r} in {name}")
            expect(await face.is_empty(opened), "nothing written by refused calls", "something stored")

    bench.run(body)


@check("G1")
def display_names_are_any_text(bench: Bench) -> None:
    """A display name is any text of up to 8 KiB, empty included; more, or a lone surrogate, is refused."""
    if bench.capability != "thread_index":
        bench.not_applicable("only threads have display names")
    texts = ("", "\x00", "é" * 4096, "x" * 8192, "e\u0301", "'; DROP", " ", "\u202e")

    async def body() -> None:
        async with bench.open() as index:
            for i, text in enumerate(texts):
                created = await index.create(NewThread(f"t{i}", USER, display_name=text))
                updated = await index.update("t0", user_id=USER, display_name=text)
                for thread in (created, updated, await index.get(f"t{i}", user_id=USER)):
                    expect(thread.display_name == text, f"the display name {text!r}", thread.display_name)
            bad_names: list[Any] = ["x" * 8193, "é" * 4096 + "x", "\ud800", 5, b"x"]
            for bad in bad_names:
                await refused_call(partial(_create_named, index, bad), repr(bad))
                await refused_call(partial(index.update, "t0", user_id=USER, display_name=bad), repr(bad))
            thread = await index.get("t0", user_id=USER)
            expect(thread.display_name == texts[-1], f"the display name {texts[-1]!r} still", thread)
            expect(await index.get("bad", user_id=USER) is None, "no thread from a refused create", "a thread")

    bench.run(body)


async def _create_named(index: Any, display_name: Any) -> Any:
    return await index.create(NewThread("bad", USER, display_name=display_name))
