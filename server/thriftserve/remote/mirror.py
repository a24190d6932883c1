"""A local copy of a remote base path, of the versions that are to be served.

    s3://bucket/models/digits/43  --sync-->  DIRECTORY/.partial-43/…  --rename-->  DIRECTORY/43/…

A version lands by one rename, when its listing has stayed the same, every byte has come and it is whole: a watcher
of DIRECTORY never sees a part of one. What a broken download has brought is used by the next.
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
from thriftserve.files import CorruptFile
from thriftserve.repository import integrity, versions
from thriftserve.repository.versions import Latest, Specific, VersionPolicy, version_number

# A base path behind a URL: its versions, the files of each, and bringing them here.

#: Where the file systems of fsspec put what changes with a file's content.
_STAMPS = ("ETag", "etag", "md5Hash", "LastModified", "Last-Modified", "last_modified", "updated", "mtime", "created")

#: Over HTTP, how long a server may take to connect, and may send nothing.
_PATIENCE_S = 30.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RemoteFile:
    """A file as it is listed."""

    #: How the file system calls it.
    name: str
    #: In bytes; None: the server does not say.
    size: int | None
    #: Its ETag, or when it was written.
    stamp: str


class RemoteBase:
    """The directory behind a URL. Nothing is connected until something is asked."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._opened: tuple[Any, str] | None = None

    def versions(self) -> dict[int, list[str]]:
        """The directories with a number for a name, by that number.

        Raises:
            ModelLoadError: fsspec or a part of it is not installed, or the URL can't be listed.
        """
        try:
            files, root = self._open()
            found: dict[int, list[str]] = {}
            for entry in files.ls(root, detail=True):
                name = str(entry["name"]).rstrip("/")
                number = version_number(name.rpartition("/")[2])
                if number is not None and entry["type"] == "directory":
                    found.setdefault(number, []).append(name)
        except ImportError as error:
            raise ModelLoadError(f"{self.url}: {error}: pip install 'thriftserve[remote]'") from error
        except FileNotFoundError:
            raise ModelLoadError(f"{self.url}: there is no such directory") from None
        except Exception as error:  # each file system has errors of its own
            raise ModelLoadError(f"{self.url}: can't be listed: {type(error).__name__}: {error}") from error
        return found

    def listing(self, directory: str) -> dict[str, RemoteFile]:
        """The files of a version, by their path below it.

        Raises:
            ModelLoadError: it can't be listed, or a file's name leads out of it.
        """
        try:
            files, _ = self._open()
            found = files.find(directory, detail=True)
            listed = {name: info if info.get("size") is not None else files.info(name) for name, info in found.items()}
        except Exception as error:  # each file system has errors of its own
            raise ModelLoadError(f"{directory}: can't be listed: {type(error).__name__}: {error}") from error
        return {
            self._below(directory, name): RemoteFile(name, info.get("size"), _stamp(info))
            for name, info in listed.items()
            if "?" not in name.removeprefix(directory)  # links by which an index page sorts itself
        }

    def fetch(self, wanted: Mapping[str, RemoteFile], target: Path) -> None:
        """Brings files below a directory here.

        Raises:
            ModelLoadError: one can't be read, or is not as long as it was listed.
        """
        for name in wanted:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            files, _ = self._open()
            files.get([one.name for one in wanted.values()], [str(target / name) for name in wanted])
        except Exception as error:  # each file system has errors of its own
            raise ModelLoadError(f"{self.url}: a download failed: {type(error).__name__}: {error}") from error
        for name, one in wanted.items():
            size = (target / name).stat().st_size
            if one.size not in (None, size):
                raise ModelLoadError(f"{one.name}: {size} of its {one.size} bytes came")

    def _open(self) -> tuple[Any, str]:
        if self._opened is None:
            from fsspec.core import url_to_fs

            files, root = url_to_fs(self.url, use_listings_cache=False, **_options(self.url))
            self._opened = (files, str(root).rstrip("/"))
        files, root = self._opened
        files.invalidate_cache()
        return files, root

    def _below(self, directory: str, name: str) -> str:
        relative = name.removeprefix(directory.rstrip("/") + "/")
        if self.url.startswith("http"):
            relative = unquote(relative)
        parts = PurePosixPath(relative).parts
        if relative == name or not parts or ".." in parts or parts[0] == "/" or "\0" in relative:
            raise ModelLoadError(f"{directory}: lists {name!r}, which does not lie in it")
        return str(PurePosixPath(relative))


def _options(url: str) -> dict[str, Any]:
    """What a file system is told beside the URL: over HTTP a download may last, and a connection may not be silent."""
    if not url.startswith(("http://", "https://")):
        return {}
    from aiohttp import ClientTimeout

    return {"client_kwargs": {"timeout": ClientTimeout(total=None, sock_connect=_PATIENCE_S, sock_read=_PATIENCE_S)}}


def _stamp(info: Mapping[str, Any]) -> str:
    return next((str(info[key]) for key in _STAMPS if info.get(key) is not None), "")


#: Versions that the policy asks for no more, kept for a rollback and for workers that still load them.
KEPT_SUPERSEDED = 2


def directory_of(cache: Path, url: str) -> Path:
    """Where the versions of a URL lie below the cache: the same at each start, another one for each URL."""
    name = url.rstrip("/").rpartition("/")[2]
    kept = "".join(sign if sign.isalnum() or sign in "._-" else "_" for sign in name).lstrip(".")
    return cache / f"{kept}-{hashlib.sha256(url.encode()).hexdigest()[:16]}"


def has_any(directory: Path, policy: VersionPolicy) -> bool:
    """Whether a version that the policy asks for has landed in a directory."""
    try:
        return bool(policy.among(one.version for one in versions.list_versions(directory)))
    except ModelLoadError:
        return False


@dataclass(frozen=True)
class SyncResult:
    """What one `sync` did."""

    landed: tuple[int, ...] = ()
    removed: tuple[int, ...] = ()
    #: What is wrong now, whether or not it was before.
    problems: tuple[str, ...] = ()
    #: Whether something was seen for the first time or has changed: the next call may land it.
    coming: bool = False


class Mirror:
    """Keeps a directory like the versions behind a URL. One at a time for a directory, in one thread."""

    def __init__(self, url: str, directory: Path) -> None:
        self.directory = directory
        self._remote = RemoteBase(url)
        self._listings: dict[int, dict[str, RemoteFile]] = {}
        self._refused: dict[int, str] = {}
        #: Of this call: whether each version that was asked for landed, those seen first, what is wrong.
        self._brought: dict[int, bool] = {}
        self._fresh: set[int] = set()
        self._problems: list[str] = []

    def sync(self, *policies: VersionPolicy, held: Collection[int] = ()) -> SyncResult:
        """Brings what the policies ask for, and removes what is not there any more. It takes as long as downloads take.

        A version that is seen for the first time, or has changed, waits for the next call. Where the URL can't be
        listed, nothing is removed; nor are, of versions that the policies ask for no more, those `held`.
        """
        try:
            found = self._remote.versions()
        except ModelLoadError as error:
            return SyncResult(problems=(error.message,))
        if not found:
            # An empty answer is more often a fault of the server, or of the URL, than meant.
            return SyncResult(problems=(f"{self._remote.url}: lists no version; what came before stays",))
        self.directory.mkdir(parents=True, exist_ok=True)
        self._brought, self._fresh, self._problems = {}, set(), list(self._twins(found))
        here = {one.version for one in versions.list_versions(self.directory)}
        single = {version: names[0] for version, names in found.items() if len(names) == 1}
        for policy in policies:
            self._problems += self._missing(policy, found)
            self._land(single, here, policy)
        self._listings = {version: one for version, one in self._listings.items() if version in found}
        landed = tuple(version for version, came in self._brought.items() if came)
        there = here.union(landed)
        asked = {version for policy in policies for version in policy.among(there & set(found))}
        removed = self._remove(set(found), there, asked.union(held))
        return SyncResult(landed, tuple(removed), tuple(self._problems), coming=bool(self._fresh))

    def _twins(self, found: Mapping[int, list[str]]) -> Iterator[str]:
        for version, names in found.items():
            if len(names) > 1:
                several = " and ".join(one.rpartition("/")[2] for one in names)
                yield f"{self._remote.url}: {several} are both version {version}: remove one"

    def _missing(self, policy: VersionPolicy, found: Collection[int]) -> Iterator[str]:
        if isinstance(policy, Specific):
            for version in policy.versions:
                if version not in found:
                    yield f"{self._remote.url}: has no version {version}, which the policy names"

    def _land(self, found: Mapping[int, str], here: set[int], policy: VersionPolicy) -> None:
        """Brings what is asked for; for Latest, an older version in place of one that is not whole."""
        latest = isinstance(policy, Latest)
        asked = sorted(found, reverse=True) if isinstance(policy, Latest) else policy.among(found)
        left = policy.num_versions if isinstance(policy, Latest) else len(asked)
        for version in asked:
            if left == 0:
                break
            there = version in here or self._came(version, found[version])
            # What is seen for the first time will most likely be whole at the next look: no other in its place.
            if not latest or there or version in self._fresh:
                left -= 1

    def _came(self, version: int, name: str) -> bool:
        """Whether a version lands now; tried once in a call, whichever policies ask for it."""
        if version not in self._brought:
            self._brought[version] = False
            try:
                self._brought[version] = self._bring(version, name)
            except (ModelLoadError, OSError) as error:
                self._problems.append(getattr(error, "message", str(error)))
        return self._brought[version]

    def _bring(self, version: int, name: str) -> bool:
        """Downloads a version whose listing has not changed since the last call; tells whether it landed.

        Raises:
            ModelLoadError: it can't be read, or is not whole.
        """
        before = self._listings.get(version)
        listing = self._listings[version] = self._remote.listing(name)
        if listing != before:
            self._refused.pop(version, None)
            self._fresh.add(version)
            return False
        if version in self._refused:
            raise ModelLoadError(self._refused[version])
        partial = self._partial(version, listing)
        began = time.monotonic()
        log.info("%s is coming: %d files, %d bytes", name, len(listing), sum(one.size or 0 for one in listing.values()))
        self._remote.fetch({name: one for name, one in listing.items() if not _is_here(partial / name, one)}, partial)
        if self._remote.listing(name) != listing:
            self._fresh.add(version)
            return False
        told = _fault(partial)
        if told:
            self._refused[version] = f"{name}: is not whole: {told}"
            raise ModelLoadError(self._refused[version])
        os.replace(partial, self.directory / str(version))
        self._beside(version).unlink(missing_ok=True)
        log.info("%s has come in %.1f s", name, time.monotonic() - began)
        return True

    def _partial(self, version: int, listing: Mapping[str, RemoteFile]) -> Path:
        """Where a version is put together; empty unless what is there is of this very listing."""
        partial, note = self.directory / f".partial-{version}", self._beside(version)
        now = json.dumps({name: asdict(one) for name, one in listing.items()}, sort_keys=True)
        with contextlib.suppress(OSError):
            if note.read_text(encoding="utf-8") == now:
                return partial
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        note.write_text(now, encoding="utf-8")
        return partial

    def _beside(self, version: int) -> Path:
        return self.directory / f".partial-{version}.json"

    def _remove(self, found: set[int], here: set[int], asked: set[int]) -> list[int]:
        """Removes versions that are not behind the URL any more, and those long superseded."""
        superseded = sorted((here & found) - asked, reverse=True)
        removed = sorted(here - found) + superseded[KEPT_SUPERSEDED:]
        for one in versions.list_versions(self.directory):
            if one.version in removed:
                # A rename first: a watcher must not see a version that is removed file by file.
                gone = Path(tempfile.mkdtemp(dir=self.directory, prefix=".gone-"))
                os.replace(one.path, gone / "version")
        for gone in self.directory.glob(".gone-*"):
            shutil.rmtree(gone, ignore_errors=True)
        return removed


def _is_here(path: Path, one: RemoteFile) -> bool:
    try:
        return one.size is not None and path.stat().st_size == one.size
    except OSError:
        return False


def _fault(path: Path) -> str | None:
    try:
        return integrity.find_fault(path, integrity.scan(path))
    except (OSError, CorruptFile) as error:
        return str(error)
