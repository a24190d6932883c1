"""Flags and base paths: what is read of them, and what is said of mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from thriftserve.errors import ConfigError, ModelLoadError
from thriftserve.repository.versions import ModelConfig, newest_version, parse_model_flag, parse_model_flags


def test_flag_names_a_base_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NAME=BASE_PATH is read, relative paths from where the command was typed; a path may have '=' in it."""
    monkeypatch.chdir(tmp_path)
    assert parse_model_flag("a-b.c=models/x") == ModelConfig("a-b.c", "tensorflow", str(tmp_path / "models/x"))
    assert parse_model_flag("a=/m/k=v").source == "/m/k=v"


def test_flag_names_a_class() -> None:
    """NAME=python:… keeps everything after the prefix, options too."""
    assert parse_model_flag("m=python:a.b:C?x=1") == ModelConfig("m", "python", "a.b:C?x=1")


@pytest.mark.parametrize("flag", ["", "digits", "=/models", "digits=", "-x=/m", "a b=/m", "ä=/m", "a" * 129 + "=/m"])
def test_unreadable_flag_is_shown(flag: str) -> None:
    """A flag that can't be read is a ConfigError that shows it."""
    with pytest.raises(ConfigError) as caught:
        parse_model_flag(flag)
    assert repr(flag) in caught.value.message


def test_name_twice_is_refused() -> None:
    """Two models can't have one name."""
    assert [one.name for one in parse_model_flags(["a=/1", "b=/2"])] == ["a", "b"]
    with pytest.raises(ConfigError, match="'a' is given twice"):
        parse_model_flags(["a=/1", "b=/2", "a=/3"])


def test_highest_number_is_served(tmp_path: Path) -> None:
    """The version with the highest number wins, by value and not by letter; leading zeros do not count."""
    for name in ("2", "9", "00123", "0"):
        (tmp_path / name).mkdir()
    found = newest_version(tmp_path)
    assert (found.version, found.path.name) == (123, "00123")


def test_what_is_no_version_is_left_alone(tmp_path: Path) -> None:
    """Names that are no numbers, numbers too large for the wire, and files are no versions."""
    for name in ("7", "8.tmp", "--9", "+9", "v9", "٩", "²", str(2**63), "9" * 200):
        (tmp_path / name).mkdir()
    (tmp_path / "11").write_text("a file")
    assert newest_version(tmp_path).version == 7


def test_version_may_be_a_link(tmp_path: Path) -> None:
    """A link to a directory elsewhere is a version."""
    (tmp_path / "store").mkdir()
    (tmp_path / "4").symlink_to(tmp_path / "store")
    assert newest_version(tmp_path).version == 4


def test_two_directories_of_one_version(tmp_path: Path) -> None:
    """`1` and `01` can't both be version 1."""
    (tmp_path / "1").mkdir()
    (tmp_path / "01").mkdir()
    with pytest.raises(ModelLoadError, match="01 and 1 are both version 1"):
        newest_version(tmp_path)


def test_missing_base_path_is_named(tmp_path: Path) -> None:
    """A base path that is not there is named."""
    with pytest.raises(ModelLoadError, match="gone: there is no such directory"):
        newest_version(tmp_path / "gone")


def test_base_path_that_is_a_file(tmp_path: Path) -> None:
    """A file is told from a missing directory."""
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(ModelLoadError, match="is a file"):
        newest_version(tmp_path / "saved_model.pb")


def test_empty_base_path_gets_the_remedy(tmp_path: Path) -> None:
    """A base path without versions is told what to put there."""
    with pytest.raises(ModelLoadError, match=r"has no version: .*/1"):
        newest_version(tmp_path)


def test_version_given_as_base_path_gets_the_remedy(tmp_path: Path) -> None:
    """The usual mistake, a path to the SavedModel itself, is told how to mend it."""
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(ModelLoadError, match="this is a version itself"):
        newest_version(tmp_path)
