"""Settings: which place wins, where each value came from, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from durable_adapter.errors import NotInstalled, SettingError
from durable_adapter.model import Mode
from durable_adapter.settings import NAMES, Settings, load


@pytest.fixture
def nowhere(tmp_path: Path) -> Path:
    """A pyproject.toml that says nothing."""
    path = tmp_path / "pyproject.toml"
    path.write_text("[tool.other]\nx = 1\n")
    return path


def test_an_argument_beats_the_environment_beats_the_engine_beats_the_file(tmp_path: Path) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_text('[tool.durable_adapter]\njournal = "f"\nnamespace = "f"\nstale = 41\nbeat = 1\n')
    engine = {"durable_adapter_namespace": "e", "durable_adapter_stale": 42, "durable_adapter_journal": "e"}
    environment = {"DURABLE_ADAPTER_STALE": "43", "DURABLE_ADAPTER_JOURNAL": "v", "PATH": "/"}
    found = load({"journal": "a", "stale": None}, engine=engine.get, environment=environment, file=path)
    assert (found.journal, found.stale, found.namespace, found.beat, found.pool_size) == ("a", 43.0, "e", 1.0, 2)
    assert {name: found.origins[name] for name in ("journal", "stale", "namespace", "beat", "pool_size")} == {
        "journal": "argument",
        "stale": "environment",
        "namespace": "engine settings",
        "beat": f"file {path}",
        "pool_size": "default",
    }


def test_every_setting_has_an_origin(nowhere: Path) -> None:
    found = load(environment={}, file=nowhere)
    assert set(found.origins) == set(NAMES)
    assert found == Settings()


def test_the_nearest_pyproject_above_the_working_directory_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.durable_adapter]\nnamespace = "eu"\n')
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    assert load(environment={}).namespace == "eu"


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("stale", "0", r"stale='0' \(argument\): must be a number of seconds, of at least 0.001"),
        ("stale", "soon", r"stale='soon' \(argument\): must be a number of seconds"),
        ("beat", float("inf"), r"beat=inf \(argument\): must be a number of seconds"),
        ("retention", "soon", r"\(argument\): must be a number of days"),
        ("retention", 1e-9, r"\(argument\): must be a number of days, of at least one hour"),
        ("retention", 1e9, r"\(argument\): must be a number of days, of .* at the most a hundred years"),
        ("namespace", "e\x1fu", r"\(argument\): must be 64 characters at the most, without control characters"),
        ("pool_size", 0, r"pool_size=0 \(argument\): must be a whole number of at least 1"),
        ("mode", "maybe", r"mode='maybe' \(argument\): must be one of off, "),
        ("strict", "perhaps", r"strict='perhaps' \(argument\): must be true or false"),
        ("namespace", "", r"namespace='' \(argument\): must not be empty"),
        ("namespace", "n" * 65, r"\(argument\): must be 64 characters at the most"),
        ("code_version", "v" * 65, r"\(argument\): must be 64 characters at the most"),
        ("namespace", "e\0u", r"\(argument\): must be 64 characters at the most, without control characters"),
    ],
)
def test_a_value_that_is_not_accepted_says_where_it_came_from(nowhere: Path, name: str, value: Any, says: str) -> None:
    with pytest.raises(SettingError, match=says):
        load({name: value}, environment={}, file=nowhere)


def test_a_value_in_the_environment_is_blamed_on_it(nowhere: Path) -> None:
    with pytest.raises(SettingError, match=r"stale='-1' \(environment\)"):
        load(environment={"DURABLE_ADAPTER_STALE": "-1"}, file=nowhere)


def test_an_unknown_name_is_refused_wherever_it_stands(tmp_path: Path, nowhere: Path) -> None:
    with pytest.raises(SettingError, match=r"stail \(argument\) is no setting of durable-adapter; there are: journal, "):
        load({"stail": 1}, environment={}, file=nowhere)
    with pytest.raises(SettingError, match=r"DURABLE_ADAPTER_STAIL \(environment\) is no setting"):
        load(environment={"DURABLE_ADAPTER_STAIL": "1"}, file=nowhere)
    path = tmp_path / "other.toml"
    path.write_text("[tool.durable_adapter]\nstail = 1\n")
    with pytest.raises(SettingError, match=r"stail \(file .*other\.toml\) is no setting"):
        load(environment={}, file=path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_text("[tool.durable_adapter\n")
    with pytest.raises(SettingError, match=r"pyproject\.toml cannot be read"):
        load(environment={}, file=path)


@pytest.mark.parametrize(("text", "flag"), [("1", True), ("TRUE", True), ("on", True), ("0", False), ("", False), ("no", False)])
def test_flags_are_read_as_people_write_them(nowhere: Path, text: str, flag: bool) -> None:
    assert load(environment={"DURABLE_ADAPTER_STRICT": text}, file=nowhere).strict is flag


def test_the_mode_is_off_or_enforce(nowhere: Path) -> None:
    assert load(environment={"DURABLE_ADAPTER_MODE": "off"}, file=nowhere).mode is Mode.OFF
    assert load(environment={}, file=nowhere).mode is Mode.ENFORCE


def test_without_a_journal_every_place_is_named_where_one_may_be_given(nowhere: Path) -> None:
    with pytest.raises(NotInstalled) as caught:
        load(environment={}, file=nowhere).url()
    for place in ("install(journal=...)", "DURABLE_ADAPTER_JOURNAL", "durable_adapter_journal", "[tool.durable_adapter]"):
        assert place in str(caught.value)
