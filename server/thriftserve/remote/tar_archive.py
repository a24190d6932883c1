"""A tar file, plain or gzipped, entry by entry, read once from its start to its end.

file  --gzip-->  _Forward: counted, no long reads, no way back  --tarfile-->  Unpacked

tarfile reads an extended header into memory whole, however long it says it is: hence the bound on single reads.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from thriftserve.errors import InvalidArgument
from thriftserve.remote.archive_entries import CHUNK, Unpacked

#: Headers in one go: far above what real names need.
_LONGEST_READ = 2 * CHUNK


def unpack(path: Path, *, gzipped: bool, into: Unpacked) -> None:
    """Unpacks a tar file.

    Raises:
        InvalidArgument: it is damaged, or has an entry that is not safe.
    """
    try:
        with gzip.open(path) if gzipped else open(path, "rb") as plain:
            forward: Any = _Forward(plain)  # the part of a file that tarfile reads through
            with tarfile.open(fileobj=forward, mode="r:") as archive:
                for member in archive:
                    _take(archive, member, into)
            _drain(plain)
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError) as error:
        if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
            raise
        raise InvalidArgument(f"the archive is damaged: {error}") from error
    into.finish()


def _take(archive: tarfile.TarFile, member: tarfile.TarInfo, into: Unpacked) -> None:
    if member.isdir():
        into.directory(member.name)
    elif member.isreg() and not member.issparse():
        into.file(member.name, member.size, _content(archive, member))
    elif member.issym():
        into.soft_link(member.name, member.linkname)
    elif member.islnk():
        into.hard_link(member.name, member.linkname)
    else:
        raise InvalidArgument(f"{member.name!r:.200} in the archive is neither a file nor a directory")


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    source = archive.extractfile(member)
    assert source is not None  # a regular file
    while chunk := source.read(CHUNK):
        yield chunk


def _drain(plain: IO[bytes] | gzip.GzipFile) -> None:
    """Reads what follows the last entry, a little: gzip checks its sum at its end."""
    for _ in range(64):
        if not plain.read(CHUNK):
            return


class _Forward:
    """A file that is read forward only, a bounded piece at a time."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LONGEST_READ:
            raise InvalidArgument(f"the archive has a header of {size} bytes")
        content: bytes = self._source.read(size)
        self._at += len(content)
        return content

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence != 0 or offset < self._at:
            raise InvalidArgument("the archive's entries overlap")
        while self._at < offset and self.read(min(CHUNK, offset - self._at)):
            pass
        return self._at

    def seekable(self) -> bool:
        return True
