"""What a report says: everything that came of a run, and enough to run it again."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeAlias

from deerflow_conformance.promises import (
    CONTRACT_VERSION,
    EVERYTHING,
    HARNESS,
    PROMISES,
    Capability,
    Level,
    promises_of,
)
from deerflow_conformance.results import Exit, Result, State, Verdict, exit_of
from deerflow_conformance.texts import sentence_of

#: The version of the form of report.json, of how a verdict is put in words too; a form that older kits cannot read, or
#: whose words they put otherwise, has another.
FORMAT: Final = 1

#: What each exit code means, in the words that reports use.
MEANINGS: Final[Mapping[Exit, str]] = {
    Exit.CONFORMANT: "conformant",
    Exit.NOT_CONFORMANT: "not conformant",
    Exit.BROKEN: "broken",
    Exit.INCOMPLETE: "incomplete",
    Exit.KIT_DEFECT: "defect of the kit",
}


@dataclass(frozen=True, slots=True)
class Distribution:
    """An installed distribution.

    Attributes:
        name: As its metadata says.
        version: The same.
    """

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True, slots=True)
class PluginSource:
    """What was tested is an installed plugin, opened with plain settings.

    Attributes:
        plugin: The entry point's name.
        settings: The connection's settings; None in place of a value that may be private.
    """

    plugin: str
    settings: Mapping[str, str | None] = field(default_factory=dict)
    kind: Literal["plugin"] = "plugin"

    def command(self, capability: Capability) -> str:
        """Return the command that tests *capability* of it; a hidden value is to be put back by the reader."""
        return f"deerflow-conformance run {shlex.quote(self.plugin)}{set_options(self.settings)} --only {capability}"

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"kind": self.kind, "plugin": self.plugin, "settings": dict(self.settings)}


@dataclass(frozen=True, slots=True)
class FileSource:
    """What was tested is what an author's function opens.

    Attributes:
        file: The path, with ``/``, relative to where the run was started.
        function: The name in it that `conform` or `conform_plugin` made.
    """

    file: str
    function: str
    kind: Literal["file"] = "file"

    def command(self, capability: Capability) -> str:
        """Return the command that tests *capability* of it."""
        return f"deerflow-conformance run {shlex.quote(f'{self.file}::{self.function}')} --only {capability}"

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"kind": self.kind, "file": self.file, "function": self.function}


Source: TypeAlias = PluginSource | FileSource


@dataclass(frozen=True, slots=True)
class Part:
    """What a report says of one capability of one backend.

    Attributes:
        backend: The plugin's name in configuration.
        source: How it was opened.
        distribution: What brought the plugin, or None where nothing installed is called so.
        server: What it ran on, in the author's words, or None.
        verdict: The results, and what they amount to.
        preview: Results of promises that no verdict counts yet.
    """

    backend: str
    source: Source
    distribution: Distribution | None
    server: str | None
    verdict: Verdict
    preview: tuple[Result, ...] = ()

    @property
    def capability(self) -> Capability:
        """Which capability."""
        return self.verdict.capability

    @property
    def wanted(self) -> int:
        """How many promises were to be kept: those of the level without those that do not apply."""
        exempt = self.verdict.numbers(State.NOT_APPLICABLE)
        return len(promises_of(self.capability, self.verdict.level)) - len(exempt)

    @property
    def passed(self) -> int:
        """How many of them were."""
        return len(self.verdict.numbers(State.PASSED))

    @property
    def score(self) -> str:
        """Both figures, or that there are none: the harness check is no promise."""
        return "harness" if self.verdict.level == HARNESS.level else f"{self.passed}/{self.wanted}"

    @property
    def seconds(self) -> float:
        """How long all checks took."""
        return sum(result.seconds for result in (*self.verdict.results, *self.preview))

    def as_json(self) -> dict[str, Any]:
        """Return plain values, those that follow from others included, for readers who do not want to reckon."""
        return {
            "backend": self.backend,
            "capability": self.capability,
            "source": self.source.as_json(),
            "distribution": _named(self.distribution),
            "server": self.server,
            "reach": self.verdict.reach,
            "levels": list(self.verdict.levels),
            "exit": int(self.verdict.exit),
            "verdict": self.verdict.line(),
            "passed": self.passed,
            "wanted": self.wanted,
            "missing": self.verdict.missing,
            "results": [_result(result) for result in self.verdict.results],
            "preview": [_result(result) for result in self.preview],
        }


@dataclass(frozen=True, slots=True)
class Report:
    """What came of one run.

    Attributes:
        parts: One for each capability of each backend, in the order they ran.
        kit: The version of deerflow-conformance.
        python: Which Python, and on what.
        created_at: When the run ended, in UTC, to the second.
        seed: What generated programs were drawn from.
        budget: The factor on their number.
        asked: The level that was asked for, or None: the highest that the reach allows, and load.
        contract: The version of the contract.
    """

    parts: tuple[Part, ...]
    kit: str
    python: str
    created_at: datetime
    seed: int = 0
    budget: float = 1.0
    asked: Level | None = None
    contract: str = CONTRACT_VERSION

    @property
    def exit(self) -> Exit:
        """The exit code of the run."""
        return exit_of(part.verdict for part in self.parts)

    @property
    def level(self) -> Level:
        """The level that a verdict is about."""
        return self.asked or EVERYTHING

    @property
    def backends(self) -> list[str]:
        """The backends in it, each once."""
        return list(dict.fromkeys(part.backend for part in self.parts))

    def command(self, part: Part, number: str | None = None) -> str:
        """Return the command that judges a capability again as this run did, or one promise of it."""
        return command(part.source, part.capability, number, seed=self.seed, budget=self.budget, asked=self.asked)

    def as_json(self) -> dict[str, Any]:
        """Return plain values, as ``schema.json`` beside this module describes them."""
        return {
            "format": FORMAT,
            "contract": self.contract,
            "kit": self.kit,
            "python": self.python,
            "created_at": self.created_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "seed": self.seed,
            "budget": self.budget,
            "asked": self.asked,
            "exit": int(self.exit),
            "meaning": MEANINGS[self.exit],
            "capabilities": [part.as_json() for part in self.parts],
        }

    @staticmethod
    def from_json(text: str | bytes) -> Report:
        """Read a report that anybody may have written.

        Raises:
            BadReport: It is none, or it contradicts itself; the message names the place.
        """
        from deerflow_conformance.reports.reading import parsed  # noqa: PLC0415  # loads pydantic

        return parsed(text)


def set_options(settings: Mapping[str, str | None]) -> str:
    """Return *settings* as options of a command line, each after a space; ``...`` is for a hidden value."""
    return "".join(
        f" --set {shlex.quote(name + '=' + ('...' if value is None else value))}" for name, value in settings.items()
    )


def command(
    source: Source, capability: Capability, number: str | None, *, seed: int, budget: float, asked: Level | None
) -> str:
    """Return the command that judges one promise, or with None all of the level, of a capability of *source*."""
    one = "" if number is None else f" -k {number}"
    level = "" if asked is None else f" --level {asked}"
    factor = "" if budget == 1 else f" --budget {budget:g}"
    return f"{source.command(capability)}{one} --seed {seed}{level}{factor}"


def counted(results: Iterable[Result]) -> tuple[tuple[Result, ...], tuple[Result, ...]]:
    """Part *results* into those that a verdict counts, with the harness check's, and those in preview."""
    both: tuple[list[Result], list[Result]] = [], []
    for result in results:
        promise = PROMISES.get(result.number)
        both[promise is not None and not promise.counted].append(result)
    return tuple(both[0]), tuple(both[1])


def _named(distribution: Distribution | None) -> dict[str, str] | None:
    return None if distribution is None else {"name": distribution.name, "version": distribution.version}


def _result(result: Result) -> dict[str, Any]:
    plain = result.as_json()
    del plain["capability"]
    return {"number": plain.pop("number"), "sentence": sentence_of(result.number), **plain}
