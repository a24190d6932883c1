"""Rows to try a model with: each is one example for every input of a signature.

    recorded requests of the version  --recorded-->  whole requests, and their rows one by one
    signature, words of its vocabulary  --made_up-->  rows of seeded random values, tame ones first

A model may refuse a row: whoever tries rows keeps those that it answers.
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from thriftserve.models.session import Array, Arrays
from thriftserve.models.signature import Signature, TensorSpec
from thriftserve.repository.image_settings import ImageSettings
from thriftserve_client.codec import numpy_dtype

_SEED = 14
#: Height and width of an image input that takes any size; many networks fail at one pixel.
_SIDE = 96
_IMAGE_RANK = 4
#: Free inner sizes: of the rows tried first, and of those tried besides.
INNER_SIZES = (1, 4)
#: One more, where rows of different inner sizes share runs.
PADDED_SIZE = 3
#: Scale and offset of floats, by kind of row: unit values, pixels, tiny, large and huge values of both signs.
_FLOATS = ((1.0, 0.0), (0.5, 0.5), (127.5, 127.5), (1e-3, 0.0), (30.0, 0.0), (1e3, 0.0), (1e6, 0.0), (1.0, -100.0))
#: Lowest and highest whole number, by kind of row: most models have an element 1 to look up, few one of 999.
_INTEGERS = ((0, 1), (0, 1), (0, 9), (1, 5), (0, 99), (-9, 9), (0, 999), (2, 30))
KINDS = len(_FLOATS)
#: Rows that take another kind of value for each input, where there are several.
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
#: What is read of a version's vocabularies: files, bytes of each, words of each, bytes of a word.
_FILES, _FILE_BYTES, _WORDS_OF_EACH, _WORD_BYTES = 4, 1 << 16, 12, 64
#: Rows of a recorded request that are tried one by one, and the most rows of one that is tried whole.
_SPLIT_ROWS, _MOST_ROWS = 4, 64


def made_up(
    signature: Signature, image: ImageSettings | None, words: Sequence[bytes], inner_size: int
) -> Iterator[dict[str, Array]]:
    """Single rows of random values: ordinary ones, then ever larger ones, and zeros.

    Args:
        signature: every input has a free leading size.
        image: gives the sizes of the image input that are free.
        words: strings to choose from besides a fixed few.
        inner_size: what other free sizes become.
    """
    random = np.random.default_rng(_SEED + inner_size)
    shapes = {name: _shape(spec, image, inner_size) for name, spec in signature.inputs.items()}
    texts = _texts(words)

    def row(kinds: Mapping[str, int]) -> dict[str, Array]:
        return {
            name: _values(random, numpy_dtype(spec.dtype), shapes[name], kinds[name], texts)
            for name, spec in signature.inputs.items()
        }

    for kind in range(KINDS):
        for _ in range(2):  # what one row of a kind does to another of it
            yield row(dict.fromkeys(signature.inputs, kind))
        if kind == 0:
            yield {name: _zeros(numpy_dtype(spec.dtype), shapes[name]) for name, spec in signature.inputs.items()}
    for _ in range(_MIXED if len(signature.inputs) > 1 else 0):
        yield row({name: int(random.integers(KINDS)) for name in signature.inputs})


def _texts(words: Sequence[bytes]) -> list[Array]:
    """Strings to choose from, by kind of row."""
    known, pictures = [*words] or [*_WORDS], [_png(grey) for grey in (0, 60, 120, 180)]
    kinds = (known, known, pictures, pictures, _WORDS, [*known, *_WORDS], known, [*known, *_WORDS, *pictures])
    return [np.array([*texts, None], object)[:-1] for texts in kinds]


def recorded(signature: Signature, requests: Sequence[Arrays]) -> Iterator[dict[str, Array]]:
    """Recorded requests whose inputs have one leading size: each as it is, and some of its rows by themselves."""
    for arrays in requests:
        sizes = {array.shape[0] if array.ndim else 0 for array in arrays.values()}
        rows = sizes.pop() if len(sizes) == 1 else 0
        if not 0 < rows <= _MOST_ROWS or arrays.keys() != signature.inputs.keys():
            continue
        yield dict(arrays)
        for at in range(min(rows, _SPLIT_ROWS) if rows > 1 else 0):
            yield {name: array[at : at + 1] for name, array in arrays.items()}


def vocabulary(version_path: Path) -> list[bytes]:
    """Some lines of the text files among a version's assets: models that look words up know these."""
    words: list[bytes] = []
    for path in [path for path in sorted((version_path / "assets").glob("*")) if path.is_file()][:_FILES]:
        with contextlib.suppress(OSError), path.open("rb") as file:
            head = file.read(_FILE_BYTES)
            if b"\0" not in head:
                lines = [line.partition(b"\t")[0].strip() for line in head.splitlines()[:-1] or [head]]
                words += some(lines)
    return words


def some(words: Sequence[bytes]) -> list[bytes]:
    """A few of them, from the first to the last; neither empty nor long ones."""
    short = [word for word in words if 0 < len(word) <= _WORD_BYTES]
    return short[:: max(1, -(-len(short) // _WORDS_OF_EACH))]


def nudged(arrays: Arrays, part: float, seed: int) -> dict[str, Array] | None:
    """The same inputs with every float moved by about its rounding; None where there is no float.

    Args:
        part: how far to move at the least, as a part of the element.
        seed: chooses up or down for each.
    """
    random = np.random.default_rng(_SEED + seed)
    if not any(_is_float(array) for array in arrays.values()):
        return None
    return {name: _nudged(random, array, part) if _is_float(array) else array for name, array in arrays.items()}


def _nudged(random: np.random.Generator, array: Array, part: float) -> Array:
    step = max(part, {1: 0.1, 2: 0.01, 4: 1e-6}.get(array.dtype.itemsize, 1e-14))
    wide = array.astype(np.float64)
    finite = np.abs(wide[np.isfinite(wide)])
    noise = random.choice(np.array([-step, step]), array.shape)
    moved = wide * (1 + noise) + noise * 1e-3 * float(finite.max(initial=0.0))
    with np.errstate(over="ignore"):
        nudged_array: Array = moved.astype(array.dtype)
    return nudged_array


def _is_float(array: Array) -> bool:
    return array.dtype.kind in "fV"  # bfloat16 has a kind of its own, V


def _shape(spec: TensorSpec, image: ImageSettings | None, inner_size: int) -> tuple[int, ...]:
    assert spec.shape
    sizes: list[int | None] = [inner_size] * len(spec.shape)
    if len(spec.shape) == _IMAGE_RANK and (image is None or image.input in (None, spec.name)):
        settings = image or ImageSettings()
        sizes = [None, settings.height or _SIDE, settings.width or _SIDE, settings.channels or inner_size]
    return (1, *(size if size is not None else free or 1 for size, free in zip(spec.shape[1:], sizes[1:], strict=True)))


def _zeros(dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    return np.full(shape, b"", dtype) if dtype == np.dtype(object) else np.zeros(shape, dtype)


def _values(
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


def _png(grey: int) -> bytes:
    """A picture of 8 by 8 pixels: models that decode images take no other strings."""
    rows = b"".join(b"\0" + bytes((grey + 7 * (x + 3 * y)) % 256 for x in range(24)) for y in range(8))
    header = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
