"""An archive: what was downloaded is unpacked by its kind, and the model in it is found.

download  --its first bytes-->  tar | tar.gz | zip  --unpack-->  unpacked/  --find_model-->  unpacked/digits/3
"""

from __future__ import annotations

import gzip
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from thriftserve.errors import InvalidArgument
from thriftserve.remote.archive_entries import CHUNK, Unpacker
from thriftserve.repository.versions import SAVED_MODEL_FILES


def unpack(path: Path, unpacker: Unpacker) -> None:
    """Unpack an archive; its content tells of which kind it is.

    Raises:
        InvalidArgument: it is no such archive, is damaged, or has an entry that is not safe.
        TooLarge: it unpacks to more than the limits allow.
    """
    with open(path, "rb") as file:
        head = file.read(_TAR_AT + len(_TAR))
    if head.startswith(_GZIP):
        unpack_tar(path, gzipped=True, unpacker=unpacker)
    elif head.startswith(_ZIP):
        unpack_zip(path, unpacker)
    elif head[_TAR_AT:] == _TAR:
        unpack_tar(path, gzipped=False, unpacker=unpacker)
    elif head:
        raise InvalidArgument(f"what was fetched is neither tar, tar.gz nor zip: it begins with {head[:16]!r}")
    else:
        raise InvalidArgument("what was fetched is empty")


def find_model(root: Path) -> Path:
    """Return the directory of the model: the root itself, or the only one below it, or NAME/VERSION below it.

    Raises:
        InvalidArgument: there is none, or more than one.
    """
    level = [root]
    for _ in range(3):
        models = [path for path in level if any((path / name).is_file() for name in SAVED_MODEL_FILES)]
        if len(models) == 1:
            return models[0]
        if models:
            names = ", ".join(sorted(str(path.relative_to(root)) for path in models))
            raise InvalidArgument(f"the archive has several models ({names}): pack one version by itself")
        level = [child for path in level for child in sorted(path.iterdir()) if _may_hold_model(child)]
    names = ", ".join(sorted(path.name for path in root.iterdir())[:8])
    raise InvalidArgument(
        f"the archive has no saved_model.pb at its root, in a directory or in NAME/VERSION; it has {names or 'nothing'}"
    )


def _may_hold_model(path: Path) -> bool:
    hidden = path.name in _NO_MODEL or path.name.startswith(".")
    return path.is_dir() and not path.is_symlink() and not hidden


#: The longest header: far above what real names need.
_MAX_READ = 2 * CHUNK


def unpack_tar(path: Path, *, gzipped: bool, unpacker: Unpacker) -> None:
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
        unpacker.add_file(member.name, member.size, _tar_chunks(archive, member))
    elif member.issym():
        unpacker.add_symbolic_link(member.name, member.linkname)
    elif member.islnk():
        unpacker.add_hard_link(member.name, member.linkname)
    else:
        raise InvalidArgument(f"{member.name!r:.200} in the archive is neither a file nor a directory")


def _tar_chunks(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
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


#: End of central directory: its signature and size. The long one is ZIP64's, found by its locator (APPNOTE.TXT, 4.3).
_END = b"PK\x05\x06"
_END_SIZE = 22
_LONG_END = b"PK\x06\x06"
_LONG_END_SIZE = 56
_LOCATOR = b"PK\x06\x07"
_LOCATOR_SIZE = 20
_MAX_COMMENT = 65535
#: Bytes of the directory: some hundred an entry are usual.
_MAX_DIRECTORY = 16 << 20
_ENCRYPTED = 0x1
#: The longest target of a link.
_MAX_TARGET = 4096


def unpack_zip(path: Path, unpacker: Unpacker) -> None:
    """Unpack a zip file.

    Raises:
        InvalidArgument: it is damaged, or has an entry that is not safe.
    """
    _check_directory(path)
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                _unpack_entry(archive, entry, unpacker)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeDecodeError, ValueError) as error:
        raise InvalidArgument(f"the archive is damaged: {error}") from error
    unpacker.finish()


def _unpack_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, unpacker: Unpacker) -> None:
    if entry.flag_bits & _ENCRYPTED:
        raise InvalidArgument(f"{entry.filename!r:.200} in the archive is encrypted")
    # Other methods unpack without a bound on memory.
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InvalidArgument(f"{entry.filename!r:.200} in the archive is packed by method {entry.compress_type}")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if entry.is_dir():
        unpacker.add_directory(entry.filename)
    elif kind == stat.S_IFLNK:
        unpacker.add_symbolic_link(entry.filename, _link_target(archive, entry))
    elif kind in (0, stat.S_IFREG):
        unpacker.add_file(entry.filename, entry.file_size, _zip_chunks(archive, entry))
    else:
        raise InvalidArgument(f"{entry.filename!r:.200} in the archive is neither a file nor a directory")


def _zip_chunks(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[bytes]:
    with archive.open(entry) as source:
        while chunk := source.read(CHUNK):
            yield chunk


def _link_target(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> str:
    with archive.open(entry) as source:
        return source.read(_MAX_TARGET).decode()


def _check_directory(path: Path) -> None:
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _LONG_END_SIZE - _LOCATOR_SIZE - _END_SIZE - _MAX_COMMENT))
        tail = file.read()
    end = tail.rfind(_END)
    if end < 0 or len(tail) - end < _END_SIZE:
        raise InvalidArgument("the archive is damaged: it has no directory: it may be cut off")
    (length,) = struct.unpack_from("<I", tail, end + 12)
    if tail[end - _LOCATOR_SIZE : end].startswith(_LOCATOR):
        # ZIP64: zipfile believes the long form before it rather than the short one.
        long = tail[max(0, end - _LOCATOR_SIZE - _LONG_END_SIZE) : end]
        (length,) = struct.unpack_from("<Q", long, 40) if long.startswith(_LONG_END) else (_MAX_DIRECTORY + 1,)
    if length > _MAX_DIRECTORY:
        raise InvalidArgument(f"the archive's directory has {length} bytes: it has too many entries")


_GZIP = b"\x1f\x8b"
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
#: The magic of a tar header, and where it is in the file.
_TAR, _TAR_AT = b"ustar", 257
#: macOS puts this beside every directory that it packs.
_NO_MODEL = frozenset({"__MACOSX"})
