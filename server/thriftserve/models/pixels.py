"""A decoded Pillow image as a model wants it: upright, in its channels, of its size.

orientation --> turn_of: what sets it upright;  image --> coloured --> Fit.apply --> uint8 image of the target's size

The order saves work: what is thrown away is thrown away first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from thriftserve.models.image_formats import MODES
from thriftserve.models.image_settings import ImageSettings

if TYPE_CHECKING:
    from PIL.Image import Image, Transpose

#: EXIF's orientation -> what sets the image upright.
TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


@dataclass(frozen=True)
class Target:
    """What a decoded image must look like; None: the image's own height or width.

    Where one of the two is None, it follows the other in the image's proportions.
    """

    height: int | None
    width: int | None
    channels: int
    settings: ImageSettings


@dataclass(frozen=True)
class Fit:
    """How an upright image comes to its size: it is scaled to `scaled`, then cut or padded to `width` x `height`.

    `scaled` (width, height) may be larger than memory for a very long image that is cropped; so the
    part that stays is cut out before it is scaled.
    """

    width: int
    height: int
    scaled: tuple[int, int]

    @classmethod
    def of(cls, target: Target, width: int, height: int) -> Fit:
        """The fit of an upright image of `width` x `height` pixels to a target."""
        if target.width is None and target.height is None:
            return cls(width, height, (width, height))
        new_width = target.width or _at_least_one(width * (target.height or height) / height)
        new_height = target.height or _at_least_one(height * new_width / width)
        if target.settings.fit == "stretch":
            return cls(new_width, new_height, (new_width, new_height))
        ratios = (new_width / width, new_height / height)
        ratio = max(ratios) if target.settings.fit == "crop" else min(ratios)
        return cls(new_width, new_height, (_at_least_one(width * ratio), _at_least_one(height * ratio)))

    def apply(self, image: Image, settings: ImageSettings) -> Image:
        """The image of this fit's size. `image` may have been decoded at a smaller scale already."""
        from PIL import Image as Pillow

        resample = Pillow.Resampling[settings.resample.upper()]
        size = (min(self.width, self.scaled[0]), min(self.height, self.scaled[1]))
        resized = image.resize(size, resample, box=self._kept(image))
        if size == (self.width, self.height):
            return resized
        padded = Pillow.new(image.mode, (self.width, self.height), _colour(image.mode, settings.background))
        padded.paste(resized, ((self.width - size[0]) // 2, (self.height - size[1]) // 2))
        return padded

    def _kept(self, image: Image) -> tuple[float, float, float, float]:
        """The middle of the image that fills the target, in the image's own pixels."""
        across = image.width * min(1.0, self.width / self.scaled[0])
        down = image.height * min(1.0, self.height / self.scaled[1])
        left, top = (image.width - across) / 2, (image.height - down) / 2
        return left, top, left + across, top + down


def turn_of(orientation: int) -> Transpose | None:
    """Return what sets an image of this EXIF orientation upright; None where it is."""
    from PIL.Image import Transpose

    name = TURNS.get(orientation)
    return None if name is None else Transpose[name]


def coloured(image: Image, channels: int, background: int | tuple[int, ...]) -> Image:
    """The image in 1 (grey), 3 (RGB) or 4 (RGBA) channels of 8 bits.

    Without an alpha channel of their own, transparent pixels show `background`.

    Raises:
        ValueError: the image's mode is none whose samples have a known meaning.
    """
    from PIL import Image as Pillow

    if image.mode not in MODES:
        raise ValueError(f"it has samples of a kind that is not known ({image.mode})")
    if channels == 4:
        return image.convert("RGBA")
    if image.has_transparency_data:
        backdrop = Pillow.new("RGBA", image.size, _colour("RGBA", background))
        image = Pillow.alpha_composite(backdrop, image.convert("RGBA"))
    return image.convert("L" if channels == 1 else "RGB")


def _colour(mode: str, background: int | tuple[int, ...]) -> int | tuple[int, ...]:
    """The background in a mode's channels; opaque where it has alpha."""
    red, green, blue = (background,) * 3 if isinstance(background, int) else (background * 3)[:3]
    if mode == "L":
        return round(0.299 * red + 0.587 * green + 0.114 * blue)  # ITU-R 601, as Pillow's own conversion
    return (red, green, blue, 255) if mode == "RGBA" else (red, green, blue)


def _at_least_one(size: float) -> int:
    return max(1, round(size))
