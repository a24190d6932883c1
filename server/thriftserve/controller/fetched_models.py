"""Where fetched models lie: FETCH_DIR/NAME/VERSION, as in any base path, and of what each version was made.

expect("digits", 43, url)  -->  digits/.origin-43  -->  digits/43 lands  -->  tidy: the newest few stay
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
from thriftserve.repository import versions
from thriftserve.repository.state_store import StateDir
from thriftserve.repository.versions import VersionDir
from thriftserve.settings import ServeSettings

log = logging.getLogger(__name__)

#: Versions of a model that stay for a rollback, beside those that are served.
KEPT = 2
_LEAVING, _ORIGIN = ".leaving-", ".origin-"


class FetchedModelStore:
    """Such a directory; it is made when the first model comes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def of(cls, settings: ServeSettings, state: StateDir) -> FetchedModelStore:
        """Where the settings say."""
        told = settings.fetch_dir
        return cls(state.path / "fetched" if told is None else Path(told).expanduser().absolute())

    def base_path(self, name: str) -> Path:
        """Where the versions of a model lie."""
        return self._path / name

    def version(self, name: str, version: int) -> Path:
        """Where a version lies, or will."""
        return self._path / name / str(version)

    def newest(self, name: str) -> int | None:
        """The highest version of a model that is there; None: there is none."""
        found = self._versions(name)
        return found[-1].version if found else None

    def expect(self, name: str, version: int, url: str, sha256: str | None) -> None:
        """What lands as that version comes from there.

        Raises:
            FailedPrecondition: it is there already, and comes from elsewhere; or nothing can be written there.
        """
        origin, target = self._origin(name, version), self.version(name, version)
        digest = hashlib.sha256(f"{url} {(sha256 or '').lower()}".encode()).hexdigest()  # URLs may hold secrets
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

    def tidy(self, name: str, used: Collection[Path]) -> None:
        """Removes versions of a model but the newest ones and those in use.

        A version goes by a rename first: nobody sees half of one.
        """
        base_path = self.base_path(name)
        for leaving in base_path.glob(f"{_LEAVING}*"):  # of a process that was killed here
            shutil.rmtree(leaving, ignore_errors=True)
        self._forget_origins(name)
        unused = [one for one in self._versions(name) if one.path not in used]
        for one in unused[: -KEPT or None]:
            log.info("%s: removed, newer ones have come", one.path)
            with contextlib.suppress(OSError):
                leaving = base_path / f"{_LEAVING}{one.version}"
                os.rename(one.path, leaving)
                shutil.rmtree(leaving, ignore_errors=True)

    def _forget_origins(self, name: str) -> None:
        """Those of versions that never came, or are gone."""
        for origin in self.base_path(name).glob(f"{_ORIGIN}*"):
            version = origin.name.removeprefix(_ORIGIN)
            if not (origin.parent / version).exists() and not (origin.parent / f".fetching-{version}").exists():
                origin.unlink(missing_ok=True)

    def _versions(self, name: str) -> list[VersionDir]:
        try:
            return versions.list_versions(self.base_path(name))
        except ModelLoadError:  # nothing was fetched of that name
            return []

    def _origin(self, name: str, version: int) -> Path:
        return self.base_path(name) / f"{_ORIGIN}{version}"
