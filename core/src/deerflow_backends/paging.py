"""Pages and their opaque cursors, the same for every backend, so that none can be forged or mixed up by mistake."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from deerflow_backends.errors import InvalidArgument

T = TypeVar("T")

_DIGEST_BYTES = 8


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some of the answers, and where the next ones begin.

    Attributes:
        items: In the order of the listing. May be shorter than the limit, even empty, with more to follow.
        next_cursor: What to pass to go on; None if and only if nothing more can follow.
    """

    items: tuple[T, ...]
    next_cursor: str | None


def encode_cursor(listing: tuple[Any, ...], key: tuple[Any, ...]) -> str:
    """Make a cursor that stands after *key* in *listing* (its kind and every argument that shapes it)."""
    body = msgspec.json.encode(key)
    return base64.urlsafe_b64encode(_digest(listing, body) + body).decode().rstrip("=")


def decode_cursor(listing: tuple[Any, ...], cursor: str, types: tuple[type, ...]) -> tuple[Any, ...]:
    """Return the key of a cursor that `encode_cursor` made for the same *listing*.

    Args:
        types: What the parts of the key are.

    Raises:
        InvalidArgument: The cursor is damaged, or belongs to another listing.
    """
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        digest, body = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
        key: tuple[Any, ...] = msgspec.json.decode(body, type=tuple[types])  # type: ignore[valid-type]
    except (TypeError, ValueError, binascii.Error, msgspec.DecodeError):
        digest, body, key = b"", b"", ()
    if digest != _digest(listing, body) or encode_cursor(listing, key) != cursor:
        raise InvalidArgument("cursor", "is damaged or belongs to another listing; start again without a cursor")
    return key


def _digest(listing: tuple[Any, ...], body: bytes) -> bytes:
    return hashlib.sha256(msgspec.json.encode([listing, body])).digest()[:_DIGEST_BYTES]
