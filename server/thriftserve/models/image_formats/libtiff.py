"""libtiff by way of Pillow: small TIFF files for it to decode, as they are needed, and its decoding.

tags, strips or tiles --write--> a small TIFF --decode--> Pillow image
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from thriftserve.models.image_formats.tiff_directory import TYPES, Tag, Values

if TYPE_CHECKING:
    from PIL.Image import Image

#: TIFF's number of the type of unsigned numbers of 32 bits.
LONG = 4
#: From this version on, Pillow's decoder gets no compression, which it never used.
_WITHOUT_COMPRESSION = 13


def write(tags: dict[int, tuple[int, Values]], pieces: Sequence[bytes | memoryview], tiled: bool) -> tuple[bytes, int]:
    """Return a TIFF of these tags and strips or tiles, little-endian, and the place of its directory."""
    lengths = np.array([len(piece) for piece in pieces], np.uint32)
    places = (8 + np.cumsum(lengths) - lengths).astype(np.uint32)
    offsets, counts = (Tag.TILE_OFFSETS, Tag.TILE_BYTE_COUNTS) if tiled else (Tag.STRIP_OFFSETS, Tag.STRIP_BYTE_COUNTS)
    tags = tags | {offsets: (LONG, places), counts: (LONG, lengths)}
    data = b"".join(pieces)
    data += bytes(len(data) % 2)
    at = 8 + len(data)
    tail_at = at + 2 + 12 * len(tags) + 4
    directory, tail = struct.pack("<H", len(tags)), b""
    for tag in sorted(tags):
        kind, values = tags[tag]
        body = values.astype(values.dtype.newbyteorder("<")).tobytes()
        directory += struct.pack("<HHI", tag, kind, len(values) // TYPES[kind][1])
        if len(body) <= 4:
            directory += body.ljust(4, b"\0")
        else:
            directory += struct.pack("<I", tail_at + len(tail))
            tail += body + bytes(len(body) % 2)
    return b"II*\0" + struct.pack("<I", at) + data + directory + bytes(4) + tail, at


def decode(mode: str, size: tuple[int, int], data: bytes, at: int, stored: str) -> Image:
    """Decode a TIFF without checking its size first, as Pillow's own reader does.

    Args:
        mode: Pillow's mode of the image.
        size: width and height, in pixels.
        data: the file.
        at: the place of its directory.
        stored: Pillow's name for how the file stores the samples.

    Raises:
        ValueError: The data is damaged, or this Pillow has no libtiff.
    """
    import PIL
    from PIL import Image, features

    if not features.check_codec("libtiff"):
        raise ValueError("this server's Pillow has no libtiff")
    arguments: tuple[Any, ...] = (stored, False, at)
    if int(PIL.__version__.partition(".")[0]) < _WITHOUT_COMPRESSION:
        arguments = (stored, "", False, at)
    return Image.frombytes(mode, size, data, "libtiff", arguments)
