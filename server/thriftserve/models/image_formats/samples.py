"""Samples of any size to 8 bits, and the check of palettes.

    rows of bytes --unpack--> one number a sample --to_eight_bits--> 0 to 255

The largest sample becomes 255 and the rest follows in proportion, rounded: round(sample * 255 / (2 ** bits - 1)).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

Samples = NDArray[Any]
Levels = NDArray[np.uint8]
#: Rows are processed in bands of about this many bytes, so that temporary arrays stay small.
_BAND_BYTES = 1 << 20


def bands(image: Image) -> Iterator[tuple[int, Samples]]:
    """Yield the rows of a decoded image, some at a time, each with the number of its first row."""
    width, height = image.size
    rows = max(1, _BAND_BYTES // (width * (4 if len(image.getbands()) > 1 else 2)))
    if rows >= height:
        yield 0, np.asarray(image)
        return
    for top in range(0, height, rows):
        yield top, np.asarray(image.crop((0, top, width, min(top + rows, height))))


def unpack(rows: NDArray[np.uint8], count: int, bits: int, order: str) -> Samples:
    """Return the first `count` samples of each row of bytes, as unsigned integers.

    Args:
        rows: uint8 [H, bytes]; samples that are no whole bytes are packed from the highest bit down.
        count: samples of a row.
        bits: of a sample, 1 to 64.
        order: of the bytes of a sample that has several whole ones: "<" or ">".
    """
    height = len(rows)
    if bits == 8:
        return rows[:, :count]
    if bits in (16, 32, 64):
        words = np.ascontiguousarray(rows[:, : count * bits // 8]).view(f"{order}u{bits // 8}")
        return words.astype(words.dtype.newbyteorder("="), copy=False)
    if bits == 24 and order == "<":
        triples = rows[:, : count * 3].reshape(height, count, 3)[:, :, ::-1]
        rows = np.ascontiguousarray(triples).reshape(height, count * 3)
    digits = np.unpackbits(rows, axis=1, count=count * bits).reshape(height, count, bits)
    size = next(size for size in (8, 16, 32) if size >= bits)
    padded = np.zeros((height, count, size), np.uint8)
    padded[:, :, size - bits :] = digits
    words = np.packbits(padded, axis=2).view(f">u{size // 8}")
    return words.reshape(height, count).astype(f"u{size // 8}")


def to_eight_bits(samples: Samples, bits: int) -> Levels:
    """Scale unsigned samples of `bits` bits to 0 to 255, rounded."""
    if bits == 8:
        return np.asarray(samples, np.uint8)
    largest = (1 << bits) - 1
    if bits < 16:
        steps = np.arange(largest + 1)
        table = ((steps * 255 + largest // 2) // largest).astype(np.uint8)
        scaled: Levels = table[samples]
        return scaled
    if bits == 16:
        # The same as the rounded quotient by 257, for each of the 65,536 samples.
        rounded: Levels = ((samples.astype(np.uint32) * 255 + 32895) >> 16).astype(np.uint8)
        return rounded
    return _round(samples * 255.0 / largest)


def spread(samples: Samples, low: float, high: float) -> Levels:
    """Scale samples from `low` to `high` to 0 to 255, rounded.

    Raises:
        ValueError: A sample is outside, or is no number.
    """
    exact = samples.astype(np.float64)
    if not ((exact >= low) & (exact <= high)).all():
        raise ValueError(f"it has samples outside the range {low:g} to {high:g} that it declares")
    return _round((exact - low) * 255 / (high - low))


def unmultiply(colours: Samples, alpha: Samples) -> Levels:
    """Undo a multiplication with alpha, both unsigned [H, W, …] of one range, and scale the colours to 0 to 255."""
    exact = colours.astype(np.float64) * 255
    np.divide(exact, alpha, out=exact, where=alpha > 0)
    exact[np.broadcast_to(alpha == 0, exact.shape)] = 0
    return _round(np.minimum(exact, 255))


def check_palette(image: Image, entries: int, transparent: int | None = None) -> None:
    """Check that every index of a decoded palette image has a colour: decoders disagree about what others show.

    Args:
        image: of Pillow's mode P.
        entries: colours of its palette.
        transparent: an index that needs no colour.

    Raises:
        ValueError: A pixel has another index.
    """
    if entries >= 256 or max(int(rows.max()) for _, rows in bands(image)) < entries:
        return
    missing = [index for index, count in enumerate(image.histogram()[:256]) if count and index >= entries]
    if [index for index in missing if index != transparent]:
        raise ValueError(f"it uses colour {missing[-1]} of a palette of {entries} colours")


def _round(exact: NDArray[np.float64]) -> Levels:
    """Round numbers from 0 to 255, halves up."""
    return np.floor(exact + 0.5).astype(np.uint8)
