"""Images to labelled boxes, by the outputs of TensorFlow's object-detection API.

    encoded images --> image runs --> detection_boxes, _scores, _classes, num_detections --> boxes of each image

Class numbers count from 1 there. So the label of class k is entry k - 1 of the model's labels, or
entry k where entry 0 stands for the background (an empty line, "background", "???", "unlabeled", …).
"""

from __future__ import annotations

import math

import numpy as np

from thriftserve.batching import TaskResult
from thriftserve.deadline import Deadline
from thriftserve.errors import FailedPrecondition, InvalidArgument
from thriftserve.models.servable import Servable
from thriftserve.service.classify import class_label
from thriftserve.service.errors import listed, quoted
from thriftserve.service.execution import Steps
from thriftserve.service.images import Row, image_rows, only_image_input
from thriftserve.service.validation import RequestValidator
from thriftserve_idl.ttypes import BoundingBox, Detection, DetectRequest, ImageDetections

DEFAULT_MIN_SCORE = 0.5
DEFAULT_MAX_DETECTIONS = 100
BOXES, SCORES, CLASSES, COUNT = "detection_boxes", "detection_scores", "detection_classes", "num_detections"
OUTPUTS = (BOXES, SCORES, CLASSES, COUNT)
BACKGROUND = ("", "background", "__background__", "_background_", "bg", "???", "none", "unlabeled", "unlabelled")


def detect(
    servable: Servable, plan: RequestValidator, request: DetectRequest, deadline: Deadline
) -> Steps[tuple[list[ImageDetections], TaskResult]]:
    """The objects in each image, in the request's order.

    Raises:
        InvalidArgument: no images, one that can't be decoded, a `min_score` that is no number or a
            `max_detections` below 1.
        FailedPrecondition: the signature has no image input or not the outputs of a detector.
    """
    min_score = DEFAULT_MIN_SCORE if request.min_score is None else request.min_score
    most = DEFAULT_MAX_DETECTIONS if request.max_detections is None else request.max_detections
    if math.isnan(min_score):
        raise InvalidArgument("min_score is not a number: expected one from 0 to 1")
    if most < 1:
        raise InvalidArgument(f"max_detections is {most}: expected 1 or more")
    _check_outputs(servable, plan)
    image = only_image_input(servable, plan)
    rows, decoded, done = yield from image_rows(servable, plan, image, request.images, OUTPUTS, deadline)
    labels = labels_by_class(servable.labels)
    results = [
        ImageDetections(_detections(row, labels, min_score, most), one.width, one.height)
        for row, one in zip(rows, decoded, strict=True)
    ]
    return results, done


def labels_by_class(labels: tuple[str, ...]) -> tuple[str, ...]:
    """The labels with that of class k in place k."""
    return labels if labels and labels[0].strip().lower() in BACKGROUND else ("", *labels)


def _check_outputs(servable: Servable, plan: RequestValidator) -> None:
    outputs = plan.signature.outputs
    missing = [name for name in OUTPUTS if name not in outputs]
    if missing:
        raise FailedPrecondition(
            f"signature {quoted(plan.signature.name)} of model {quoted(servable.name)} is no detector: "
            f"it lacks {listed(missing)} and has {listed(outputs)}"
        )


def _detections(row: Row, labels: tuple[str, ...], min_score: float, most: int) -> list[Detection]:
    """The boxes of one image: boxes [M, 4] as y_min, x_min, y_max, x_max; scores and classes [M]."""
    scores = row[SCORES].astype(np.float64).ravel()
    count = int(np.clip(np.nan_to_num(float(row[COUNT].ravel()[0])), 0, len(scores)))
    order = [index for index in np.argsort(-scores[:count], kind="stable").tolist() if scores[index] >= min_score]
    return [_detection(row, index, labels) for index in order[:most]]


def _detection(row: Row, index: int, labels: tuple[str, ...]) -> Detection:
    number = int(np.nan_to_num(float(row[CLASSES].ravel()[index])))
    box = BoundingBox(*row[BOXES][index].astype(np.float64).tolist())
    return Detection(class_label(labels, number), float(row[SCORES].ravel()[index]), number, box)
