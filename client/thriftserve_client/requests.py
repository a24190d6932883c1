"""From a caller's arguments to the contract's structs.

arrays, image files, names --requests--> thriftserve_idl.ttypes
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from thriftserve_client.codec import to_tensor
from thriftserve_client.errors import TensorError
from thriftserve_idl.ttypes import ModelSpec, Tensor

#: An encoded image, or the path of a file that holds one.
Image = bytes | bytearray | memoryview | str | os.PathLike[str]

_ONE_IMAGE = (bytes, bytearray, memoryview, str, os.PathLike)
_MAX_I32 = 2**31 - 1


def model_spec(model: str, version: int | None, label: str | None, signature: str | None = None) -> ModelSpec:
    """Which model, version (by number or label) and signature."""
    if version is not None and label is not None:
        raise ValueError(f"version={version} and label={label!r} name a version twice; give one of them")
    return ModelSpec(model, version, label, signature)


def tensors(inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """A Tensor for each input.

    Raises:
        TensorError: a value does not make a Tensor; the message names the input.
    """
    found = {}
    for name, value in inputs.items():
        try:
            found[name] = to_tensor(value, share=True)
        except TensorError as error:
            raise TensorError(f"input {name!r}: {error}") from None
    return found


def output_filter(outputs: Iterable[str] | None) -> list[str] | None:
    """The names of the outputs wanted; one name may stand alone."""
    if outputs is None:
        return None
    return [outputs] if isinstance(outputs, str) else list(outputs)


def encoded_images(images: Image | Sequence[Image]) -> list[bytes]:
    """The bytes of one image or several.

    Raises:
        OSError: a file can't be read.
    """
    several = [images] if isinstance(images, _ONE_IMAGE) else images
    return [_encoded(image) for image in several]


def _encoded(image: Image) -> bytes:
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    return Path(image).read_bytes()


def timeout_ms(timeout_s: float | None) -> int | None:
    """The deadline to send along; None where there is none."""
    return None if timeout_s is None else min(max(1, int(timeout_s * 1000)), _MAX_I32)
