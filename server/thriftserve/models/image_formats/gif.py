"""GIF files: their first frame, placed on its canvas.

bytes --> Pillow's header --> OpenedImage --> 8 bits, transparent outside the frame
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from thriftserve.models.image_formats.opened import UPRIGHT, Draft, OpenedImage, UnreadableKind
from thriftserve.models.image_formats.samples import check_palette

if TYPE_CHECKING:
    from PIL.Image import Image

SIGNATURES = (b"GIF87a", b"GIF89a")
_TABLE = 0x80
_EXTENSION, _FRAME = 0x21, 0x2C


def open_gif(data: bytes) -> OpenedImage:
    """Read a GIF up to its first frame.

    Raises:
        UnreadableKind: It has no palette.
    """
    from PIL import Image as Pillow

    image = Pillow.open(io.BytesIO(data), formats=("GIF",))
    entries = _count_colours(data)
    if not entries:
        raise UnreadableKind("a GIF without a palette")

    def load(_draft: Draft | None) -> Image:
        frame = image.tile[0][1]
        image.load()
        transparent = image.info.get("transparency")
        check_palette(image, entries, transparent)
        if transparent is not None or frame == (0, 0, *image.size):
            return image
        canvas = Pillow.new("RGBA", image.size, (0, 0, 0, 0))
        canvas.paste(image.convert("RGB").crop(frame), frame)
        return canvas

    return OpenedImage("GIF", *image.size, UPRIGHT, load)


def _count_colours(data: bytes) -> int:
    """Return how many colours the palette of the first frame has, its own or else the file's."""
    flags, at = data[10], 13
    entries = 2 << (flags & 7) if flags & _TABLE else 0
    at += 3 * entries
    while data[at] == _EXTENSION:
        at += 2
        while data[at]:
            at += 1 + data[at]
        at += 1
    flags = data[at + 9] if data[at] == _FRAME else 0
    return 2 << (flags & 7) if flags & _TABLE else entries
