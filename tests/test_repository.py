"""What no file of this repository may hold, and what its pins must."""

import gzip
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
DISTRIBUTIONS = (
    "core",
    "conformance",
    *(f"plugins/{path.parent.name}" for path in ROOT.glob("plugins/*/pyproject.toml")),
)
LOCKS = {"uv.lock", "poetry.lock", "pdm.lock", "Pipfile.lock", "pylock.toml", "package-lock.json"}
#: Folders of one machine, and the addresses of package indexes; written in pieces, or this file would hold them.
ANYWHERE = re.compile(
    r"(?<![\w.])/(?:work|root|home|Users)/|py" r"pi\.org|python" r"hosted\.org|npm" r"js\.org|index-" r"url"
)
IN_PAGES = re.compile(r"(?<![\w.])/(?:tmp|var/tmp|work|root|home|Users|opt)\b")


def tracked() -> list[Path]:
    """Return every file that git tracks or would add."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listing.split("\0") if name and (ROOT / name).is_file()]


def telling(path: Path, text: str) -> list[str]:
    """Return the lines of *text*, read from *path*, that name a folder of one machine or a package index."""
    patterns = [ANYWHERE, IN_PAGES] if path.suffix == ".md" else [ANYWHERE]
    return [
        f"{path.name}:{number} {line.strip()}"
        for number, line in enumerate(text.splitlines(), 1)
        if any(pattern.search(line) for pattern in patterns)
    ]


def read(path: Path) -> str:
    """Return the text of a file, of a compressed one what is packed in it."""
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode()


def load(name: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / name).read_text(encoding="utf-8"))


def direct() -> Iterator[str]:
    """Yield each requirement that a distribution, an extra of it or a dependency group names."""
    for folder in (".", *DISTRIBUTIONS):
        document = load(f"{folder}/pyproject.toml")
        project = document.get("project", {})
        yield from project.get("dependencies", [])
        for lines in (*project.get("optional-dependencies", {}).values(), *document["dependency-groups"].values()):
            yield from (line for line in lines if isinstance(line, str))


def pins(name: str = "constraints.txt") -> list[Requirement]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_no_file_tells_of_a_machine_or_an_index() -> None:
    """No file names a folder of somebody's machine or where packages are downloaded from."""
    files = [path for path in tracked() if path.suffix != ".png"]  # pictures, which hold no text
    assert ROOT / "noxfile.py" in files
    assert [line for path in files for line in telling(path, read(path))] == []


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("a.py", "open('/ho" "me/me/x')"),
        ("a.txt", "https://py" "pi.org/simple"),
        ("a.toml", "extra-index-" "url = 1"),
        ("a.md", "sqlite in `/tmp/demo`"),
        ("a.md", "cd /work"),
    ],
)  # fmt: skip
def test_such_a_line_is_found(name: str, line: str) -> None:
    """The search above finds each kind of line that it is for."""
    assert telling(Path(name), f"fine\n{line}\nfine") == [f"{name}:2 {line}"]


def test_ordinary_lines_are_not_found() -> None:
    """The search above leaves web addresses, relative paths and words alone."""
    text = "https://example.org/work/item\n../home/x\nframework/work/\nroot/\n"
    assert telling(Path("a.md"), text) == []


def test_no_lock_files() -> None:
    """Versions are pinned in files of constraints alone: lock files hold download addresses."""
    assert [path for path in tracked() if path.name in LOCKS] == []


@pytest.mark.parametrize("name", ["constraints.txt", "tests/host/constraints.txt"])
def test_each_pin_is_one_version(name: str) -> None:
    """Pins are exact versions with markers and nothing else: no address, no hash, no option, no extra."""
    assert pins(name)
    for pin in pins(name):
        assert [bound.operator for bound in pin.specifier] == ["=="], pin
        assert (pin.url, pin.extras) == (None, set()), pin


def test_everything_asked_for_is_pinned() -> None:
    """Whatever a distribution, its tests or a session asks for has a pin that satisfies it."""
    ours = {canonicalize_name(load(f"{folder}/pyproject.toml")["project"]["name"]) for folder in DISTRIBUTIONS}
    pinned = {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in pins()}
    asked = [wanted for wanted in map(Requirement, direct()) if canonicalize_name(wanted.name) not in ours]
    assert asked
    unmet = [str(line) for line in asked if not line.specifier.contains(pinned.get(canonicalize_name(line.name), "0"))]
    unmet += [str(line) for line in asked if canonicalize_name(line.name) not in pinned]
    assert sorted(set(unmet)) == [], "run: nox -s pin"
