"""Writes a run's reports into a folder, all of them or none."""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from deerflow_conformance.reports.badge import badge
from deerflow_conformance.reports.junit import junit
from deerflow_conformance.reports.model import Report
from deerflow_conformance.reports.page import report_page
from deerflow_conformance.results import BrokenUse

#: What a folder of reports holds, in the order in which the files appear: whoever finds the JSON finds all.
FILES: Final = ("report.html", "junit.xml", "badge.svg", "report.json")


def prepare(folder: Path) -> None:
    """Make *folder* ready for reports before anything runs: an earlier run's must not pass for this one's.

    Raises:
        BrokenUse: It cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        for name in reversed(FILES):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise BrokenUse(f"{folder} cannot hold reports: {error.strerror or error}") from None


def write_reports(folder: Path, report: Report) -> None:
    """Write all reports into *folder*, which `prepare` has seen.

    Raises:
        BrokenUse: It cannot be written to any more, a full disk for example. What was there before still is.
    """
    texts = {
        "report.html": report_page(report),
        "junit.xml": junit(report),
        "badge.svg": badge(report),
        # In ASCII: what a backend says may hold half of a character.
        "report.json": json.dumps(report.as_json(), indent=2) + "\n",
    }
    try:
        _write_together({folder / name: texts[name] for name in FILES})
    except OSError as error:
        raise BrokenUse(f"{folder} cannot be written: {error.strerror or error}") from None


def write_whole(path: Path, text: str) -> None:
    """Write *text* to *path* so that whoever reads it meanwhile gets the old file or the new one.

    Raises:
        OSError: It cannot be written; the old file, if there is one, is as it was.
    """
    _write_together({path: text})


def _write_together(texts: Mapping[Path, str]) -> None:
    """Write all of *texts* under other names, and only when that is done name them as they are called, in order."""
    temporary = {path: path.with_name(f".{path.name}.{secrets.token_hex(4)}") for path in texts}
    try:
        for path, text in texts.items():
            with temporary[path].open("x", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
                file.write(text)
        for path, written in temporary.items():
            written.replace(path)
    except BaseException:
        for written in temporary.values():
            written.unlink(missing_ok=True)
        raise
