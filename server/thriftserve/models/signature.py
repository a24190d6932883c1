"""What a model takes and gives: names, element types, shapes. No TensorFlow here.

    SavedModel's signature_def | Python model's own table  -->  Signature  -->  the service validates requests by it

The same description serves `getModelMetadata`, validation and the warm-up.
"""

from __future__ import annotations

from collections.abc import Mapping
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


@dataclass(frozen=True)
class Signature:
    """One function that a model offers, by the names that requests use."""

    name: str
    inputs: Mapping[str, TensorSpec] = field(default_factory=dict)
    outputs: Mapping[str, TensorSpec] = field(default_factory=dict)
    method_name: str = ""
    #: False for a Python model that declares no signature: it gets whatever is sent.
    validated: bool = True
