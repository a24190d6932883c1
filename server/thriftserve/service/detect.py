"""Detect objects: labelled boxes, from the outputs of TensorFlow's object-detection API.

    encoded images --> image_rows --> detection_boxes, _scores, _classes, num_detections --> boxes of each image

That API counts classes from 1. So the label of class k is entry k - 1 of the model's labels, or entry k
if entry 0 is the background (an empty line, "background", "???", "unlabeled", …).
"""

from __future__ import annotations

import math

import numpy as np

from thriftserve.batching import TaskResult
from thriftserve.deadline import Deadline
from thriftserve.errors import FailedPrecondition, InvalidArgument
from thriftserve.models.registry import Servable
from thriftserve.service.classify import class_label
from thriftserve.service.errors import quote_all
from thriftserve.service.execution import Steps
from thriftserve.service.images import Row, image_rows, single_image_input
from thriftserve.service.validation import RequestValidator
from thriftserve_idl.ttypes import BoundingBox, Detection, DetectRequest, ImageDetections

DEFAULT_MIN_SCORE = 0.5
DEFAULT_MAX_DETECTIONS = 100
BOXES, SCORES, CLASSES, COUNT = "detection_boxes", "detection_scores", "detection_classes", "num_detections"
OUTPUTS = (BOXES, SCORES, CLASSES, COUNT)
BACKGROUND = ("", "background", "__background__", "_background_", "bg", "???", "none", "unlabeled", "unlabelled")


def detect(
    servable: Servable, validator: RequestValidator, request: DetectRequest, deadline: Deadline
) -> Steps[tuple[list[ImageDetections], TaskResult]]:
    """Return the objects in each image, in the request's order, and the run's result.

    Raises:
        InvalidArgument: no images, an image that can't be decoded, a `min_score` of NaN, or a `max_detections`
            below 1.
        FailedPrecondition: the signature has no image input, or lacks a detector's outputs.
    """
    min_score = DEFAULT_MIN_SCORE if request.min_score is None else request.min_score
    max_detections = DEFAULT_MAX_DETECTIONS if request.max_detections is None else request.max_detections
    if math.isnan(min_score):
        raise InvalidArgument("min_score is NaN: expected a number from 0 to 1")
    if max_detections < 1:
        raise InvalidArgument(f"max_detections is {max_detections}: expected 1 or more")
    _check_outputs(validator)
    image_input = single_image_input(servable, validator)
    rows, decoded, result = yield from image_rows(servable, validator, image_input, request.images, OUTPUTS, deadline)
    labels = labels_by_class(servable.labels)
    results = [
        ImageDetections(_detections(row, labels, min_score, max_detections), image.width, image.height)
        for row, image in zip(rows, decoded, strict=True)
    ]
    return results, result


def labels_by_class(labels: tuple[str, ...]) -> tuple[str, ...]:
    """Return the labels with that of class k at index k."""
    return labels if labels and labels[0].strip().lower() in BACKGROUND else ("", *labels)


def _check_outputs(validator: RequestValidator) -> None:
    outputs = validator.signature.outputs
    missing = [name for name in OUTPUTS if name not in outputs]
    if missing:
        raise FailedPrecondition(
            f"{validator.display_name} is no detector: "
            f"it lacks the outputs {quote_all(missing)} and has {quote_all(outputs)}"
        )


def _detections(row: Row, labels: tuple[str, ...], min_score: float, max_detections: int) -> list[Detection]:
    """Return the boxes of one image, from boxes [M, 4] (y_min, x_min, y_max, x_max), scores [M] and classes [M]."""
    scores = row[SCORES].astype(np.float64).ravel()
    count = int(np.clip(np.nan_to_num(float(row[COUNT].ravel()[0])), 0, len(scores)))
    order = [index for index in np.argsort(-scores[:count], kind="stable").tolist() if scores[index] >= min_score]
    return [_detection(row, index, labels) for index in order[:max_detections]]


def _detection(row: Row, index: int, labels: tuple[str, ...]) -> Detection:
    number = int(np.nan_to_num(float(row[CLASSES].ravel()[index])))
    box = BoundingBox(*row[BOXES][index].astype(np.float64).tolist())
    return Detection(class_label(labels, number), float(row[SCORES].ravel()[index]), number, box)
