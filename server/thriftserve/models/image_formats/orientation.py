"""How an image is to be set upright, from the metadata of its file.

Metadata matters for nothing else. Where it is damaged the image is taken as upright: its pixels are sound all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

#: EXIF's tag for how the camera was held.
ORIENTATION = 0x0112
UPRIGHT = 1
#: Pillow's keys of metadata; what stands under XMP is text.
EXIF, XMP = "exif", "XML:com.adobe.xmp"


def orientation_of(image: Image) -> int:
    """Return the EXIF or XMP orientation of an opened image."""
    try:
        return int(image.getexif().get(ORIENTATION, UPRIGHT))
    except MemoryError:
        raise
    except Exception:  # whatever a parser makes of damaged metadata
        return UPRIGHT


def orientation_in(metadata: dict[str | tuple[int, int], Any]) -> int:
    """Return the orientation that metadata tells, under Pillow's own keys."""
    from PIL import Image

    if not metadata:
        return UPRIGHT
    bearer = Image.new("1", (1, 1))
    bearer.info = metadata
    return orientation_of(bearer)
