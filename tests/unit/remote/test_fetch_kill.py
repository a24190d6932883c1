"""kill -9 at every step of a fetch: nothing or the whole is there, and the next fetch ends it."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fetch_server import File, FileServer
from packed_models import fetch, files, holds_model, tar_of
from thriftserve.remote import Limits

FETCH = """
import sys
from pathlib import Path
from thriftserve.remote import Limits, fetch
limits = Limits(part_bytes=256 << 10, connections=2)
fetch(sys.argv[1], Path(sys.argv[2]), check=Path.iterdir, sha256=sys.argv[3], limits=limits)
"""
#: Steps while it downloads, which takes its time; what follows is over in a moment, and looked for all the while.
SLOW = ("begun", "first-bytes", "saved")
#: Enough entries for the unpacking to take a while.
MANY = {f"assets/{one}": bytes(64) for one in range(300)}


def staging(target: Path) -> Path:
    return target.parent / f".fetching-{target.name}"


def unpacked(target: Path) -> int:
    """Files unpacked so far."""
    return sum(len(names) for _, _, names in os.walk(staging(target) / "unpacked"))


STEPS: dict[str, Callable[[Path], bool]] = {
    "begun": lambda target: staging(target).exists(),
    "first-bytes": lambda target: (staging(target) / "download.json").exists(),
    "saved": lambda target: any(f", {1 << 18}]" in text for text in [_text(staging(target) / "download.json")] if text),
    "unpacking": lambda target: unpacked(target) > 0,
    "half-unpacked": lambda target: unpacked(target) > 150,
    "unpacked": lambda target: unpacked(target) >= len(MANY) + len(files()),
    "landing": lambda target: (staging(target) / "landing.json").exists(),
    "landed": lambda target: target.exists(),
}


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


@pytest.fixture(scope="module")
def archive() -> bytes:
    """The model with many small files, and some megabytes to wait for."""
    filler = random.Random(7).randbytes(2 << 20)
    return tar_of({**files(), "assets.extra/filler": files()["assets.extra/filler"], "assets/large": filler, **MANY})


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_every_step(tmp_path: Path, archive: bytes, step: str) -> None:
    """Killed when the step is first seen: no version or a whole one; then a fetch of the same makes it whole."""
    target, digest = tmp_path / "base" / "3", hashlib.sha256(archive).hexdigest()
    with FileServer({"/m": File(archive, pause_s=0.05 if step in SLOW else 0.0)}) as server:
        process = subprocess.Popen([sys.executable, "-c", FETCH, server.url("/m"), str(target), digest])
        while not (step in SLOW or unpacked(target)) and process.poll() is None:
            time.sleep(0.002)
        while not STEPS[step](target) and process.poll() is None:
            time.sleep(0.002 if step in SLOW else 0)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not target.exists() or holds_model(target)
        landed, before = target.exists(), server.sent
        server.files["/m"].pause_s = 0
        if landed and not (staging(target) / "landing.json").exists():  # it was done before the signal came
            return
        fetch(server.url("/m"), target, sha256=digest, limits=Limits(part_bytes=256 << 10))
        again = server.sent - before
    assert holds_model(target)
    assert [one.name for one in target.parent.iterdir()] == ["3"]
    if step not in ("begun", "first-bytes"):
        assert again <= len(archive) - (256 << 10)
    if step in ("unpacking", "half-unpacked", "unpacked"):
        assert again == 1  # asked whether it is still the same
    if landed:
        assert again == 0


def test_leftovers_of_other_versions_go(tmp_path: Path, archive: bytes) -> None:
    """What a fetch of another version left days ago is cleared away, what is fresh stays for its own next try."""
    (tmp_path / "m").write_bytes(archive)
    for name, age in ((".fetching-1", 9e5), (".fetching-2", 0.0)):
        old = tmp_path / "base" / name
        old.mkdir(parents=True)
        (old / "download").touch()
        os.utime(old, (old.stat().st_mtime - age,) * 2)
    fetch((tmp_path / "m").as_uri(), tmp_path / "base" / "3")
    assert sorted(one.name for one in (tmp_path / "base").iterdir()) == [".fetching-2", "3"]
