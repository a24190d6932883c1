"""The staging directory `.fetching-VERSION`: where a version directory is made, by one owner at a time.

Staging(BASE/3)  -->  BASE/.fetching-3/{download, download.json, unpacked/}  --land-->  BASE/3

Its name is no number, so no server takes it for a version. What a killed process left there waits for the next fetch
of the same version: the download is resumed, the rest removed.
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
from thriftserve.remote.journal import DownloadPaths

_PREFIX = ".fetching-"
#: A staging directory that nobody has touched for three days is removed by the next fetch beside it.
_ABANDONED_S = 3 * 86400


def staging_directory(target: Path) -> Path:
    """Return the directory in which a version directory is made."""
    return target.parent / f"{_PREFIX}{target.name}"


class StagingBusy(FailedPrecondition):
    """Another fetch has the staging directory."""


class Staging:
    """The staging directory of a target, locked within the `with` block.

    Args:
        target: the version directory to be; its parent is created if missing.

    Attributes:
        path: the staging directory.
        paths: of the download in it.
        unpacked: where the archive is unpacked.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self.path = staging_directory(target)
        self.paths = DownloadPaths(self.path / "download", self.path / "download.json")
        self.unpacked = self.path / "unpacked"
        self._landing = self.path / "landing.json"
        self._descriptor = -1

    def __enter__(self) -> Staging:
        """Create and lock the directory.

        Raises:
            StagingBusy: another fetch has it.
        """
        self._target.parent.mkdir(parents=True, exist_ok=True)
        while not self._try_to_lock():
            pass
        if self.unpacked.exists():
            shutil.rmtree(self.unpacked)
        _remove_abandoned(self.path)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if not self.paths.journal.exists():  # the next try could not resume
            shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._descriptor)

    def _try_to_lock(self) -> bool:
        """Return False if the directory was removed meanwhile."""
        self.path.mkdir(exist_ok=True)
        try:
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise StagingBusy(f"{self._target} is being fetched already") from None
        # Its last owner may have removed it between our open and our lock.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(self.path), os.fstat(self._descriptor)):
                return True
        os.close(self._descriptor)
        return False

    def has_landed(self, source: str) -> bool:
        """Return whether an earlier fetch of this source was killed after it landed, before `clear`."""
        try:
            content = json.loads(self._landing.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return bool(content == {"source": source} and self._target.exists() and not self.unpacked.exists())

    def land(self, source: str, model: Path) -> None:
        """Rename a directory in it to the target: all of it is there at once.

        Raises:
            FailedPrecondition: there is something under the target's name by now.
        """
        write_atomically(self._landing, json.dumps({"source": source}))
        try:
            os.rename(model, self._target)
        except OSError as error:
            raise FailedPrecondition(f"{self._target}: can't be put there: {error.strerror}") from error
        sync_directory(self._target.parent)

    def clear(self) -> None:
        """Remove the directory; what shows that the target has landed goes last, in case this is killed."""
        for entry in set(self.path.iterdir()) - {self._landing}:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        shutil.rmtree(self.path)


def discard(target: Path) -> None:
    """Remove what a fetch into a version directory has left for a later one."""
    shutil.rmtree(staging_directory(target), ignore_errors=True)


def sync_directory(path: Path) -> None:
    """Bring a directory's entries to disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_abandoned(own: Path) -> None:
    """Remove what fetches of other versions left behind and nobody resumed."""
    for path in own.parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # in use, or gone by now
            if path != own and time.time() - path.stat().st_mtime > _ABANDONED_S:
                descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path)
                finally:
                    os.close(descriptor)
