"""Encoded images to pixels, and pixels to a model's input. Pillow is imported when the first image comes.

    bytes --> open, header checks --> draft, load --> upright --> channels --> resize --> uint8 [H, W, C] --> scaled

What a sender can do wrong costs an InvalidArgument that names the image. Of Pillow's global switches one is touched:
its own limit of pixels is raised where the server's is higher.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from thriftserve.errors import FailedPrecondition, InvalidArgument, Unimplemented
from thriftserve.models.image_formats import FORMATS, OpenedImage, UnreadableKind, format_of, open_image
from thriftserve.models.image_settings import ImageSettings
from thriftserve.models.pixels import Fit, Target, coloured, turn_of
from thriftserve.models.session import Array

__all__ = ["DecodedImage", "Target", "decode", "prepare", "scaled"]


@dataclass(frozen=True)
class DecodedImage:
    """One image: `pixels` uint8 [H, W, C], resized; `width` and `height` as sent, upright, in pixels."""

    pixels: Array
    width: int
    height: int


def decode(data: bytes, target: Target, *, max_pixels: int, index: int) -> DecodedImage:
    """Decodes and resizes one image.

    Args:
        data: a JPEG, PNG, BMP, WebP, GIF or TIFF file; of several frames or images, the first.
        target: size, channels and settings of the input that it is for.
        max_pixels: an image whose header tells of more is refused before it is decoded.
        index: the image's place in its request, from 0, for messages.

    Raises:
        InvalidArgument: names the image by `index` and says why it can't be used.
    """
    if not data:
        raise InvalidArgument(f"image {index} is empty: expected {_formats()}")
    opened = _opened(data, max_pixels, index)
    try:
        return _decoded(opened, target, max_pixels, index)
    except (MemoryError, InvalidArgument):
        raise
    except UnreadableKind as error:
        raise InvalidArgument(f"image {index}: {error}") from error
    except Exception as error:  # whatever a parser makes of damaged bytes is the sender's matter
        raise InvalidArgument(f"image {index} ({opened.format}) can't be decoded: {_reason(error)}") from error


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


def _raise_pillow_limit(max_pixels: int) -> None:
    """Raise Pillow's own limit, of the whole process, to the server's where that is higher; never lower it."""
    from PIL import Image

    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels


def _opened(data: bytes, max_pixels: int, index: int) -> OpenedImage:
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
    except Exception as error:  # whatever a parser makes of damaged bytes is the sender's matter
        raise InvalidArgument(f"image {index} ({image_format}) can't be read: {_reason(error)}") from error
    if image.width * image.height > max_pixels:
        raise InvalidArgument(
            f"image {index} has {image.width}x{image.height} = {image.width * image.height} pixels: "
            f"at most {max_pixels} are decoded"
        )
    return image


def _decoded(opened: OpenedImage, target: Target, max_pixels: int, index: int) -> DecodedImage:
    """Decode an opened image. A JPEG's header tells how it lies, so that it can be decoded at a smaller scale."""
    turn = turn_of(opened.orientation)
    sideways = turn is not None and turn.name in ("TRANSPOSE", "TRANSVERSE", "ROTATE_90", "ROTATE_270")
    width, height = (opened.height, opened.width) if sideways else (opened.width, opened.height)
    fit = Fit.of(target, width, height)
    if fit.width * fit.height > max_pixels:
        raise InvalidArgument(
            f"image {index} of {width}x{height} pixels becomes {fit.width}x{fit.height} once resized: "
            f"at most {max_pixels} pixels are made"
        )
    # The nearest pixel of a smaller decoding is another pixel.
    draft = None
    if target.settings.resample != "nearest":
        draft = "L" if target.channels == 1 else None, fit.scaled[::-1] if sideways else fit.scaled
    ready = coloured(opened.load(draft), target.channels, target.settings.background)
    pixels = np.asarray(fit.apply(ready if turn is None else ready.transpose(turn), target.settings))
    return DecodedImage(pixels if pixels.ndim == 3 else pixels[:, :, None], width, height)


def _formats() -> str:
    return f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"


def _reason(error: Exception) -> str:
    if type(error).__name__ == "UnidentifiedImageError":  # its text names an object of this process alone
        return "its header is damaged"
    return str(error)[:200] or type(error).__name__
