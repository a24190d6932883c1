"""How encoded images become a model's input: the settings file beside a version.

    BASE_PATH/3/assets.extra/image.toml  --load-->  ImageSettings  -->  images.decode(...)

A file of four lines can be all:

    input = "image"            # the input's name; unset: the signature's only image-shaped input
    height = 224               # unset: the signature's own, or the image's if that is free too
    width = 224
    scale = 0.00392156862745098   # pixel * scale + offset
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thriftserve.errors import ModelLoadError
from thriftserve.repository.settings_table import Check, build, is_integer, is_number, one_of, read_toml, whole_number

#: The file's place in a version's directory.
FILE = Path("assets.extra") / "image.toml"
FITS = ("stretch", "crop", "pad")
RESAMPLES = ("nearest", "bilinear", "bicubic", "lanczos")
CHANNELS = (1, 3, 4)
#: No image is resized to a larger side than this; the largest model inputs have some thousands.
MOST_SIDE = 16_384


@dataclass(frozen=True)
class ImageSettings:
    """Resize and scaling of a model's image input; every field has a default that suits many models."""

    #: Name of the image input; None: the signature's only one of an image's shape.
    input: str | None = None
    #: In pixels; the signature's own size goes before. One alone: the other follows in the image's proportions.
    height: int | None = None
    width: int | None = None
    #: 1 (grey), 3 (RGB) or 4 (RGBA); None: the signature's own.
    channels: int | None = None
    #: A pixel becomes pixel * scale + offset. One number, or one per channel. Inputs of an integer
    #: type get the result rounded, or the pixel itself if neither is set; both are cut to the type's range.
    scale: float | tuple[float, ...] = 1.0
    offset: float | tuple[float, ...] = 0.0
    #: "stretch" to the size, "crop" (fill, cut the middle out) or "pad" (fit, fill with `background`).
    fit: str = "stretch"
    #: "nearest", "bilinear", "bicubic" or "lanczos".
    resample: str = "bilinear"
    #: Grey level, or red, green and blue, each 0 to 255: behind transparent pixels and around a padded image.
    background: int | tuple[int, ...] = 0
    #: Name of the output with the class scores; None: the signature's only float output of rank 2.
    scores: str | None = None


def load(version_path: Path) -> ImageSettings | None:
    """Return the settings in assets.extra/image.toml of a version's directory, or None if there is no such file.

    Raises:
        ModelLoadError: The file is not TOML, or has an unknown key or a value that will not do. The message has file,
            key, value and remedy.
    """
    return load_file(version_path / FILE)


def load_file(path: Path) -> ImageSettings | None:
    """Return the settings in a TOML file, or None if there is no such file.

    Raises:
        ModelLoadError: As for `load`.
    """
    table = read_toml(path, "height = 224")
    if table is None:
        return None

    def fail(key: str, message: str) -> ModelLoadError:
        return ModelLoadError(f"{path}: {message}")

    settings = build(ImageSettings, table, CHECKS, fail)
    conflict = find_conflict(settings)
    if conflict:
        raise ModelLoadError(f"{path}: {conflict}")
    return settings


def find_conflict(settings: ImageSettings) -> str | None:
    """Return what is wrong between keys that are each right alone, with the remedy; None if nothing is."""
    for key, numbers in (("scale", settings.scale), ("offset", settings.offset)):
        if isinstance(numbers, tuple) and settings.channels is not None and len(numbers) != settings.channels:
            return (
                f"{key} = {list(numbers)} has {len(numbers)} numbers and channels is {settings.channels}: "
                "give one number, or one for each channel"
            )
    return None


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_per_channel(value: Any) -> bool:
    return is_number(value) or (isinstance(value, list) and len(value) in CHANNELS and all(map(is_number, value)))


def _is_colour(value: Any) -> bool:
    levels = value if isinstance(value, list) else [value]
    return len(levels) in (1, 3) and all(is_integer(level, 0, 255) for level in levels)


_PER_CHANNEL = Check(_is_per_channel, "give one number, or a list of one for each channel (1, 3 or 4)")
CHECKS: Mapping[str, Check] = {
    "input": Check(_is_name, "give the name of an input"),
    "height": whole_number(MOST_SIDE),
    "width": whole_number(MOST_SIDE),
    "channels": Check(
        lambda value: is_integer(value, 1, 4) and value in CHANNELS, "give 1 (grey), 3 (RGB) or 4 (RGBA)"
    ),
    "scale": _PER_CHANNEL,
    "offset": _PER_CHANNEL,
    "fit": one_of(FITS),
    "resample": one_of(RESAMPLES),
    "background": Check(_is_colour, "give a grey level from 0 to 255, or a list of red, green and blue"),
    "scores": Check(_is_name, "give the name of an output"),
}
