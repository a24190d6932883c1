"""The directory beside a version directory where it is made: `.fetching-VERSION`, one owner at a time.

Staging(BASE/3)  -->  BASE/.fetching-3/{download, download.json, unpacked/}  --land-->  BASE/3

Its name is no number, so no server takes it for a version. What a killed process left in it stays for the
next fetch of the same version: the download is gone on from, the rest is cleared away.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from pathlib import Path
from types import TracebackType

from thriftserve.errors import FailedPrecondition
from thriftserve.files import write_atomically
from thriftserve.remote.download import DownloadPaths

_PREFIX = ".fetching-"
#: Untouched for so many seconds, what is in a staging directory is not gone on with any more.
_ABANDONED_S = 3 * 86400


def staging_directory(target: Path) -> Path:
    """Return the directory in which a version directory is made."""
    return target.parent / f"{_PREFIX}{target.name}"


class Staging:
    """The staging directory of a target, held from `with` on.

    Args:
        target: the version directory to be; its parent is made where missing.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self.path = staging_directory(target)
        self.place = DownloadPaths(self.path / "download", self.path / "download.json")
        self.unpacked = self.path / "unpacked"
        self._landing = self.path / "landing.json"
        self._descriptor = -1

    def __enter__(self) -> Staging:
        """Takes it.

        Raises:
            FailedPrecondition: another fetch has it.
        """
        self._target.parent.mkdir(parents=True, exist_ok=True)
        while not self._taken():
            pass
        if self.unpacked.exists():
            shutil.rmtree(self.unpacked)
        _clear_abandoned(self.path)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # Kept for the next try only where that can go on from it.
        if not self.place.journal.exists():
            shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._descriptor)

    def _taken(self) -> bool:
        self.path.mkdir(exist_ok=True)
        try:
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise FailedPrecondition(f"{self._target} is being fetched already") from None
        # Its last owner may have removed it while we waited at its door.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(self.path), os.fstat(self._descriptor)):
                return True
        os.close(self._descriptor)
        return False

    def landed(self, source: str) -> bool:
        """Whether an earlier fetch of this source was killed when all that was left to do was to clear away."""
        try:
            told = json.loads(self._landing.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return bool(told == {"source": source} and self._target.exists() and not self.unpacked.exists())

    def land(self, source: str, whole: Path) -> None:
        """Renames a directory in it to the target; from one moment to the next all of it is there.

        Raises:
            FailedPrecondition: there is something under the target's name by now.
        """
        write_atomically(self._landing, json.dumps({"source": source}))
        try:
            os.rename(whole, self._target)
        except OSError as error:
            raise FailedPrecondition(f"{self._target}: can't be put there: {error.strerror}") from error
        sync_directory(self._target.parent)

    def clear(self) -> None:
        """Removes it with all that is in it; what tells that the target has landed goes last, if this is cut off."""
        for entry in set(self.path.iterdir()) - {self._landing}:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        shutil.rmtree(self.path)


def discard(target: Path) -> None:
    """Removes what a fetch into a version directory has left for a later one."""
    shutil.rmtree(Staging(target).path, ignore_errors=True)


def _clear_abandoned(own: Path) -> None:
    """Removes what fetches of other versions left behind and nobody went on with."""
    for path in own.parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # in use, or gone by now
            if path != own and time.time() - path.stat().st_mtime > _ABANDONED_S:
                descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path)
                finally:
                    os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Brings a directory's entries to disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
