"""What every format's reader returns, how it refuses a file, and how the image is set upright.

Metadata matters for nothing but the orientation. If it is damaged the image counts as upright: its pixels are sound all
the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

#: A mode and a size (width, height) that a decoder may come close to, if that saves it work.
Draft = tuple[str | None, tuple[int, int]]
#: Pillow's modes whose samples have 8 bits (or one) and a known meaning.
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")
#: EXIF's tag for how the camera was held.
ORIENTATION = 0x0112
UPRIGHT = 1
#: Pillow's keys of metadata; the value of XMP is text.
EXIF, XMP = "exif", "XML:com.adobe.xmp"
#: Metadata by Pillow's own keys.
Metadata = dict[str | tuple[int, int], Any]


class UnreadableKind(ValueError):
    """A sound file of a kind that can't be read right; the message names the kind and the remedy."""

    def __init__(self, kind: str, remedy: str = "convert it to JPEG or PNG") -> None:
        super().__init__(f"{kind} can't be read; {remedy}")


@dataclass(frozen=True)
class OpenedImage:
    """An image of which only the header has been read.

    `load` returns its pixels as stored, in one of the modes of 8 bits (MODES). It raises UnreadableKind, or what the
    decoder raises for damaged data.
    """

    #: As in FORMATS.
    format: str
    #: As stored, before the orientation is applied, in pixels.
    width: int
    height: int
    #: EXIF's number, how the camera was held: 2 to 8, or any other if the image is upright.
    orientation: int
    load: Callable[[Draft | None], Image]


def read_orientation(image: Image) -> int:
    """Return the EXIF or XMP orientation of an image that Pillow has opened."""
    try:
        return int(image.getexif().get(ORIENTATION, UPRIGHT))
    except MemoryError:
        raise
    except Exception:  # whatever a parser makes of damaged metadata
        return UPRIGHT


def find_orientation(metadata: Metadata) -> int:
    """Return the orientation in metadata of a file that Pillow has not opened."""
    from PIL import Image

    if not metadata:
        return UPRIGHT
    bearer = Image.new("1", (1, 1))
    bearer.info = metadata
    return read_orientation(bearer)
