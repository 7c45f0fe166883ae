"""Keep the Python snippets of our Markdown equal to the example files that the tests run.

A fence that is marked as Python stands under a comment that names where it is cut from:

    <!-- examples/hello.py -->           the whole file
    <!-- examples/hello.py#publish -->   the lines between "# [publish]" and "# [end]"

``python docs/snippets.py`` lists every snippet that differs or has no source and then exits with 1;
``--write`` puts the text of the files in their place.
"""

import argparse
import re
import sys
import textwrap
from pathlib import Path

FENCE = re.compile(
    r"(?:^<!-- (?P<source>\S+) -->\n\n?)?^(?P<open>```python[^\n]*\n)(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
PAGES = ("*.md", "docs/**/*.md", "core/*.md", "conformance/*.md", "plugins/**/*.md")


def cut(root: Path, source: str) -> str:
    """Return the text that *source* names, dedented.

    Raises:
        LookupError: There is no such file in ``examples``, or no such region in it; the message says which.
    """
    name, _, region = source.partition("#")
    path = root / name
    if not path.resolve().is_relative_to((root / "examples").resolve()) or not path.is_file():
        raise LookupError(f"there is no file {name} in examples/")
    text = path.read_text(encoding="utf-8")
    if not region:
        return text.strip("\n") + "\n"
    found = re.search(rf"^[ ]*# \[{re.escape(region)}\]\n(.*?)^[ ]*# \[end\]$", text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise LookupError(f'{name} has no lines between "# [{region}]" and "# [end]"')
    return textwrap.dedent(found[1]).strip("\n") + "\n"


def renewed(root: Path, page: Path) -> tuple[str, list[str]]:
    """Return the text that *page* should have, and a line for each snippet that is not as it should be."""
    text = page.read_text(encoding="utf-8")
    faults: list[str] = []

    def renew(fence: re.Match[str]) -> str:
        place = f"{page.relative_to(root)}:{text.count(chr(10), 0, fence.start('open')) + 1}"
        if fence["source"] is None:
            faults.append(f"{place}: no comment above this snippet names the example that it is cut from")
            return fence[0]
        try:
            body = cut(root, fence["source"])
        except LookupError as error:
            faults.append(f"{place}: {error}")
            return fence[0]
        if body != fence["body"]:
            faults.append(f"{place}: differs from {fence['source']}")
        return fence[0][: fence.start("body") - fence.start()] + body + "```"

    return FENCE.sub(renew, text), faults


def main() -> int:
    """Compare, or with ``--write`` renew, the snippets of every page."""
    parser = argparse.ArgumentParser(description="Compare the snippets of our Markdown with the examples.")
    parser.add_argument("--write", action="store_true", help="renew the snippets that differ")
    parser.add_argument("--root", type=Path, default=Path(__file__).parent.parent, help="the checkout")
    arguments = parser.parse_args()
    left = []
    for page in sorted({page for pattern in PAGES for page in arguments.root.glob(pattern)}):
        text, faults = renewed(arguments.root, page)
        if arguments.write and faults:
            page.write_text(text, encoding="utf-8")
            faults = renewed(arguments.root, page)[1]
        left += faults
    print(*left, sep="\n", end="\n" if left else "")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
