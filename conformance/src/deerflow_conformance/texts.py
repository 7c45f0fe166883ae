"""How results read, in the command's output and in pytest's alike."""

from __future__ import annotations

import textwrap
from typing import Final

from deerflow_conformance.promises import HARNESS, PROMISES
from deerflow_conformance.results import Failure, Kind, Result, State

_HEADS: Final = {
    Kind.UNKEPT: "not kept",
    Kind.ERROR: "an exception that the promise does not allow",
    Kind.HANG: "it hangs",
    Kind.LEFTOVER: "something is left over",
    Kind.FIXED: "a known failure that passes",
}


def sentence_of(number: str) -> str:
    """Return what a promise says."""
    return HARNESS.sentence if number == HARNESS.number else PROMISES[number].sentence


def result_text(result: Result, replay: str) -> str:
    """Say what a result that is not simply passed means, and how to see it again with the command *replay*."""
    if result.state is State.COULD_NOT_RUN:
        return f"{result.capability} {result.number} could not run: {result.reason}"
    head = f"{result.capability} {result.number}: {sentence_of(result.number)}"
    if result.state is State.KNOWN_FAILURE:
        return f"{head}\n  known failure: {result.reason}"
    if result.failure is None:
        return f"{head}\n  {result.state}: {result.reason}"
    return f"{head}\n{textwrap.indent(_failure_text(result.failure, replay), '  ')}"


def _failure_text(failure: Failure, replay: str) -> str:
    lines = [f"{_HEADS[failure.kind]}: {failure.message}"]
    if failure.check:
        lines.append(f"check     {failure.check}: {failure.check_sentence}")
    if failure.program is not None:
        lines.append(f"program   {textwrap.indent(failure.program, ' ' * 10).lstrip()}")
    for name, text in (("history", failure.history), ("where", failure.trace)):
        if text:
            lines += [name, textwrap.indent(text.rstrip(), "  ")]
    if failure.cause:
        lines.append(f"often     {failure.cause}")
    lines.append(f"replay    {replay}")
    if failure.snippet:
        lines += ["or run", textwrap.indent(failure.snippet, "  ")]
    return "\n".join(lines)
