"""A mirror: a local copy of a remote base path, of the versions that are to be served.

    s3://bucket/models/digits/43  --sync-->  DIRECTORY/.partial-43/…  --rename-->  DIRECTORY/43/…

A version lands by one rename, when its listing has stayed the same, every byte has arrived and it is whole: a watcher
of DIRECTORY never sees a part of one. What a broken download has brought is used by the next sync.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from thriftserve.errors import ModelLoadError
from thriftserve.repository import integrity, versions
from thriftserve.repository.versions import Latest, Specific, VersionPolicy, version_number

#: Versions that no policy asks for any more, kept for a rollback and for workers that still load them.
KEPT_SUPERSEDED = 2
#: The keys under which fsspec's file systems tell what changes with a file's content.
_STAMPS = ("ETag", "etag", "md5Hash", "LastModified", "Last-Modified", "last_modified", "updated", "mtime", "created")
#: Over HTTP: how long a server may take to connect, and may be silent.
_HTTP_TIMEOUT_S = 30.0

log = logging.getLogger(__name__)


def mirror_directory(cache: Path, url: str) -> Path:
    """Return the mirror's directory below the cache: the same at each start, and another one for each URL."""
    name = url.rstrip("/").rpartition("/")[2]
    safe_name = "".join(char if char.isalnum() or char in "._-" else "_" for char in name).lstrip(".")
    return cache / f"{safe_name}-{hashlib.sha256(url.encode()).hexdigest()[:16]}"


def has_any(directory: Path, policy: VersionPolicy) -> bool:
    """Return whether a version that the policy asks for has landed in a directory."""
    try:
        return bool(policy.among(version.version for version in versions.list_versions(directory)))
    except ModelLoadError:
        return False


@dataclass(frozen=True)
class SyncResult:
    """What one `sync` did."""

    landed: tuple[int, ...] = ()
    removed: tuple[int, ...] = ()
    #: What is wrong now, also if it was wrong before.
    problems: tuple[str, ...] = ()
    #: Whether something is new or has changed: the next sync may land it.
    pending: bool = False


class Mirror:
    """Makes a directory like the versions behind a URL. Use one for each directory, in one thread."""

    def __init__(self, url: str, directory: Path) -> None:
        self.directory = directory
        self._remote = RemoteBasePath(url)
        self._listings: dict[int, dict[str, RemoteFile]] = {}
        #: Versions that are not whole, and why; they are not downloaded again until their listing changes.
        self._broken: dict[int, str] = {}
        # Of one sync: whether each version that was asked for has landed, which were new or changed, what is wrong.
        self._landed: dict[int, bool] = {}
        self._changed: set[int] = set()
        self._problems: list[str] = []

    def sync(self, *policies: VersionPolicy, protected: Collection[int] = ()) -> SyncResult:
        """Download what the policies ask for, and remove what is gone. It takes as long as the downloads take.

        A version that is new, or has changed, is downloaded by the next sync. If the URL can't be listed, nothing is
        removed.

        Args:
            policies: of the models that share the URL.
            protected: versions that stay, even if no policy asks for them any more.
        """
        try:
            remote = self._remote.versions()
        except ModelLoadError as error:
            return SyncResult(problems=(error.message,))
        if not remote:
            # An empty listing is more often a fault of the server, or of the URL, than meant.
            return SyncResult(problems=(f"{self._remote.url}: lists no version; what came before stays",))
        self.directory.mkdir(parents=True, exist_ok=True)
        self._landed, self._changed, self._problems = {}, set(), list(self._find_twins(remote))
        here = {version.version for version in versions.list_versions(self.directory)}
        unique = {version: names[0] for version, names in remote.items() if len(names) == 1}
        for policy in policies:
            self._problems += self._find_missing(policy, remote)
            self._land_all(unique, here, policy)
        self._listings = {version: listing for version, listing in self._listings.items() if version in remote}
        landed = tuple(version for version, has_landed in self._landed.items() if has_landed)
        here.update(landed)
        asked = {version for policy in policies for version in policy.among(here & set(remote))}
        removed = self._remove(set(remote), here, asked.union(protected))
        return SyncResult(landed, tuple(removed), tuple(self._problems), pending=bool(self._changed))

    def _find_twins(self, remote: Mapping[int, list[str]]) -> Iterator[str]:
        for version, names in remote.items():
            if len(names) > 1:
                twins = " and ".join(name.rpartition("/")[2] for name in names)
                yield f"{self._remote.url}: {twins} are both version {version}: remove one"

    def _find_missing(self, policy: VersionPolicy, remote: Collection[int]) -> Iterator[str]:
        if isinstance(policy, Specific):
            for version in policy.versions:
                if version not in remote:
                    yield f"{self._remote.url}: has no version {version}, which the policy names"

    def _land_all(self, remote: Mapping[int, str], here: set[int], policy: VersionPolicy) -> None:
        """Land the versions of a policy; for Latest, an older version in place of one that is incomplete."""
        latest = isinstance(policy, Latest)
        asked = sorted(remote, reverse=True) if isinstance(policy, Latest) else policy.among(remote)
        left = policy.num_versions if isinstance(policy, Latest) else len(asked)
        for version in asked:
            if left == 0:
                break
            is_here = version in here or self._try_to_land(version, remote[version])
            # What is new will most likely be whole at the next sync: no other version in its place.
            if not latest or is_here or version in self._changed:
                left -= 1

    def _try_to_land(self, version: int, name: str) -> bool:
        """Return whether a version lands now; tried once in a sync, whichever policies ask for it."""
        if version not in self._landed:
            self._landed[version] = False
            try:
                self._landed[version] = self._land(version, name)
            except ModelLoadError as error:
                self._problems.append(error.message)
            except OSError as error:
                self._problems.append(str(error))
        return self._landed[version]

    def _land(self, version: int, name: str) -> bool:
        """Download a version whose listing has not changed since the last sync; return whether it has landed.

        Raises:
            ModelLoadError: it can't be read, or is incomplete.
        """
        listing_before = self._listings.get(version)
        listing = self._listings[version] = self._remote.listing(name)
        if listing != listing_before:
            self._broken.pop(version, None)
            self._changed.add(version)
            return False
        if version in self._broken:
            raise ModelLoadError(self._broken[version])
        partial = self._partial(version, listing)
        began = time.monotonic()
        size = sum(file.size or 0 for file in listing.values())
        log.info("%s: downloading %d files, %d bytes", name, len(listing), size)
        missing = {path: file for path, file in listing.items() if not _is_complete(partial / path, file)}
        self._remote.download(missing, partial)
        if self._remote.listing(name) != listing:
            self._changed.add(version)
            return False
        fault = integrity.diagnose(partial)
        if fault:
            self._broken[version] = f"{name}: is incomplete: {fault}"
            raise ModelLoadError(self._broken[version])
        os.replace(partial, self.directory / str(version))
        self._partial_note(version).unlink(missing_ok=True)
        log.info("%s: downloaded in %.1f s", name, time.monotonic() - began)
        return True

    def _partial(self, version: int, listing: Mapping[str, RemoteFile]) -> Path:
        """Return where a version is put together; it is emptied unless what is there belongs to this very listing."""
        partial, note = self.directory / f".partial-{version}", self._partial_note(version)
        content = json.dumps({path: asdict(file) for path, file in listing.items()}, sort_keys=True)
        with contextlib.suppress(OSError):
            if note.read_text(encoding="utf-8") == content:
                return partial
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        note.write_text(content, encoding="utf-8")
        return partial

    def _partial_note(self, version: int) -> Path:
        return self.directory / f".partial-{version}.json"

    def _remove(self, remote: set[int], here: set[int], needed: set[int]) -> list[int]:
        """Remove versions that are gone behind the URL, and those superseded long ago; return their numbers."""
        superseded = sorted((here & remote) - needed, reverse=True)
        removed = sorted(here - remote) + superseded[KEPT_SUPERSEDED:]
        for version in versions.list_versions(self.directory):
            if version.version in removed:
                # A rename first: a watcher must not see a version that is removed file by file.
                trash = Path(tempfile.mkdtemp(dir=self.directory, prefix=".gone-"))
                os.replace(version.path, trash / "version")
        for trash in self.directory.glob(".gone-*"):
            shutil.rmtree(trash, ignore_errors=True)
        return removed


@dataclass(frozen=True)
class RemoteFile:
    """A file as it is listed."""

    #: As the file system calls it.
    name: str
    #: In bytes; None: the server does not say.
    size: int | None
    #: Its ETag, or when it was written.
    stamp: str


class RemoteBasePath:
    """The base path behind a URL. It connects when it is first asked for something."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._opened: tuple[Any, str] | None = None

    def versions(self) -> dict[int, list[str]]:
        """Return the directories with a number for a name, by that number.

        Raises:
            ModelLoadError: fsspec or a part of it is not installed, or the URL can't be listed.
        """
        try:
            files, root = self._open()
            directories: dict[int, list[str]] = {}
            for entry in files.ls(root, detail=True):
                name = str(entry["name"]).rstrip("/")
                number = version_number(name.rpartition("/")[2])
                if number is not None and entry["type"] == "directory":
                    directories.setdefault(number, []).append(name)
        except ImportError as error:
            raise ModelLoadError(
                f"{self.url}: {error}: pip install '.[remote]' in a checkout of thriftserve"
            ) from error
        except FileNotFoundError:
            raise ModelLoadError(f"{self.url}: there is no such directory") from None
        except Exception as error:  # each file system has errors of its own
            raise ModelLoadError(f"{self.url}: can't be listed: {type(error).__name__}: {error}") from error
        return directories

    def listing(self, directory: str) -> dict[str, RemoteFile]:
        """Return the files of a version by their path in it.

        Raises:
            ModelLoadError: it can't be listed, or a file's name leads out of it.
        """
        try:
            files, _ = self._open()
            infos = {
                name: info if info.get("size") is not None else files.info(name)
                for name, info in files.find(directory, detail=True).items()
            }
        except Exception as error:  # each file system has errors of its own
            raise ModelLoadError(f"{directory}: can't be listed: {type(error).__name__}: {error}") from error
        return {
            self._relative(directory, name): RemoteFile(name, info.get("size"), _stamp(info))
            for name, info in infos.items()
            if "?" not in name.removeprefix(directory)  # links by which an index page sorts itself
        }

    def download(self, wanted: Mapping[str, RemoteFile], target: Path) -> None:
        """Download files to their paths below a directory.

        Raises:
            ModelLoadError: one can't be read, or is not as long as it was listed.
        """
        for path in wanted:
            (target / path).parent.mkdir(parents=True, exist_ok=True)
        try:
            files, _ = self._open()
            files.get([file.name for file in wanted.values()], [str(target / path) for path in wanted])
        except Exception as error:  # each file system has errors of its own
            raise ModelLoadError(f"{self.url}: a download failed: {type(error).__name__}: {error}") from error
        for path, file in wanted.items():
            size = (target / path).stat().st_size
            if file.size not in (None, size):
                raise ModelLoadError(f"{file.name}: {size} of its {file.size} bytes arrived")

    def _open(self) -> tuple[Any, str]:
        """Return the file system and the path in it."""
        if self._opened is None:
            from fsspec.core import url_to_fs

            files, root = url_to_fs(self.url, use_listings_cache=False, **_file_system_options(self.url))
            self._opened = (files, str(root).rstrip("/"))
        files, root = self._opened
        files.invalidate_cache()
        return files, root

    def _relative(self, directory: str, name: str) -> str:
        relative = name.removeprefix(directory.rstrip("/") + "/")
        if self.url.startswith("http"):
            relative = unquote(relative)
        parts = PurePosixPath(relative).parts
        if relative == name or not parts or ".." in parts or parts[0] == "/" or "\0" in relative:
            raise ModelLoadError(f"{directory}: lists {name!r}, which does not lie in it")
        return str(PurePosixPath(relative))


def _file_system_options(url: str) -> dict[str, Any]:
    """Return fsspec's options for a URL: over HTTP a download may last, but a connection may not be silent."""
    if not url.startswith(("http://", "https://")):
        return {}
    from aiohttp import ClientTimeout

    timeout = ClientTimeout(total=None, sock_connect=_HTTP_TIMEOUT_S, sock_read=_HTTP_TIMEOUT_S)
    return {"client_kwargs": {"timeout": timeout}}


def _stamp(info: Mapping[str, Any]) -> str:
    return next((str(info[key]) for key in _STAMPS if info.get(key) is not None), "")


def _is_complete(path: Path, file: RemoteFile) -> bool:
    try:
        return file.size is not None and path.stat().st_size == file.size
    except OSError:
        return False
