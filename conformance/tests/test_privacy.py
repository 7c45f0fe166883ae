"""What is repeated of a plugin's settings, and what of them is in nothing that is printed or written."""

import json
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import SecretStr

from deerflow_backends import ConnectionSettings
from deerflow_backends.settings import Folder, connection_settings
from deerflow_conformance.cli import main
from deerflow_conformance.privacy import is_harmless, secrets_of_one
from deerflow_conformance.reports.texts import scrubbed, without_secrets
from deerflow_conformance.results import Failure, Kind, Result, State


class Settings(ConnectionSettings):
    """A plugin's, of which the tests set one at a time."""

    path: Folder = Path()
    port: int = 0
    tail: Literal["data", "counters"] = "data"
    url: SecretStr = SecretStr("")
    sign: SecretStr = SecretStr("")
    user: str = ""
    nodes: tuple[str, ...] = ()
    password: str = ""
    key_file: Folder = Path()


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("path", "/srv/data", True),
        ("path", ".", True),
        ("path", "data.db", True),
        ("port", "6379", True),
        ("wait", "on", True),
        ("url", "redis://localhost:6379/0", True),
        ("url", "redis://me:hunter2@localhost", False),
        ("url", "redis://localhost?password=hunter2", False),
        ("url", "host=x password=y", False),
        ("password", "6379", False),
        ("auth", "/srv/data", False),
        ("api_key", "on", False),
        ("user", "ada7", False),
        ("path", "/srv/data@x?y", False),
    ],
)
def test_only_harmless_settings_are_shown(name: str, value: str, shown: bool) -> None:
    """A setting's value is repeated only where it surely holds no secret, and is else kept out of all texts."""
    assert is_harmless(name, value, None) is shown
    assert (value in set(secrets_of_one(name, value, None))) is (not shown and len(value) > 2)


@pytest.mark.parametrize(
    ("name", "value", "shown", "secret"),
    [
        ("path", "data", True, False),
        ("path", "data/of me@x", True, False),
        ("tail", "counters", True, False),
        ("user", "counters", False, False),
        ("user", "x8f3a", False, True),
        ("sign", "counters", False, True),
        ("password", "counters", False, True),
        ("key_file", "counters", False, True),
    ],
)
def test_what_a_setting_is_decides(name: str, value: str, shown: bool, secret: bool) -> None:
    """Folders and choices are shown; a word is kept out of texts only where its setting is a private one."""
    settings = connection_settings(Settings, {name: value})
    assert isinstance(settings, Settings)
    assert is_harmless(name, value, settings) is shown
    assert (value in set(secrets_of_one(name, value, settings))) is secret


def test_secrets_leave_texts_whole_or_in_part() -> None:
    """A secret, the password in it and any user in a URL are starred; very short values would be everywhere."""
    given: dict[str, Any] = {"url": "x://me:hunter2@h", "user": "m3", "nodes": ["a:1", "x://me:hunter3@i"]}
    secrets = {text for name, value in given.items() for text in secrets_of_one(name, value, None)}
    said = "x://me:hunter2@h hunter2 hunter3 m3 y://a:b@c"
    assert without_secrets(said, secrets) == "*** *** *** m3 y://***@c"


def test_the_kits_own_words_stay() -> None:
    """Even a password that is a word leaves the sentence of a check, and what usually lies behind a failure, whole."""
    failure = Failure(Kind.UNKEPT, "a_check", "It holds data.", "got data", cause="The data is gone.")
    found = scrubbed(Result("C1", "counters", State.FAILED, "", failure, ()), {"data"}).failure
    assert found is not None
    assert (found.check_sentence, found.message, found.cause) == ("It holds data.", "got ***", "The data is gone.")


@pytest.mark.parametrize("folder", ["data", "counters"])
def test_a_folder_garbles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: str
) -> None:
    """What the kit says is whole, whatever the folder is called; the report names it, so that others can run it."""
    monkeypatch.chdir(tmp_path)
    arguments = ("run", "sqlite", "--set", f"path={folder}", "--only", "counters", "-k", "C2 G3", "--json")
    assert main(arguments) == 3
    out = capsys.readouterr().out
    assert "***" not in out
    (part,) = json.loads(out)["capabilities"]
    assert part["source"]["settings"] == {"path": folder}
    assert "there is no network between it and its data" in part["results"][0]["reason"]
