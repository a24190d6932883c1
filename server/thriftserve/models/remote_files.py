"""A base path behind a URL: its versions, the files of each, and bringing them here.

    "s3://bucket/models/digits"  --RemoteBase-->  versions {43: "…/43"}  --listing-->  {"saved_model.pb": RemoteFile}

Through fsspec, which the extra `remote` installs; credentials are whatever its file systems find by themselves. Its
file systems run threads of their own: use it in no process that forks afterwards.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from thriftserve.errors import ModelLoadError
from thriftserve.models.repository import version_number

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
