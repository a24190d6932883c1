"""Pictures that compress, decode and resize as photographs do.

number  -->  noise of many sizes, from the picture's down to the pixel's  -->  a JPEG of 640 x 480, some 77 KB
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np

WIDTH, HEIGHT = 640, 480
_QUALITY = 88
#: Sizes of what is in the picture: cells across, and their strength. Natural pictures lose about half
#: of their strength with each halving of the size (Field, 1987: amplitudes fall as 1/f).
_OCTAVES = ((4, 70.0), (8, 45.0), (20, 25.0), (40, 14.0), (80, 9.0), (160, 6.0), (320, 6.0), (640, 6.0))
#: Up to here the strength differs from picture to picture; the finer ones make the file's size.
_COARSE = 40


def photo(number: int) -> bytes:
    """Return the JPEG of a number; each number has another picture."""
    random = np.random.default_rng([number, 77])
    colour = random.uniform(20, 235, 3)
    picture = np.zeros((HEIGHT, WIDTH, 3), np.float32) + colour
    for cells, strength in _OCTAVES:
        if cells <= _COARSE:
            strength *= random.uniform(0, 2)
        grain = random.normal(0, strength, (cells * HEIGHT // WIDTH, cells, 3)).astype(np.float32)
        # A photograph is mostly light and shade; colour varies less.
        grain = 0.7 * grain[:, :, :1] + 0.45 * grain
        picture += np.stack([_enlarged(grain[:, :, channel]) for channel in range(3)], axis=-1)
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def _enlarged(cells: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, Any]:
    from PIL import Image

    return np.asarray(Image.fromarray(cells).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))


def pixels(jpeg: bytes, size: int = 224, *, draft: bool = False) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Decode a JPEG as MobileNetV2's input.

    Args:
        jpeg: the file.
        size: side of the square that it becomes.
        draft: whether to decode it at the smallest scale that is large enough.

    Returns:
        FLOAT [size,size,3], -1 to 1.
    """
    from PIL import Image

    image: Image.Image = Image.open(io.BytesIO(jpeg))
    if draft:
        image.draft("RGB", (size, size))
    small = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(small, np.float32) / 127.5 - 1
