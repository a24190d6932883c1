"""Classify: encoded images to the best classes of each, by number, score and label."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from encoded_images import plain
from numpy_models import NumpySession, Server, one_function, serve, signature
from thriftserve.repository.image_settings import ImageSettings
from thriftserve_idl.ttypes import ClassifyRequest, DataType, ErrorCode, ModelSpec, PredictError

FLOAT, INT64 = DataType.FLOAT, DataType.INT64
RED, GREEN, BLUE = plain(), plain(colour=(0, 255, 0)), plain(colour=(0, 0, 255))
LABELS = ("red", "green", "blue")


def mean_colour(shape: tuple[int | None, ...] = (None, 4, 4, 3)) -> NumpySession:
    """The model image -> scores: its mean red, green and blue."""
    batched = len(shape) == 4
    made = signature({"image": (FLOAT, shape)}, {"out": (FLOAT, (None, 3) if batched else (3,))})
    return one_function(made, lambda inputs: {"out": inputs["image"].mean((-3, -2))})


def fixed_scores(*scores: float) -> NumpySession:
    """The model image -> the same scores for each image."""
    made = signature({"image": (FLOAT, (None, 4, 4, 3))}, {"out": (FLOAT, (None, len(scores)))})
    rows = np.array(scores, np.float32)
    return one_function(made, lambda inputs: {"out": np.repeat(rows[None], len(inputs["image"]), axis=0)})


def classify(server: Server, images: Sequence[bytes] | None, **fields: Any) -> Any:
    return server.call("classify", ClassifyRequest(ModelSpec("m"), images, **fields))


def refused(
    server: Server, code: ErrorCode, *words: str, images: Sequence[bytes] | None = (RED,), **fields: Any
) -> None:
    with pytest.raises(PredictError) as caught:
        classify(server, None if images is None else list(images), **fields)
    assert caught.value.code == code, caught.value.message
    for word in words:
        assert word in caught.value.message


def test_classes_come_best_first_with_their_labels() -> None:
    """Each image has its own classes, in the request's order; all of them in one run."""
    session = mean_colour()
    response = classify(serve(session, labels=LABELS), [GREEN, RED, BLUE], top_k=1)
    assert [[(best.label, best.class_id, best.score) for best in each.classes] for each in response.results] == [
        [("green", 1, 255.0)], [("red", 0, 255.0)], [("blue", 2, 255.0)],
    ]  # fmt: skip
    assert len(session.runs) == 1
    assert response.timing.batch_size == 3
    assert (response.model_spec.version, response.model_spec.signature_name) == (3, "serving_default")


def test_top_k() -> None:
    """Five unless it is said; more than there are means all."""
    server = serve(fixed_scores(*(number / 8 for number in range(8))))
    assert [len(classify(server, [RED], top_k=k).results[0].classes) for k in (None, 1, 8, 1000)] == [5, 1, 8, 8]
    assert [best.class_id for best in classify(server, [RED], top_k=3).results[0].classes] == [7, 6, 5]


def test_equal_scores_go_by_class_number() -> None:
    """Ties are broken the same way every time: the lower class number first."""
    server = serve(fixed_scores(*([0.2, 0.4] * 50)))
    best = [each.class_id for each in classify(server, [RED], top_k=100).results[0].classes]
    assert best == [*range(1, 100, 2), *range(0, 100, 2)]


def test_scores_that_are_no_numbers_come_last() -> None:
    """NaN never wins; infinities are in their places."""
    server = serve(fixed_scores(math.nan, 0.5, -math.inf, math.inf, math.nan))
    classes = classify(server, [RED]).results[0].classes
    assert [best.class_id for best in classes] == [3, 1, 2, 0, 4]
    assert math.isnan(classes[-1].score)


def test_classes_without_label_have_their_number() -> None:
    """A class past the labels, or with an empty one, is called by its number."""
    response = classify(serve(fixed_scores(3.0, 2.0, 1.0), labels=("a", "")), [RED])
    assert [best.label for best in response.results[0].classes] == ["a", "1", "2"]


@pytest.mark.parametrize("shape", [(1, 4, 4, 3), (4, 4, 3)])
def test_models_of_one_image_run_once_an_image(shape: tuple[int, ...]) -> None:
    """Where the batch dimension is 1, or missing, several images are several runs."""
    session = mean_colour(shape)
    response = classify(serve(session, labels=LABELS), [BLUE, GREEN], top_k=1)
    assert [each.classes[0].label for each in response.results] == ["blue", "green"]
    assert len(session.runs) == 2
    assert response.timing.batch_size == 1


def test_images_of_different_sizes_run_once_an_image() -> None:
    """Where the model takes any size, images that can't be stacked are run one by one; equal ones as a batch."""
    session = mean_colour((None, None, None, 3))
    server = serve(session, labels=LABELS)
    response = classify(server, [plain(5, 6), plain(7, 8, (0, 255, 0))], top_k=1)
    assert [each.classes[0].label for each in response.results] == ["red", "green"]
    assert [inputs["image"].shape for inputs, _ in session.runs] == [(1, 6, 5, 3), (1, 8, 7, 3)]
    classify(server, [RED, GREEN])
    assert session.runs[-1][0]["image"].shape == (2, 8, 8, 3)


def test_a_fixed_batch_must_be_filled() -> None:
    """A model of exactly two images takes two in one run, and no other count."""
    session = mean_colour((2, 4, 4, 3))
    server = serve(session)
    assert len(classify(server, [RED, GREEN]).results) == 2
    refused(server, ErrorCode.INVALID_ARGUMENT, "takes 2 image(s) per run: 3 were sent", images=[RED] * 3)
    assert len(session.runs) == 1


@pytest.mark.parametrize("images", [None, []])
def test_no_images_are_refused(images: list[bytes] | None) -> None:
    """A request without images is told what it lacks."""
    refused(serve(mean_colour()), ErrorCode.INVALID_ARGUMENT, "images is empty", images=images)


@pytest.mark.parametrize("top_k", [0, -1])
def test_a_top_k_below_one_is_refused(top_k: int) -> None:
    """None or fewer classes make no answer."""
    session = mean_colour()
    refused(serve(session), ErrorCode.INVALID_ARGUMENT, f"top_k is {top_k}", top_k=top_k)
    assert session.runs == []


def test_a_damaged_image_is_named_by_its_place() -> None:
    """One bad image among good ones is named; nothing is run."""
    session = mean_colour()
    refused(serve(session), ErrorCode.INVALID_ARGUMENT, "image 1 ", images=[RED, RED[:40], RED])
    assert session.runs == []


Specs = Mapping[str, tuple[DataType, tuple[int | None, ...] | None]]
TWO_D: tuple[int | None, ...] = (None, 3)


def with_outputs(outputs: Specs) -> NumpySession:
    """A model with these outputs; that named "right" or for scores gives 0, 1, 2, every other one 2, 1, 0."""
    up = np.arange(3, dtype=np.float32)
    right = {"right", "scores", "probabilities", "softmax"}
    made = signature({"image": (FLOAT, (None, 4, 4, 3))}, outputs)
    return one_function(made, lambda _: {name: (up if name in right else up[::-1])[None] for name in outputs})


@pytest.mark.parametrize(
    "outputs",
    [
        {"right": (FLOAT, TWO_D)},
        {"right": (FLOAT, TWO_D), "other": (INT64, TWO_D), "features": (FLOAT, (None, 2, 3))},
        {"scores": (FLOAT, TWO_D), "logits": (FLOAT, TWO_D)},
        {"softmax": (FLOAT, TWO_D), "logits": (FLOAT, TWO_D)},
        {"probabilities": (FLOAT, None), "logits": (FLOAT, None)},
    ],
)
def test_the_scores_are_found(outputs: Specs) -> None:
    """The only float output of rank 2, or the one with a name for scores."""
    session = with_outputs(outputs)
    assert classify(serve(session), [RED]).results[0].classes[0].class_id == 2
    assert len(session.runs[0][1]) == 1


def test_the_settings_name_the_scores() -> None:
    """Where image.toml names the output, that one it is, whatever the others are called."""
    session = with_outputs({"right": (FLOAT, TWO_D), "logits": (FLOAT, TWO_D), "other": (FLOAT, TWO_D)})
    settings = ImageSettings(scores="right")
    assert classify(serve(session, image=settings), [RED]).results[0].classes[0].class_id == 2


@pytest.mark.parametrize(
    ("outputs", "settings", "words"),
    [
        ({"a": (FLOAT, TWO_D), "b": (FLOAT, TWO_D)}, None, ["no obvious class scores", "'a' FLOAT [?, 3]"]),
        ({"a": (INT64, TWO_D)}, None, ["no obvious class scores", "'a' INT64 [?, 3]"]),
        ({"a": (FLOAT, TWO_D)}, ImageSettings(scores="z"), ["scores = 'z'", "'a' FLOAT [?, 3]"]),
    ],
)
def test_a_model_without_plain_scores_is_told(outputs: Specs, settings: ImageSettings | None, words: list[str]) -> None:
    """The message says which outputs there are, and nothing is run."""
    session = with_outputs(outputs)
    refused(serve(session, image=settings), ErrorCode.FAILED_PRECONDITION, *words)
    assert session.runs == []


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"x": (FLOAT, (None, 3))}, ["no single image input", "it takes 'x' FLOAT [?, 3]"]),
        ({"a": (FLOAT, (None, 4, 4, 3)), "b": (FLOAT, (None, 4, 4, 3))}, ["no single image input"]),
        ({"image": (FLOAT, (None, 4, 4, 3)), "k": (INT64, ())}, ["takes 'k' besides the image 'image': call predict"]),
        ({}, ["no single image input", "it takes nothing"]),
    ],
)
def test_a_model_that_takes_no_single_image_is_told(inputs: Specs, words: list[str]) -> None:
    """The message says what the model takes instead."""
    session = one_function(signature(inputs, {"out": (FLOAT, TWO_D)}), lambda _: {})
    refused(serve(session), ErrorCode.FAILED_PRECONDITION, *words)
    assert session.runs == []


def test_scores_of_a_wrong_shape_are_internal() -> None:
    """A model that gives one row for two images breaks its word."""
    made = signature({"image": (FLOAT, (None, 4, 4, 3))}, {"out": (FLOAT, TWO_D)})
    session = one_function(made, lambda _: {"out": np.zeros((1, 3), np.float32)})
    refused(serve(session), ErrorCode.INTERNAL, "'out' has shape [1, 3] for 2 image(s)", images=[RED, RED])
