"""What the settings of every connection have in common, and how a plugin's own are validated without a leak."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Annotated, Any, Final, Literal, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from deerflow_backends.mistakes import Place, one_line, scrub, secrets_in, unknown
from deerflow_backends.sources import PREFIX


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number of seconds, not bool")  # noqa: TRY004  # pydantic wants a ValueError
    return value


def _no_is_off(value: Any) -> Any:
    return "off" if value is False else value  # which is what YAML makes of a bare off


def _plain_path(value: Any) -> Any:
    """Refuse what would silently be another folder than the one that is meant."""
    text = str(value) if isinstance(value, Path) else value
    if isinstance(text, str) and (not text.strip() or text.startswith("~") or "$" in text or "://" in text):
        raise ValueError(
            "must name a folder: no empty text, no '~', no URL, and '$NAME' only as the whole value in a file"
        )
    return value


#: A duration, more than 0 and finite; ``yes`` is none.
Seconds = Annotated[float, BeforeValidator(_no_bool), Field(gt=0, allow_inf_nan=False)]

#: A folder; relative means relative to where the process was started.
Folder = Annotated[Path, BeforeValidator(_plain_path)]


class ConnectionSettings(BaseModel):
    """What every connection has; a plugin's `deerflow_settings` returns a subclass with what its own need.

    Validated before anything connects, from text as well (the environment has nothing else). Its ``repr`` shows no
    text but the common fields', since any text may be a secret.

    Attributes:
        namespace: Two namespaces of one server share nothing: key prefix, schema, database or file name.
        timeout_seconds: How long a call waits for the backend, queueing included.
        publish_timeout_seconds: The same for publishing, which repeats itself meanwhile.
        migrate: Whether opening applies due schema steps, refuses to open while there are some, or does not look.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    namespace: str = Field(default="deerflow", pattern=r"^[a-z][a-z0-9_]{0,47}$")
    timeout_seconds: Seconds = 5.0
    publish_timeout_seconds: Seconds = 60.0
    migrate: Annotated[Literal["auto", "check", "off"], BeforeValidator(_no_is_off)] = "auto"

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        """Give the fields for ``repr`` and ``str``, those that could hold a secret as ``***``."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            harmless = name in ConnectionSettings.model_fields or isinstance(value, bool | int | float | PurePath)
            yield name, value if harmless else _HIDDEN


class _Hidden:
    def __repr__(self) -> str:
        return "***"


_HIDDEN: Final = _Hidden()


#: Errors of pydantic whose messages hold nothing of what was given, so that scrubbing would only garble them.
_HARMLESS = re.compile(
    r"extra_forbidden|literal_error|enum|(int|float|bool)_parsing|int_from_float|[a-z_]+_type|finite_number"
    r"|(greater|less)_than(_equal)?|multiple_of|string_too_(short|long)|too_(short|long)|string_pattern_mismatch"
)


def connection_settings(
    model: type[ConnectionSettings], values: Mapping[str, Any], place: Place = ()
) -> ConnectionSettings | list[tuple[Place, str]]:
    """Validate a connection's *values*.

    Returns:
        The settings, or each mistake as its place and what is wrong, secrets left out.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        secrets = secrets_in({name: value for name, value in values.items() if not _is_choice(model, name, value)})
        found = error.errors(include_input=False, include_url=False, include_context=False)
        return [((*place, *map(str, one["loc"])), _problem(one, model, secrets, place)) for one in found]


def _is_choice(model: type[ConnectionSettings], name: str, value: Any) -> bool:
    """Whether a value is one of the list that a field allows, which is no secret."""
    field = model.model_fields.get(name)
    return field is not None and get_origin(field.annotation) is Literal and value in get_args(field.annotation)


def secrets_of(settings: ConnectionSettings | None, values: Mapping[str, Any]) -> frozenset[str]:
    """Return what of a valid connection's *values* a plugin's own words may not show.

    Common fields, folders, numbers and choices from a list are no secrets, and no URL is for its host: a server or
    file that is in trouble must be named.
    """
    found: set[str] = set()
    for name, given in values.items():
        parsed = getattr(settings, name, None)
        field = type(settings).model_fields.get(name) if settings is not None else None
        chosen = field is not None and get_origin(field.annotation) is Literal
        if chosen or name in ConnectionSettings.model_fields or isinstance(parsed, bool | int | float | PurePath):
            continue
        found |= {text for text in secrets_in(given) if "://" not in text or "?" in text}
    return frozenset(found)


def _problem(error: Any, model: type[ConnectionSettings], secrets: frozenset[str], place: Place) -> str:
    if error["type"] == "extra_forbidden" and len(error["loc"]) == 1:
        return unknown("unknown key", str(error["loc"][0]), ["backend", *model.model_fields])
    if error["type"] == "missing":
        path = [*place, *map(str, error["loc"])]
        block = "{".join(f"{key}: " for key in path) + "..." + "}" * (len(path) - 1)
        return f"is required; set it under '{block}' or as {PREFIX}{'__'.join(path).upper()}"
    if error["type"] == "string_pattern_mismatch" and error["loc"] == ("namespace",):
        return "must be lower-case letters, digits and _, beginning with a letter, at most 48"
    message = one_line(error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, "))
    if _HARMLESS.fullmatch(error["type"]):
        return message
    return scrub(message, secrets)
