"""The best classes of an output, as the classification extension of the Open Inference Protocol has them.

    [[0.1, 0.7, 0.2]], 2, ("cat", "dog", "fox")  -->  [["0.7:1:dog", "0.2:2:fox"]]

Extension: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_classification.md
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from thriftserve.gateway.json_answers import Array, number
from thriftserve.gateway.v2_request import no_classes
from thriftserve_client.codec import data_type


def best_classes(name: str, array: Array, most: int, labels: Sequence[str]) -> Array:
    """The `most` highest values of each row of an output's last dimension, best first, as "value:number[:label]".

    Equal values come by number, NaN last. Numbers are written as in any other answer.

    Raises:
        Refusal: the output has no such dimension, or no numbers.
    """
    if array.ndim == 0 or array.dtype.kind in "bO":
        raise no_classes(name, data_type(array.dtype), array.shape)
    if array.dtype.kind not in "iu":
        array = array.astype(np.float64)
    # Inverting turns the order of integers round, of those too whose negative their type does not have.
    order = np.argsort(~array if array.dtype.kind in "iu" else -array, axis=-1, kind="stable")[..., :most]
    values = np.take_along_axis(array, order, axis=-1)
    found = np.empty(order.size, object)
    found[:] = [
        _described(value, at, labels) for value, at in zip(values.ravel().tolist(), order.ravel().tolist(), strict=True)
    ]
    return found.reshape(order.shape)


def _described(value: Any, at: int, labels: Sequence[str]) -> bytes:
    text = orjson.dumps(number(value) if isinstance(value, float) else value).decode()
    label = labels[at] if at < len(labels) else ""
    return (f"{text}:{at}:{label}" if label else f"{text}:{at}").encode()
