"""What creates and changes threads, checked, and what it makes of a stored thread. Pure; every thread index shares it.

Metadata is kept as a mapping of its keys to their values in canonical JSON: values merge and compare without being
decoded, and are equal exactly if their bytes are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from deerflow_backends import codec
from deerflow_backends.arguments import check_identifier, check_optional_identifier, check_text
from deerflow_backends.clocks import to_datetime
from deerflow_backends.errors import Conflict, Corrupt, InvalidArgument
from deerflow_backends.memories import ANY, Guard
from deerflow_backends.threads import ANY_USER, KEEP, PINNED_KEY, AnyUser, Keep, NewThread, Scope, Thread

_split = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@dataclass(frozen=True, slots=True)
class StoredThread:
    """A thread as a backend keeps it: metadata by key in canonical JSON, times in microseconds since 1970."""

    thread_id: str
    user_id: str | None
    assistant_id: str | None
    display_name: str | None
    status: str
    metadata: Mapping[str, bytes]
    created_at: int
    updated_at: int

    @property
    def pinned(self) -> bool:
        """Whether it stands above all that are not."""
        return self.metadata.get(PINNED_KEY) == b"true"

    @property
    def order(self) -> tuple[bool, int, str]:
        """Its place among threads, the greatest first (T2)."""
        return self.pinned, self.updated_at, self.thread_id

    @property
    def weight(self) -> int:
        """About how many bytes storing it writes."""
        return 500 + sum(map(len, self.metadata.values()))

    def in_scope(self, scope: Scope) -> bool:
        """Whether a call of that scope sees it (T4)."""
        return scope is ANY_USER or self.user_id == scope

    def touched(self, now: int) -> int:
        """Its `updated_at` if touched now: it grows strictly, even where the clock does not (T7)."""
        return max(now, self.updated_at + 1)

    def to_thread(self) -> Thread:
        """Give it to a caller: freshly decoded, the caller's own."""
        return Thread(
            thread_id=self.thread_id,
            user_id=self.user_id,
            assistant_id=self.assistant_id,
            display_name=self.display_name,
            status=self.status,
            metadata=codec.decode(joined(self.metadata)),
            created_at=to_datetime(self.created_at),
            updated_at=to_datetime(self.updated_at),
        )


def joined(metadata: Mapping[str, bytes]) -> bytes:
    """Make canonical JSON of metadata: what `split` takes apart."""
    items = sorted(metadata.items())
    return b"{%s}" % b",".join(b"%s:%s" % (codec.canonical(key), value) for key, value in items)


def split(data: bytes) -> dict[str, bytes]:
    """Take the canonical JSON of an object apart into its keys and their canonical values.

    Raises:
        Corrupt: It is no JSON object.
    """
    try:
        return {key: bytes(value) for key, value in _split(data).items()}
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Corrupt(f"stored metadata is not a JSON object: {error}") from error


def check_metadata(metadata: Any, place: str) -> dict[str, bytes]:
    """Check and encode metadata, or a filter for it.

    Raises:
        InvalidArgument: It is no JSON object, or over 8 MiB.
    """
    return split(codec.canonical_object(metadata, place))


def check_scope(place: str, value: Any) -> Scope:
    """Return *value* if it is a user's id or ANY_USER."""
    if isinstance(value, AnyUser):
        return value
    if value is None:
        raise InvalidArgument(place, "must be a str or ANY_USER, not None")
    return check_identifier(place, value)


def check_new_thread(thread: Any, now: int) -> StoredThread:
    """Check and encode what `ThreadIndex.create` is given, as created *now*."""
    if not isinstance(thread, NewThread):
        raise InvalidArgument("thread", f"must be a NewThread, not {type(thread).__name__}")
    return StoredThread(
        thread_id=check_identifier("thread.thread_id", thread.thread_id),
        user_id=check_optional_identifier("thread.user_id", thread.user_id),
        assistant_id=check_optional_identifier("thread.assistant_id", thread.assistant_id),
        display_name=_optional_text("thread.display_name", thread.display_name),
        status=check_identifier("thread.status", thread.status),
        metadata=check_metadata(thread.metadata, "thread.metadata"),
        created_at=now,
        updated_at=now,
    )


def _optional_text(place: str, value: Any) -> str | None:
    return None if value is None else check_text(place, value)


def taken(thread_id: str) -> Conflict:
    """Make the error of a `create` whose id is taken; it does not say by whom (T5)."""
    return Conflict(f"the thread {thread_id!r} exists already; choose another id, or update it")


@dataclass(frozen=True, slots=True)
class ThreadUpdate:
    """Checked arguments of `ThreadIndex.update`; call it to change a stored thread.

    Attributes:
        metadata: To be merged, or with *replace* the whole.
        remove: Keys to remove.
    """

    display_name: str | Literal[Keep.KEEP] | None
    status: str | Literal[Keep.KEEP]
    metadata: Mapping[str, bytes]
    remove: frozenset[str]
    replace: bool
    expected_status: str | Literal[Guard.ANY]
    touch: bool

    def __call__(self, thread: StoredThread, now: int) -> StoredThread:
        """Return the changed thread.

        Raises:
            Conflict: Its status is another than expected.
            InvalidArgument: Its metadata would exceed 8 MiB.
        """
        if self.expected_status is not ANY and self.expected_status != thread.status:
            raise Conflict(
                f"the thread {thread.thread_id!r} has the status {thread.status!r}, not {self.expected_status!r} "
                "as expected; read it again, then decide"
            )
        return dataclasses.replace(
            thread,
            display_name=thread.display_name if self.display_name is KEEP else self.display_name,
            status=thread.status if self.status is KEEP else self.status,
            metadata=self._merged(thread.metadata),
            updated_at=thread.touched(now) if self.touch else thread.updated_at,
        )

    def _merged(self, stored: Mapping[str, bytes]) -> Mapping[str, bytes]:
        if self.replace:
            return self.metadata
        if not self.metadata and not self.remove:
            return stored
        merged = {key: value for key, value in stored.items() if key not in self.remove}
        merged.update(self.metadata)
        if self.metadata:
            codec.check_size(len(joined(merged)), "the merged metadata")
        return merged


def check_update(
    *, display_name: Any, status: Any, metadata: Any, remove: Any, replace: Any, expected_status: Any, touch: Any
) -> ThreadUpdate:
    """Check and encode the arguments of `ThreadIndex.update` besides the thread's id and the scope."""
    keys = _keys(remove)
    replace = _flag("replace", replace)
    if replace and metadata is None:
        raise InvalidArgument("metadata", "must be given with replace=True; {} leaves none")
    if replace and keys:
        raise InvalidArgument("remove", "must not be given with replace=True, which removes all other keys anyway")
    values = {} if metadata is None else check_metadata(metadata, "metadata")
    both = sorted(keys & values.keys())
    if both:
        raise InvalidArgument("remove", f"has the key {both[0]!r}, which metadata sets; choose one")
    return ThreadUpdate(
        display_name=KEEP if display_name is KEEP else _optional_text("display_name", display_name),
        status=KEEP if status is KEEP else check_identifier("status", status),
        metadata=values,
        remove=keys,
        replace=replace,
        expected_status=ANY if expected_status is ANY else check_identifier("expected_status", expected_status),
        touch=_flag("touch", touch),
    )


def moved(thread: StoredThread, to_user_id: str | None, now: int) -> StoredThread:
    """Return the thread given to another owner, touched."""
    return dataclasses.replace(thread, user_id=to_user_id, updated_at=thread.touched(now))


def _keys(remove: Any) -> frozenset[str]:
    if isinstance(remove, str | bytes) or not isinstance(remove, Iterable):
        raise InvalidArgument("remove", f"must be an iterable of metadata keys, not {type(remove).__name__}")
    keys = list(remove)
    for index, key in enumerate(keys):
        if not isinstance(key, str):
            raise InvalidArgument(f"remove[{index}]", f"must be a str, not {type(key).__name__}")
        codec.canonical(key, f"remove[{index}]")
    return frozenset(keys)


def _flag(place: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidArgument(place, f"must be True or False, not {value!r:.40}")
    return value
