"""The one JSON encoder and decoder: what is read equals what was written, on every backend alike.

msgspec does the text. What it lets pass or rewrites silently (NaN becomes null, a number as a key becomes
text, any depth) is refused here first, with the place in the value. Objects that JSON does not know go through
one hook, `to_json`.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import functools
import math
import os
import uuid
from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec

from deerflow_backends.errors import Corrupt, InvalidArgument

#: Any value JSON can express: None, bool, int, float, str, and lists and dicts (with str keys) of them.
JSON: TypeAlias = Any

MAX_BYTES = 8 * 1024 * 1024
MAX_DEPTH = 200
MAX_DIGITS = 4_000

_TOO_LONG = 10**MAX_DIGITS
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_encode_sorted = msgspec.json.Encoder(order="sorted").encode


def encode(value: Any, place: str = "data") -> bytes:
    """Encode *value* as JSON text, keys in the order given.

    Args:
        place: What the value is called in the message of an error.

    Raises:
        InvalidArgument: JSON cannot carry it (the message names where in it), or it is over 8 MiB.
    """
    return _checked(value, place, _encode)


def canonical(value: Any, place: str = "value") -> bytes:
    """Encode *value* with sorted keys: two values are the same JSON exactly if these bytes are equal.

    ``1``, ``1.0`` and ``True`` differ, as do ``0.0`` and ``-0.0``. Raises as `encode` does.
    """
    return _checked(value, place, _encode_sorted)


def canonical_object(value: Any, place: str) -> bytes:
    """Encode *value* as `canonical` does, after checking that it is a JSON object."""
    if not isinstance(value, Mapping):
        raise InvalidArgument(place, f"must be a JSON object (a dict), not {type(value).__name__}")
    return canonical(value, place)


def decode(data: bytes) -> JSON:
    """Decode JSON text that `encode` or `canonical` wrote: a fresh value, the caller's own.

    Raises:
        Corrupt: It is not JSON.
    """
    try:
        return _decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Corrupt(f"a stored value is not JSON: {error}") from error


def check_size(size: int, place: str) -> None:
    """Raise `InvalidArgument` if *size*, in bytes, is over 8 MiB."""
    if size > MAX_BYTES:
        raise InvalidArgument(place, f"must be at most {MAX_BYTES} bytes as JSON, not {size}")


@functools.singledispatch
def to_json(value: Any) -> Any:
    """Turn an object that JSON does not know into one that it does: the hook for types of your own.

    Register with ``@to_json.register`` before publishing. Known from the start: dates and times (ISO 8601),
    UUID, Decimal and paths (text), enum members (their value), dataclasses (a dict of their fields), and
    whatever has pydantic's ``model_dump``, as LangChain's messages do. What is returned may hold more such objects.

    Raises:
        TypeError: Nobody said how.
    """
    dump = getattr(value, "model_dump", None)
    if callable(dump) and not isinstance(value, type):
        return dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    raise TypeError(type(value).__name__)


@to_json.register
def _(value: datetime.date | datetime.time) -> str:
    return value.isoformat()


@to_json.register
def _(value: uuid.UUID | decimal.Decimal) -> str:
    return str(value)


@to_json.register
def _(value: os.PathLike) -> str:  # type: ignore[type-arg]  # singledispatch takes no parametrised class
    return os.fsdecode(value)


@to_json.register
def _(value: enum.Enum) -> Any:
    return value.value


def _checked(value: Any, place: str, encoder: Any) -> bytes:
    if not _is_plain(value, 0):
        value = _Normaliser(place).walk(value, place, 0)
    try:
        text: bytes = encoder(value)
    except UnicodeEncodeError:
        _Normaliser(place).walk(value, place, 0)  # finds the lone surrogate and says where
        raise
    if len(text) > MAX_BYTES:
        check_size(len(text), place)
    return text


def _is_plain(value: Any, depth: int) -> bool:
    """Whether msgspec writes *value* faithfully as it is; on False `_Normaliser` rewrites it or says why not."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return True
    if kind is int:
        return bool(-_TOO_LONG < value < _TOO_LONG)
    if kind is float:
        return math.isfinite(value)
    if depth >= MAX_DEPTH:
        return False
    if isinstance(value, dict) and kind is dict:
        return all(type(key) is str and _is_plain(item, depth + 1) for key, item in value.items())
    return kind is list and all(_is_plain(item, depth + 1) for item in value)


class _Normaliser:
    """Rewrites a value into plain JSON types, or raises `InvalidArgument` naming the place."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._parents: set[int] = set()

    def walk(self, value: Any, place: str, depth: int) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, enum.Enum):
            return self.walk(value.value, place, depth)
        if isinstance(value, str):
            return _text(value, place)
        if isinstance(value, int):
            if not -_TOO_LONG < value < _TOO_LONG:
                raise InvalidArgument(place, f"is an integer of more than {MAX_DIGITS} digits")
            return int(value)
        if isinstance(value, float):
            if not math.isfinite(value):
                raise InvalidArgument(place, f"is {value!r}, which JSON cannot carry; use None or a str")
            return float(value)
        return self._nested(value, place, depth)

    def _nested(self, value: Any, place: str, depth: int) -> Any:
        if id(value) in self._parents:
            raise InvalidArgument(place, "contains itself")
        if depth >= MAX_DEPTH:
            raise InvalidArgument(self._root, f"is nested more than {MAX_DEPTH} deep")
        self._parents.add(id(value))
        try:
            if isinstance(value, Mapping):
                return {_key(key, place): self.walk(item, _at(place, key), depth + 1) for key, item in value.items()}
            if isinstance(value, list | tuple):
                return [self.walk(item, f"{place}[{i}]", depth + 1) for i, item in enumerate(value)]
            return self.walk(_converted(value, place), place, depth)
        finally:
            self._parents.discard(id(value))


def _converted(value: Any, place: str) -> Any:
    try:
        return to_json(value)
    except TypeError:
        name = type(value).__name__
        raise InvalidArgument(
            place, f"is a {name}, which JSON cannot carry; convert it, or register the type with codec.to_json"
        ) from None


def _text(value: str, place: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(place, f"has a lone surrogate at index {error.start}") from None
    return str.__str__(value)


def _key(key: Any, place: str) -> str:
    if not isinstance(key, str):
        raise InvalidArgument(place, f"has the key {key!r}: keys must be str, not {type(key).__name__}")
    return _text(key.value if isinstance(key, enum.Enum) else key, f"a key of {place}")


def _at(place: str, key: Any) -> str:
    return f"{place}.{key}" if isinstance(key, str) and key.isidentifier() else f"{place}[{key!r}]"
