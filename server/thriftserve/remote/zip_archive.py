"""A zip file: its directory is checked, then it is unpacked entry by entry.

file  --size of its directory within the limit-->  zipfile  -->  Unpacker

zipfile reads the directory into memory at once: hence the limit on its size.
"""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from thriftserve.errors import InvalidArgument
from thriftserve.remote.archive_entries import CHUNK, Unpacker

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


def unpack(path: Path, unpacker: Unpacker) -> None:
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
        unpacker.add_file(entry.filename, entry.file_size, _chunks(archive, entry))
    else:
        raise InvalidArgument(f"{entry.filename!r:.200} in the archive is neither a file nor a directory")


def _chunks(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[bytes]:
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
