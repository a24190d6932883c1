"""Convert a caller's arguments into the contract's structs.

arrays, image files, names --> ModelSpec, Tensor, bytes, timeout_ms
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from thriftserve_client.codec import to_array, to_tensor
from thriftserve_client.conversion import converted
from thriftserve_client.errors import TensorError
from thriftserve_idl.ttypes import DataType, ModelSpec, Tensor

#: An encoded image, or the path of a file with one.
Image = bytes | bytearray | memoryview | str | os.PathLike[str]

_IMAGE_TYPES = (bytes, bytearray, memoryview, str, os.PathLike)
_MAX_I32 = 2**31 - 1


def model_spec(model: str, version: int | None, label: str | None, signature: str | None = None) -> ModelSpec:
    """Return the spec of a model, a version by number or label, and a signature."""
    if version is not None and label is not None:
        raise ValueError(f"version={version} and label={label!r} are both set: set one of them")
    return ModelSpec(model, version, label, signature)


def is_untyped(value: Any) -> bool:
    """Return whether a value is Python numbers, in lists or not: they say nothing of the element type.

    >>> is_untyped([[1, 2.5]]), is_untyped(b"bytes"), is_untyped("text")
    (True, False, False)
    """
    while isinstance(value, list | tuple) and value:
        value = value[0]
    return type(value) in (bool, int, float)


def tensors(inputs: Mapping[str, Any], types: Mapping[str, DataType] | None = None) -> dict[str, Tensor]:
    """Return a Tensor for each input.

    Args:
        inputs: by name.
        types: the element types of untyped inputs, by name; those that are missing get numpy's own.

    Raises:
        TensorError: a value can't become a Tensor, or does not fit its type; the message names the input.
    """
    tensors = {}
    for name, value in inputs.items():
        try:
            code = None if types is None else types.get(name)
            if code is not None and is_untyped(value):
                value = converted(to_array(value), code)
            tensors[name] = to_tensor(value, share=True)
        except TensorError as error:
            raise TensorError(f"input {name!r}: {error}") from None
    return tensors


def output_filter(outputs: Iterable[str] | None) -> list[str] | None:
    """Return the names of the requested outputs as a list; None for all. A single name may be given as text."""
    if outputs is None:
        return None
    return [outputs] if isinstance(outputs, str) else list(outputs)


def encoded_images(images: Image | Sequence[Image]) -> list[bytes]:
    """Return the bytes of one image or several.

    Raises:
        OSError: a file can't be read.
    """
    sequence = [images] if isinstance(images, _IMAGE_TYPES) else images
    return [_read_image(image) for image in sequence]


def _read_image(image: Image) -> bytes:
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    return Path(image).read_bytes()


def timeout_ms(timeout_s: float | None) -> int | None:
    """Return a time-out as the contract carries it; None for no limit."""
    return None if timeout_s is None else min(max(1, int(timeout_s * 1000)), _MAX_I32)
