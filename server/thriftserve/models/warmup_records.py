"""Requests recorded for a version, run before its first client: TensorFlow Serving's warm-up file.

VERSION_DIR/assets.extra/tf_serving_warmup_requests  --read-->  calls  --session.run-->  Warmed(runs, faults)

A record that can't be run is told in the log by its number; it fails the load only where that is asked for.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from thriftserve.errors import ModelLoadError, ThriftServeError
from thriftserve.files import CorruptFile
from thriftserve.models import tfrecord
from thriftserve.models.prediction_log import RecordedRequest, Unsupported, decode
from thriftserve.models.servable import Servable
from thriftserve.models.session import Arrays
from thriftserve.models.signature import Signature, TensorSpec
from thriftserve_client.codec import numpy_dtype
from thriftserve_client.errors import TensorError
from thriftserve_idl.ttypes import DataType

FILE = Path("assets.extra", "tf_serving_warmup_requests")
#: TensorFlow Serving's limit: a file of more is taken for a mistake there.
MAX_RECORDS = 1000

log = logging.getLogger(__name__)


@dataclass
class Warmed:
    """What came of a file."""

    #: Runs of each signature.
    runs: dict[str, int] = field(default_factory=dict)
    #: What was wrong, a line a record.
    faults: list[str] = field(default_factory=list)


def run(servable: Servable, version_path: Path, *, strict: bool = False) -> Warmed:
    """Runs the recorded requests of a version, where it has any.

    Raises:
        ModelLoadError: with `strict`, the first record that could not be run, or a file that can't be read.
    """
    path, warmed = version_path / FILE, Warmed()
    if not path.is_file():
        return warmed
    for fault in _run_all(servable, path, warmed):
        if strict:
            raise ModelLoadError(f"{path}: {fault}; without strict_warmup, the rest would be run")
        log.warning("model %s version %d: %s: %s", servable.name, servable.version, path, fault)
        warmed.faults.append(fault)
    return warmed


def _run_all(servable: Servable, path: Path, warmed: Warmed) -> Iterator[str]:
    """Runs each record; gives the faults."""
    try:
        for number, content in tfrecord.read(path):
            if number > MAX_RECORDS:
                yield f"it has more than {MAX_RECORDS} records: those after them are not run"
                return
            try:
                _run_one(servable, content, warmed)
            except (CorruptFile, ThriftServeError) as error:
                yield f"record {number}: {error}"
            except Unsupported as error:
                yield f"record {number} is skipped: {error}"
    except OSError as error:
        yield f"can't be read: {error.strerror}"


def _run_one(servable: Servable, content: bytes | CorruptFile, warmed: Warmed) -> None:
    if isinstance(content, CorruptFile):
        raise content
    for request in decode(content):
        signature = servable.signatures.get(request.signature)
        if signature is None:
            raise CorruptFile(
                f"the model has no signature {request.signature!r}; it has {', '.join(servable.signatures)}"
            )
        inputs = arrays(request, signature)
        servable.session.run(signature.name, inputs, outputs(request, signature))
        warmed.runs[signature.name] = warmed.runs.get(signature.name, 0) + 1


def samples(servable: Servable, version_path: Path, most: int) -> dict[str, list[Arrays]]:
    """The inputs of recorded requests, by signature: the first `most` of each; damaged records are left out."""
    found: dict[str, list[Arrays]] = {name: [] for name in servable.signatures}
    with contextlib.suppress(OSError):
        for number, content in tfrecord.read(version_path / FILE):
            if number > MAX_RECORDS or all(len(one) >= most for one in found.values()):
                break
            with contextlib.suppress(CorruptFile, Unsupported):
                for request in decode(content) if isinstance(content, bytes) else ():
                    known = found.get(request.signature)
                    if known is not None and len(known) < most:
                        known.append(arrays(request, servable.signatures[request.signature]))
    return found


def arrays(request: RecordedRequest, signature: Signature) -> Arrays:
    """The inputs that a recorded request has for a signature.

    Raises:
        Damaged: they are not what it takes.
        Unsupported: it takes no serialised examples.
    """
    if request.examples is not None:
        return _example_input(request.examples, signature)
    if signature.validated:
        _fit(request.inputs, signature)
    return request.inputs


def _example_input(examples: Sequence[bytes], signature: Signature) -> Arrays:
    """Where a signature has one input, STRING and of one dimension, that is where examples go."""
    specs = list(signature.inputs.values())
    if len(specs) != 1 or specs[0].dtype is not DataType.STRING or (specs[0].shape and len(specs[0].shape) != 1):
        raise Unsupported(f"its examples need a signature with one input of strings, which {signature.name!r} is not")
    if not examples:
        raise CorruptFile("it has no examples")
    content = np.empty(len(examples), object)
    content[:] = examples
    return {specs[0].name: content}


def outputs(request: RecordedRequest, signature: Signature) -> tuple[str, ...]:
    """The outputs that it wants, in the signature's own order: the call made is the one that clients' requests find.

    Raises:
        Damaged: the signature has no such output.
    """
    unknown = [one for one in request.outputs if one not in signature.outputs]
    if unknown and signature.validated:
        raise CorruptFile(f"{signature.name!r} has no output {unknown[0]!r}; it has {', '.join(signature.outputs)}")
    if not signature.validated:
        return tuple(request.outputs)
    return tuple(one for one in signature.outputs if not request.outputs or one in request.outputs)


def _fit(inputs: Arrays, signature: Signature) -> None:
    if inputs.keys() != signature.inputs.keys():
        given, taken = (", ".join(map(repr, sorted(one))) or "none" for one in (inputs, signature.inputs))
        raise CorruptFile(f"{signature.name!r} takes the inputs {taken}, and it has {given}")
    for name, spec in signature.inputs.items():
        array = inputs[name]
        if array.dtype != _dtype(spec) or not _fits(array.shape, spec.shape):
            shape = "any" if spec.shape is None else [size if size is not None else "?" for size in spec.shape]
            raise CorruptFile(
                f"{name!r} of {signature.name!r} is {spec.dtype.name} of shape {shape}, "
                f"and it has {array.dtype.name} of shape {list(array.shape)}"
            )


def _dtype(spec: TensorSpec) -> np.dtype[Any]:
    try:
        return numpy_dtype(spec.dtype)
    except TensorError as error:
        raise CorruptFile(str(error)) from None


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...] | None) -> bool:
    if wanted is None:
        return True
    return len(shape) == len(wanted) and all(other in (None, size) for size, other in zip(shape, wanted, strict=True))
