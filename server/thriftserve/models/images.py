"""Encoded images to pixels, and pixels to a model's input. Pillow is imported when the first image comes.

    bytes --> open, header checks --> draft, load --> upright --> channels --> resize --> uint8 [H, W, C]
          --scale_pixels--> an input of the model's dtype

Whatever a client can do wrong is an InvalidArgument that names the image. Of Pillow's global settings one is changed:
its own limit of pixels is raised if the server's is higher. Thread-safe; in workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from thriftserve.errors import FailedPrecondition, InvalidArgument, Unimplemented
from thriftserve.models.image_formats import FORMATS, MODES, OpenedImage, UnreadableKind, format_of, open_image
from thriftserve.models.session import Array
from thriftserve.repository.image_settings import ImageSettings

if TYPE_CHECKING:
    from PIL.Image import Image, Transpose

#: EXIF's orientation -> the name of what sets the image upright.
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
#: Those that exchange width and height.
_SIDEWAYS = ("TRANSPOSE", "TRANSVERSE", "ROTATE_90", "ROTATE_270")


@dataclass(frozen=True)
class Target:
    """The size and channels that a decoded image must have; None: the image's own height or width.

    If one of the two is None, it follows the other in the image's proportions.
    """

    height: int | None
    width: int | None
    channels: int
    settings: ImageSettings


@dataclass(frozen=True)
class DecodedImage:
    """One image: `pixels` uint8 [H, W, C], resized; `width` and `height` as sent, upright, in pixels."""

    pixels: Array
    width: int
    height: int


def decode(data: bytes, target: Target, *, max_pixels: int, index: int) -> DecodedImage:
    """Decode and resize one image.

    Args:
        data: a JPEG, PNG, BMP, WebP, GIF or TIFF file; of several frames or images, the first.
        target: size, channels and settings of the input that it is for.
        max_pixels: an image whose header declares more is refused before it is decoded.
        index: the image's place in its request, from 0, for messages.

    Raises:
        InvalidArgument: It can't be used; the message names it by `index` and says why.
    """
    if not data:
        raise InvalidArgument(f"image {index} is empty: expected {_formats()}")
    opened = _open(data, max_pixels, index)
    try:
        return _decode(opened, target, max_pixels, index)
    except (MemoryError, InvalidArgument):
        raise
    except UnreadableKind as error:
        raise InvalidArgument(f"image {index}: {error}") from error
    except Exception as error:  # whatever a parser makes of damaged bytes is the client's fault
        raise InvalidArgument(f"image {index} ({opened.format}) can't be decoded: {_reason(error)}") from error


def prepare() -> None:
    """Import Pillow and its parsers, so that the first image is not slow.

    Raises:
        Unimplemented: Pillow is not installed.
    """
    _pillow().init()


def scale_pixels(pixels: Array, dtype: np.dtype[Any], settings: ImageSettings) -> Array:
    """Return pixels [..., C] as an input of `dtype`: pixel * scale + offset.

    Integer types get the pixels themselves if neither scale nor offset is set; else the result is rounded. Either is
    cut to the type's range: a pixel of 200 is 127 for INT8, not -56.

    Raises:
        FailedPrecondition: Scale or offset has numbers for another count of channels.
    """
    if (settings.scale, settings.offset) == (1.0, 0.0):
        if dtype == np.int8:
            pixels = np.minimum(pixels, np.iinfo(dtype).max)
        unscaled: Array = pixels.astype(dtype, copy=False)
        return unscaled
    precise = np.float64 if dtype == np.float64 else np.float32
    values: Array = pixels * _per_channel("scale", settings.scale, pixels, precise)
    values += _per_channel("offset", settings.offset, pixels, precise)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        values = np.clip(np.rint(values), limits.min, limits.max)
    scaled: Array = values.astype(dtype, copy=False)
    return scaled


def _per_channel(key: str, given: float | tuple[float, ...], pixels: Array, dtype: type[np.floating[Any]]) -> Array:
    if isinstance(given, tuple) and len(given) not in (1, pixels.shape[-1]):
        raise FailedPrecondition(
            f"{key} of the model's image.toml has {len(given)} numbers: its image input has {pixels.shape[-1]} channels"
        )
    return np.asarray(given, dtype)


def _pillow() -> ModuleType:
    try:
        from PIL import Image
    except ImportError:
        raise Unimplemented(
            "this server can't decode images, Pillow is not installed: pip install '.[server]' in a checkout, "
            "or send pixels as a tensor"
        ) from None
    return Image


def _raise_pillow_limit(max_pixels: int) -> None:
    """Raise Pillow's own limit, of the entire process, to the server's if that is higher; never lower it."""
    from PIL import Image

    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels


def _open(data: bytes, max_pixels: int, index: int) -> OpenedImage:
    """Return the image with its header read, and not more."""
    pillow = _pillow()
    _raise_pillow_limit(max_pixels)
    image_format = None
    try:
        image_format = format_of(data)
        if image_format is None:
            raise InvalidArgument(
                f"image {index} ({len(data)} bytes, beginning {data[:8]!r}) is no image: expected {_formats()}"
            )
        image = open_image(data, image_format)
    except (MemoryError, InvalidArgument):
        raise
    except UnreadableKind as error:
        raise InvalidArgument(f"image {index}: {error}") from error
    except (pillow.DecompressionBombError, pillow.DecompressionBombWarning) as error:
        raise InvalidArgument(f"image {index} is too large: {_reason(error)}") from error
    except Exception as error:  # whatever a parser makes of damaged bytes is the client's fault
        raise InvalidArgument(f"image {index} ({image_format}) can't be read: {_reason(error)}") from error
    if image.width * image.height > max_pixels:
        raise InvalidArgument(
            f"image {index} has {image.width}x{image.height} = {image.width * image.height} pixels: "
            f"at most {max_pixels} are decoded"
        )
    return image


def _decode(opened: OpenedImage, target: Target, max_pixels: int, index: int) -> DecodedImage:
    """Decode an opened image. A JPEG is decoded at a smaller scale if that is enough."""
    turn = _find_turn(opened.orientation)
    sideways = turn is not None and turn.name in _SIDEWAYS
    width, height = (opened.height, opened.width) if sideways else (opened.width, opened.height)
    fit = _Fit.of(target, width, height)
    if fit.width * fit.height > max_pixels:
        raise InvalidArgument(
            f"image {index} of {width}x{height} pixels becomes {fit.width}x{fit.height} once resized: "
            f"at most {max_pixels} pixels are made"
        )
    # The nearest pixel of a smaller decoding is another pixel.
    draft = None
    if target.settings.resample != "nearest":
        draft = "L" if target.channels == 1 else None, fit.scaled[::-1] if sideways else fit.scaled
    image = _convert_channels(opened.load(draft), target.channels, target.settings.background)
    pixels = np.asarray(fit.apply(image if turn is None else image.transpose(turn), target.settings))
    return DecodedImage(pixels if pixels.ndim == 3 else pixels[:, :, None], width, height)


@dataclass(frozen=True)
class _Fit:
    """How an upright image comes to its size: it is scaled to `scaled`, then cut or padded to `width` x `height`.

    `scaled` (width, height) may exceed memory for a very long image that is cropped; so the part that stays is cut out
    before it is scaled.
    """

    width: int
    height: int
    scaled: tuple[int, int]

    @classmethod
    def of(cls, target: Target, width: int, height: int) -> _Fit:
        """Return the fit of an upright image of `width` x `height` pixels to a target."""
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
        """Return the image of this fit's size. `image` may have been decoded at a smaller scale already."""
        from PIL import Image as Pillow

        resample = Pillow.Resampling[settings.resample.upper()]
        size = (min(self.width, self.scaled[0]), min(self.height, self.scaled[1]))
        resized = image.resize(size, resample, box=self._crop_box(image))
        if size == (self.width, self.height):
            return resized
        padded = Pillow.new(image.mode, (self.width, self.height), _background_colour(image.mode, settings.background))
        padded.paste(resized, ((self.width - size[0]) // 2, (self.height - size[1]) // 2))
        return padded

    def _crop_box(self, image: Image) -> tuple[float, float, float, float]:
        """Return the middle of the image that fills the target, in the image's own pixels."""
        across = image.width * min(1.0, self.width / self.scaled[0])
        down = image.height * min(1.0, self.height / self.scaled[1])
        left, top = (image.width - across) / 2, (image.height - down) / 2
        return left, top, left + across, top + down


def _find_turn(orientation: int) -> Transpose | None:
    """Return what sets an image of this EXIF orientation upright; None if it is upright."""
    from PIL.Image import Transpose

    name = _TURNS.get(orientation)
    return None if name is None else Transpose[name]


def _convert_channels(image: Image, channels: int, background: int | tuple[int, ...]) -> Image:
    """Return the image in 1 (grey), 3 (RGB) or 4 (RGBA) channels of 8 bits.

    Without an alpha channel of their own, transparent pixels show `background`.

    Raises:
        ValueError: The image's mode is none whose samples have a known meaning.
    """
    from PIL import Image as Pillow

    if image.mode not in MODES:
        raise ValueError(f"it has samples of a kind that is not known ({image.mode})")
    if channels == 4:
        return image.convert("RGBA")
    if image.has_transparency_data:
        backdrop = Pillow.new("RGBA", image.size, _background_colour("RGBA", background))
        image = Pillow.alpha_composite(backdrop, image.convert("RGBA"))
    return image.convert("L" if channels == 1 else "RGB")


def _background_colour(mode: str, background: int | tuple[int, ...]) -> int | tuple[int, ...]:
    """Return the background in a mode's channels; opaque if it has alpha."""
    red, green, blue = (background,) * 3 if isinstance(background, int) else (background * 3)[:3]
    if mode == "L":
        return round(0.299 * red + 0.587 * green + 0.114 * blue)  # ITU-R 601, as Pillow's own conversion
    return (red, green, blue, 255) if mode == "RGBA" else (red, green, blue)


def _at_least_one(size: float) -> int:
    return max(1, round(size))


def _formats() -> str:
    return f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"


def _reason(error: Exception) -> str:
    if type(error).__name__ == "UnidentifiedImageError":  # its text names an object of this process alone
        return "its header is damaged"
    return str(error)[:200] or type(error).__name__
