"""A run of each signature before the first client, who then pays for no tracing and no allocation.

    Signature + ImageSettings  --zeros-->  {"x": zeros of its own shape at batch 1}  -->  session.run

What an operator sees of it is one log line a model, with the seconds it took.
"""

from __future__ import annotations

import logging
import time

import numpy as np

from thriftserve.errors import ThriftServeError
from thriftserve.models.image_settings import ImageSettings
from thriftserve.models.servable import Servable
from thriftserve.models.session import Array
from thriftserve.models.signature import Signature, TensorSpec
from thriftserve_client.codec import numpy_dtype

#: Height, width, channels at the end of a batch of images.
_IMAGE_RANK = 4

log = logging.getLogger(__name__)


def run(servable: Servable) -> float:
    """Runs every signature once with zeros.

    A signature that fails is told in the log and left at that: some models take no zeros, and serve well.

    Returns:
        Seconds it took.
    """
    began = time.monotonic()
    for signature in servable.signatures.values():
        if signature.validated:
            _run_one(servable, signature)
    took = time.monotonic() - began
    log.info("warmed model %s version %d up in %.3f s", servable.name, servable.version, took)
    return took


def _run_one(servable: Servable, signature: Signature) -> None:
    try:
        servable.session.run(signature.name, zeros(signature, servable.image), tuple(signature.outputs))
    except ThriftServeError as error:
        log.warning(
            "model %s version %d: the warm-up of %r failed, its first request will take longer: %s",
            servable.name, servable.version, signature.name, error.message,
        )  # fmt: skip


def zeros(signature: Signature, image: ImageSettings | None = None) -> dict[str, Array]:
    """One array of zeros (empty strings for STRING) for each input, at batch 1.

    Free sizes are 1, those of the image input as the image settings say; an input of any rank gets one element.
    """
    return {name: _zero(spec, _shape(spec, image)) for name, spec in signature.inputs.items()}


def _zero(spec: TensorSpec, shape: tuple[int, ...]) -> Array:
    dtype = numpy_dtype(spec.dtype)
    return np.full(shape, b"", dtype) if dtype == np.dtype(object) else np.zeros(shape, dtype)


def _shape(spec: TensorSpec, image: ImageSettings | None) -> tuple[int, ...]:
    if spec.shape is None:
        return (1,)
    free: list[int | None] = [None] * len(spec.shape)
    if image is not None and len(spec.shape) == _IMAGE_RANK and image.input in (None, spec.name):
        free = [None, image.height, image.width, image.channels]
    return tuple(size if size is not None else other or 1 for size, other in zip(spec.shape, free, strict=True))
