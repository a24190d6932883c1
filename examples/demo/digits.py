"""Handwritten digits: scikit-learn's 1,797 scans, in a fixed split, as arrays and as PNG files.

    load_digits()  --seeded, stratified-->  Split(train, held_out)  -->  PNG files  -->  each name has the right answer
                                                held_out  -->  one .npz file beside them

The scans are 8x8 with 17 grey levels. The files are 64x64, so that people can look at them; the server
reduces them again, as the image settings beside the model say. Training sees what that reduction leaves.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

#: Version of the way that the demo's model is made. Raise it with each change of the data, the network or its
#: training: models of an older recipe are trained anew.
RECIPE = 1
#: Name of the file in a version directory that says which recipe made it.
RECIPE_FILE = "assets.extra/recipe.txt"
#: Height and width of the network's input.
SIDE = 8
#: Height and width of the PNG files.
FILE_SIDE = 64
CLASSES = 10
HELD_OUT = 360
SCANS = 1797
#: The held-out digits as arrays, beside their files.
_HELD_OUT_FILE = f"held-out-{RECIPE}.npz"
#: Of the split; the network was never shown the held-out digits, whichever the seed of its training.
_SPLIT_SEED = 7
#: Grey levels of the scans: 0 to 16.
_WHITEST = 16


@dataclass(frozen=True)
class Digits:
    """Some digits.

    Attributes:
        scans: UINT8 [n,8,8], 0 (paper) to 255 (ink).
        truth: INT64 [n], the digit that each shows.
        places: INT64 [n], each one's place among the 1,797.
    """

    scans: Array
    truth: Array
    places: Array


@dataclass(frozen=True)
class Split:
    """The digits to train on, and those held out for the test."""

    train: Digits
    held_out: Digits


def load() -> Split:
    """Return all 1,797 digits, split so that each class has its share of both parts; the same in every run."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bundled = load_digits()
    scans = np.rint(bundled.images * (255 / _WHITEST)).astype(np.uint8)
    places = np.arange(len(scans))
    train, held_out = train_test_split(
        places, test_size=HELD_OUT, random_state=_SPLIT_SEED, stratify=bundled.target, shuffle=True
    )
    return Split(*(Digits(scans[part], bundled.target[part], part) for part in (train, held_out)))


def held_out(directory: Path) -> Digits:
    """Return the held-out digits: from `directory` if an earlier run left them there, which saves a second's import."""
    file = directory / _HELD_OUT_FILE
    if not file.exists():
        digits, buffer = load().held_out, io.BytesIO()
        np.savez(buffer, scans=digits.scans, truth=digits.truth, places=digits.places)
        directory.mkdir(parents=True, exist_ok=True)
        _write_atomically(file, buffer.getvalue())
    with np.load(file) as arrays:
        return Digits(arrays["scans"], arrays["truth"], arrays["places"])


def png(scan: Array) -> bytes:
    """Return A scan, UINT8 [8,8], as a grey PNG of 64x64."""
    from PIL import Image

    enlarged = Image.fromarray(scan).resize((FILE_SIDE, FILE_SIDE), Image.Resampling.NEAREST)
    file = io.BytesIO()
    enlarged.save(file, "PNG")
    return file.getvalue()


def as_served(scans: Array) -> Array:
    """Return what the network gets for scans [n,8,8] that come as files: FLOAT [n,8,8,1], 0 to 1.

    They are enlarged and reduced again as the server does it: the bilinear filter takes a little from each neighbour.
    """
    from PIL import Image

    def reduced(scan: Array) -> Array:
        image = Image.open(io.BytesIO(png(scan)))
        return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR))

    return (np.stack([reduced(scan) for scan in scans]) / np.float32(255))[..., None].astype(np.float32)


def write(digits: Digits, directory: Path) -> list[Path]:
    """Write a PNG file for each digit that has none yet.

    Returns:
        The files, in the order of the digits: `digit-4-0123.png` shows a 4
        and is number 123 of the 1,797.
    """
    directory.mkdir(parents=True, exist_ok=True)
    files = []
    for scan, truth, place in zip(digits.scans, digits.truth, digits.places, strict=True):
        file = directory / f"digit-{truth}-{place:04d}.png"
        if not file.exists():
            _write_atomically(file, png(scan))
        files.append(file)
    return files


def _write_atomically(file: Path, content: bytes) -> None:
    """Write another file and rename it: an interrupted run leaves no partial file."""
    unfinished = file.with_suffix(f".{os.getpid()}.new")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)
