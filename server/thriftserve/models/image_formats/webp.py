"""WebP files: the image's chunks go to Pillow without metadata, so that none of it can cost the image.

    bytes --> chunks --> size, orientation, the image's chunks --> OpenedImage --> 8 bits

https://developers.google.com/speed/webp/docs/riff_container has the format.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from thriftserve.models.image_formats.opened import EXIF, XMP, Draft, OpenedImage, find_orientation

if TYPE_CHECKING:
    from PIL.Image import Image

_IMAGE = (b"VP8X", b"ANIM", b"ANMF", b"ALPH", b"VP8 ", b"VP8L")


def open_webp(data: bytes) -> OpenedImage:
    """Read the chunks of a WebP.

    Raises:
        ValueError: No complete chunk has a size.
    """
    metadata: dict[str | tuple[int, int], Any] = {}
    chunks = b""
    size = None
    for kind, body in _chunks(data):
        size = size or _read_size(kind, body)
        if kind == b"EXIF":
            metadata[EXIF] = body
        elif kind == b"XMP ":
            metadata[XMP] = body.decode("latin-1")
        elif kind in _IMAGE:
            chunks += kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)
    if size is None:
        raise ValueError("its image data is cut off")

    def load(_draft: Draft | None) -> Image:
        from PIL import Image as Pillow

        bare = b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks
        image = Pillow.open(io.BytesIO(bare), formats=("WEBP",))
        image.load()
        if image.size != size:
            raise ValueError(f"its header declares {size[0]}x{size[1]} pixels: it has {image.width}x{image.height}")
        return image

    return OpenedImage("WEBP", *size, find_orientation(metadata), load)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield each complete chunk's name and body."""
    end = min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    at = 12
    while at + 8 <= end:
        kind, length = struct.unpack_from("<4sI", data, at)
        if at + 8 + length > end:
            return
        yield kind, data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def _read_size(kind: bytes, body: bytes) -> tuple[int, int] | None:
    """Return width and height, if this chunk has them."""
    if kind == b"VP8X" and len(body) >= 10:
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a" and len(body) >= 10:
        width, height = struct.unpack_from("<HH", body, 6)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L" and body[:1] == b"\x2f" and len(body) >= 5:
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return None
