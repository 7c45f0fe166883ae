"""``promises``: what there is to keep."""

from __future__ import annotations

import dataclasses
from typing import Any

from deerflow_conformance.checks import checks_of
from deerflow_conformance.cli.output import cell, console, print_json, say, table
from deerflow_conformance.promises import CAPABILITIES, PROMISES, Promise
from deerflow_conformance.results import Exit


def list_promises(*, checks: bool, as_json: bool) -> Exit:
    """Print every promise, with *checks* the names and sentences of what tests it."""
    if as_json:
        print_json([_as_json(promise, checks=checks) for promise in PROMISES.values()])
        return Exit.CONFORMANT
    out = console()
    if out.is_terminal:
        listing = table("", "level", "whose", "promise")
        for promise in PROMISES.values():
            listing.add_row(promise.number, promise.level, _whose(promise), _sentence(promise))
            for one in checks_of(promise.number) if checks else ():
                listing.add_row("", cell(one.level, "dim"), "", cell(f"{one.name}: {one.sentence}", "dim"))
        out.print(listing)
        return Exit.CONFORMANT
    for promise in PROMISES.values():
        say(f"{promise.number:4}{promise.level:5}{_whose(promise):14}{_sentence(promise)}")
        for one in checks_of(promise.number) if checks else ():
            say(f"    {one.level:5}{one.name}: {one.sentence}")
    return Exit.CONFORMANT


def _whose(promise: Promise) -> str:
    return "all" if len(promise.capabilities) == len(CAPABILITIES) else promise.capabilities[0]


def _sentence(promise: Promise) -> str:
    return promise.sentence + ("" if promise.counted else " (not counted)")


def _as_json(promise: Promise, *, checks: bool) -> dict[str, Any]:
    plain = dataclasses.asdict(promise)
    if checks:
        found = checks_of(promise.number)
        plain["checks"] = [{"name": one.name, "level": one.level, "sentence": one.sentence} for one in found]
    return plain
