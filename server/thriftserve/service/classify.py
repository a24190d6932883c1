"""Images to the best classes of each.

encoded images --> image runs --> scores [N, classes] --> top_k --> labels and scores

The score of an image's class is what the model gives; nothing is normalised.
"""

from __future__ import annotations

import numpy as np

from thriftserve.batching import TaskResult
from thriftserve.deadline import Deadline
from thriftserve.errors import FailedPrecondition, Internal, InvalidArgument
from thriftserve.models.servable import Servable
from thriftserve.models.session import Array
from thriftserve.service.errors import listed, quoted, shaped
from thriftserve.service.execution import Steps
from thriftserve.service.images import image_rows, only_image_input
from thriftserve.service.validation import RequestValidator
from thriftserve_idl.ttypes import Classification, ClassifyRequest, DataType, ImageClassification

DEFAULT_TOP_K = 5
#: Names that mean class scores where a signature has several outputs of their shape.
SCORE_NAMES = ("scores", "probabilities", "softmax")
FLOATS = (DataType.FLOAT, DataType.DOUBLE, DataType.HALF, DataType.BFLOAT16)


def classify(
    servable: Servable, plan: RequestValidator, request: ClassifyRequest, deadline: Deadline
) -> Steps[tuple[list[ImageClassification], TaskResult]]:
    """The best classes of each image, in the request's order.

    Raises:
        InvalidArgument: no images, one that can't be decoded, or a `top_k` below 1.
        FailedPrecondition: the signature has no image input or no class scores.
    """
    top_k = DEFAULT_TOP_K if request.top_k is None else request.top_k
    if top_k < 1:
        raise InvalidArgument(f"top_k is {top_k}: expected 1 or more")
    image = only_image_input(servable, plan)
    name = scores_output(servable, plan, 2 if image.batched else 1)
    rows, _, done = yield from image_rows(servable, plan, image, request.images, (name,), deadline)
    return [ImageClassification(best(_scores(row[name], name), servable.labels, top_k)) for row in rows], done


def scores_output(servable: Servable, plan: RequestValidator, rank: int) -> str:
    """The name of the output that holds the class scores: float, of rank `rank`.

    Raises:
        FailedPrecondition: says which outputs the signature has.
    """
    outputs = plan.signature.outputs
    has = ", ".join(f"{quoted(name)} {spec.dtype.name} {shaped(spec.shape)}" for name, spec in sorted(outputs.items()))
    where = f"signature {quoted(plan.signature.name)} of model {quoted(servable.name)}"
    named = servable.image.scores if servable.image else None
    if named:
        if named not in outputs:
            raise FailedPrecondition(f"scores = {quoted(named)} of image.toml is no output of {where}: it has {has}")
        return named
    fitting = [name for name, spec in outputs.items() if spec.dtype in FLOATS and len(spec.shape or ()) == rank]
    if len(fitting) == 1:
        return fitting[0]
    by_name = [name for name in SCORE_NAMES if name in outputs and outputs[name].dtype in FLOATS]
    if by_name:
        return by_name[0]
    raise FailedPrecondition(
        f"{where} has no output that is plainly class scores (the only float one of rank {rank}, or one named "
        f"{listed(SCORE_NAMES)}): it has {has}; name one as scores in the model's image.toml"
    )


def best(scores: Array, labels: tuple[str, ...], top_k: int) -> list[Classification]:
    """The `top_k` highest scores [classes], best first; equal ones by class number, NaN last."""
    order = np.argsort(-scores, kind="stable")[:top_k].tolist()
    return [Classification(class_label(labels, number), float(scores[number]), number) for number in order]


def class_label(labels: tuple[str, ...], number: int) -> str:
    """The label in place `number`; the number as text where there is none."""
    return (labels[number] if 0 <= number < len(labels) else "") or str(number)


def _scores(row: Array, name: str) -> Array:
    if row.ndim != 1:
        raise Internal(f"output {quoted(name)} gave {shaped(row.shape)} for an image: expected one score per class")
    return row.astype(np.float64)
