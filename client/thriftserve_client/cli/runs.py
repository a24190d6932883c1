"""The commands that run a model.

arrays | image files --Client--> outputs | classes | boxes --> Report
"""

from __future__ import annotations

import base64
from argparse import Namespace
from dataclasses import asdict
from typing import Any

import numpy as np

from thriftserve_client import results
from thriftserve_client.cli.flags import UsageError
from thriftserve_client.cli.inputs import read_inputs, save
from thriftserve_client.cli.tables import Report, table
from thriftserve_client.client import Client
from thriftserve_client.codec import data_type
from thriftserve_client.conversion import shortest

Answer = results.Prediction | results.PerImage[Any]


def predict(client: Client, arguments: Namespace) -> Report:
    """Runs a model on arrays."""
    which = {"version": arguments.version, "label": arguments.label}

    def signature() -> results.SignatureInfo:
        signatures = client.metadata(arguments.model, **which).signatures
        name = arguments.signature or "serving_default"
        if name not in signatures:
            raise UsageError(f"{arguments.model} has no signature {name!r}; it has {', '.join(signatures) or 'none'}")
        return signatures[name]

    prediction = client.predict(
        arguments.model,
        read_inputs(arguments.inputs, signature),
        **which,
        signature=arguments.signature,
        outputs=arguments.outputs,
        request_id=arguments.request_id,
    )
    lines = [f"{_ran(prediction)}"]
    lines += [
        f"\n{name}  {data_type(array.dtype).name} {list(array.shape)}\n{_shown(array)}"
        for name, array in prediction.items()
    ]
    if arguments.save:
        lines.append(f"\nsaved to {save(prediction, arguments.save)}")
    return Report(_prediction_data(prediction), "\n".join(lines))


def _shown(array: results.Array) -> str:
    """An array as numpy prints it, bytes as the text they hold."""
    return np.array2string(_text(array) if array.dtype == object else array, separator=", ", threshold=200)


def _text(array: results.Array) -> results.Array:
    texts = np.empty(array.size, dtype=object)
    texts[:] = [one.decode(errors="backslashreplace") for one in array.ravel()]
    return texts.reshape(array.shape)


def _prediction_data(prediction: results.Prediction) -> Any:
    return _ran_data(prediction) | {"outputs": {name: _values(array) for name, array in prediction.items()}}


def _values(array: results.Array) -> Any:
    """An array as the gateway's JSON has it.

    Numbers have the fewest digits that tell them apart in their type; NaN, Infinity and -Infinity are written so. Bytes
    are text or, where they are none, {"b64": …}.
    """
    if array.dtype == object:
        texts = np.empty(array.size, dtype=object)
        texts[:] = [_text_value(one) for one in array.ravel()]
        return texts.reshape(array.shape).tolist()
    if array.dtype.name in ("bfloat16", "float16"):
        array = array.astype(np.float32)
    return (array.astype(str).astype(np.float64) if array.dtype == np.float32 else array).tolist()


def _text_value(value: bytes) -> Any:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode()}


def classify(client: Client, arguments: Namespace) -> Report:
    """Names what image files show: one row an image and class."""
    answer = client.classify(
        arguments.model,
        arguments.images,
        top_k=arguments.top_k,
        version=arguments.version,
        label=arguments.label,
        signature=arguments.signature,
    )
    named = list(zip(arguments.images, answer, strict=True))
    rows = [(path, one.label, f"{one.score:.4f}") for path, classes in named for one in classes]
    text = table(("image", "label", "score"), rows, right={"score"})
    images = [{"image": path, "classes": [_shortened(one) for one in classes]} for path, classes in named]
    return Report(_ran_data(answer) | {"images": images}, text)


def detect(client: Client, arguments: Namespace) -> Report:
    """Finds objects in image files: one row an image and object."""
    answer = client.detect(
        arguments.model,
        arguments.images,
        min_score=arguments.min_score,
        max_detections=arguments.max_detections,
        version=arguments.version,
        label=arguments.label,
        signature=arguments.signature,
    )
    named = list(zip(arguments.images, answer, strict=True))
    rows = [row for path, found in named for row in _detection_rows(path, found)]
    text = table(
        ("image", "label", "score", "x", "y", "width", "height"), rows, right={"score", "x", "y", "width", "height"}
    )
    images = [
        {"image": path} | asdict(found) | {"detections": [_shortened(one) for one in found]} for path, found in named
    ]
    return Report(_ran_data(answer) | {"images": images}, text)


def _shortened(one: results.Classification | results.Detection) -> dict[str, Any]:
    """A class or an object, its numbers as `_values` has them."""
    return {name: shortest(value) if isinstance(value, float) else value for name, value in asdict(one).items()}


def _detection_rows(path: str, found: results.ImageDetections) -> list[tuple[str, ...]]:
    """One row an object, boxes in pixels; an image without any says so."""
    if not found.detections:
        return [(path, "(nothing)", "", "", "", "", "")]
    return [
        (
            path,
            one.label,
            f"{one.score:.4f}",
            f"{one.x_min * found.width:.0f}",
            f"{one.y_min * found.height:.0f}",
            f"{(one.x_max - one.x_min) * found.width:.0f}",
            f"{(one.y_max - one.y_min) * found.height:.0f}",
        )
        for one in found.detections
    ]


def _ran(answer: Answer) -> str:
    text = f"{answer.model} version {answer.version}, signature {answer.signature}"
    timing = answer.timing
    if timing is None:
        return text
    return f"{text}: queue {timing.queue_us} us, compute {timing.compute_us} us, batch {timing.batch_size}"


def _ran_data(answer: Answer) -> dict[str, Any]:
    timing = asdict(answer.timing) if answer.timing else None
    return {"model": answer.model, "version": answer.version, "signature": answer.signature, "timing": timing}
