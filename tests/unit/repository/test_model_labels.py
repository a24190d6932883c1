"""Labels: what the configuration says, what was set while serving, and what comes back after a restart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from thriftserve.errors import ConfigError, FailedPrecondition, InvalidArgument, NotFound, ThriftServeError
from thriftserve.repository.labels import Labels

BOTH = {"m": frozenset({42, 43})}


def started(file: Path | None = None, **configured: int) -> Labels:
    """Labels at the start of a server whose configuration has the model m with these labels."""
    labels = Labels(file)
    labels.configure({"m": configured})
    return labels


def test_start_takes_the_configuration() -> None:
    """At the start a label may point at what is about to be loaded."""
    assert started(stable=42, canary=43).current() == {"m": {"stable": 42, "canary": 43}}


def test_promotion_and_rollback_by_configuration() -> None:
    """A reload moves labels between available versions, forth and back."""
    labels = started(stable=42, canary=43)
    assert labels.configure({"m": {"stable": 43, "canary": 43}}, BOTH) == {"m": {"stable": 43, "canary": 43}}
    assert labels.configure({"m": {"stable": 42, "canary": 43}}, BOTH)["m"]["stable"] == 42
    assert labels.configure({"m": {}}, BOTH) == {"m": {}}


@pytest.mark.parametrize("allow", [False, True])
def test_label_in_use_moves_to_available_versions_only(allow: bool) -> None:
    """A label in use can't be moved to a version that still loads, whatever is allowed; nothing else moves either."""
    labels = started(stable=42)
    with pytest.raises(FailedPrecondition, match="'stable' of model 'm' can't point at version 44, which is not"):
        labels.configure({"m": {"stable": 44, "canary": 43}}, BOTH, allow_unavailable=allow)
    with pytest.raises(FailedPrecondition, match="have the version served first"):
        labels.set("m", "stable", 44, BOTH["m"], allow_unavailable=allow)
    assert labels.current() == {"m": {"stable": 42}}


def test_new_label_of_a_version_that_is_not_available() -> None:
    """A label that is new may point at any version only where that is allowed."""
    labels = started(stable=42)
    with pytest.raises(FailedPrecondition):
        labels.configure({"m": {"stable": 42, "canary": 44}}, BOTH)
    with pytest.raises(FailedPrecondition):
        labels.set("m", "canary", 44, BOTH["m"])
    assert labels.set("m", "canary", 44, BOTH["m"], allow_unavailable=True)["m"] == {"stable": 42, "canary": 44}
    changed = labels.configure({"m": {"stable": 42, "next": 45}}, BOTH, allow_unavailable=True)
    assert changed == {"m": {"stable": 42, "canary": 44, "next": 45}}


def test_label_that_stays_needs_nothing() -> None:
    """A reload that leaves a label where it is, is not refused because its version has gone."""
    labels = started(stable=42)
    assert labels.configure({"m": {"stable": 42}}, {"m": frozenset()})["m"] == {"stable": 42}


@pytest.mark.parametrize(
    ("configured", "then"),
    [
        pytest.param({"stable": 42}, {"stable": 43, "mine": 42}, id="says what it said: what was set stays"),
        pytest.param({"stable": 43}, {"stable": 43, "mine": 42}, id="says something new: it counts"),
        pytest.param({}, {"mine": 42}, id="names it no more: gone"),
        pytest.param({"stable": 42, "mine": 43}, {"stable": 43, "mine": 43}, id="names one that was set: it counts"),
    ],
)
def test_reload_after_labels_were_set(configured: Mapping[str, int], then: Mapping[str, int], tmp_path: Path) -> None:
    """What was set while serving stays until the configuration says something new of that label; restarts alike."""
    file = tmp_path / "state" / "labels.json"
    labels = started(file, stable=42)
    labels.set("m", "stable", 43, BOTH["m"])
    labels.set("m", "mine", 42, BOTH["m"])
    restarted = Labels(file)
    assert restarted.configure({"m": configured}) == {"m": then}
    assert labels.configure({"m": configured}, BOTH) == {"m": then}
    assert Labels(file).configure({"m": configured}) == {"m": then}


def test_configuration_that_changes_and_changes_back() -> None:
    """Once the configuration said something new, what was set before is forgotten for good."""
    labels = started(stable=42)
    labels.set("m", "stable", 43, BOTH["m"])
    labels.configure({"m": {}}, BOTH)
    assert labels.configure({"m": {"stable": 42}}, BOTH)["m"] == {"stable": 42}


def test_model_that_is_left_out_takes_its_labels_along(tmp_path: Path) -> None:
    """A model that a reload leaves out comes back without labels."""
    file = tmp_path / "labels.json"
    labels = started(file)
    labels.set("m", "mine", 42, BOTH["m"])
    labels.configure({"other": {}}, BOTH)
    assert labels.configure({"m": {}}, BOTH) == {"m": {}}
    assert Labels(file).configure({"m": {}}) == {"m": {}}


def test_what_was_seen_does_not_change() -> None:
    """Who holds a view of the labels sees all of a change or nothing of it."""
    labels = started(stable=42)
    before = labels.current()
    labels.set("m", "stable", 43, BOTH["m"])
    assert before == {"m": {"stable": 42}}
    assert labels.current() == {"m": {"stable": 43}}


def test_removing(tmp_path: Path) -> None:
    """A label that was set goes, or goes back to where the configuration has it."""
    file = tmp_path / "labels.json"
    labels = started(file, stable=42)
    labels.set("m", "stable", 43, BOTH["m"])
    labels.set("m", "mine", 42, BOTH["m"])
    assert labels.remove("m", "mine") == {"m": {"stable": 43}}
    assert labels.remove("m", "stable") == {"m": {"stable": 42}}
    assert Labels(file).configure({"m": {"stable": 42}}) == {"m": {"stable": 42}}


@pytest.mark.parametrize(
    ("act", "kind", "told"),
    [
        (lambda labels: labels.set("x", "a", 42, ()), NotFound, "no model named 'x' is served; served: 'm'"),
        (lambda labels: labels.set("m", "", 42, (42,)), InvalidArgument, "a label of 0 characters"),
        (lambda labels: labels.set("m", "a" * 129, 42, (42,)), InvalidArgument, "a label of 129 characters"),
        (lambda labels: labels.remove("x", "a"), NotFound, "no model named 'x'"),
        (lambda labels: labels.remove("m", "a"), NotFound, "has no label 'a'; labels: 'stable'"),
        (lambda labels: labels.remove("m", "stable"), FailedPrecondition, "is set in its configuration"),
    ],
)
def test_mistakes(act: Callable[[Labels], object], kind: type[ThriftServeError], told: str) -> None:
    """What can't be done says why, and does nothing."""
    labels = started(stable=42)
    with pytest.raises(kind, match=told):
        act(labels)
    assert labels.current() == {"m": {"stable": 42}}


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"format": 2, "labels": {}}', '{"format": 1}', '{"format": 1, "labels": {"m": {"a": 3}}}',
     '{"format": 1, "labels": {"m": {"a": {"version": "3", "configured": null}}}}'],
)  # fmt: skip
def test_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    """A file that can't be read ends the start, with what to do: labels are not lost in silence."""
    file = tmp_path / "labels.json"
    file.write_text(content)
    with pytest.raises(ConfigError, match="restore the file, or remove it"):
        Labels(file)


def test_file_that_can_not_be_written_changes_nothing(tmp_path: Path) -> None:
    """A change that would not come back after a restart is not made; nothing is left behind."""
    file = tmp_path / "labels.json"
    labels = started(file, stable=42)
    file.mkdir()
    with pytest.raises(OSError, match="directory"):
        labels.set("m", "stable", 43, BOTH["m"])
    assert labels.current() == {"m": {"stable": 42}}
    assert [one.name for one in tmp_path.iterdir()] == ["labels.json"]
