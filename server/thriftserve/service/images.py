"""Images through a model, as few runs as it allows.

encoded images --> decoded --> one batch | one run an image --> the outputs of each image

classify and detect share it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from thriftserve.batching import TaskResult
from thriftserve.deadline import Deadline
from thriftserve.errors import FailedPrecondition, Internal, InvalidArgument
from thriftserve.models.images import DecodedImage
from thriftserve.models.servable import Servable
from thriftserve.models.session import Array
from thriftserve.service.errors import listed, quoted, shaped
from thriftserve.service.execution import Steps, asked_for, job_for
from thriftserve.service.image_input import ImageInput
from thriftserve.service.validation import RequestValidator

Row = Mapping[str, Array]


def only_image_input(servable: Servable, plan: RequestValidator) -> ImageInput:
    """The image input of a signature that takes nothing else.

    Raises:
        FailedPrecondition: says what the signature takes instead.
    """
    named = servable.image.input if servable.image else None
    image = plan.images.get(named or "") or (next(iter(plan.images.values())) if len(plan.images) == 1 else None)
    where = f"signature {quoted(plan.signature.name)} of model {quoted(servable.name)}"
    takes = ", ".join(
        f"{quoted(name)} {spec.dtype.name} {shaped(spec.shape)}" for name, spec in sorted(plan.signature.inputs.items())
    )
    if image is None:
        raise FailedPrecondition(
            f"{where} has no single image input ([H, W, C] or [N, H, W, C] of 1, 3 or 4 channels): "
            f"it takes {takes or 'nothing'}; use predict, or name one as input in the model's image.toml"
        )
    others = [name for name in plan.signature.inputs if name != image.name]
    if others:
        raise FailedPrecondition(f"{where} takes {listed(others)} besides the image {quoted(image.name)}: use predict")
    return image


def image_rows(
    servable: Servable,
    plan: RequestValidator,
    image: ImageInput,
    encoded: Sequence[bytes] | None,
    wanted: tuple[str, ...],
    deadline: Deadline,
) -> Steps[tuple[list[Row], list[DecodedImage], TaskResult]]:
    """The outputs of each image, without their batch dimension, with the images and what the run took.

    One run takes them all where the model's batch dimension is free and they have one size; else
    each image has a run of its own.

    Raises:
        InvalidArgument: no images, one that can't be decoded, or a batch dimension that one image does not fill.
        DeadlineExceeded: the time was over before the first run.
        Internal: an output does not have a row for each image.
    """
    if not encoded:
        raise InvalidArgument("images is empty: expected one or more encoded images")
    decoded = image.decode(encoded, deadline)
    pixels = [one.pixels for one in decoded]
    if image.batched and (image.batch == len(pixels) or (image.batch is None and _one_size(pixels))):
        done = yield job_for(servable, plan, {image.name: image.stacked(pixels)}, wanted, deadline)
        return _split(asked_for(plan, done.outputs, wanted), len(pixels)), decoded, done
    if image.batch not in (None, 1):
        image.check_count(len(pixels))
    rows, done = yield from _one_by_one(servable, plan, image, pixels, wanted, deadline)
    return rows, decoded, done


def _one_size(pixels: Sequence[Array]) -> bool:
    return len({one.shape for one in pixels}) == 1


def _one_by_one(
    servable: Servable,
    plan: RequestValidator,
    image: ImageInput,
    pixels: Sequence[Array],
    wanted: tuple[str, ...],
    deadline: Deadline,
) -> Steps[tuple[list[Row], TaskResult]]:
    rows: list[Row] = []
    runs: list[TaskResult] = []
    for one in pixels:
        done = yield job_for(servable, plan, {image.name: image.stacked([one])}, wanted, deadline)
        outputs = asked_for(plan, done.outputs, wanted)
        rows.extend(_split(outputs, 1) if image.batched else [outputs])
        runs.append(done)
    return rows, runs[0]._replace(compute_us=sum(done.compute_us for done in runs))


def _split(outputs: Row, count: int) -> list[Row]:
    for name, array in outputs.items():
        if array.ndim == 0 or array.shape[0] != count:
            raise Internal(
                f"output {quoted(name)} gave shape {shaped(array.shape)} for {count} image(s): "
                f"expected {count} in the leading dimension"
            )
    return [{name: array[row] for name, array in outputs.items()} for row in range(count)]
