"""What a model takes and gives: names, element types, shapes. No TensorFlow here.

    SavedModel's signature_def | Python model's own table  -->  Signature  -->  the service validates requests by it

The same description serves `getModelMetadata`, validation and the warm-up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from thriftserve_idl.ttypes import DataType

DEFAULT_SIGNATURE = "serving_default"


@dataclass(frozen=True)
class TensorSpec:
    """One input or output.

    `shape` has None for a free size, and is None itself for a free rank.
    """

    name: str
    dtype: DataType
    shape: tuple[int | None, ...] | None = None

    @property
    def has_rows(self) -> bool:
        """Whether the leading size is free, as of a batch."""
        return self.shape is not None and self.shape[:1] == (None,)

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Return whether an array of that shape is of the declared rank and sizes."""
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(map(_is_size, shape, self.shape))


@dataclass(frozen=True)
class Signature:
    """One function that a model offers, by the names that requests use."""

    name: str
    inputs: Mapping[str, TensorSpec] = field(default_factory=dict)
    outputs: Mapping[str, TensorSpec] = field(default_factory=dict)
    method_name: str = ""
    #: False for a Python model that declares no signature: it gets whatever is sent.
    validated: bool = True


def describe_shape(shape: Iterable[int | None] | None) -> str:
    """Return a shape for people: "[?, 3]" with "?" for a free size, or "any" for a free rank."""
    return "any" if shape is None else f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def _is_size(size: int, declared: int | None) -> bool:
    return declared is None or size == declared
