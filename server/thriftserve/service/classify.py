"""Classify images: the best classes of each.

    encoded images --> image_rows --> scores [N, classes] --> top_k --> labels and scores

A score is what the model returns; nothing is normalised.
"""

from __future__ import annotations

import numpy as np

from thriftserve.batching import TaskResult
from thriftserve.deadline import Deadline
from thriftserve.errors import FailedPrecondition, Internal, InvalidArgument
from thriftserve.models.registry import Servable
from thriftserve.models.session import Array
from thriftserve.service.errors import format_shape, format_specs, quote, quote_all
from thriftserve.service.execution import Steps
from thriftserve.service.images import image_rows, single_image_input
from thriftserve.service.validation import RequestValidator
from thriftserve_idl.ttypes import Classification, ClassifyRequest, DataType, ImageClassification

DEFAULT_TOP_K = 5
#: Output names that mean class scores, for signatures with several outputs of that shape.
SCORE_NAMES = ("scores", "probabilities", "softmax")
FLOATS = (DataType.FLOAT, DataType.DOUBLE, DataType.HALF, DataType.BFLOAT16)


def classify(
    servable: Servable, validator: RequestValidator, request: ClassifyRequest, deadline: Deadline
) -> Steps[tuple[list[ImageClassification], TaskResult]]:
    """Return the best classes of each image, in the request's order, and the run's result.

    Raises:
        InvalidArgument: no images, an image that can't be decoded, or a `top_k` below 1.
        FailedPrecondition: the signature has no image input or no class scores.
    """
    top_k = DEFAULT_TOP_K if request.top_k is None else request.top_k
    if top_k < 1:
        raise InvalidArgument(f"top_k is {top_k}: expected 1 or more")
    image = single_image_input(servable, validator)
    name = scores_output(servable, validator, 2 if image.batched else 1)
    rows, _, result = yield from image_rows(servable, validator, image, request.images, (name,), deadline)
    return [ImageClassification(top_classes(_scores(row[name], name), servable.labels, top_k)) for row in rows], result


def scores_output(servable: Servable, validator: RequestValidator, rank: int) -> str:
    """Return the name of the output with the class scores: float, of rank `rank`.

    Raises:
        FailedPrecondition: no output qualifies; the message lists those of the signature.
    """
    outputs = validator.signature.outputs
    where, has = validator.display_name, format_specs(outputs)
    configured = servable.image.scores if servable.image else None
    if configured:
        if configured not in outputs:
            raise FailedPrecondition(
                f"image.toml has scores = {quote(configured)}: expected an output of {where}, which has {has}"
            )
        return configured
    candidates = [name for name, spec in outputs.items() if spec.dtype in FLOATS and len(spec.shape or ()) == rank]
    if len(candidates) == 1:
        return candidates[0]
    by_name = [name for name in SCORE_NAMES if name in outputs and outputs[name].dtype in FLOATS]
    if by_name:
        return by_name[0]
    raise FailedPrecondition(
        f"{where} has no obvious class scores: expected one float output of rank {rank}, or one named "
        f"{quote_all(SCORE_NAMES)}, but it has {has}; set scores in the model's image.toml"
    )


def top_classes(scores: Array, labels: tuple[str, ...], top_k: int) -> list[Classification]:
    """Return the `top_k` highest of scores [classes], best first; ties by class number, NaN last."""
    order = np.argsort(-scores, kind="stable")[:top_k].tolist()
    return [Classification(class_label(labels, number), float(scores[number]), number) for number in order]


def class_label(labels: tuple[str, ...], number: int) -> str:
    """Return the label at index `number`; the number as text if there is none."""
    return (labels[number] if 0 <= number < len(labels) else "") or str(number)


def _scores(row: Array, name: str) -> Array:
    if row.ndim != 1:
        raise Internal(
            f"output {quote(name)} has shape {format_shape(row.shape)} for one image: expected one score per class"
        )
    return row.astype(np.float64)
