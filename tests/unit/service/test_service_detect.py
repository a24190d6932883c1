"""Detect: encoded images to labelled boxes, by the outputs of the object-detection API."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from encoded_images import oriented, plain
from numpy_models import NumpySession, Server, one_function, serve, signature
from thriftserve.models.session import Arrays
from thriftserve.service.detect import labels_by_class
from thriftserve_idl.ttypes import DataType, DetectRequest, ErrorCode, ModelSpec, PredictError

FLOAT, UINT8 = DataType.FLOAT, DataType.UINT8
OUTPUTS: dict[str, tuple[DataType, tuple[int | None, ...] | None]] = {
    "detection_boxes": (FLOAT, (None, None, 4)),
    "detection_scores": (FLOAT, (None, None)),
    "detection_classes": (FLOAT, (None, None)),
    "num_detections": (FLOAT, (None,)),
}
#: Four boxes, not in the order of their scores; the last one is past num_detections.
SCORES = [0.6, 0.9, 0.2, 1.0]
CLASSES = [1.0, 3.0, 2.0, 2.0]
BOXES = [[0.0, 0.1, 0.2, 0.3], [0.1, 0.2, 0.3, 0.4], [0.2, 0.3, 0.4, 0.5], [0.3, 0.4, 0.5, 0.6]]


def detector(
    shape: tuple[int | None, ...] = (1, None, None, 3), scores: Sequence[float] = SCORES, count: float = 3.0
) -> NumpySession:
    """A model that finds the same boxes in every image."""

    def find(inputs: Arrays) -> dict[str, Any]:
        images = len(inputs["input_tensor"])
        return {
            "detection_boxes": np.tile(np.array(BOXES, np.float32), (images, 1, 1)),
            "detection_scores": np.tile(np.array(scores, np.float32), (images, 1)),
            "detection_classes": np.tile(np.array(CLASSES, np.float32), (images, 1)),
            "num_detections": np.full(images, count, np.float32),
            "raw_detection_boxes": np.zeros(3),
        }

    outputs = {**OUTPUTS, "raw_detection_boxes": (DataType.DOUBLE, None)}
    return one_function(signature({"input_tensor": (UINT8, shape)}, outputs), find)


def detect(server: Server, images: Sequence[bytes], **fields: Any) -> Any:
    return server.call("detect", DetectRequest(ModelSpec("m"), list(images), **fields))


def found(server: Server, **fields: Any) -> list[tuple[str, int]]:
    """Label and class number of each box found in one image."""
    return [(one.label, one.class_id) for one in detect(server, [plain()], **fields).results[0].detections]


def test_boxes_come_best_first() -> None:
    """Label, score, class and box of each object; only what num_detections counts, above the score of 0.5."""
    detections = detect(serve(detector(), labels=("cat", "dog", "bird")), [plain()]).results[0].detections
    assert [(one.label, one.class_id) for one in detections] == [("bird", 3), ("cat", 1)]
    assert [one.score for one in detections] == pytest.approx([0.9, 0.6])
    box = detections[0].box
    assert [box.y_min, box.x_min, box.y_max, box.x_max] == pytest.approx(BOXES[1])


def test_min_score_and_max_detections() -> None:
    """Boxes below min_score are left out, one equal to it stays; at most max_detections are answered."""
    server = serve(detector(scores=[0.5, 0.75, 0.25, 1.0]))
    assert found(server) == [("3", 3), ("1", 1)]
    assert found(server, min_score=0.25) == [("3", 3), ("1", 1), ("2", 2)]
    assert found(server, min_score=0.0, max_detections=1) == [("3", 3)]
    assert found(server, min_score=1.1) == []


@pytest.mark.parametrize(("count", "expected"), [(0.0, 0), (2.0, 2), (9.0, 4), (-1.0, 0), (math.nan, 0)])
def test_num_detections_counts(count: float, expected: int) -> None:
    """Entries past num_detections are padding; a count that makes no sense is cut to what there is."""
    assert len(found(serve(detector(count=count)), min_score=0.0)) == expected


def test_scores_that_are_no_numbers_are_left_out() -> None:
    """NaN is above no score."""
    assert found(serve(detector(scores=[math.nan, 0.9, 0.8, 1.0])), min_score=0.0) == [("3", 3), ("2", 2)]


@pytest.mark.parametrize(
    ("labels", "first", "second"),
    [
        (("cat", "dog"), "cat", "dog"),
        (("background", "cat", "dog"), "cat", "dog"),
        (("???", "cat", "dog"), "cat", "dog"),
        (("", "cat", "dog"), "cat", "dog"),
        ((), "", ""),
    ],
)
def test_class_numbers_count_from_one(labels: tuple[str, ...], first: str, second: str) -> None:
    """Class 1 is the first label, or the one after the background where the labels begin with that."""
    by_class = labels_by_class(labels)
    assert (*by_class, "", "", "")[1:3] == (first, second)


def test_sizes_are_those_of_the_upright_image() -> None:
    """Width and height are the image's own, not the model's, and as a person sees it."""
    server = serve(detector((1, 16, 16, 3)))
    sideways = oriented(Image.new("RGB", (30, 20)), 6, "JPEG")
    result = detect(server, [sideways]).results[0]
    assert (result.width, result.height) == (30, 20)


def test_images_of_different_sizes_run_one_by_one() -> None:
    """A model of one image of any size sees each as it is."""
    session = detector()
    response = detect(serve(session), [plain(8, 6), plain(5, 7)])
    assert [(one.width, one.height) for one in response.results] == [(8, 6), (5, 7)]
    assert [inputs["input_tensor"].shape for inputs, _ in session.runs] == [(1, 6, 8, 3), (1, 7, 5, 3)]
    assert session.runs[0][0]["input_tensor"].dtype == np.uint8


def test_a_fixed_size_makes_one_batch() -> None:
    """Where the model has a size and takes any number of images, they are one run; extra outputs are not run."""
    session = detector((None, 16, 16, 3))
    response = detect(serve(session), [plain(8, 6), plain(5, 7)])
    assert len(response.results) == 2
    assert session.runs[0][0]["input_tensor"].shape == (2, 16, 16, 3)
    assert [set(outputs) for _, outputs in session.runs] == [set(OUTPUTS)]
    assert response.timing.batch_size == 2


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_detections": 0}, "max_detections is 0"),
        ({"max_detections": -5}, "max_detections is -5"),
        ({"min_score": math.nan}, "min_score is NaN"),
        ({"images": []}, "images is empty"),
        ({"images": [plain(), b"x"]}, "image 1 "),
    ],
)
def test_wrong_requests_are_refused(fields: dict[str, Any], words: str) -> None:
    """What can't be answered is named, and nothing is run."""
    session = detector()
    with pytest.raises(PredictError, match=words) as caught:
        detect(serve(session), **{"images": [plain()], **fields})
    assert caught.value.code == ErrorCode.INVALID_ARGUMENT
    assert session.runs == []


def test_a_model_that_is_no_detector_is_told() -> None:
    """The message says which outputs it lacks and which it has."""
    made = signature({"image": (UINT8, (1, None, None, 3))}, {"num_detections": (FLOAT, (1,)), "z": (FLOAT, None)})
    session = one_function(made, lambda _: {})
    with pytest.raises(PredictError) as caught:
        detect(serve(session), [plain()])
    assert caught.value.code == ErrorCode.FAILED_PRECONDITION
    assert "lacks the outputs 'detection_boxes', 'detection_classes', 'detection_scores'" in caught.value.message
    assert "has 'num_detections', 'z'" in caught.value.message
    assert session.runs == []
