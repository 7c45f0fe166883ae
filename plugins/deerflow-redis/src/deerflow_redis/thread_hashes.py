"""How a thread is written in Redis: its hash, its members of sorted sets, and the arguments of scripts.

In the hash the fields ``owner`` and ``status`` are as they stand in keys, ``created`` and ``updated`` are 8 bytes that
order as their times do, and each key of the metadata is a field: the key in canonical JSON, which begins with a quote
as no other field does, with its value in canonical JSON. ``assistant`` and ``name`` are there unless they are None.

A member is ``1`` if pinned, else ``0``, then ``updated``, then the id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from deerflow_backends import codec
from deerflow_backends.errors import Corrupt
from deerflow_backends.memories import ANY
from deerflow_backends.thread_changes import StoredThread, ThreadUpdate, split
from deerflow_backends.threads import KEEP, PINNED_KEY
from deerflow_redis.layout import decoded, encoded

#: The field that pins a thread where it is ``true``.
PINNING: Final = codec.canonical(PINNED_KEY)

#: Where in a member the id begins.
HEAD_BYTES: Final = 9

#: Added to a time so that it is not negative.
_OFFSET: Final = 2**63


def moment(time: int) -> bytes:
    """Write a time, in microseconds since 1970."""
    return (time + _OFFSET).to_bytes(8, "big")


def microseconds(moment: bytes) -> int:
    """Read a time, in microseconds since 1970."""
    return int.from_bytes(moment, "big") - _OFFSET


def member(pinned: bool, updated_at: int, thread_id: str) -> bytes:
    """Write the member that stands for a thread with this order."""
    return b"%d%b%b" % (pinned, moment(updated_at), thread_id.encode())


def thread(thread_id: str, contents: list[bytes]) -> StoredThread:
    """Read a hash: fields, each with its value.

    Raises:
        Corrupt: It is not as we write it.
    """
    fields = dict(zip(contents[::2], contents[1::2], strict=True))
    metadata = b",".join(b"%b:%b" % (name, value) for name, value in fields.items() if name.startswith(b'"'))
    try:
        assistant, name = fields.get(b"assistant"), fields.get(b"name")
        return StoredThread(
            thread_id=thread_id,
            user_id=decoded(fields[b"owner"]),
            assistant_id=None if assistant is None else assistant.decode(),
            display_name=None if name is None else name.decode(),
            status=decoded(fields[b"status"]) or "",
            metadata=split(b"{%b}" % metadata),
            created_at=microseconds(fields[b"created"]),
            updated_at=microseconds(fields[b"updated"]),
        )
    except (KeyError, UnicodeDecodeError) as error:
        raise Corrupt(f"the thread {thread_id!r} is stored incompletely: {error!r}") from error


def outline(member: bytes) -> StoredThread:
    """Make a thread that lacks the wanted metadata of its member alone: it has its place, and nothing else."""
    return StoredThread(
        thread_id=member[HEAD_BYTES:].decode(),
        user_id=None,
        assistant_id=None,
        display_name=None,
        status="",
        metadata={PINNED_KEY: b"true"} if member.startswith(b"1") else {},
        created_at=0,
        updated_at=microseconds(member[1:HEAD_BYTES]),
    )


def to_store(thread: StoredThread, *, times: bool) -> list[Any]:
    """Write a thread for the script that stores it, with its *times* or without."""
    fields = [b"owner", encoded(thread.user_id), b"status", encoded(thread.status)]
    if times:
        fields += (b"created", moment(thread.created_at), b"updated", moment(thread.updated_at))
    if thread.assistant_id is not None:
        fields += (b"assistant", thread.assistant_id.encode())
    if thread.display_name is not None:
        fields += (b"name", thread.display_name.encode())
    for name, value in thread.metadata.items():
        fields += (codec.canonical(name), value)
    return [thread.thread_id.encode(), len(fields), *fields]


def to_update(update: ThreadUpdate) -> list[Any]:
    """Write an update for the script that changes a thread."""
    settings = {codec.canonical(name): value for name, value in update.metadata.items()}
    removals = [codec.canonical(name) for name in update.remove]
    if update.display_name is None:
        removals.append(b"name")
    elif update.display_name is not KEEP:
        settings[b"name"] = update.display_name.encode()
    if update.status is not KEEP:
        settings[b"status"] = encoded(update.status)
    expected = b"" if update.expected_status is ANY else encoded(update.expected_status)
    return _change_arguments(settings, removals, expected=expected, touch=update.touch, replace=update.replace)


def to_move(to_user_id: str | None) -> list[Any]:
    """Write a move for the script that changes a thread."""
    return _change_arguments({b"owner": encoded(to_user_id)})


def _change_arguments(
    settings: Mapping[bytes, bytes],
    removals: Iterable[bytes] = (),
    *,
    expected: bytes = b"",
    touch: bool = True,
    replace: bool = False,
) -> list[Any]:
    fields = [part for setting in settings.items() for part in setting]
    return [expected, int(touch), int(replace), codec.MAX_BYTES, len(fields), *fields, *removals]
