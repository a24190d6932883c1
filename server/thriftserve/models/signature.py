"""What a model takes and gives: names, element types, shapes. No TensorFlow here.

    SavedModel's signature_def | Python model's own table  -->  Signature  -->  handler validates against it

The same description serves `getModelMetadata`, the handler's checks and the warm-up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from thriftserve_idl.ttypes import DataType

DEFAULT_SIGNATURE = "serving_default"


@dataclass(frozen=True)
class TensorSpec:
    """One input or output.

    `shape` has None where any size will do, and is None itself where any rank will.
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
    #: False for a Python model that declares no signature: whatever is sent reaches it.
    validated: bool = True
