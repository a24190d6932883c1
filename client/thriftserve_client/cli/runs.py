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

Result = results.Prediction | results.PerImage[Any]


def predict(client: Client, arguments: Namespace) -> Report:
    """Run a model on arrays."""
    version = {"version": arguments.version, "label": arguments.label}

    def signature() -> results.SignatureInfo:
        signatures = client.metadata(arguments.model, **version).signatures
        name = arguments.signature or "serving_default"
        if name not in signatures:
            raise UsageError(
                f"{arguments.model} has no signature {name!r}: expected one of {', '.join(signatures) or 'none'}"
            )
        return signatures[name]

    prediction = client.predict(
        arguments.model,
        read_inputs(arguments.inputs, signature),
        **version,
        signature=arguments.signature,
        outputs=arguments.outputs,
        request_id=arguments.request_id,
    )
    lines = [f"{_title(prediction)}"]
    lines += [
        f"\n{name}  {data_type(array.dtype).name} {list(array.shape)}\n{_format_array(array)}"
        for name, array in prediction.items()
    ]
    if arguments.save:
        lines.append(f"\nsaved to {save(prediction, arguments.save)}")
    return Report(_prediction_data(prediction), "\n".join(lines))


def _format_array(array: results.Array) -> str:
    """Return an array as numpy prints it, with bytes as text."""
    return np.array2string(_decode_texts(array) if array.dtype == object else array, separator=", ", threshold=200)


def _decode_texts(array: results.Array) -> results.Array:
    texts = np.empty(array.size, dtype=object)
    texts[:] = [text.decode(errors="backslashreplace") for text in array.ravel()]
    return texts.reshape(array.shape)


def _prediction_data(prediction: results.Prediction) -> Any:
    return _run_data(prediction) | {"outputs": {name: _values(array) for name, array in prediction.items()}}


def _values(array: results.Array) -> Any:
    """Return an array in the format of the gateway's JSON.

    Numbers have the fewest digits that identify them in their type; NaN, Infinity and -Infinity are written as such.
    Bytes are text, or {"b64": …} if they are not UTF-8.
    """
    if array.dtype == object:
        texts = np.empty(array.size, dtype=object)
        texts[:] = [_text_value(text) for text in array.ravel()]
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
    """Classify image files: one row per image and class."""
    result = client.classify(
        arguments.model,
        arguments.images,
        top_k=arguments.top_k,
        version=arguments.version,
        label=arguments.label,
        signature=arguments.signature,
    )
    by_path = list(zip(arguments.images, result, strict=True))
    rows = [(path, best.label, f"{best.score:.4f}") for path, classes in by_path for best in classes]
    text = table(("image", "label", "score"), rows, right={"score"})
    images = [{"image": path, "classes": [_to_json(best) for best in classes]} for path, classes in by_path]
    return Report(_run_data(result) | {"images": images}, text)


def detect(client: Client, arguments: Namespace) -> Report:
    """Find objects in image files: one row per image and object."""
    result = client.detect(
        arguments.model,
        arguments.images,
        min_score=arguments.min_score,
        max_detections=arguments.max_detections,
        version=arguments.version,
        label=arguments.label,
        signature=arguments.signature,
    )
    by_path = list(zip(arguments.images, result, strict=True))
    rows = [row for path, image in by_path for row in _detection_rows(path, image)]
    text = table(
        ("image", "label", "score", "x", "y", "width", "height"), rows, right={"score", "x", "y", "width", "height"}
    )
    images = [
        {"image": path} | asdict(image) | {"detections": [_to_json(detection) for detection in image]}
        for path, image in by_path
    ]
    return Report(_run_data(result) | {"images": images}, text)


def _to_json(item: results.Classification | results.Detection) -> dict[str, Any]:
    """Return a class or an object, its numbers as in `_values`."""
    return {name: shortest(value) if isinstance(value, float) else value for name, value in asdict(item).items()}


def _detection_rows(path: str, image: results.ImageDetections) -> list[tuple[str, ...]]:
    """Return a row per object, boxes in pixels; one row that says so for an image without objects."""
    if not image.detections:
        return [(path, "(nothing)", "", "", "", "", "")]
    return [
        (
            path,
            detection.label,
            f"{detection.score:.4f}",
            f"{detection.x_min * image.width:.0f}",
            f"{detection.y_min * image.height:.0f}",
            f"{(detection.x_max - detection.x_min) * image.width:.0f}",
            f"{(detection.y_max - detection.y_min) * image.height:.0f}",
        )
        for detection in image.detections
    ]


def _title(result: Result) -> str:
    text = f"{result.model} version {result.version}, signature {result.signature}"
    timing = result.timing
    if timing is None:
        return text
    return f"{text}: queue {timing.queue_us} us, compute {timing.compute_us} us, batch {timing.batch_size}"


def _run_data(result: Result) -> dict[str, Any]:
    timing = asdict(result.timing) if result.timing else None
    return {"model": result.model, "version": result.version, "signature": result.signature, "timing": timing}
