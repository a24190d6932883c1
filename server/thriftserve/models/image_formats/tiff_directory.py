"""The directory of a TIFF file: its tags, read without a decoder.

    bytes --> Directory of the first image: tag --> type and values

Everything that a tag points to is within the file, or the directory is damaged. Tags that don't matter for pixels
are never read. https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf is the specification.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Tag(IntEnum):
    """The tags that decide about pixels, and how the image is to be set upright."""

    NEW_SUBFILE_TYPE = 254
    IMAGE_WIDTH = 256
    IMAGE_LENGTH = 257
    BITS_PER_SAMPLE = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    FILL_ORDER = 266
    STRIP_OFFSETS = 273
    ORIENTATION = 274
    SAMPLES_PER_PIXEL = 277
    ROWS_PER_STRIP = 278
    STRIP_BYTE_COUNTS = 279
    PLANAR_CONFIGURATION = 284
    T4_OPTIONS = 292
    T6_OPTIONS = 293
    PREDICTOR = 317
    COLOR_MAP = 320
    TILE_WIDTH = 322
    TILE_LENGTH = 323
    TILE_OFFSETS = 324
    TILE_BYTE_COUNTS = 325
    INK_SET = 332
    DOT_RANGE = 336
    EXTRA_SAMPLES = 338
    SAMPLE_FORMAT = 339
    SMIN_SAMPLE_VALUE = 340
    SMAX_SAMPLE_VALUE = 341
    JPEG_TABLES = 347
    YCBCR_COEFFICIENTS = 529
    YCBCR_SUBSAMPLING = 530
    YCBCR_POSITIONING = 531
    REFERENCE_BLACK_WHITE = 532
    XMP = 700
    DNG_VERSION = 50706


#: A value's type -> numpy's letter for it, and how many of those a value has. Rationals are pairs.
TYPES = {
    1: ("u1", 1),
    2: ("u1", 1),
    3: ("u2", 1),
    4: ("u4", 1),
    5: ("u4", 2),
    6: ("i1", 1),
    7: ("u1", 1),
    8: ("i2", 1),
    9: ("i4", 1),
    10: ("i4", 2),
    11: ("f4", 1),
    12: ("f8", 1),
    13: ("u4", 1),
    16: ("u8", 1),
    17: ("i8", 1),
    18: ("u8", 1),
}

Values = NDArray[Any]


@dataclass(frozen=True)
class Directory:
    """The tags of a file's first image: type and values of each."""

    #: Of the file's bytes: "<" or ">".
    order: str
    tags: dict[int, tuple[int, Values]]

    @classmethod
    def read(cls, data: bytes) -> Directory:
        """Read a file's first directory, of TIFF or BigTIFF.

        Raises:
            ValueError: There is none, or it is cut off.
        """
        order = "<" if data[:2] == b"II" else ">"
        big = 43 in (data[2], data[3])
        try:
            at = struct.unpack_from(f"{order}Q" if big else f"{order}I", data, 8 if big else 4)[0]
            count = struct.unpack_from(f"{order}Q" if big else f"{order}H", data, at)[0]
            at += 8 if big else 2
            entry = struct.Struct(f"{order}HHQ" if big else f"{order}HHI")
            room = 8 if big else 4
            if count > 0xFFFF or at + count * (entry.size + room) > len(data):
                raise ValueError("its directory is cut off")
            tags: dict[int, tuple[int, Values]] = {}
            for place in range(at, at + count * (entry.size + room), entry.size + room):
                tag, kind, length = entry.unpack_from(data, place)
                if tag in _WANTED and length and tag not in tags:
                    values = _read_values(data, order, kind, length, place + entry.size, room)
                    if values is not None:
                        tags[tag] = kind, values
                    elif tag != Tag.XMP:
                        raise ValueError(f"its tag {Tag(tag).name} is damaged")
        except (struct.error, OverflowError):
            raise ValueError("it has no directory") from None
        return cls(order, tags)

    def __contains__(self, tag: Tag) -> bool:
        return tag in self.tags

    def values(self, tag: Tag, default: Sequence[int] = ()) -> list[int | float]:
        """Return a tag's values, or the default."""
        values: list[int | float] = self.tags[tag][1].tolist() if tag in self.tags else list(default)
        return values

    def number(self, tag: Tag, default: int) -> int:
        """Return a tag's first value as a whole number, or the default."""
        return int(self.tags[tag][1][0]) if tag in self.tags else default


_WANTED = frozenset(Tag)


def _read_values(data: bytes, order: str, kind: int, length: int, at: int, room: int) -> Values | None:
    """Return an entry's values; None if they are outside the file, or have no type."""
    if kind not in TYPES:
        return None
    letter, parts = TYPES[kind]
    dtype = np.dtype(f"{order}{letter}")
    size = dtype.itemsize * parts * length
    if size > room:
        at = struct.unpack_from(f"{order}Q" if room == 8 else f"{order}I", data, at)[0]
    return np.frombuffer(data, dtype, parts * length, at) if size <= len(data) - at else None
