"""YAML as DeerFlow writes it above the text of a fact, read into what JSON can carry."""

from __future__ import annotations

from typing import Any

import yaml

from deerflow_backends.deerflow_folders.places import Unread


class _Loader(yaml.SafeLoader):
    """Loads what DeerFlow's own loader does. (The one in C does not survive deep nesting.)"""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Refuse aliases: DeerFlow writes none, and a few of them make a short text a huge value."""
        if self.check_event(yaml.AliasEvent):
            raise Unread("has front matter with an alias")
        return super().compose_node(parent, index)


# A date stays the text that it is: JSON has no dates, and DeerFlow means text.
yaml.add_constructor("tag:yaml.org,2002:timestamp", yaml.SafeLoader.construct_yaml_str, Loader=_Loader)


class _Dumper(yaml.SafeDumper):
    """Writes what DeerFlow's own dumper does, in another style where that one's would be read differently."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if any(break_ in text for break_ in "\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


yaml.add_representer(str, _represent_text, Dumper=_Dumper)


def load_mapping(text: str) -> dict[Any, Any]:
    """Load a mapping; what is in it is yet to be checked.

    Raises:
        Unread: It is none, or no YAML, or uses an alias.
    """
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506  # a safe one
    except (yaml.YAMLError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise Unread(f"has front matter that is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(value, dict):
        raise Unread(f"has front matter that is no mapping but {type(value).__name__}")
    return value


def dump_mapping(value: dict[str, Any]) -> str:
    """Write a mapping in its order, as DeerFlow does."""
    text: str = yaml.dump(value, Dumper=_Dumper, allow_unicode=True, sort_keys=False)
    return text.strip()
