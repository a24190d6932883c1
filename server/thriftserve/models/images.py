"""Encoded images to pixels, and pixels to a model's input. Pillow is imported when the first image comes.

    bytes --> open, header checks --> draft, load --> upright --> channels --> resize --> uint8 [H, W, C] --> scaled

What a sender can do wrong costs an InvalidArgument that names the image; Pillow's global switches stay as they are.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from thriftserve.errors import FailedPrecondition, InvalidArgument, Unimplemented
from thriftserve.models.image_settings import ImageSettings
from thriftserve.models.pixels import Fit, Target, coloured, turn_of
from thriftserve.models.session import Array

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["FORMATS", "DecodedImage", "Target", "decode", "prepare", "scaled"]

#: The only parsers that a request can reach.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")


@dataclass(frozen=True)
class DecodedImage:
    """One image: `pixels` uint8 [H, W, C], resized; `width` and `height` as sent, upright, in pixels."""

    pixels: Array
    width: int
    height: int


def decode(data: bytes, target: Target, *, max_pixels: int, index: int) -> DecodedImage:
    """Decodes and resizes one image.

    Args:
        data: a JPEG, PNG, GIF (its first frame), BMP, WebP or TIFF file.
        target: size, channels and settings of the input that it is for.
        max_pixels: an image whose header tells of more is refused before it is decoded.
        index: the image's place in its request, from 0, for messages.

    Raises:
        InvalidArgument: names the image by `index` and says why it can't be used.
    """
    if not data:
        raise InvalidArgument(f"image {index} is empty: expected {_formats()}")
    image = _opened(data, max_pixels, index)
    try:
        return _decoded(image, target, max_pixels, index)
    except (MemoryError, InvalidArgument):
        raise
    except Exception as error:  # whatever a parser makes of damaged bytes is the sender's matter
        raise InvalidArgument(f"image {index} ({image.format}) can't be decoded: {_reason(error)}") from error


def prepare() -> None:
    """Imports Pillow and its parsers, so that the first image does not pay for it.

    Raises:
        Unimplemented: Pillow is not installed.
    """
    _pillow().init()


def scaled(pixels: Array, dtype: np.dtype[Any], settings: ImageSettings) -> Array:
    """Pixels [..., C] as an input of `dtype`: pixel * scale + offset.

    Integer types get the pixels themselves where neither scale nor offset is set; else the result is rounded. Either
    is cut to the type's range: a pixel of 200 is 127 for INT8, not -56.

    Raises:
        FailedPrecondition: scale or offset has numbers for another count of channels.
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
    scaled_values: Array = values.astype(dtype, copy=False)
    return scaled_values


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
            "this server can't decode images, Pillow is not installed: pip install 'thriftserve[server]', "
            "or send pixels as a tensor"
        ) from None
    return Image


def _opened(data: bytes, max_pixels: int, index: int) -> Image:
    """The image with its header read, and not more."""
    pillow = _pillow()
    try:
        image: Image = pillow.open(io.BytesIO(data), formats=FORMATS)
    except (pillow.DecompressionBombError, pillow.DecompressionBombWarning) as error:
        raise InvalidArgument(f"image {index} is too large: {_reason(error)}") from error
    except MemoryError:
        raise
    except pillow.UnidentifiedImageError:
        raise InvalidArgument(
            f"image {index} ({len(data)} bytes, beginning {data[:8]!r}) is not a whole header of {_formats()}"
        ) from None
    except Exception as error:  # whatever a parser makes of damaged bytes is the sender's matter
        raise InvalidArgument(f"image {index} can't be read: {_reason(error)}") from error
    width, height = image.size
    if width * height > max_pixels:
        raise InvalidArgument(
            f"image {index} has {width}x{height} = {width * height} pixels: at most {max_pixels} are decoded"
        )
    return image


def _decoded(image: Image, target: Target, max_pixels: int, index: int) -> DecodedImage:
    """Decodes an opened image. A JPEG's header tells how it lies, so that it can be decoded at a smaller scale."""
    draftable = image.format in ("JPEG", "MPO")
    if not draftable:
        image.load()
    turn = turn_of(image)
    sideways = turn is not None and turn.name in ("TRANSPOSE", "TRANSVERSE", "ROTATE_90", "ROTATE_270")
    width, height = image.size[::-1] if sideways else image.size
    fit = Fit.of(target, width, height)
    if fit.width * fit.height > max_pixels:
        raise InvalidArgument(
            f"image {index} of {width}x{height} pixels becomes {fit.width}x{fit.height} once resized: "
            f"at most {max_pixels} pixels are made"
        )
    # The nearest pixel of a smaller decoding is another pixel.
    if draftable and target.settings.resample != "nearest":
        image.draft("L" if target.channels == 1 else None, fit.scaled[::-1] if sideways else fit.scaled)
    image.load()
    ready = coloured(image, target.channels, target.settings.background)
    pixels = np.asarray(fit.apply(ready if turn is None else ready.transpose(turn), target.settings))
    return DecodedImage(pixels if pixels.ndim == 3 else pixels[:, :, None], width, height)


def _formats() -> str:
    return f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"


def _reason(error: Exception) -> str:
    return str(error)[:200] or type(error).__name__
