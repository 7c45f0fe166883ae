"""Make the pictures of reports in docs/images anew: real runs, shown by a real browser.

    python docs/screenshots.py [FOLDER]

Needs the kit, Pillow, and Chromium on the PATH. What fails is the in-process backend with deliberate faults in it.
"""

import base64
import contextlib
import importlib
import io
import itertools
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from deerflow_conformance.cli import main
from deerflow_conformance.mutants import all_mutants

#: Few enough for small files, and more than the eye can tell apart on these pages.
COLOURS = 200
#: Wide enough for a desk, and as narrow as a telephone.
DESK, PHONE = 1280, 375
#: Faults that several promises notice, each in another way.
FAULTS = ("a_list_lags_behind", "an_update_is_lost", "resuming_drops_an_event")


class Picture(NamedTuple):
    """One picture: of which report, how wide and high in pixels, and in which colours."""

    name: str
    report: str
    width: int
    height: int
    dark: bool = False


PICTURES = (
    Picture("report-passing", "passing", DESK, 900),
    Picture("report-failing", "failing", DESK, 1500),
    Picture("report-failing-dark", "failing", DESK, 1500, dark=True),
    Picture("report-failing-phone", "failing", PHONE, 1500),
    Picture("report-incomplete-phone-dark", "incomplete", PHONE, 1000, dark=True),
    Picture("report-matrix", "matrix", DESK, 800),
)


class Browser:
    """Chromium, spoken to through two pipes."""

    def __init__(self, executable: str, profile: Path) -> None:
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()
        switches = (
            "headless no-sandbox disable-gpu no-first-run hide-scrollbars remote-debugging-pipe disable-sync "
            "disable-background-networking disable-component-update disable-extensions"
        )
        arguments = [executable, *(f"--{one}" for one in switches.split()), f"--user-data-dir={profile}"]
        # It reads commands from 3 and answers on 4.
        places = [(os.POSIX_SPAWN_DUP2, theirs_in, 3), (os.POSIX_SPAWN_DUP2, theirs_out, 4)]
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            places += [(os.POSIX_SPAWN_DUP2, nowhere.fileno(), stream) for stream in (1, 2)]
            self._pid = os.posix_spawn(executable, arguments, os.environ, file_actions=places)
        os.close(theirs_in)
        os.close(theirs_out)
        self._numbers = itertools.count(1)
        self._rest = b""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(OSError):
            self.call("Browser.close")
        os.kill(self._pid, signal.SIGTERM)
        os.waitpid(self._pid, 0)

    def call(self, method: str, *, of_page: bool = False, **parameters: Any) -> dict[str, Any]:
        """Send one command and return its answer."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if of_page:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        for answer in self._messages():
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result
        raise RuntimeError(f"{method}: the browser is gone")

    def _messages(self) -> Iterator[dict[str, Any]]:
        while True:
            message, separator, rest = self._rest.partition(b"\0")
            if separator:
                self._rest = rest
                yield json.loads(message)
            elif data := os.read(self._from, 1 << 20):
                self._rest += data
            else:
                return

    def photograph(self, page: Path, picture: Picture) -> bytes:
        """Show *page* and return the picture as PNG.

        Raises:
            RuntimeError: The page is wider than the window.
        """
        size = {"width": picture.width, "height": picture.height}
        colours = [{"name": "prefers-color-scheme", "value": "dark" if picture.dark else "light"}]
        self.call("Emulation.setDeviceMetricsOverride", of_page=True, deviceScaleFactor=1, mobile=False, **size)
        self.call("Emulation.setEmulatedMedia", of_page=True, features=colours)
        self.call("Page.navigate", of_page=True, url=page.resolve().as_uri())
        seen = "document.readyState == 'complete' ? [document.documentElement.scrollWidth] : null"
        width = None
        while width is None:
            told = self.call("Runtime.evaluate", of_page=True, expression=seen, returnByValue=True)
            width = told["result"].get("value")
        if width[0] > picture.width:
            raise RuntimeError(f"{picture.name} is {width[0]} pixels wide, not {picture.width}")
        shot = self.call("Page.captureScreenshot", of_page=True, format="png", captureBeyondViewport=False)
        return base64.b64decode(shot["data"])


def small(picture: bytes) -> bytes:
    """Return a PNG with fewer colours, a third as large."""
    images: Any = importlib.import_module("PIL.Image")  # only this program needs it
    packed = io.BytesIO()
    images.open(io.BytesIO(picture)).convert("RGB").quantize(COLOURS, dither=0).save(packed, "PNG", optimize=True)
    return packed.getvalue()


def run_all(folder: Path) -> dict[str, Path]:
    """Run the kit for each kind of report and return the pages by kind."""
    kinds = {"passing": (), "incomplete": ("-k", "L0 S* M* T? C1 C2"), "failing": ()}
    for kind, more in kinds.items():
        with contextlib.ExitStack() as faults, contextlib.redirect_stdout(sys.stderr):
            for mutated in all_mutants():
                if kind == "failing" and mutated.name in FAULTS:
                    faults.enter_context(mutated.patch())
            main(["run", "inprocess", *more, "--report", str(folder / kind)])
    (folder / "sqlite").mkdir()
    main(
        ["run", "sqlite", "--set", f"path={folder / 'sqlite'}", "--only", "counters", "--report", str(folder / "file")]
    )
    pages = {kind: folder / kind / "report.html" for kind in kinds}
    reports = [str(folder / kind / "report.json") for kind in ("passing", "file")]
    pages["matrix"] = folder / "matrix.html"
    main(["matrix", *reports, "--html", str(pages["matrix"])])
    return pages


def take_all(target: Path) -> None:
    """Write every picture into *target*."""
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        sys.exit("screenshots.py needs Chromium on the PATH")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pages = run_all(folder)
        browser = Browser(executable, folder / "profile")
        try:
            for picture in PICTURES:
                shot = browser.photograph(pages[picture.report], picture)
                (target / f"{picture.name}.png").write_bytes(small(shot))
        finally:
            browser.close()


if __name__ == "__main__":
    take_all(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "images")
