"""Faults of values and their size, in all that keep any: G2 and G3."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final
from unittest import mock

from deerflow_backends import buckets, codec, events, subscription
from deerflow_backends import counters as recordings
from deerflow_backends.arguments import check_integer
from deerflow_backends.errors import InvalidArgument
from deerflow_backends.inprocess import counters
from deerflow_conformance.mutants import Patched, methods, mutant, together
from deerflow_conformance.promises import Capability

_decode = codec.decode
_check_size = codec.check_size

_add = buckets.add
_convert = codec._converted
_walk = codec._Normaliser.walk

#: Counters keep no values but counts.
_KEEPING: Final[tuple[Capability, ...]] = ("stream_bridge", "memory", "thread_index")
_BACK, _ANY, _BAD, _OWN, _OBJECTS = (
    "odd_values_come_back_as_they_were",
    "any_value_comes_back_as_it_was",
    "what_is_no_json_is_refused_by_place",
    "values_are_the_callers_own",
    "tuples_and_known_objects_are_encoded",
)


def _reading(changed: Callable[[Any], Any]) -> Patched:
    """Change each scalar, and the key of each object, that is read."""

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {changed(key): walk(item) for key, item in value.items()}
        return [walk(item) for item in value] if isinstance(value, list) else changed(value)

    def decode(data: bytes) -> Any:
        return walk(_decode(data))

    return together(mock.patch.object(codec, "decode", decode), mock.patch.object(subscription, "decode", decode))


@mutant("G2", *_KEEPING, by=(_BACK, _ANY))
def whole_floats_become_integers() -> Patched:
    """1.0 comes back as 1."""
    return _reading(
        lambda value: int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value
    )


@mutant("G2", *_KEEPING, by=_BACK)
def large_integers_become_floats() -> Patched:
    """Integers beyond 64 bits come back as floats."""
    return _reading(lambda value: float(value) if type(value) is int and 2**64 <= abs(value) < 10**300 else value)


@mutant("G2", *_KEEPING, by=_BACK)
def minus_zero_becomes_zero() -> Patched:
    """-0.0 comes back as 0.0."""
    return _reading(lambda value: 0.0 if isinstance(value, float) and value == 0 else value)


@mutant("G2", *_KEEPING, by=_BACK)
def denormals_become_zero() -> Patched:
    """Floats that are very small come back as 0.0."""
    return _reading(lambda value: 0.0 if isinstance(value, float) and 0 < abs(value) < 1e-300 else value)


@mutant("G2", *_KEEPING, by=_BACK)
def u_0000_is_dropped() -> Patched:
    """Text comes back without U+0000."""
    return _reading(lambda value: value.replace("\x00", "") if isinstance(value, str) else value)


@mutant("G2", *_KEEPING, by=_BACK)
def keys_with_dollars_are_renamed() -> Patched:
    """A $ at the beginning of text comes back as another sign."""
    return _reading(lambda value: f"_{value[1:]}" if isinstance(value, str) and value[:1] == "$" else value)


@mutant("G2", *_KEEPING, by=_BACK)
def depth_ends_at_100() -> Patched:
    """Values of more than 100 levels are refused."""
    return mock.patch.object(codec, "MAX_DEPTH", 100)


@mutant("G2", *_KEEPING, by=_BAD)
def depth_ends_at_220() -> Patched:
    """Values of up to 220 levels are taken."""
    return mock.patch.object(codec, "MAX_DEPTH", 220)


@mutant("G2", *_KEEPING, by=_BAD)
def nan_becomes_null() -> Patched:
    """NaN and the infinities are taken, and come back as null."""
    return mock.patch.object(codec, "math", SimpleNamespace(isfinite=lambda _: True))


@mutant("G2", *_KEEPING, by=_BAD)
def keys_become_text() -> Patched:
    """A key that is no str is taken as it is shown."""
    return mock.patch.object(codec, "_key", lambda key, _: key if isinstance(key, str) else str(key))


@mutant("G2", *_KEEPING, by=_BAD)
def unknown_objects_are_shown() -> Patched:
    """An object that nobody knows is stored as it is shown."""

    def converted(value: Any, place: str) -> Any:
        try:
            return _convert(value, place)
        except InvalidArgument:
            return repr(value)

    return mock.patch.object(codec, "_converted", converted)


@mutant("G2", *_KEEPING, by=_BAD)
def nobody_says_where() -> Patched:
    """A value that JSON cannot carry is refused without the place of it."""

    def walk(self: codec._Normaliser, value: Any, place: str, depth: int) -> Any:
        try:
            return _walk(self, value, place, depth)
        except InvalidArgument as error:
            raise InvalidArgument("a value", error.problem.partition(".")[0]) from None

    return mock.patch.object(codec._Normaliser, "walk", walk)


@mutant("G2", "stream_bridge", by=_OWN)
def subscribers_share_one_value() -> Patched:
    """All subscribers get one and the same object."""
    return mock.patch.object(subscription, "decode", functools.lru_cache(_decode))


@mutant("G2", "memory", "thread_index", by=_OWN)
def readers_share_one_value() -> Patched:
    """All readers get one and the same object."""
    return mock.patch.object(codec, "decode", functools.lru_cache(_decode))


@mutant("G2", *_KEEPING, by=_OBJECTS)
def enums_are_named() -> Patched:
    """Members of an enum are stored by their names."""

    def walk(self: codec._Normaliser, value: Any, place: str, depth: int) -> Any:
        return _walk(self, value.name if hasattr(value, "name") and hasattr(value, "value") else value, place, depth)

    return mock.patch.object(codec._Normaliser, "walk", walk)


@mutant("G2", *_KEEPING, by=_OBJECTS)
def tuples_are_refused() -> Patched:
    """A tuple is no JSON."""

    def walk(self: codec._Normaliser, value: Any, place: str, depth: int) -> Any:
        if isinstance(value, tuple):
            raise InvalidArgument(place, "is a tuple, which JSON cannot carry")
        return _walk(self, value, place, depth)

    return mock.patch.object(codec._Normaliser, "walk", walk)


@mutant("G2", "counters", by=_BACK)
def counts_are_floats() -> Patched:
    """Sums are kept as floats, and shown so."""

    def to_counts(sums: Any) -> Any:
        floats: Any = (max(0.0, float(one)) for one in sums)
        return recordings.Counts(*floats)

    return mock.patch.object(counters, "to_counts", to_counts)


@mutant("G2", "counters", by=_BACK)
def counts_have_31_bits() -> Patched:
    """A sum never exceeds what 31 bits hold."""
    return mock.patch.object(counters, "add", lambda some, more: tuple(min(one, 2**31 - 1) for one in _add(some, more)))


@mutant("G2", "counters", by=_BAD)
def fractions_are_cut_off() -> Patched:
    """A figure that is a float counts without its fraction."""

    def check(place: str, value: Any, **bounds: Any) -> int:
        whole = isinstance(value, float) and math.isfinite(value)
        return check_integer(place, int(value) if whole else value, **bounds)

    return mock.patch.object(recordings, "check_integer", check)


# -------------------------------------------------------------------------------------------------------- G3 size

_VALUE, _BATCH = "a_value_may_have_8_mib", "a_batch_may_have_8_mib"


@mutant("G3", *_KEEPING, by=_VALUE)
def text_is_cut_at_64_kib() -> Patched:
    """Text is cut after 65,536 characters."""
    return _reading(lambda value: value[:65_536] if isinstance(value, str) else value)


@mutant("G3", *_KEEPING, by=_BATCH)
def there_is_room_for_4_mib() -> Patched:
    """What has more than 4 MiB is refused."""
    return mock.patch.object(codec, "MAX_BYTES", 4 * 1024 * 1024)


@mutant("G3", *_KEEPING, by=_VALUE)
def one_value_has_at_most_1_mib(backend: type) -> Patched:
    """A call with more than 1 MiB is refused."""
    (name,) = (one for one in ("publish", "apply", "update") if hasattr(backend, one))
    write = getattr(backend, name)

    async def limited(self: Any, *arguments: Any, **more: Any) -> Any:
        if len(repr((arguments, more))) > 2**20 + 1_000:
            raise InvalidArgument(name, "has more than 1 MiB")
        return await write(self, *arguments, **more)

    return methods(backend, **{name: limited})


@mutant("G3", *_KEEPING, by=(_VALUE, _BATCH))
def nothing_is_too_large() -> Patched:
    """What has more than 8 MiB is taken."""
    return mock.patch.object(codec, "MAX_BYTES", 2**40)


@mutant("G3", "memory", "thread_index", by=_BATCH)
def each_value_is_measured_by_itself() -> Patched:
    """Single values have at most 8 MiB, and together as much as they like."""

    def check_size(size: int, place: str) -> None:
        if place not in {"changes", "the merged metadata"}:
            _check_size(size, place)

    return mock.patch.object(codec, "check_size", check_size)


@mutant("G3", "stream_bridge", by=_BATCH)
def each_event_is_measured_by_itself() -> Patched:
    """Single events have at most 8 MiB, and a batch as much as it likes."""
    return mock.patch.object(events, "check_size")
