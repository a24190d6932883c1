"""Inputs to try a model with: zeros, seeded random values, rows of recorded requests.

    signature  --zeros | random_inputs-->  inputs for a whole call
    signature, words of its vocabulary  --random_rows-->  single rows of random values, tame ones first
    recorded requests of the version  --recorded_rows-->  whole requests, and their rows one by one

Values are seeded, so that every load of a model comes to the same result. A model may refuse an input: callers go on
with those that it answers. Thread-safe.
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from thriftserve.models.session import Array, Arrays, Signature, TensorSpec
from thriftserve.repository.image_settings import ImageSettings
from thriftserve_client.codec import numpy_dtype

#: Free inner sizes: of the rows tried first, and of those tried besides.
INNER_SIZES = (1, 4)
#: One more, if rows of different inner sizes share runs.
PADDED_SIZE = 3
_INPUT_SEED, _ROW_SEED = 2, 14
#: Size of the batch that is tried besides a single row.
_BATCH = 3
#: Height and width of an image input that accepts any size; many networks fail at one pixel.
_SIDE = 96
#: Rows, height, width, channels.
_IMAGE_RANK = 4
#: Scale and offset of floats, by kind of row: unit values, pixels, tiny, large and huge values of both signs.
_FLOATS = ((1.0, 0.0), (0.5, 0.5), (127.5, 127.5), (1e-3, 0.0), (30.0, 0.0), (1e3, 0.0), (1e6, 0.0), (1.0, -100.0))
#: Lowest and highest whole number, by kind of row: most models have an element 1 to look up, few one of 999.
_INTEGERS = ((0, 1), (0, 1), (0, 9), (1, 5), (0, 99), (-9, 9), (0, 999), (2, 30))
#: Rows that have another kind of value for each input, if there are several inputs.
_MIXED = 6
_WORDS = (
    b"",
    b"a",
    b"some words",
    "词".encode(),
    b"7",
    b"zebra",
    b"0.5",
    b"the quick brown fox jumps over the lazy dog",
)
#: Of these, the ones in random inputs.
_FEW_WORDS = 5
#: What is read of a version's vocabularies: files, bytes of each, words of each, bytes of a word.
_FILES, _FILE_BYTES, _WORDS_OF_EACH, _WORD_BYTES = 4, 1 << 16, 12, 64
#: Rows of a recorded request that are tried one by one, and the most rows of one that is tried whole.
_SPLIT_ROWS, _MOST_ROWS = 4, 64


def zeros(signature: Signature, image: ImageSettings | None = None) -> dict[str, Array]:
    """Return one array of zeros (empty strings for STRING) for each input, at batch 1.

    Free sizes are 1, those of the image input as the image settings say; an input of any rank gets one element.
    """
    return {name: _zeros(spec, _shape(spec, image, 1)) for name, spec in signature.inputs.items()}


def random_inputs(signature: Signature, image: ImageSettings | None = None) -> Iterator[dict[str, Array]]:
    """Yield zeros at batch 1, then random inputs at batch 1 and 3, in which free sizes of images are 96.

    Floats are -1 to 1, whole numbers 0 or 1 (most models have an element 1 to look up), strings short words.
    """
    random = np.random.default_rng(_INPUT_SEED)
    yield zeros(signature, image)
    sized = image or ImageSettings(height=_SIDE, width=_SIDE)
    words = [np.array(_WORDS[:_FEW_WORDS], object)]
    for rows in (1, _BATCH):
        yield {
            name: _random(random, numpy_dtype(spec.dtype), _shape(spec, sized, 1, rows), 0, words)
            for name, spec in signature.inputs.items()
        }


def random_rows(
    signature: Signature, image: ImageSettings | None, words: Sequence[bytes], inner_size: int
) -> Iterator[dict[str, Array]]:
    """Yield single rows of random values: ordinary ones, zeros, then ever larger ones.

    Args:
        signature: every input has a free leading size.
        image: gives the sizes of the image input that are free.
        words: strings to choose from besides a fixed few.
        inner_size: what other free sizes become.
    """
    random = np.random.default_rng(_ROW_SEED + inner_size)
    settings = image or ImageSettings()
    sized = replace(settings, height=settings.height or _SIDE, width=settings.width or _SIDE)
    shapes = {name: _shape(spec, sized, inner_size) for name, spec in signature.inputs.items()}
    texts = _texts_by_kind(words)

    def row(kinds: Mapping[str, int]) -> dict[str, Array]:
        return {
            name: _random(random, numpy_dtype(spec.dtype), shapes[name], kinds[name], texts)
            for name, spec in signature.inputs.items()
        }

    for kind in range(len(_FLOATS)):
        for _ in range(2):  # what one row of a kind does to another of it
            yield row(dict.fromkeys(signature.inputs, kind))
        if kind == 0:
            yield {name: _zeros(spec, shapes[name]) for name, spec in signature.inputs.items()}
    for _ in range(_MIXED if len(signature.inputs) > 1 else 0):
        yield row({name: int(random.integers(len(_FLOATS))) for name in signature.inputs})


def recorded_rows(signature: Signature, requests: Sequence[Arrays]) -> Iterator[dict[str, Array]]:
    """Yield recorded requests whose inputs have one leading size: each as it is, and some of its rows alone."""
    for arrays in requests:
        sizes = {array.shape[0] if array.ndim else 0 for array in arrays.values()}
        rows = sizes.pop() if len(sizes) == 1 else 0
        if not 0 < rows <= _MOST_ROWS or arrays.keys() != signature.inputs.keys():
            continue
        yield dict(arrays)
        for at in range(min(rows, _SPLIT_ROWS) if rows > 1 else 0):
            yield {name: array[at : at + 1] for name, array in arrays.items()}


def read_vocabulary(version_path: Path) -> list[bytes]:
    """Return some lines of the text files among a version's assets: models that look words up know these."""
    words: list[bytes] = []
    for path in [path for path in sorted((version_path / "assets").glob("*")) if path.is_file()][:_FILES]:
        with contextlib.suppress(OSError), path.open("rb") as file:
            head = file.read(_FILE_BYTES)
            if b"\0" not in head:
                lines = [line.partition(b"\t")[0].strip() for line in head.splitlines()[:-1] or [head]]
                words += choose_words(lines)
    return words


def choose_words(words: Sequence[bytes]) -> list[bytes]:
    """Return a few of the words, spread from the first to the last, neither empty nor long ones."""
    short = [word for word in words if 0 < len(word) <= _WORD_BYTES]
    return short[:: max(1, -(-len(short) // _WORDS_OF_EACH))]


def nudge(arrays: Arrays, part: float, seed: int) -> dict[str, Array] | None:
    """Return the same inputs with every float moved by about its rounding, or None if there is no float.

    Args:
        arrays: the inputs.
        part: how far to move at the least, as a part of the element.
        seed: chooses up or down for each.
    """
    random = np.random.default_rng(_ROW_SEED + seed)
    if not any(_is_float(array) for array in arrays.values()):
        return None
    return {name: _nudge(random, array, part) if _is_float(array) else array for name, array in arrays.items()}


def _nudge(random: np.random.Generator, array: Array, part: float) -> Array:
    step = max(part, {1: 0.1, 2: 0.01, 4: 1e-6}.get(array.dtype.itemsize, 1e-14))
    wide = array.astype(np.float64)
    finite = np.abs(wide[np.isfinite(wide)])
    noise = random.choice(np.array([-step, step]), array.shape)
    moved = wide * (1 + noise) + noise * 1e-3 * float(finite.max(initial=0.0))
    with np.errstate(over="ignore"):
        nudged: Array = moved.astype(array.dtype)
    return nudged


def _is_float(array: Array) -> bool:
    return array.dtype.kind in "fV"  # bfloat16 has a kind of its own, V


def _shape(spec: TensorSpec, image: ImageSettings | None, free_size: int, rows: int = 1) -> tuple[int, ...]:
    """Return an input's shape with a size for each free one: `rows` for the leading one, then those of the image."""
    if spec.shape is None:
        return (1,)
    free: list[int | None] = [rows, *[free_size] * (len(spec.shape) - 1)]
    if image is not None and len(spec.shape) == _IMAGE_RANK and image.input in (None, spec.name):
        free = [rows, image.height, image.width, image.channels or free_size]
    return tuple(size if size is not None else other or 1 for size, other in zip(spec.shape, free, strict=False))


def _zeros(spec: TensorSpec, shape: tuple[int, ...]) -> Array:
    dtype = numpy_dtype(spec.dtype)
    return np.full(shape, b"", dtype) if dtype == np.dtype(object) else np.zeros(shape, dtype)


def _random(
    random: np.random.Generator, dtype: np.dtype[Any], shape: tuple[int, ...], kind: int, texts: Sequence[Array]
) -> Array:
    if dtype == np.dtype(object):
        return random.choice(texts[kind], shape)
    if dtype.kind == "b":
        return random.integers(0, 2, shape).astype(dtype)
    if dtype.kind in "iu":
        lowest, highest = _INTEGERS[kind]
        if dtype.itemsize == 1 and kind > 1:
            lowest, highest = (0, 255) if dtype.kind == "u" else (-128, 127)
        return random.integers(max(lowest, 0) if dtype.kind == "u" else lowest, highest + 1, shape).astype(dtype)
    scale, offset = _FLOATS[kind]
    values = random.uniform(-1, 1, shape) * scale + offset
    if dtype.kind == "c":
        values = values + 1j * random.uniform(-1, 1, shape) * scale
    with np.errstate(over="ignore"):
        return values.astype(dtype)


def _texts_by_kind(words: Sequence[bytes]) -> list[Array]:
    """Return the strings to choose from, by kind of row."""
    known, pictures = [*words] or [*_WORDS], [_png(grey) for grey in (0, 60, 120, 180)]
    kinds = (known, known, pictures, pictures, _WORDS, [*known, *_WORDS], known, [*known, *_WORDS, *pictures])
    return [np.array([*texts, None], object)[:-1] for texts in kinds]


def _png(grey: int) -> bytes:
    """Return a picture of 8 by 8 pixels: models that decode images accept no other strings."""
    rows = b"".join(b"\0" + bytes((grey + 7 * (x + 3 * y)) % 256 for x in range(24)) for y in range(8))
    header = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
