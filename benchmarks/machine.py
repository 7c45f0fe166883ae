"""What the benchmarks ran on, as far as figures depend on it. Nothing here names a person, a host or a folder."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path


def describe(folder: Path, distributions: Iterable[str], engines: Iterable[str]) -> dict[str, str]:
    """Describe the machine and the versions.

    Args:
        folder: Where embedded backends keep their files.
        distributions: Whose versions matter.
        engines: Names of database engines with their versions.
    """
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load": f"{os.getloadavg()[0]:.2f} when it began",
        "file system": _file_system(folder),
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "libraries": ", ".join(f"{name} {_version(name)}" for name in sorted(distributions)),
        "engines": ", ".join(sorted(engines)) or "none",
    }


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """The commit of the tree, and whether it was changed since; ``unknown`` outside a clone."""
    root = Path(__file__).parents[1]
    try:
        head = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=root, text=True, stderr=subprocess.DEVNULL)
        # Results of an earlier run are no change of what is measured.
        changes = subprocess.check_output(
            ["git", "status", "--porcelain", "--", ".", ":!benchmarks/results"], cwd=root, text=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head.strip()}{' and changes' if changes.strip() else ''}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _file_system(folder: Path) -> str:
    """The kind of the file system under *folder*: what a durable write costs depends on it above all."""
    try:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    kinds = {fields[1]: fields[2] for fields in map(str.split, mounts)}
    real = folder.resolve()
    return next((kinds[str(parent)] for parent in [real, *real.parents] if str(parent) in kinds), "unknown")
