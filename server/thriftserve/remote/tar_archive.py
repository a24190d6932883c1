"""A tar file, plain or gzipped: read once from its start to its end, entry by entry.

file  --gzip-->  _ForwardReader: no long reads, no way back  --tarfile-->  Unpacker

tarfile reads an extended header into memory at once, however long it says it is: hence the bound on single reads.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from thriftserve.errors import InvalidArgument
from thriftserve.remote.archive_entries import CHUNK, Unpacker

#: The longest header: far above what real names need.
_MAX_READ = 2 * CHUNK


def unpack(path: Path, *, gzipped: bool, unpacker: Unpacker) -> None:
    """Unpack a tar file.

    Raises:
        InvalidArgument: it is damaged, or has an entry that is not safe.
    """
    try:
        with gzip.open(path) if gzipped else open(path, "rb") as plain:
            reader: Any = _ForwardReader(plain)  # the part of a file that tarfile uses
            with tarfile.open(fileobj=reader, mode="r:") as archive:
                for member in archive:
                    _unpack_member(archive, member, unpacker)
            _read_to_end(plain)
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError) as error:
        if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
            raise
        raise InvalidArgument(f"the archive is damaged: {error}") from error
    unpacker.finish()


def _unpack_member(archive: tarfile.TarFile, member: tarfile.TarInfo, unpacker: Unpacker) -> None:
    if member.isdir():
        unpacker.add_directory(member.name)
    elif member.isreg() and not member.issparse():
        unpacker.add_file(member.name, member.size, _chunks(archive, member))
    elif member.issym():
        unpacker.add_symbolic_link(member.name, member.linkname)
    elif member.islnk():
        unpacker.add_hard_link(member.name, member.linkname)
    else:
        raise InvalidArgument(f"{member.name!r:.200} in the archive is neither a file nor a directory")


def _chunks(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    source = archive.extractfile(member)
    assert source is not None  # a regular file
    while chunk := source.read(CHUNK):
        yield chunk


def _read_to_end(plain: IO[bytes] | gzip.GzipFile) -> None:
    """Read what follows the last entry, within bounds: gzip checks its checksum at the end."""
    for _ in range(64):
        if not plain.read(CHUNK):
            return


class _ForwardReader:
    """A file that is read forward only, a bounded number of bytes at a time."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self._position = 0

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_READ:
            raise InvalidArgument(f"the archive has a header of {size} bytes")
        content: bytes = self._source.read(size)
        self._position += len(content)
        return content

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence != 0 or offset < self._position:
            raise InvalidArgument("the archive's entries overlap")
        while self._position < offset and self.read(min(CHUNK, offset - self._position)):
            pass
        return self._position

    def seekable(self) -> bool:
        return True
