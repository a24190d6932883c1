"""Operators' overrides: what they change of the configuration, how long they hold, and what is dropped."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from thriftserve.controller.overrides import OperatorOverrides
from thriftserve.repository.state_store import StateDir
from thriftserve.repository.versions import Latest, ModelConfig, Specific, VersionDir


@pytest.fixture
def base(tmp_path: Path) -> Path:
    for version in ("1", "2"):
        (tmp_path / "m" / version).mkdir(parents=True)
        (tmp_path / "m" / version / "saved_model.pb").touch()
    return tmp_path / "m"


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    state = StateDir(tmp_path / "state")
    state.prepare()
    return state


@pytest.fixture
def configured(base: Path) -> tuple[ModelConfig, ...]:
    return (ModelConfig("m", "tensorflow", str(base), Latest(2), {"stable": 1}),)


def directories(base: Path, *versions: int) -> tuple[VersionDir, ...]:
    return tuple(VersionDir(version, base / str(version)) for version in versions)


def test_load_takes_the_place_of_the_configured_model(
    state: StateDir, configured: tuple[ModelConfig, ...], base: Path
) -> None:
    """From the same base path its settings stay; from another one nothing of them does; a version alone is served."""
    overrides = OperatorOverrides(state, configured)
    overrides.load("m", str(base), None)
    assert overrides.configs(configured) == configured
    overrides.load("m", str(base), 1)
    (config,) = overrides.configs(configured)
    assert (config.policy, config.labels) == (Specific((1,)), {"stable": 1})
    overrides.load("m", "/elsewhere", None)
    assert overrides.configs(configured) == (ModelConfig("m", "tensorflow", "/elsewhere"),)
    overrides.load("new", str(base), None)
    assert [config.name for config in overrides.configs(configured)] == ["m", "new"]


def test_unload_of_a_model_and_of_a_version(state: StateDir, configured: tuple[ModelConfig, ...], base: Path) -> None:
    """A version is left out of what is wanted, a model out of the configuration; loading either brings both back."""
    overrides = OperatorOverrides(state, configured)
    overrides.unload("m", 2)
    assert overrides.configs(configured) == configured
    assert overrides.versions("m", directories(base, 2, 1)) == directories(base, 1)
    assert overrides.versions("other", directories(base, 2)) == directories(base, 2)
    overrides.unload("m", None)
    assert overrides.configs(configured) == ()
    overrides.load("m", str(base), None)
    assert overrides.configs(configured) == configured
    assert overrides.versions("m", directories(base, 2, 1)) == directories(base, 2, 1)


def test_load_that_is_unloaded_leaves_nothing(
    state: StateDir, configured: tuple[ModelConfig, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """A model that only an operator loaded is gone once it is unloaded; loaded anew, it is there again."""
    overrides = OperatorOverrides(state, configured)
    overrides.load("new", "/elsewhere", None)
    overrides.unload("new", None)
    assert overrides.configs(configured) == configured
    overrides.drop_missing()
    assert caplog.records == []  # there is nothing of it to be missed
    overrides.load("new", "/elsewhere", 3)
    assert [config.name for config in overrides.configs(configured)] == ["m", "new"]


def test_overrides_outlive_the_process(state: StateDir, configured: tuple[ModelConfig, ...], base: Path) -> None:
    """The next controller, or server, has the same; one with another configuration has none."""
    overrides = OperatorOverrides(state, configured)
    overrides.load("new", str(base), 1)
    overrides.unload("m", 2)
    overrides.set_fetches([{"name": "x", "version": 1, "url": "http://x", "sha256": None}])
    after = OperatorOverrides(state, configured)
    assert after.configs(configured) == overrides.configs(configured)
    assert after.versions("m", directories(base, 2, 1)) == directories(base, 1)
    assert after.fetches == overrides.fetches
    other = (*configured, ModelConfig("extra", "tensorflow", "/extra"))
    assert OperatorOverrides(state, other).configs(other) == other
    assert OperatorOverrides(state, other).fetches == []


def test_reset_drops_everything(state: StateDir, configured: tuple[ModelConfig, ...], base: Path) -> None:
    """Once the configuration was read again, it alone holds, also after a restart."""
    overrides = OperatorOverrides(state, configured)
    overrides.load("new", str(base), None)
    overrides.unload("m", None)
    other = (*configured, ModelConfig("extra", "tensorflow", "/extra"))
    overrides.reset(other)
    assert overrides.configs(other) == other
    assert OperatorOverrides(state, other).configs(other) == other
    overrides.unload("extra", None)
    assert OperatorOverrides(state, other).configs(other) == configured


@pytest.mark.parametrize(
    ("version", "removed", "missing"),
    [
        (None, (), None),
        (2, (), None),
        (2, ("2",), "version 2 is"),
        (None, ("2",), None),
        (None, ("1", "2"), "all versions are"),
    ],
)
def test_override_for_a_version_that_is_gone(
    state: StateDir,
    configured: tuple[ModelConfig, ...],
    base: Path,
    caplog: pytest.LogCaptureFixture,
    version: int | None,
    removed: tuple[str, ...],
    missing: str | None,
) -> None:
    """At a start it is dropped with a warning, for good, and the configuration holds; others stay."""
    overrides = OperatorOverrides(state, configured)
    overrides.load("new", str(base), version)
    for name in removed:
        (base / name / "saved_model.pb").unlink()
        (base / name).rmdir()
    with caplog.at_level(logging.WARNING):
        overrides.drop_missing()
    names = [config.name for config in OperatorOverrides(state, configured).configs(configured)]
    if missing is None:
        assert (names, caplog.records) == (["m", "new"], [])
    else:
        assert names == ["m"]
        assert [record.getMessage() for record in caplog.records] == [
            f"model new, loaded by an operator: {missing} no longer in {base}; dropped"
        ]


def test_override_for_a_base_path_that_is_gone(state: StateDir, configured: tuple[ModelConfig, ...]) -> None:
    """A base path that can't be listed has no versions."""
    overrides = OperatorOverrides(state, configured)
    overrides.load("new", "/nowhere", None)
    overrides.drop_missing()
    assert overrides.configs(configured) == configured
