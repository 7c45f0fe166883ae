"""Where configuration comes from: arguments, environment and file, each turned into one normal form before the merge.

The normal form: each capability and each connection is a mapping, every key is text. A bare name (``memory: sqlite``)
is turned into ``{"backend": "sqlite"}`` here, inside its source: merged later, an override would lose the backend.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import yaml

from deerflow_backends.capabilities import CAPABILITIES, OPTIONS
from deerflow_backends.mistakes import Mistake, Place, unknown

PREFIX: Final = "DEERFLOW_BACKENDS_"
FILE_VARIABLE: Final = PREFIX + "CONFIG"
HOST_FILE_VARIABLE: Final = "DEER_FLOW_CONFIG_PATH"
HOST_SECTION: Final = "backends"
HOST_HOME_VARIABLE: Final = "DEER_FLOW_HOME"
#: Our own folder in DeerFlow's.
HOST_FOLDER: Final = "deerflow-backends"
DEFAULT_FILE: Final = Path("deerflow-backends.yaml")
TOP_LEVEL: Final = (*CAPABILITIES, "connections", "drain_seconds")
NAME: Final = re.compile(r"[a-z][a-z0-9_]*")

#: What Kubernetes sets for a service called deerflow-backends or deerflow-backends-anything.
_KUBERNETES = re.compile(
    r"(?:[A-Z0-9]+_)*(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9]+)*|PORT(?:_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)?)"
)
_VARIABLE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")
_QUOTED = re.compile(r"""(["']).+\1""")
#: What the YAML parser quotes of itself: one character, written as an escape perhaps, or its name for a token.
_TOKEN = re.compile(r"""(?<!\S)(["'])(?:\\?.|\\x[0-9a-f]{2}|\\u[0-9a-f]{4}|<[a-z ]+>)\1(?=[\s,]|$)""")


@dataclass(slots=True)
class Layer:
    """What one source says.

    Attributes:
        values: In the normal form.
        origins: What to call the source of a place and of all below it.
        mistakes: What is wrong with the source itself.
    """

    values: dict[str, Any] = field(default_factory=dict, repr=False)
    origins: dict[Place, str] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)

    def holds(self, place: Place) -> bool:
        """Whether the source says anything about *place*."""
        values: Any = self.values
        for key in place:
            if not isinstance(values, Mapping) or key not in values:
                return False
            values = values[key]
        return True

    def origin(self, place: Place) -> str:
        """Return what to call the source of *place*."""
        for length in range(len(place), -1, -1):
            if place[:length] in self.origins:
                return self.origins[place[:length]]
        return next((origin for known, origin in self.origins.items() if known[: len(place)] == place), "")

    def refuse(self, place: Place, problem: str) -> None:
        """Note a mistake."""
        self.mistakes.append(Mistake(".".join(place), self.origin(place), problem))

    def normalise(self, raw: Any) -> None:
        """Take *raw* as the values, in the normal form; note what has no such form."""
        for key, value in self._mapping((), raw):
            if key in CAPABILITIES:
                shorthand = {"backend": value} if isinstance(value, str) else value
                if isinstance(shorthand, Mapping):
                    self.values[key] = dict(self._mapping((key,), shorthand))
                else:
                    self.refuse((key,), f"must be a backend's name or a mapping, not {_kind(value)}")
            elif key == "connections":
                self.values[key] = {
                    name: dict(self._mapping((key, name), block)) for name, block in self._mapping((key,), value)
                }
            elif key == "drain_seconds":
                self.values[key] = value
            else:
                self.refuse((key,), unknown("unknown key", key, TOP_LEVEL))

    def _mapping(self, place: Place, raw: Any) -> Iterator[tuple[str, Any]]:
        """Give the items of a mapping; nothing at all (a key without a value in YAML) is an empty one."""
        if raw is not None and not isinstance(raw, Mapping):
            self.refuse(place, f"must be a mapping, not {_kind(raw)}")
            return
        for key, value in (raw or {}).items():
            if isinstance(key, str):
                yield key, value
            else:
                self.refuse(place, f"has the key {key!r}; keys are text, so write it in quotes")


def _kind(value: Any) -> str:
    return "empty" if value is None else type(value).__name__


def from_arguments(arguments: Mapping[str, Any]) -> Layer:
    """Read what the caller passes."""
    layer = Layer(origins={(): "arguments"})
    layer.normalise(arguments)
    return layer


def from_environment(environment: Mapping[str, str]) -> Layer:
    """Read ``DEERFLOW_BACKENDS_*``: names in any case, ``__`` between levels, JSON where a mapping may stand."""
    layer = Layer()
    raw: dict[str, Any] = {}
    for variable, text in sorted(environment.items()):
        name = variable.upper()
        if not name.startswith(PREFIX) or name == FILE_VARIABLE:
            continue
        place = tuple(name.removeprefix(PREFIX).lower().split("__"))
        if place[0] not in TOP_LEVEL or not all(place):
            if not _KUBERNETES.fullmatch(name.removeprefix(PREFIX)):
                layer.mistakes.append(Mistake("", variable, _unknown_variable(name.removeprefix(PREFIX))))
            continue
        layer.origins.setdefault(place, variable)
        value = _from_text(layer, place, text)
        if isinstance(value, str) and len(place) == 1 and place[0] in CAPABILITIES:
            place = (*place, "backend")
            layer.origins.setdefault(place, variable)
        _insert(layer, raw, place, value, variable)
    layer.normalise(raw)
    return layer


def _unknown_variable(name: str) -> str:
    """Say what is allowed after the prefix instead of *name*, and what was perhaps meant."""
    places: list[Place] = [("config",), *((key,) for key in TOP_LEVEL)]
    for capability in CAPABILITIES:
        options = [option.name for option in fields(OPTIONS[capability])]
        places += [(capability, key) for key in ("backend", "connection", *options)]
    close = difflib.get_close_matches(name, ["__".join(place).upper() for place in places], n=1, cutoff=0.75)
    meant = f"did you mean {PREFIX + close[0]!r}? " if close else ""
    allowed = ", ".join(["CONFIG", "CONNECTIONS__<NAME>__<SETTING>", "DRAIN_SECONDS", *map(str.upper, CAPABILITIES)])
    return f"unknown variable; {meant}allowed: {PREFIX} and then {allowed}"


def _from_text(layer: Layer, place: Place, text: str) -> Any:
    may_be_mapping = (place[0] in CAPABILITIES and len(place) == 1) or (place[0] == "connections" and len(place) < 3)
    if not may_be_mapping or not text.lstrip().startswith("{"):
        return text

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for key in {key for key, _ in pairs if sum(key == other for other, _ in pairs) > 1}:
            layer.refuse(place, f"has the key {key!r} twice")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError):
        layer.refuse(place, "starts with '{' but is not valid JSON")
        return {}


def _insert(layer: Layer, raw: dict[str, Any], place: Place, value: Any, variable: str) -> None:
    """Put *value* at *place*, merging mappings; two variables that set the same place are a mistake."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _insert(layer, raw, (*place, key), inner, variable)
        if value:
            return
    at = raw
    for key in place[:-1]:
        inner = at.setdefault(key, {})
        if not isinstance(inner, dict):
            above = place[: place.index(key) + 1]
            problem = f"is below {'.'.join(above)}, which {layer.origin(above)} sets; keep one"
            layer.mistakes.append(Mistake(".".join(place), variable, problem))
            return
        at = inner
    if value != {} and place[-1] in at:
        problem = f"is set by {layer.origin(place)} too; keep one"
        layer.mistakes.append(Mistake(".".join(place), variable, problem))
    elif value == {}:
        at.setdefault(place[-1], value)
    else:
        at[place[-1]] = value
        layer.origins.setdefault(place, variable)


def from_host(environment: Mapping[str, str], stronger: Sequence[Layer]) -> Layer:
    """Read where DeerFlow keeps its own data: there memory is kept, too, unless a *stronger* source chooses for it.

    That place has a name all the same, so that what was kept there can be looked at and copied.
    """
    layer = Layer()
    home = environment.get(HOST_HOME_VARIABLE)
    chosen = any(source.holds(("memory", key)) for source in stronger for key in ("backend", "connection"))
    described = any(source.holds(("connections", "files")) for source in stronger)
    if home and not (chosen and described):
        layer.origins[()] = HOST_HOME_VARIABLE
        settings = {"path": str(Path(home, HOST_FOLDER)), "import_from": home}
        choice = {} if chosen else {"memory": "files"}
        layer.normalise({**choice, "connections": {"files": settings}})
    return layer


def from_file(environment: Mapping[str, str]) -> Layer:
    """Read the one file that applies, if any: the named one, else the default one, else the section of DeerFlow's."""
    if FILE_VARIABLE in (named := {name.upper(): text for name, text in environment.items()}):
        return _read(named[FILE_VARIABLE], environment, FILE_VARIABLE, section=None)
    if DEFAULT_FILE.exists():
        return _read(str(DEFAULT_FILE), environment, "", section=None)
    if HOST_FILE_VARIABLE in environment:
        return _read(environment[HOST_FILE_VARIABLE], environment, HOST_FILE_VARIABLE, section=HOST_SECTION)
    return Layer()


def _read(path: str, environment: Mapping[str, str], variable: str, *, section: str | None) -> Layer:
    layer = Layer(origins={(): path})
    if not path:
        layer.mistakes.append(Mistake("", variable, "is empty; give it a file's path, or unset it"))
        return layer
    try:
        loader = _Loader(Path(path).read_bytes(), layer)
        raw = loader.read(section)
        layer.normalise(_expanded(layer, (), raw, environment))
    except OSError as error:
        named_by = f" (named by {variable})" if variable else ""
        layer.mistakes.append(Mistake("", path + named_by, f"cannot be read: {error.strerror}"))
    except yaml.YAMLError as error:
        layer.mistakes.append(Mistake("", _marked(path, error), f"is not valid YAML: {_reason(error)}"))
    except RecursionError:
        layer.refuse((), "nests without end")
    return layer


def _marked(path: str, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f"{path}, line {mark.line + 1}" if mark else path


def _reason(error: yaml.YAMLError) -> str:
    """Return the parser's reason; what it quotes of the file could be part of a secret."""
    reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "unreadable"
    return reason if not _QUOTED.search(_TOKEN.sub("", reason)) else _QUOTED.sub("'***'", reason)


class _Loader(yaml.SafeLoader):
    """Safe YAML that notes where keys stand, and refuses the same key twice."""

    def __init__(self, text: bytes, layer: Layer) -> None:
        super().__init__(text)
        self._layer = layer
        self._file = layer.origins[()]

    def read(self, section: str | None) -> Any:
        """Build the document, or of its top level only *section*, the rest of the file being another's."""
        try:
            root = self.get_single_node()
            if section is not None:
                root = self._section(root, section)
            if root is None:
                return None
            self._note_lines((), root)
            return self.construct_document(root)
        finally:
            self.dispose()

    def _section(self, root: yaml.Node | None, section: str) -> yaml.Node | None:
        pairs = root.value if isinstance(root, yaml.MappingNode) else []
        found = [(key, node) for key, node in pairs if isinstance(key, yaml.ScalarNode) and key.value == section]
        if len(found) > 1:
            self._refuse_twice(found[1][0], section)
        if not found:
            self._layer.origins[()] = f"{self._file}, no section {section}"
            return None
        self._layer.origins[()] = f"{self._file}, section {section}"
        node: yaml.Node = found[0][1]
        return node

    def _note_lines(self, place: Place, node: yaml.Node) -> None:
        if isinstance(node, yaml.MappingNode) and len(place) < 3:
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode):
                    self._layer.origins[*place, key.value] = f"{self._file}, line {key.start_mark.line + 1}"
                    self._note_lines((*place, key.value), value)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping after looking for the same key twice, which YAML itself lets pass."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    self._refuse_twice(key, key.value)
                seen.add(key.value)
        return super().construct_mapping(node, deep)

    def _refuse_twice(self, key: yaml.Node, name: str) -> None:
        origin = f"{self._file}, line {key.start_mark.line + 1}"
        self._layer.mistakes.append(Mistake(name, origin, "is there twice; keep one"))


def _expanded(layer: Layer, place: Place, value: Any, environment: Mapping[str, str]) -> Any:
    """Replace each text that is ``$NAME`` by that variable, and ``$$x`` by the text ``$x``."""
    if isinstance(value, dict):
        return {key: _expanded(layer, (*place, str(key)), inner, environment) for key, inner in value.items()}
    if isinstance(value, list):
        return [_expanded(layer, place, inner, environment) for inner in value]
    if not isinstance(value, str):
        return value
    if value.startswith("$$"):
        return value[1:]
    found = _VARIABLE.fullmatch(value)
    if found is None:
        return value
    if found[1] not in environment:
        layer.refuse(place, f"the environment variable {found[1]} is not set; set it, or write '$${found[1]}' for text")
    return environment.get(found[1], "")
