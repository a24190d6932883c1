"""A zip file, entry by entry.

file  --directory's size looked at-->  zipfile  -->  Unpacked

zipfile reads the directory into memory whole; so its size is read first, and held to a limit.
"""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from thriftserve.errors import InvalidArgument
from thriftserve.remote.archive_entries import CHUNK, Unpacked

_END = b"PK\x05\x06"
_END_SIZE = 22
_LONG_END = b"PK\x06\x06"
_LONG_END_SIZE = 56
_LOCATOR = b"PK\x06\x07"
_LOCATOR_SIZE = 20
_MAX_COMMENT = 65535
#: Of the directory: some hundred bytes an entry are usual.
_MAX_DIRECTORY = 16 << 20
_ENCRYPTED = 0x1
#: The longest target of a link.
_MAX_TARGET = 4096


def unpack(path: Path, into: Unpacked) -> None:
    """Unpacks a zip file.

    Raises:
        InvalidArgument: it is damaged, or has an entry that is not safe.
    """
    _check_directory(path)
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                _take(archive, entry, into)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeDecodeError, ValueError) as error:
        raise InvalidArgument(f"the archive is damaged: {error}") from error
    into.finish()


def _take(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, into: Unpacked) -> None:
    if entry.flag_bits & _ENCRYPTED:
        raise InvalidArgument(f"{entry.filename!r:.200} in the archive is encrypted")
    # The other methods unpack without a bound on memory.
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InvalidArgument(f"{entry.filename!r:.200} in the archive is packed by method {entry.compress_type}")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if entry.is_dir():
        into.directory(entry.filename)
    elif kind == stat.S_IFLNK:
        into.soft_link(entry.filename, _target(archive, entry))
    elif kind in (0, stat.S_IFREG):
        into.file(entry.filename, entry.file_size, _content(archive, entry))
    else:
        raise InvalidArgument(f"{entry.filename!r:.200} in the archive is neither a file nor a directory")


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[bytes]:
    with archive.open(entry) as source:
        while chunk := source.read(CHUNK):
            yield chunk


def _target(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> str:
    with archive.open(entry) as source:
        return source.read(_MAX_TARGET).decode()


def _check_directory(path: Path) -> None:
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _LONG_END_SIZE - _LOCATOR_SIZE - _END_SIZE - _MAX_COMMENT))
        tail = file.read()
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < _END_SIZE:
        raise InvalidArgument("the archive is damaged: it has no directory: it may be cut off")
    (length,) = struct.unpack_from("<I", tail, at + 12)
    if tail[at - _LOCATOR_SIZE : at].startswith(_LOCATOR):
        # The large form stands just before; zipfile believes it rather than the other.
        long = tail[max(0, at - _LOCATOR_SIZE - _LONG_END_SIZE) : at]
        (length,) = struct.unpack_from("<Q", long, 40) if long.startswith(_LONG_END) else (_MAX_DIRECTORY + 1,)
    if length > _MAX_DIRECTORY:
        raise InvalidArgument(f"the archive's directory has {length} bytes: it has too many entries")
