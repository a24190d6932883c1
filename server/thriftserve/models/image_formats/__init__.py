"""Image files of the formats that the server reads, and what each of their kinds holds.

    bytes --> first bytes: which format --> its reader: header --> OpenedImage --load--> 8 bits

A reader takes the meaning of samples from the file itself: bits, sign, polarity, palette, alpha. It refuses by name
(UnreadableKind) what has no one right reading, and damaged files with a ValueError. Nothing is decoded before `load`.
"""

from __future__ import annotations

from collections.abc import Callable

from thriftserve.models.image_formats import bmp, gif, jpeg, png, tiff, webp
from thriftserve.models.image_formats.foreign import check_not_foreign
from thriftserve.models.image_formats.opened import MODES, Draft, OpenedImage, UnreadableKind

__all__ = ["FORMATS", "MODES", "Draft", "OpenedImage", "UnreadableKind", "format_of", "open_image"]

_READERS: dict[str, Callable[[bytes], OpenedImage]] = {
    "JPEG": jpeg.open_jpeg,
    "PNG": png.open_png,
    "GIF": gif.open_gif,
    "BMP": bmp.open_bmp,
    "WEBP": webp.open_webp,
    "TIFF": tiff.open_tiff,
}
#: The only parsers that a request can reach.
FORMATS = tuple(_READERS)


def format_of(data: bytes) -> str | None:
    """Return which of FORMATS a file has by its first bytes; None for none of them.

    Raises:
        UnreadableKind: It is a file of another, known kind.
    """
    if data.startswith(jpeg.SIGNATURE) and data[2:3] in (b"\xff", b""):
        return "JPEG"
    if data.startswith(png.SIGNATURE):
        return "PNG"
    if data.startswith(gif.SIGNATURES):
        return "GIF"
    if data.startswith(bmp.SIGNATURE):
        return "BMP"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith(tiff.SIGNATURES):
        return "TIFF"
    check_not_foreign(data)
    return None


def open_image(data: bytes, image_format: str) -> OpenedImage:
    """Read a file's header.

    Args:
        data: the file.
        image_format: what `format_of` said.

    Raises:
        UnreadableKind: Its kind has no one right reading.
        ValueError: It is damaged; or whatever a parser makes of damaged bytes.
    """
    return _READERS[image_format](data)
