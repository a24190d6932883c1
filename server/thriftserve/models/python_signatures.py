"""How a Python model declares what it takes and gives.

    {"inputs": {"x": ("float32", [None, 3])}, "outputs": {"y": "float32"}}  -->  {"serving_default": Signature}

Three forms, each simpler than the one before: a mapping of names to `Signature`; a mapping of names to
{"inputs": …, "outputs": …}; or the latter alone, for "serving_default". A tensor is (dtype, shape),
or dtype alone where any rank will do; dtype is numpy's ("float32", np.float32) or "string"; a size of None,
or -1, in a shape is free.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import index
from typing import Any

import numpy as np

from thriftserve.models.signature import DEFAULT_SIGNATURE, Signature, TensorSpec
from thriftserve_client.codec import data_type
from thriftserve_client.errors import TensorError
from thriftserve_idl.ttypes import DataType

_PARTS = {"inputs", "outputs"}


def read_signatures(declared: Any) -> dict[str, Signature]:
    """Reads a model's `signatures`.

    Raises:
        ValueError: it has none of the three forms, or names an element type that requests can't carry.
    """
    if not isinstance(declared, Mapping) or not declared:
        raise ValueError(f"signatures is {declared!r}: it must be a dict with something in it")
    if set(declared) <= _PARTS:
        declared = {DEFAULT_SIGNATURE: declared}
    return {name: _signature(name, one) for name, one in declared.items()}


def _signature(name: str, declared: Any) -> Signature:
    if isinstance(declared, Signature):
        return declared
    if not isinstance(declared, Mapping) or not set(declared) <= _PARTS:
        raise ValueError(f"signature {name!r} is {declared!r}: it must be a dict of 'inputs' and 'outputs'")
    inputs, outputs = declared.get("inputs", {}), declared.get("outputs", {})
    return Signature(
        name,
        {key: _spec(key, one) for key, one in inputs.items()},
        {key: _spec(key, one) for key, one in outputs.items()},
    )


def _spec(name: str, declared: Any) -> TensorSpec:
    dtype, shape = declared if isinstance(declared, tuple | list) and len(declared) == 2 else (declared, None)
    return TensorSpec(name, _data_type(name, dtype), None if shape is None else _shape(name, shape))


def _shape(name: str, declared: Any) -> tuple[int | None, ...]:
    try:
        shape = tuple(None if size is None or size == -1 else index(size) for size in declared)
    except TypeError:
        shape = (-1,)
    if any(size is not None and size < 0 for size in shape):
        raise ValueError(f"{name!r} has the shape {declared!r}: expected a list of sizes, None where any will do")
    return shape


def _data_type(name: str, dtype: Any) -> DataType:
    if dtype == "string":
        return DataType.STRING
    if dtype == "bfloat16":
        return DataType.BFLOAT16
    try:
        if dtype is None:  # numpy's float64
            raise TypeError
        return data_type(np.dtype(dtype))
    except (TensorError, TypeError):
        raise ValueError(f"{name!r} has the element type {dtype!r}, which requests can't carry") from None
