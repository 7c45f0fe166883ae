"""Small real distributions, built as wheels and installed into a folder of their own."""

from __future__ import annotations

import base64
import hashlib
import os
import signal
import sys
import textwrap
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

# Tests never assert a time: a slow machine is no failure.
settings.register_profile("deerflow", deadline=None)
settings.load_profile("deerflow")

# Ctrl-C reaches what the tests start, also where a shell has all of it in the background and ignores it there.
signal.signal(signal.SIGINT, signal.default_int_handler)

CORE = "deerflow-backends>=1.0,<2"


def build_wheel(
    folder: Path,
    name: str,
    version: str,
    *,
    requires: Sequence[str],
    offers: Mapping[str, str],
    modules: Mapping[str, str],
) -> Path:
    """Write a wheel of pure Python modules that offers backends through entry points."""
    stem = f"{name.replace('-', '_')}-{version}"
    metadata = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    metadata += [f"Requires-Dist: {line}" for line in requires]
    points = ["[deerflow_backends]", *(f"{backend} = {target}" for backend, target in offers.items())]
    wheel = ["Wheel-Version: 1.0", "Generator: tests", "Root-Is-Purelib: true", "Tag: py3-none-any"]
    files = {f"{module}.py": textwrap.dedent(source) for module, source in modules.items()}
    files |= {
        f"{stem}.dist-info/{file}": "\n".join(lines) + "\n"
        for file, lines in {"METADATA": metadata, "WHEEL": wheel, "entry_points.txt": points}.items()
    }
    record = [f"{file},{_digest(text)},{len(text.encode())}" for file, text in files.items()]
    files[f"{stem}.dist-info/RECORD"] = "\n".join([*record, f"{stem}.dist-info/RECORD,,"]) + "\n"
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    return path


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return "sha256=" + base64.urlsafe_b64encode(digest).decode().rstrip("=")


class Site:
    """A folder on ``sys.path`` that distributions are installed into."""

    def __init__(self, folder: Path, wheels: Path) -> None:
        self.folder = folder
        self._wheels = wheels

    def install(
        self,
        source: str = "",
        *,
        name: str = "acme",
        version: str = "2.0",
        requires: Sequence[str] = (CORE,),
        offers: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        """Build and install a distribution whose one module, called like it with ``_plugin``, holds *source*."""
        module = f"{name.replace('-', '_')}_plugin"
        offers = {name.replace("-", "_"): module} if offers is None else offers
        modules = {module: source}
        path = build_wheel(self._wheels, name, version, requires=requires, offers=offers, modules=modules)
        with zipfile.ZipFile(path) as archive:  # which is all that installing a wheel of pure Python is
            archive.extractall(folder or self.folder)

    def module(self, name: str) -> ModuleType | None:
        """Return an installed module if it was imported."""
        return sys.modules.get(name)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """An empty site; what is imported from it is forgotten afterwards."""
    folder, wheels = tmp_path / "site", tmp_path / "wheels"
    folder.mkdir()
    wheels.mkdir()
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)
    yield Site(folder, wheels)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def unconfigured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and no variable of ours: a test sees only the configuration that it makes."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for variable in [*os.environ]:
        if variable.upper().startswith(("DEERFLOW_BACKENDS_", "DEER_FLOW_")):
            monkeypatch.delenv(variable)
    return folder
