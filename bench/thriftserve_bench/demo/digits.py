"""Handwritten digits: scikit-learn's 1,797 scans, split once and for all, as arrays and as PNG files.

    load_digits()  --seeded, stratified-->  Split(train, held_out)  -->  PNG files  -->  their names tell the truth
                                                held_out  -->  kept beside them  -->  the next run's

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

from thriftserve_bench.demo.recipe import RECIPE

Array = np.ndarray[Any, np.dtype[Any]]

#: Height and width of the network's input.
SIDE = 8
#: Height and width of the PNG files.
FILE_SIDE = 64
CLASSES = 10
HELD_OUT = 360
SCANS = 1797
#: The held-out digits as arrays, beside their files.
_KEPT = f"held-out-{RECIPE}.npz"
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
    """The digits to learn from, and those kept back to be judged by."""

    train: Digits
    held_out: Digits


def load() -> Split:
    """All 1,797 digits, split so that each class has its share of both parts; the same in every run."""
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
    """The held-out digits, from `directory` where an earlier run left them: to import scikit-learn takes a second."""
    kept = directory / _KEPT
    if not kept.exists():
        digits, file = load().held_out, io.BytesIO()
        np.savez(file, scans=digits.scans, truth=digits.truth, places=digits.places)
        directory.mkdir(parents=True, exist_ok=True)
        _write_whole(kept, file.getvalue())
    with np.load(kept) as arrays:
        return Digits(arrays["scans"], arrays["truth"], arrays["places"])


def png(scan: Array) -> bytes:
    """A scan, UINT8 [8,8], as a grey PNG of 64x64."""
    from PIL import Image

    enlarged = Image.fromarray(scan).resize((FILE_SIDE, FILE_SIDE), Image.Resampling.NEAREST)
    file = io.BytesIO()
    enlarged.save(file, "PNG")
    return file.getvalue()


def as_served(scans: Array) -> Array:
    """What the network is given of scans [n,8,8] that come as files: FLOAT [n,8,8,1], 0 to 1.

    Enlarged and reduced again as the server does it: the bilinear filter takes a little from each neighbour.
    """
    from PIL import Image

    def reduced(scan: Array) -> Array:
        image = Image.open(io.BytesIO(png(scan)))
        return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR))

    return (np.stack([reduced(scan) for scan in scans]) / np.float32(255))[..., None].astype(np.float32)


def write(digits: Digits, directory: Path) -> list[Path]:
    """Writes a PNG file for each digit that has none yet.

    Returns:
        The files, in the order of the digits: `digit-4-0123.png` shows a 4
        and is number 123 of the 1,797.
    """
    directory.mkdir(parents=True, exist_ok=True)
    files = []
    for scan, truth, place in zip(digits.scans, digits.truth, digits.places, strict=True):
        file = directory / f"digit-{truth}-{place:04d}.png"
        if not file.exists():
            _write_whole(file, png(scan))
        files.append(file)
    return files


def _write_whole(file: Path, content: bytes) -> None:
    """Writes beside it and renames: an interrupted run leaves no half file behind that the next would send."""
    beside = file.with_suffix(f".{os.getpid()}.new")
    try:
        beside.write_bytes(content)
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)
