"""Atomic file writes: what a reader finds after a write, a failed write and a killed one."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from thriftserve.files import write_atomically

#: Writes 5000 bytes in a process limited to 1000. Its first argument is the action for the signal that follows.
_CUT_OFF = """
import resource, signal, sys
from pathlib import Path
from thriftserve.files import write_atomically
signal.signal(signal.SIGXFSZ, getattr(signal, sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
write_atomically(Path(sys.argv[2]), b"n" * 5000)
"""


def _cut_off(path: Path, action: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _CUT_OFF, action, str(path)], capture_output=True, text=True, check=False, timeout=30
    )


@pytest.mark.parametrize("durable", [True, False])
def test_new_content_takes_the_place(tmp_path: Path, durable: bool) -> None:
    """Text and bytes replace a file or create one, and leave no other file behind."""
    path = tmp_path / "some.json"
    write_atomically(path, "größer", durable=durable)
    assert path.read_text(encoding="utf-8") == "größer"
    write_atomically(path, b"\0\xff", durable=durable)
    assert path.read_bytes() == b"\0\xff"
    assert list(tmp_path.iterdir()) == [path]


def test_permissions(tmp_path: Path) -> None:
    """A given mode applies whatever the umask; without one the umask decides, as for any new file."""
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "open", "", mode=0o644)
        write_atomically(tmp_path / "own", "", mode=0o600)
        write_atomically(tmp_path / "any", "")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"open": 0o644, "own": 0o600, "any": 0o640}


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """An error while writing is raised; the old file is unchanged and no other file is left."""
    path = tmp_path / "some.json"
    path.write_text("old")
    done = _cut_off(path, "SIG_IGN")
    assert "File too large" in done.stderr
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "none" / "some.json", "new")


def test_killed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """A process killed while it writes leaves the old file unchanged."""
    path = tmp_path / "some.json"
    path.write_text("old")
    assert _cut_off(path, "SIG_DFL").returncode == -signal.SIGXFSZ
    assert path.read_text() == "old"
    write_atomically(path, "new")
    assert path.read_text() == "new"


def test_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    """A link under the name of the new file is removed; its target is unchanged."""
    other = tmp_path / "other"
    other.write_text("theirs")
    path = tmp_path / "some.json"
    write_atomically(path, "old")
    (tmp_path / f".some.json.{os.getpid()}.new").symlink_to(other)
    write_atomically(path, "new")
    assert (other.read_text(), path.read_text()) == ("theirs", "new")
