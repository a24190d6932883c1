"""Run images through a model, in as few runs as it allows; `classify` and `detect` share this.

encoded images --> decoded --> one batch | one run per image --> the outputs of each image
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from thriftserve.batching import TaskResult
from thriftserve.deadline import Deadline
from thriftserve.errors import FailedPrecondition, Internal, InvalidArgument
from thriftserve.models.images import DecodedImage
from thriftserve.models.registry import Servable
from thriftserve.models.session import Array
from thriftserve.service.errors import format_shape, format_specs, quote, quote_all
from thriftserve.service.execution import Steps, make_task, select_outputs
from thriftserve.service.image_input import ImageInput
from thriftserve.service.validation import RequestValidator

Row = Mapping[str, Array]


def single_image_input(servable: Servable, validator: RequestValidator) -> ImageInput:
    """Return the image input of a signature that has no other input.

    Raises:
        FailedPrecondition: the signature has none, or other inputs; the message lists them.
    """
    configured = servable.image.input if servable.image else None
    only = next(iter(validator.images.values())) if len(validator.images) == 1 else None
    image = validator.images.get(configured or "") or only
    where, inputs = validator.display_name, validator.signature.inputs
    if image is None:
        raise FailedPrecondition(
            f"{where} has no single image input ([H, W, C] or [N, H, W, C] with 1, 3 or 4 channels): "
            f"it takes {format_specs(inputs)}; call predict, or set input in the model's image.toml"
        )
    others = [name for name in inputs if name != image.name]
    if others:
        raise FailedPrecondition(
            f"{where} takes {quote_all(others)} besides the image {quote(image.name)}: call predict instead"
        )
    return image


def image_rows(
    servable: Servable,
    validator: RequestValidator,
    image_input: ImageInput,
    encoded: Sequence[bytes] | None,
    output_names: tuple[str, ...],
    deadline: Deadline,
) -> Steps[tuple[list[Row], list[DecodedImage], TaskResult]]:
    """Return the outputs of each image without their batch dimension, the decoded images, and the run's result.

    One run takes all images if the model's batch dimension is free and the images have one size. Otherwise each
    image has its own run, and the result has the first run's moment and the sum of their times.

    Raises:
        InvalidArgument: no images, an image that can't be decoded, or a batch dimension that one image does not fill.
        DeadlineExceeded: the deadline passed before the first run.
        Internal: an output does not have a row for each image.
    """
    if not encoded:
        raise InvalidArgument("images is empty: expected one or more encoded images")
    decoded = image_input.decode(encoded, deadline)
    pixels = [image.pixels for image in decoded]
    fits_one_run = image_input.batch == len(pixels) or (image_input.batch is None and _same_shape(pixels))
    if image_input.batched and fits_one_run:
        arrays = {image_input.name: image_input.stack(pixels)}
        result = yield make_task(servable, validator, arrays, output_names, deadline)
        return _split(select_outputs(validator, result.outputs, output_names), len(pixels)), decoded, result
    if image_input.batch not in (None, 1):
        image_input.check_count(len(pixels))
    rows, result = yield from _run_separately(servable, validator, image_input, pixels, output_names, deadline)
    return rows, decoded, result


def _same_shape(pixels: Sequence[Array]) -> bool:
    return len({image.shape for image in pixels}) == 1


def _run_separately(
    servable: Servable,
    validator: RequestValidator,
    image_input: ImageInput,
    pixels: Sequence[Array],
    output_names: tuple[str, ...],
    deadline: Deadline,
) -> Steps[tuple[list[Row], TaskResult]]:
    rows: list[Row] = []
    runs: list[TaskResult] = []
    for image in pixels:
        arrays = {image_input.name: image_input.stack([image])}
        result = yield make_task(servable, validator, arrays, output_names, deadline)
        outputs = select_outputs(validator, result.outputs, output_names)
        rows.extend(_split(outputs, 1) if image_input.batched else [outputs])
        runs.append(result)
    return rows, runs[0]._replace(compute_us=sum(result.compute_us for result in runs))


def _split(outputs: Row, count: int) -> list[Row]:
    for name, array in outputs.items():
        if array.ndim == 0 or array.shape[0] != count:
            raise Internal(
                f"output {quote(name)} has shape {format_shape(array.shape)} for {count} image(s): "
                f"expected {count} in the leading dimension"
            )
    return [{name: array[row] for name, array in outputs.items()} for row in range(count)]
