"""The directory of fetched models: FETCH_DIR/NAME/VERSION, a base path each, with a note of where each version is from.

expect("digits", 43, url)  -->  digits/.origin-43  -->  digits/43 lands  -->  remove_unused: the newest few stay
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
from collections.abc import Collection
from pathlib import Path

from thriftserve.errors import FailedPrecondition, ModelLoadError
from thriftserve.files import write_atomically
from thriftserve.remote.staging import staging_directory
from thriftserve.repository.state_store import StateDir
from thriftserve.repository.versions import VersionDir, list_versions
from thriftserve.settings import ServeSettings

#: Versions of a model that stay for a rollback, beside those that are served.
KEPT_UNUSED = 2
_LEAVING, _ORIGIN = ".leaving-", ".origin-"

log = logging.getLogger(__name__)


class FetchedModelStore:
    """The directory of fetched models; created with the first model. Threads may share one."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def from_settings(cls, settings: ServeSettings, state: StateDir) -> FetchedModelStore:
        """Return the store that the settings name; without one, it is in the state directory."""
        if settings.fetch_dir is None:
            return cls(state.path / "fetched")
        return cls(Path(settings.fetch_dir).expanduser().absolute())

    def base_path(self, name: str) -> Path:
        """Return where the versions of a model are."""
        return self._path / name

    def version(self, name: str, version: int) -> Path:
        """Return where a version is, or will be."""
        return self._path / name / str(version)

    def newest(self, name: str) -> int | None:
        """Return the highest version of a model; None: there is none."""
        directories = self._list(name)
        return directories[-1].version if directories else None

    def expect(self, name: str, version: int, url: str, sha256: str | None) -> None:
        """Note where a version will come from.

        Raises:
            FailedPrecondition: it is there already, and from elsewhere; or nothing can be written there.
        """
        origin, target = self._origin(name, version), self.version(name, version)
        # A digest: URLs may hold passwords and signatures.
        digest = hashlib.sha256(f"{url} {(sha256 or '').lower()}".encode()).hexdigest()
        try:
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(origin, digest)
            elif not origin.exists() or origin.read_text(encoding="utf-8") != digest:
                raise FailedPrecondition(
                    f"model {name!r} version {version} was fetched from elsewhere: give another version"
                )
        except OSError as error:
            raise FailedPrecondition(f"fetch_dir {str(self._path)!r} can't be used: {error.strerror}") from error

    def remove_unused(self, name: str, used: Collection[Path]) -> None:
        """Remove the versions of a model except the newest ones and those in use.

        A version goes by a rename first: nobody sees half of one.
        """
        base_path = self.base_path(name)
        for leaving in base_path.glob(f"{_LEAVING}*"):  # left by a process that was killed here
            shutil.rmtree(leaving, ignore_errors=True)
        self._forget_origins(name)
        unused = [directory for directory in self._list(name) if directory.path not in used]
        for directory in unused[: -KEPT_UNUSED or None]:
            log.info("%s: removed: newer versions were fetched", directory.path)
            with contextlib.suppress(OSError):
                leaving = base_path / f"{_LEAVING}{directory.version}"
                os.rename(directory.path, leaving)
                shutil.rmtree(leaving, ignore_errors=True)

    def _forget_origins(self, name: str) -> None:
        """Remove the notes on versions that never landed, or are gone."""
        for origin in self.base_path(name).glob(f"{_ORIGIN}*"):
            target = origin.parent / origin.name.removeprefix(_ORIGIN)
            if not target.exists() and not staging_directory(target).exists():
                origin.unlink(missing_ok=True)

    def _list(self, name: str) -> list[VersionDir]:
        try:
            return list_versions(self.base_path(name))
        except ModelLoadError:  # nothing was fetched under that name
            return []

    def _origin(self, name: str, version: int) -> Path:
        return self.base_path(name) / f"{_ORIGIN}{version}"
