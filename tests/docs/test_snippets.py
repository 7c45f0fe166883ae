"""What the pages show is what runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Programs; a folder there is a repository of somebody's own, and has a session of its own.
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run(*command: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("DEERFLOW", "DEER_FLOW"))}
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=clean,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def snippets(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return run(ROOT / "docs/snippets.py", "--root", root, *options, folder=root)


def test_snippets_equal_the_examples() -> None:
    """Every Python snippet of our pages is, letter for letter, cut from a file in examples/."""
    result = snippets(ROOT)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_example_runs(example: Path, tmp_path: Path) -> None:
    """Every example runs to its end without a warning, tests by pytest and all others as a program.

    Those of the kit run at its lowest level: what they stand for is run at all levels by its own session.
    """
    pytest_options = ["-m", "pytest", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", "--conformance-level=L0"]
    options = pytest_options if example.name.startswith("test_") else []
    result = run("-W", "error", *options, example, folder=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


def test_there_are_examples() -> None:
    """The README's example is among them, so the tests above are not empty."""
    assert EXAMPLES


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples/sum.py").write_text("a = 1\nif a:\n    # [sum]\n    print(a + 1)\n    # [end]\n")
    return tmp_path


WHOLE = "a = 1\nif a:\n    # [sum]\n    print(a + 1)\n    # [end]\n"


@pytest.mark.parametrize(
    ("page", "fault"),
    [
        (f"<!-- examples/sum.py -->\n```python\n{WHOLE}```\n", ""),
        ("<!-- examples/sum.py#sum -->\n\n```python\nprint(a + 1)\n```\n", ""),
        ("```bash\nnot python\n```\n", ""),
        ("<!-- examples/sum.py -->\n```python\na = 2\n```\n", "README.md:2: differs from examples/sum.py"),
        ("Text.\n\n```python\nprint(2)\n```\n", "README.md:3: no comment above this snippet"),
        ("<!-- other -->\nText.\n```python\nprint(2)\n```\n", "README.md:3: no comment above this snippet"),
        ("<!-- examples/gone.py -->\n```python\n1\n```\n", "README.md:2: there is no file examples/gone.py"),
        ("<!-- examples/../x.py -->\n```python\n1\n```\n", "README.md:2: there is no file examples/../x.py"),
        (
            "<!-- examples/sum.py#x -->\n```python\n1\n```\n",
            "README.md:2: examples/sum.py has no lines between",
        ),
    ],
)
def test_comparison_names_what_differs(pages: Path, page: str, fault: str) -> None:
    """A snippet that differs, has no source or names a missing one is found, and its line is named."""
    (pages / "x.py").write_text("1\n")
    (pages / "README.md").write_text(page)
    result = snippets(pages)
    assert result.stdout.startswith(fault)
    assert bool(result.stdout) == bool(fault)
    assert (result.returncode, result.stderr) == (1 if fault else 0, "")


def test_write_renews_what_differs_and_nothing_else(pages: Path) -> None:
    """`--write` puts the example's text into the snippet and leaves the rest of the page as it was."""
    template = "# Title\n\n<!-- examples/sum.py#sum -->\n```python\n{}```\n\n```bash\nkeep\n```\n"
    (pages / "README.md").write_text(template.format("old\n"))
    result = snippets(pages, "--write")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert (pages / "README.md").read_text() == template.format("print(a + 1)\n")
