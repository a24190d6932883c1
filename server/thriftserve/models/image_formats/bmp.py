"""BMP files: Pillow reads them, but for palettes of greys that it takes for rows of another size.

bytes --> Pillow's header --> OpenedImage --> 8 bits
"""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING

from thriftserve.models.image_formats.opened import UPRIGHT, Draft, OpenedImage
from thriftserve.models.image_formats.samples import check_palette

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

SIGNATURE = b"BM"
_CORE_HEADER = 12
_LAYOUTS = {1: "P;1", 4: "P;4", 8: "P"}


def open_bmp(data: bytes) -> OpenedImage:
    """Read the header of a BMP."""
    from PIL import Image as Pillow

    image = Pillow.open(io.BytesIO(data), formats=("BMP",))
    bits, colours = _read_depth(data)

    def load(_draft: Draft | None) -> Image:
        return _decode(image, data, bits, colours)

    return OpenedImage("BMP", *image.size, UPRIGHT, load)


def _read_depth(data: bytes) -> tuple[int, int]:
    """Return the bits of a pixel, and the colours of its palette."""
    core = int.from_bytes(data[14:18], "little") == _CORE_HEADER
    bits = struct.unpack_from("<H", data, 24 if core else 28)[0]
    used = 0 if core else struct.unpack_from("<I", data, 46)[0]
    return bits, used or 1 << bits


def _decode(image: ImageFile, data: bytes, bits: int, colours: int) -> Image:
    from PIL import Image as Pillow

    codec, _, offset, arguments = image.tile[0]
    if bits not in _LAYOUTS or image.mode == "P" or codec != "raw" or not isinstance(arguments, tuple):
        image.load()
        if image.mode == "P":
            check_palette(image, colours)
        return image
    # A palette of nothing but greys, in order: Pillow drops it, and takes its indices for grey levels of 1 or 8 bits.
    _, stride, direction = arguments
    indices = Pillow.frombytes("P", image.size, data[offset:], "raw", (_LAYOUTS[bits], stride, direction))
    greys = (0, 255) if image.mode == "1" else range(256)
    indices.putpalette([level for level in greys for _ in range(3)])
    check_palette(indices, colours)
    return indices
