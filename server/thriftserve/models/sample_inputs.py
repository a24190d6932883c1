"""Inputs to try a model with, and whether two answers are the same.

Signature + ImageSettings  -->  Probe, Probe, …  -->  one call and the other  -->  None, or what differs

Zeros and seeded random numbers, so that every load of a model comes to the same result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from thriftserve.models import warmup
from thriftserve.models.session import Array, Arrays
from thriftserve.models.signature import Signature, TensorSpec
from thriftserve.models.tensorflow.calls import SignatureCall
from thriftserve.repository.image_settings import ImageSettings

_SEED = 2
#: Size of the batch that is tried besides a single row.
_ROWS = 3
#: Height and width of an image input that takes any size; many networks fail at one pixel.
_SIDE = 96
_WORDS = (b"", b"a", b"some words", "词".encode(), b"7")
#: Answers of floats may differ by this part of the largest one, by bytes of an element: a constant folded
#: beforehand rounds in another order.
_PART = {1: 0.1, 2: 2e-2, 4: 1e-3, 8: 1e-6, 16: 1e-6}


#: The outputs, or the name of the error: a model may well refuse what it is tried with.
Answer = Mapping[str, Array] | str


def answers(call: SignatureCall, signature: Signature, image: ImageSettings | None) -> list[Answer]:
    """What a call of a signature gives for each probe."""
    return [_answer(call, inputs) for inputs in probes(signature, image)]


def difference(name: str, one: list[Answer], other: list[Answer]) -> str:
    """What tells the answers of two ways to run the signature `name` apart; empty: they are the same."""
    compared = 0
    for first, second in zip(one, other, strict=True):
        if isinstance(first, str) or isinstance(second, str):
            if type(first) is not type(second):
                failed = first if isinstance(first, str) else second
                return f"{name!r} fails only as loaded or only with constants: {failed}"
            continue
        compared += 1
        for output, value in first.items():
            if not same(value, second[output]):
                return f"{name!r} gives another {output!r} with constants for its variables"
    return "" if compared else f"{name!r} answers none of the inputs that it was tried with"


def probes(signature: Signature, image: ImageSettings | None = None) -> Iterator[dict[str, Array]]:
    """Zeros, then random numbers, at batch 1 and 3; free sizes of images are 96 in the random ones."""
    random = np.random.default_rng(_SEED)
    yield warmup.zeros(signature, image)
    sized = warmup.zeros(signature, image or ImageSettings(height=_SIDE, width=_SIDE))
    for rows in (1, _ROWS):
        yield {
            name: _random(random, zero, _batched(signature.inputs[name], zero.shape, rows))
            for name, zero in sized.items()
        }


def _batched(spec: TensorSpec, shape: tuple[int, ...], rows: int) -> tuple[int, ...]:
    return (rows, *shape[1:]) if spec.shape and spec.shape[0] is None else shape


def _random(random: np.random.Generator, zero: Array, shape: tuple[int, ...]) -> Array:
    """-1 to 1 for floats, 0 or 1 for whole numbers (most models have an element 1 to look up), short texts."""
    if zero.dtype == np.dtype(object):
        return random.choice(np.array(_WORDS, object), shape)
    if zero.dtype.kind in "iub":
        return random.integers(0, 2, shape).astype(zero.dtype)
    return random.uniform(-1, 1, shape).astype(zero.dtype)


def _answer(call: SignatureCall, inputs: Arrays) -> Answer:
    try:
        return call(inputs)
    except Exception as error:
        return type(error).__name__


def same(one: Array, other: Array) -> bool:
    """Whether two arrays are equal: floats within their precision, all else exactly."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if one.dtype.kind not in "fcV":
        return bool(np.array_equal(one, other))
    part = _PART[one.dtype.itemsize]
    wide: Any = np.complex128 if one.dtype.kind == "c" else np.float64  # bfloat16 has a kind of its own, V
    a, b = one.astype(wide), other.astype(wide)
    finite = np.abs(a[np.isfinite(a)])
    return bool(np.allclose(b, a, rtol=part, atol=part * float(finite.max(initial=0.0)), equal_nan=True))
