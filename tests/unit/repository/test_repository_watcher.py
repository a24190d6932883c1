"""The watcher: what is wanted, what appeared and disappeared, and what is said of what is wrong."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from copied_models import PB, whole_version
from thriftserve.repository.versions import All, Latest, ModelConfig, Specific, VersionPolicy
from thriftserve.repository.watcher import ModelVersions, Watcher


def put(base: Path, name: str | int) -> Path:
    """A whole version, below a base path."""
    return Path(shutil.copytree(whole_version(), base / str(name)))


def watching(base: Path, policy: VersionPolicy | None = None) -> Watcher:
    """A watcher of one model."""
    return Watcher([ModelConfig("m", "tensorflow", str(base), policy or Latest())])


def polled(watcher: Watcher) -> ModelVersions:
    """What a poll finds of the model."""
    return watcher.poll().models["m"]


def numbers(watcher: Watcher, polls: int = 2) -> list[int]:
    """The versions wanted after some polls."""
    return [one.version for one in [polled(watcher) for _ in range(polls)][-1].wanted]


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        (Latest(), [123]),
        (Latest(2), [123, 9]),
        (Latest(9), [123, 9, 2, -5]),
        (All(), [123, 9, 2, -5]),
        (Specific((2, 123)), [123, 2]),
        (Specific((-5, 7)), [-5]),
    ],
)
def test_policies(tmp_path: Path, policy: VersionPolicy, wanted: list[int]) -> None:
    """Each policy picks its versions, by number and not by letter; 00123 is 123; other names are left alone."""
    for name in ("2", "9", "00123", "-5", "v10", "10.tmp"):
        put(tmp_path, name)
    assert numbers(watching(tmp_path, policy)) == wanted


def test_version_comes_and_goes(tmp_path: Path) -> None:
    """A new version is wanted at the second look, the old one from then on not; one that is removed falls back."""
    put(tmp_path, 1)
    watcher = watching(tmp_path)
    assert polled(watcher) == ModelVersions(())
    first = polled(watcher)
    assert [one.version for one in first.appeared] == [1]
    assert polled(watcher) == ModelVersions(first.wanted)
    put(tmp_path, 2)
    assert polled(watcher) == ModelVersions(first.wanted)
    second = polled(watcher)
    assert (second.wanted, second.disappeared) == (second.appeared, first.wanted)
    shutil.rmtree(tmp_path / "2")
    third = polled(watcher)
    assert (third.wanted, third.disappeared) == (first.wanted, second.wanted)
    assert watcher.poll().any is False


def test_start_takes_one_look(tmp_path: Path) -> None:
    """At the start, what is whole is taken at first sight."""
    put(tmp_path, 1)
    assert [one.version for one in watching(tmp_path).poll(settled=True).models["m"].wanted] == [1]


def test_version_that_is_copied_keeps_the_old_one(tmp_path: Path) -> None:
    """While the newest is incomplete, the one before it is served; the reason is told once."""
    put(tmp_path, 1)
    watcher = watching(tmp_path)
    numbers(watcher)
    put(tmp_path, 2)
    (tmp_path / "2" / PB).unlink()
    found = [polled(watcher) for _ in range(4)]
    assert [[one.version for one in each.wanted] for each in found] == [[1]] * 4
    assert [each.problems for each in found] == [
        (),
        (f"{tmp_path / '2'}: is incomplete: saved_model.pb is missing",),
        (),
        (),
    ]


def test_missing_base_path_unloads_nothing(tmp_path: Path) -> None:
    """A base path that is not there is told once, again after it was there, and leaves what was wanted."""
    base = tmp_path / "base"
    watcher = watching(base)
    assert polled(watcher).problems == (f"{base}: there is no such directory",)
    assert polled(watcher).problems == ()
    put(base, 1)
    numbers(watcher)
    base.rename(tmp_path / "away")
    gone = polled(watcher)
    assert ([one.version for one in gone.wanted], gone.disappeared) == ([1], ())
    assert gone.problems == (f"{base}: there is no such directory",)


def test_empty_base_path_unloads(tmp_path: Path) -> None:
    """A base path that is there and empty has nothing to serve, and says what to put there."""
    put(tmp_path, 1)
    watcher = watching(tmp_path)
    numbers(watcher)
    shutil.rmtree(tmp_path / "1")
    found = polled(watcher)
    assert (found.wanted, [one.version for one in found.disappeared]) == ((), [1])
    assert "has no version: put the SavedModel" in found.problems[0]


def test_twins(tmp_path: Path) -> None:
    """Of two directories of one version neither is taken, both are named; the one that serves goes on."""
    for name in ("1", "2", "02"):
        put(tmp_path, name)
    watcher = watching(tmp_path)
    assert polled(watcher).problems == (f"{tmp_path}: 02 and 2 are both version 2: remove one",)
    assert numbers(watcher) == [1]
    shutil.rmtree(tmp_path / "02")
    assert numbers(watcher) == [2]
    put(tmp_path, "002")
    found = polled(watcher)
    assert [one.path.name for one in found.wanted] == ["2"]
    assert "002 and 2 are both version 2" in found.problems[0]


def test_version_that_the_policy_names_and_is_not_there(tmp_path: Path) -> None:
    """A specific version that is missing is told once; the others serve."""
    put(tmp_path, 1)
    watcher = watching(tmp_path, Specific((1, 7)))
    assert polled(watcher).problems == (f"{tmp_path}: has no version 7, which the policy names",)
    again = polled(watcher)
    assert ([one.version for one in again.wanted], again.problems) == ([1], ())


def test_files_that_change_under_a_version_that_serves(tmp_path: Path) -> None:
    """A version that was whole stays wanted until its directory is gone, and rewriting it is told."""
    path = put(tmp_path, 1)
    watcher = watching(tmp_path)
    numbers(watcher)
    (path / "variables" / "variables.index").unlink()
    assert numbers(watcher) == [1]
    os.utime(path / PB)
    found = polled(watcher)
    assert [one.version for one in found.wanted] == [1]
    assert "was written again after it was found complete" in found.problems[0]


def test_link_that_moves(tmp_path: Path) -> None:
    """A version may be a link."""
    put(tmp_path, "store")
    (tmp_path / "4").symlink_to(tmp_path / "store")
    assert numbers(watching(tmp_path)) == [4]


def test_configuration_changes(tmp_path: Path) -> None:
    """Models that a reload leaves out disappear once; those that stay are not looked at anew; a policy may change."""
    for name in ("a", "b", "c"):
        put(tmp_path / name, 1)
        put(tmp_path / name, 2)
    a, b, c = (ModelConfig(name, "tensorflow", str(tmp_path / name)) for name in ("a", "b", "c"))
    watcher = Watcher([a, b])
    watcher.poll()
    watcher.poll()
    watcher.configure([ModelConfig("b", "tensorflow", b.source, Latest(2)), c])
    found = watcher.poll().models
    assert [one.version for one in found["a"].disappeared] == [2]
    assert [one.version for one in found["b"].wanted] == [2, 1]
    assert found["c"].wanted == ()
    found = watcher.poll().models
    assert "a" not in found
    assert [one.version for one in found["c"].wanted] == [2]


def test_base_path_moves(tmp_path: Path) -> None:
    """A model whose base path changes is never without a version."""
    put(tmp_path / "old", 1)
    put(tmp_path / "new", 1)
    watcher = watching(tmp_path / "old")
    numbers(watcher)
    watcher.configure([ModelConfig("m", "tensorflow", str(tmp_path / "new"))])
    found = polled(watcher)
    assert [one.path for one in found.wanted] == [tmp_path / "new" / "1"]
    assert [one.path for one in found.disappeared] == [tmp_path / "old" / "1"]


def test_python_model_has_one_version() -> None:
    """A Python class is version 1, at once and for good."""
    watcher = Watcher([ModelConfig("p", "python", "package.module:Class")])
    assert [one.version for one in watcher.poll().models["p"].appeared] == [1]
    assert watcher.poll().any is False


def test_hundreds_of_versions_are_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A poll of hundreds of whole versions reads no file of theirs again."""
    for number in range(1, 201):
        put(tmp_path, number)
    watcher = watching(tmp_path, All())
    assert len(numbers(watcher)) == 200

    def refuse(*_: object) -> None:
        raise AssertionError("a version was looked into again")

    monkeypatch.setattr("thriftserve.repository.integrity.scan", refuse)
    assert len(numbers(watcher, 1)) == 200
