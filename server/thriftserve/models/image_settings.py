"""How encoded images become a model's input: the settings file beside a version.

    BASE_PATH/3/assets.extra/image.toml  -->  ImageSettings  -->  images.decode(...)

A file of four lines is a whole one:

    input = "image"            # the input's name; unset: the signature's only image-shaped input
    height = 224               # unset: the signature's own, or the image's where that is free too
    width = 224
    scale = 0.00392156862745098   # pixel * scale + offset
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageSettings:
    """Resize and scaling of a model's image input; every field has a default that suits many models."""

    #: Name of the image input; None: the signature's only one of an image's shape.
    input: str | None = None
    height: int | None = None
    width: int | None = None
    #: 1 (grey), 3 (RGB) or 4 (RGBA); None: the signature's own.
    channels: int | None = None
    #: A pixel becomes pixel * scale + offset for float inputs. One number, or one per channel.
    scale: float | tuple[float, ...] = 1.0
    offset: float | tuple[float, ...] = 0.0
    #: "stretch" to the size, "crop" (fill, cut the middle out) or "pad" (fit, fill with black).
    fit: str = "stretch"
    #: "nearest", "bilinear", "bicubic" or "lanczos".
    resample: str = "bilinear"
    #: Name of the output that holds the class scores; None: the signature's only float output of rank 2.
    scores: str | None = None
