"""What every format's reader returns, and how it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

#: A mode and a size (width, height) that a decoder may come close to, where that saves it work.
Draft = tuple[str | None, tuple[int, int]]


class UnreadableKind(ValueError):
    """A sound file of a kind that can't be read right; the message names the kind and the remedy."""

    def __init__(self, kind: str, remedy: str = "convert it to JPEG or PNG") -> None:
        super().__init__(f"{kind} can't be read; {remedy}")


@dataclass(frozen=True)
class OpenedImage:
    """An image of which only the header has been read.

    `load` returns its pixels as they lie in the file, in one of the modes of 8 bits (MODES). It raises
    UnreadableKind, or what the decoder raises for damaged data.
    """

    #: As in FORMATS.
    format: str
    #: As stored, before the orientation is applied, in pixels.
    width: int
    height: int
    #: EXIF's number, how the camera was held: 2 to 8, or any other where the image is upright.
    orientation: int
    load: Callable[[Draft | None], Image]


#: Pillow's modes whose samples have 8 bits (or one) and a known meaning.
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")
