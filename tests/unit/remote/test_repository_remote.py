"""Base paths behind a URL: what is mirrored, when it lands, and what a broken download leaves."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import pytest

from copied_models import ASSET, FIRST, PARTS, PB, whole_version
from thriftserve.remote.mirror import KEPT_SUPERSEDED, Mirror, SyncResult, mirror_directory
from thriftserve.repository.versions import All, Latest, ModelConfig, Specific, list_versions
from thriftserve.repository.watcher import Watcher
from web_directory import http_server


def put(base: Path, name: str | int) -> Path:
    """A whole version, below a base path."""
    return Path(shutil.copytree(whole_version(), base / str(name)))


def here(mirror: Mirror) -> list[int]:
    """The versions that have landed."""
    return [one.version for one in list_versions(mirror.directory)]


def whole(path: Path) -> bool:
    """Whether every file of the version came, byte for byte."""
    return all((path / name).read_bytes() == (whole_version() / name).read_bytes() for name in PARTS)


@contextmanager
def over_file(base: Path) -> Iterator[str]:
    """The base path as a file: URL."""
    yield f"file://{base}"


@contextmanager
def over_http(base: Path) -> Iterator[str]:
    """The base path behind a web server that lists directories."""
    with http_server(base.parent) as (url, _):
        yield f"{url}/{base.name}"


@contextmanager
def over_memory(base: Path) -> Iterator[str]:
    """The base path in a store that knows objects only, as S3 and GCS do."""
    store = fsspec.filesystem("memory")
    store.put(str(base), f"/bucket/{base.parent.name}/{base.name}", recursive=True)
    yield f"memory://bucket/{base.parent.name}/{base.name}"
    store.rm(f"/bucket/{base.parent.name}", recursive=True)


@pytest.mark.parametrize("over", [over_file, over_http, over_memory])
def test_mirror_brings_what_is_asked_for(tmp_path: Path, over: Callable[[Path], Any]) -> None:
    """The newest version lands at the second look, whole, and a watcher of the mirror wants it."""
    base = tmp_path / "digits"
    for name in (1, "0002", "notes"):
        put(base, name)
    with over(base) as url:
        mirror = Mirror(url, mirror_directory(tmp_path / "cache", url))
        assert mirror.sync(Latest()) == SyncResult(pending=True)
        assert mirror.sync(Latest()) == SyncResult(landed=(2,))
        assert mirror.sync(Latest()) == SyncResult()
    assert whole(mirror.directory / "2")
    assert sorted(one.name for one in mirror.directory.iterdir()) == ["2"]
    config = ModelConfig("m", "tensorflow", url)
    watcher = Watcher([config], lambda one: mirror_directory(tmp_path / "cache", one.source))
    assert [one.version for one in watcher.poll(settled=True).models["m"].wanted] == [2]


def test_policies(tmp_path: Path) -> None:
    """Specific versions and all of them are brought as asked."""
    base = tmp_path / "base"
    for number in (1, 2, 3):
        put(base, number)
    mirror = Mirror(f"file://{base}", tmp_path / "cache")
    for policy, landed in ((Specific((1, 9)), (1,)), (Latest(2), (3, 2)), (All(), ())):
        assert [mirror.sync(policy) for _ in range(2)][-1].landed == landed
    assert here(mirror) == [1, 2, 3]


def test_policies_of_several_models(tmp_path: Path) -> None:
    """Two models of one URL share a mirror: each has what it asks for, and what is served is never removed."""
    base = tmp_path / "base"
    for number in range(1, 7):
        put(base, number)
    (tmp_path / "cache").mkdir()
    mirror = Mirror(f"file://{base}", tmp_path / "cache")
    told = [mirror.sync(Latest(), Specific((1, 9))) for _ in range(3)]
    assert [one.landed for one in told] == [(), (6, 1), ()]
    assert all("base: has no version 9, which the policy names" in one.problems[0] for one in told)
    for number in (2, 3, 4, 5):
        put(tmp_path / "cache", number)
    assert mirror.sync(Latest(), protected=(1, 2)).removed == (3,)
    assert here(mirror) == [1, 2, 4, 5, 6]


def test_copy_that_is_not_done_is_not_brought(tmp_path: Path) -> None:
    """A version that is incomplete lands when it is; until then the one before it, and it is downloaded once."""
    base = tmp_path / "base"
    put(base, 1)
    (put(base, 2) / FIRST).rename(tmp_path / "late")
    with http_server(base) as (url, files):
        mirror = Mirror(url, tmp_path / "cache")
        told = [mirror.sync(Latest()) for _ in range(4)]
        assert told[0] == SyncResult(pending=True)
        missing = "2: is incomplete: variables/variables.data-00000-of-00002 is missing"
        assert all(missing in one.problems[0] for one in told[1:])
        assert here(mirror) == [1]
        assert files.asked.count(f"/2/{PB}") == 1
        assert files.asked.count("/2/") == 5  # one listing a call, and one more behind the download
        (tmp_path / "late").rename(base / "2" / FIRST)
        mirror.sync(Latest())
        assert mirror.sync(Latest()).landed == (2,)
    assert whole(mirror.directory / "2")


def test_download_that_breaks_goes_on(tmp_path: Path) -> None:
    """A cut download lands nothing and is told; the next one, of another process too, asks for the rest only."""
    base = tmp_path / "base"
    put(base, 1)
    with http_server(base) as (url, files):
        files.broken.add(FIRST)
        mirror = Mirror(url, tmp_path / "cache")
        mirror.sync(Latest())
        assert "a download failed" in mirror.sync(Latest()).problems[0]
        assert here(mirror) == []
        came = mirror.directory / ".partial-1" / ASSET
        while not (came.exists() and came.read_bytes() == (base / "1" / ASSET).read_bytes()):
            assert "a download failed" in mirror.sync(Latest()).problems[0]  # which may cut off others beside it
        files.broken.clear()
        files.asked.clear()
        restarted = Mirror(url, tmp_path / "cache")
        restarted.sync(Latest())
        assert restarted.sync(Latest()).landed == (1,)
        assert files.asked.count(f"/1/{FIRST}") == 1
        assert f"/1/{ASSET}" not in files.asked
    assert whole(mirror.directory / "1")


def test_version_that_changes_is_brought_as_it_is_now(tmp_path: Path) -> None:
    """What an earlier download has left of a version that was changed since is of no use."""
    base = tmp_path / "base"
    path = put(base, 1)
    with http_server(base) as (url, files):
        files.broken.add(FIRST)
        mirror = Mirror(url, tmp_path / "cache")
        mirror.sync(Latest())
        mirror.sync(Latest())
        files.broken.clear()
        changed = (path / ASSET).read_text().replace("zero", "nine")
        (path / ASSET).write_text(changed)
        os.utime(path / ASSET, (1, 1))  # what a web server tells of a file is its time in seconds
        mirror.sync(Latest())
        assert mirror.sync(Latest()).landed == (1,)
    assert (mirror.directory / "1" / ASSET).read_text() == changed


def test_removed_and_superseded_versions_go(tmp_path: Path) -> None:
    """A version that is removed behind the URL goes here too; of superseded ones, some are kept for a rollback."""
    base = tmp_path / "base"
    mirror = Mirror(f"file://{base}", tmp_path / "cache")
    for number in range(1, KEPT_SUPERSEDED + 4):
        put(base, number)
        mirror.sync(Latest())
        mirror.sync(Latest())
    assert here(mirror) == [3, 4, 5][-KEPT_SUPERSEDED - 1 :]
    shutil.rmtree(base / "5")
    assert mirror.sync(Latest()).removed == (5,)
    assert here(mirror) == [3, 4]
    assert not list(mirror.directory.glob(".*"))


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("file:///there/is/none", "there is no such directory"),
        ("http://127.0.0.1:1/models", "http://127.0.0.1:1/models: "),
        ("nothing://bucket/models", "Protocol not known: nothing"),
    ],
)
def test_what_can_not_be_listed_removes_nothing(tmp_path: Path, url: str, told: str) -> None:
    """A URL that is wrong or out of reach is told, and what came before stays."""
    put(tmp_path / "cache", 1)
    mirror = Mirror(url, tmp_path / "cache")
    assert told in mirror.sync(Latest()).problems[0]
    assert here(mirror) == [1]


def test_empty_listing_removes_nothing(tmp_path: Path) -> None:
    """A server that lists no version at all is more likely broken."""
    put(tmp_path / "cache", 1)
    (tmp_path / "base").mkdir()
    mirror = Mirror(f"file://{tmp_path / 'base'}", tmp_path / "cache")
    assert "lists no version; what came before stays" in mirror.sync(Latest()).problems[0]
    assert here(mirror) == [1]


def test_twins_are_named(tmp_path: Path) -> None:
    """Of two directories of one version neither is brought."""
    base = tmp_path / "base"
    put(base, "1")
    put(base, "01")
    mirror = Mirror(f"file://{base}", tmp_path / "cache")
    assert "are both version 1: remove one" in mirror.sync(Latest()).problems[0]
    assert here(mirror) == []


def test_names_that_lead_out_are_refused(tmp_path: Path) -> None:
    """A listing can't have a file written outside its version."""
    store = fsspec.filesystem("memory")
    store.pipe("/evil/m/1/a/../../../../x", b"x")
    try:
        mirror = Mirror("memory://evil/m", tmp_path / "cache")
        told = mirror.sync(Latest())
        assert "does not lie in it" in told.problems[0]
    finally:
        store.rm("/evil", recursive=True)
    assert not (tmp_path / "x").exists()


def test_directories_differ_by_url(tmp_path: Path) -> None:
    """Each URL has a directory of its own, whose name tells it and leads nowhere else."""
    names = {
        mirror_directory(tmp_path, url).name for url in ("s3://a/m", "s3://b/m", "gs://a/m", "s3://a/..", "s3://a/m/")
    }
    assert len(names) == 5
    assert all(not name.startswith(".") and "/" not in name for name in names)
