"""How encoded images become a model's input: the settings file beside a version.

    BASE_PATH/3/assets.extra/image.toml  -->  ImageSettings  -->  images.decode(...)

A file of four lines is a whole one:

    input = "image"            # the input's name; unset: the signature's only image-shaped input
    height = 224               # unset: the signature's own, or the image's where that is free too
    width = 224
    scale = 0.00392156862745098   # pixel * scale + offset
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from thriftserve.errors import ModelLoadError

#: Where the file lies in a version's directory.
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
    #: type get the result rounded, or the pixel itself where neither is set; both are cut to the type's range.
    scale: float | tuple[float, ...] = 1.0
    offset: float | tuple[float, ...] = 0.0
    #: "stretch" to the size, "crop" (fill, cut the middle out) or "pad" (fit, fill with `background`).
    fit: str = "stretch"
    #: "nearest", "bilinear", "bicubic" or "lanczos".
    resample: str = "bilinear"
    #: Grey level, or red, green and blue, each 0 to 255: behind transparent pixels and around a padded image.
    background: int | tuple[int, ...] = 0
    #: Name of the output that holds the class scores; None: the signature's only float output of rank 2.
    scores: str | None = None


def load(version_path: Path) -> ImageSettings | None:
    """The settings in assets.extra/image.toml of a version's directory; None where there is no such file.

    Raises:
        ModelLoadError: the file is no TOML, or holds an unknown key or a value that will not do; the
            message names the file, the key, the value and the remedy.
    """
    return load_file(version_path / FILE)


def load_file(path: Path) -> ImageSettings | None:
    """The settings in a TOML file; None where there is no such file.

    Raises:
        ModelLoadError: as for `load`.
    """
    try:
        text = path.read_text(encoding="utf-8")
        table = tomllib.loads(text)
    except FileNotFoundError:
        return None
    except tomllib.TOMLDecodeError as error:
        raise ModelLoadError(f"{path}: no valid TOML: {error}; write lines like height = 224") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ModelLoadError(f"{path}: can't be read: {error}; make it a readable UTF-8 file") from error
    settings = ImageSettings(**{key: _value(path, key, value) for key, value in _known(path, table).items()})
    told = disagreement(settings)
    if told:
        raise ModelLoadError(f"{path}: {told}")
    return settings


def complaint(key: str, value: Any) -> str | None:
    """What a key's value should have been; None where it will do. Lists are TOML's."""
    fits, expected = _CHECKS[key]
    return None if fits(value) else expected


def disagreement(settings: ImageSettings) -> str | None:
    """What is wrong between keys that are each right by themselves; None where nothing is."""
    for key, given in (("scale", settings.scale), ("offset", settings.offset)):
        if isinstance(given, tuple) and settings.channels is not None and len(given) != settings.channels:
            return (
                f"{key} = {list(given)} has {len(given)} numbers and channels is {settings.channels}: "
                "give one number, or one for each channel"
            )
    return None


def _known(path: Path, table: dict[str, Any]) -> dict[str, Any]:
    names = [one.name for one in fields(ImageSettings)]
    for key, value in table.items():
        if key not in names:
            raise ModelLoadError(f"{path}: unknown key {key} = {value!r}: use one of {', '.join(names)}")
    return table


def _value(path: Path, key: str, value: Any) -> Any:
    """The field's value for a TOML value; arrays become tuples."""
    told = complaint(key, value)
    if told:
        raise ModelLoadError(f"{path}: {key} = {value!r}: {told}")
    return tuple(value) if isinstance(value, list) else value


def _whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _name(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _side(value: Any) -> bool:
    return _whole(value, 1, MOST_SIDE)


def _per_channel(value: Any) -> bool:
    return _number(value) or (isinstance(value, list) and len(value) in CHANNELS and all(map(_number, value)))


def _colour(value: Any) -> bool:
    levels = value if isinstance(value, list) else [value]
    return len(levels) in (1, 3) and all(_whole(level, 0, 255) for level in levels)


#: For each key, whether a value will do, and what to say where it will not.
_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "input": (_name, "give the name of an input"),
    "height": (_side, f"give a whole number from 1 to {MOST_SIDE}"),
    "width": (_side, f"give a whole number from 1 to {MOST_SIDE}"),
    "channels": (lambda value: _whole(value, 1, 4) and value in CHANNELS, "give 1 (grey), 3 (RGB) or 4 (RGBA)"),
    "scale": (_per_channel, "give one number, or a list of one for each channel (1, 3 or 4)"),
    "offset": (_per_channel, "give one number, or a list of one for each channel (1, 3 or 4)"),
    "fit": (lambda value: value in FITS, f"give one of {', '.join(FITS)}"),
    "resample": (lambda value: value in RESAMPLES, f"give one of {', '.join(RESAMPLES)}"),
    "background": (_colour, "give a grey level from 0 to 255, or a list of red, green and blue"),
    "scores": (_name, "give the name of an output"),
}
