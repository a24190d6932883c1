"""A run of each signature before the first client, who then pays for no tracing and no allocation.

    recorded requests of the version          -->  session.run
    a signature that none of them has called  --zeros-->  {"x": zeros of its own shape at batch 1}  -->  session.run

What an operator sees of it is one log line a model, with the seconds it took.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

import numpy as np

from thriftserve.errors import ThriftServeError
from thriftserve.models import warmup_records
from thriftserve.models.servable import Servable
from thriftserve.models.session import Array
from thriftserve.models.signature import Signature, TensorSpec
from thriftserve.repository.image_settings import ImageSettings
from thriftserve_client.codec import numpy_dtype

#: Height, width, channels at the end of a batch of images.
_IMAGE_RANK = 4

log = logging.getLogger(__name__)


def run(servable: Servable, version_path: Path | None = None, *, strict: bool = False) -> float:
    """Runs the requests recorded for a version, and every other signature once with zeros.

    A signature that fails is told in the log and left at that: some models take no zeros, and serve well.

    Args:
        version_path: where the version's files are; None: there are none, as of a Python class.
        strict: a recorded request that can't be run is an error.

    Returns:
        Seconds it took.

    Raises:
        ModelLoadError: with `strict`, a recorded request could not be run.
    """
    began = time.monotonic()
    warmed = warmup_records.Warmed()
    if version_path is not None:
        warmed = warmup_records.run(servable, version_path, strict=strict)
    for signature in servable.signatures.values():
        if signature.validated and signature.name not in warmed.runs:
            _run_one(servable, signature)
    took = time.monotonic() - began
    told = f", with {sum(warmed.runs.values())} recorded requests" if warmed.runs else ""
    log.info("warmed model %s version %d up in %.3f s%s", servable.name, servable.version, took, told)
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
