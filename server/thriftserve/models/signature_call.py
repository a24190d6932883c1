"""One way to run a signature: its inputs by name in, the outputs wanted by name out.

    {"x": array}  -->  array of "x:0"  -->  Call  -->  value of "y:0"  -->  {"y": array}

TensorFlow takes each tensor once, as a feed or as a fetch; a signature may well give one tensor two
names, or give an input back as an output. That is straightened out here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from thriftserve.errors import InvalidArgument
from thriftserve.models.fast_call import make_call
from thriftserve.models.meta_graph import Endpoint
from thriftserve.models.session import Array, Arrays

SignatureCall = Callable[[Arrays], dict[str, Array]]


def prepare(session: Any, endpoint: Endpoint, outputs: Sequence[str], *, in_callers_thread: bool) -> SignatureCall:
    """Makes the call of one signature for one set of outputs; only their part of the graph will run."""
    first: dict[str, str] = {}
    for name, tensor in endpoint.feeds.items():
        first.setdefault(tensor, name)
    fetches = [endpoint.fetches[name] for name in outputs]
    wanted = list(dict.fromkeys(tensor for tensor in fetches if tensor not in first))
    if not wanted:
        return _shared(_nothing, endpoint, first, tuple(outputs), wanted)
    call = make_call(session, list(first), wanted, in_callers_thread=in_callers_thread)
    if len(first) == len(endpoint.feeds) and wanted == fetches:
        return _plain(call, tuple(first.values()), tuple(outputs))
    return _shared(call, endpoint, first, tuple(outputs), wanted)


def _plain(call: Callable[..., list[Any]], names: tuple[str, ...], outputs: tuple[str, ...]) -> SignatureCall:
    """Every tensor has one name: what nearly all signatures are, and so kept lean."""
    ndarray = np.ndarray

    def run(inputs: Arrays) -> dict[str, Array]:
        values = call(*[inputs[name] for name in names])
        return {
            name: value if type(value) is ndarray else as_array(value)
            for name, value in zip(outputs, values, strict=True)
        }

    return run


def _shared(
    call: Callable[..., list[Any]],
    endpoint: Endpoint,
    first: dict[str, str],
    outputs: tuple[str, ...],
    wanted: list[str],
) -> SignatureCall:
    """Some tensor has several names, or is input and output at once."""
    twins = [(name, first[tensor]) for name, tensor in endpoint.feeds.items() if first[tensor] != name]

    def run(inputs: Arrays) -> dict[str, Array]:
        for twin, name in twins:
            if not np.array_equal(inputs[twin], inputs[name]):
                raise InvalidArgument(f"inputs {name!r} and {twin!r} are one tensor of the model: send equal values")
        known = {tensor: inputs[name] for tensor, name in first.items()}
        values = call(*known.values())
        known.update(zip(wanted, map(as_array, values), strict=True))
        return {name: known[endpoint.fetches[name]] for name in outputs}

    return run


def _nothing(*arrays: Any) -> list[Any]:
    """Every output wanted is an input: TensorFlow makes no callable of that."""
    return []


def as_array(value: Any) -> Array:
    """A value of TensorFlow's as an array; rank 0 comes as a numpy scalar, or as bytes for STRING."""
    if isinstance(value, np.ndarray):
        return value
    return np.array(value, dtype=object) if isinstance(value, bytes) else np.asarray(value)
