"""What usually lies behind a failure of each promise: where to look first."""

from __future__ import annotations

import asyncio
from typing import Final

from deerflow_backends.errors import BackendsError
from deerflow_conformance.isolation import Blocked
from deerflow_conformance.results import Kind

#: Of kinds of failures that say what is wrong already, whatever was promised.
_OF_KINDS: Final = {
    Kind.ERROR: "An exception of the driver, or of a mistake, comes out as it is: translate the driver's errors into "
    "the contract's, in one place that every call goes through.",
    Kind.HANG: "Something waits without a limit: for a lock, a connection of the pool, an answer or a wake-up that "
    "does not come, or in a call that blocks the event loop.",
    Kind.LEFTOVER: "What an opening started is not ended and awaited where its context manager is left, or not after "
    "an error or a cancellation: a task, a thread, a connection.",
}
#: One sentence or two for each promise, said with every failure of it.
CAUSES: Final[dict[str, str]] = {
    "G1": "An identifier reaches a key, a pattern or a collation without escaping or a hash, or is folded by the "
    "store's own comparison.",
    "G2": "A JSON library or the store's own type for JSON changed the value: store the bytes of core's codec.",
    "G3": "A limit of the store or of the driver for one value, or a check of the size that counts characters and not "
    "encoded bytes.",
    "G4": "A prefix, a pattern or a query that lacks the user, the thread or the namespace.",
    "G5": "The driver, or a loop around it, sends a write again after a lost reply; or an error says that nothing was "
    "written although the request had left.",
    "G6": "A value is kept in the instance, or read from a replica that lags behind.",
    "G7": "A call waits without a limit: for a connection of the pool, for a lock, or in the driver's retries; or a "
    "dead connection is never replaced.",
    "G8": "A cancelled call keeps a lock, or gives back a connection on which its answer is still to come.",
    "G9": "A task, a pool or a listener is not awaited where the context manager is left; or calls do not look whether "
    "it was.",
    "G10": "Expiry goes by this process's clock, or times lack their zone.",
    "G11": "What expires is hidden and never deleted, or a helper key lives longer than what it belongs to.",
    "G12": "The write is acknowledged before it is committed, or kept in this process for a later batch.",
    "G13": "Ping looks at nothing, opens a connection, or has no time limit.",
    "S1": "Events get their order in the publisher and not in the store, or a batch is stored one by one.",
    "S2": "The sequence number comes from a counter that does not survive, or the epoch from a clock that may repeat.",
    "S3": "Between reading what is stored and listening for what comes there is a moment that neither covers, or both.",
    "S4": "Without a cursor the subscriber starts at the tail, or at a place that was trimmed.",
    "S5": "The cursor is compared as text, or as an offset into what happens to be retained.",
    "S6": "A cursor that is not retained is answered with what is left, or only the first read looks for the gap.",
    "S7": "A malformed cursor is parsed by int(), which takes more than ASCII digits, or counts as no cursor.",
    "S8": "END is kept in the process, is stored beside the events without their lock, or is an event of some name.",
    "S9": "Heartbeats come from the read's own timeout, so that they stop with the server or wait for it.",
    "S10": "Trimming is approximate, counts END, or measures something else than the encoded data.",
    "S11": "Subscribing creates the stream, or takes 'nothing there' for an end.",
    "S12": "Events are pushed into a queue of each subscriber, bounded so that the publisher waits, or not at all.",
    "S13": "The delayed cleanup lives in a timer of this process, is postponed by later writes, or leaves no trace.",
    "S14": "A subscriber that waits for a wake-up does not look again by itself when that was lost.",
    "S15": "Each subscriber, run or publisher takes a connection, a thread or a task of its own.",
    "S16": "An error of the connection reaches the subscriber, or it goes on at the tail and not after its last event.",
    "M1": "Reads go to a cache or a replica, or loading creates what it did not find.",
    "M2": "The changes of one apply are written one by one, outside of a transaction.",
    "M3": "The revision is raised by every call, or for each change, and not once for what took effect.",
    "M4": "The expectation is looked at before the write and not together with it.",
    "M5": "Read, change and write back, without a lock or a comparison at the store.",
    "M6": "Pages go by offset, or ids are ordered by the store's collation and not by their bytes.",
    "M7": "The store's own text search decides, which folds and splits otherwise than core's search does.",
    "M8": "Clear goes by prefix, or forgets the body, the revision or the user-wide part.",
    "M9": "The whole memory is read or written for a change of one fact.",
    "M11": "Body, facts and revision are read in several statements without one snapshot.",
    "M12": "Restoring assigns new revisions or times, or overwrites what differs.",
    "T1": "The index by user is updated after the thread itself, or at another time.",
    "T2": "The store orders by its own collation or time resolution, or pinning is truthiness and not exactly true.",
    "T3": "Pages go by offset, or the cursor lacks what breaks ties.",
    "T4": "A query lacks the user, or a thread without owner counts as everybody's.",
    "T5": "Looking for the id and inserting it are two steps, or create is an upsert.",
    "T6": "Metadata is read, merged and written back as a whole.",
    "T7": "updated_at is the clock's reading and not above the last one, or the status is looked at before the write.",
    "T8": "Values are compared as text, or a key of the filter becomes part of a query.",
    "T9": "There is no index on owner and order, or everything is read before it is cut to a page.",
    "T10": "Put merges where it should replace, or does not look at the owner in the same step.",
    "T11": "Restoring assigns new times, or overwrites what differs.",
    "C1": "Counts are read, added and written back, or kept in a float, or a total is cut at 0 where it is stored.",
    "C2": "The token is remembered after the counts were written, or for a shorter time than promised.",
    "C3": "The fields of one recording are incremented in several steps.",
    "C4": "The window leaves out the bucket that it only touches, or goes by this process's clock.",
    "C5": "A flush that failed is sent again under another token, or takes the time of the flush for that of the call.",
    "C6": "The buckets of the model outlive its total.",
    "C7": "The name is part of a key without escaping, or a command takes only so many arguments.",
}


def cause_of(number: str, kind: Kind, error: BaseException) -> str:
    """Return what usually lies behind a failure of the promise *number*, of that *kind*, for which *error* was raised.

    An error of the contract itself has been translated, and an error or a wait may be what a finding came from.
    """
    if isinstance(error.__cause__, asyncio.CancelledError | Blocked):
        kind = Kind.HANG
    elif isinstance(error.__cause__, Exception) and not isinstance(error.__cause__, BackendsError):
        kind = Kind.ERROR
    if isinstance(error, BackendsError):
        return CAUSES.get(number, "")
    return _OF_KINDS.get(kind) or CAUSES.get(number, "")
