"""Image files made for tests: every mode, format and orientation that a client may send."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

#: EXIF orientation -> how a camera held so would have stored an upright image.
STORED: dict[int, Image.Transpose | None] = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def encoded(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    """The image as a file's bytes."""
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def plain(width: int = 8, height: int = 8, colour: tuple[int, int, int] = (255, 0, 0)) -> bytes:
    """A PNG of one colour."""
    return encoded(Image.new("RGB", (width, height), colour))


def photo(width: int = 640, height: int = 480) -> Image.Image:
    """A smooth RGB image, different in each quarter: gradients, as photos have, without noise."""
    down, across = np.mgrid[0:height, 0:width]
    red = 255 * across / width
    green = 255 * down / height
    blue = 127 + 100 * np.sin(across / 40) * np.cos(down / 50)
    return Image.fromarray(np.dstack([red, green, blue]).astype(np.uint8))


def oriented(upright: Image.Image, orientation: int, file_format: str) -> bytes:
    """A file that shows `upright`, stored as its EXIF orientation tells."""
    turn = STORED[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = upright if turn is None else upright.transpose(turn)
    options = {"quality": 95, "subsampling": 0} if file_format == "JPEG" else {}
    return encoded(stored, file_format, exif=exif, **options)


def png_bomb(width: int, height: int) -> bytes:
    """A PNG whose header tells of an image that nobody should decode; its data is a few bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
