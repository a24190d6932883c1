"""Runs each signature before the first client, who then pays for no tracing and no allocation.

    requests recorded for the version  --run_recorded-->  session.run
    a signature that none of them called  --the model's own example, or zeros at batch 1-->  session.run

TensorFlow Serving's warm-up file has the recorded requests: VERSION_DIR/assets.extra/tf_serving_warmup_requests, a
TFRecord file of PredictionLogs. The log gets one line a model with the seconds it took, and one for each record that
can't be run; that fails the load only if `strict` asks for it.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from thriftserve.errors import ModelLoadError, ThriftServeError
from thriftserve.files import CorruptFile
from thriftserve.models import prediction_log
from thriftserve.models.prediction_log import RecordedRequest, Unsupported, decode
from thriftserve.models.registry import Servable
from thriftserve.models.sample_inputs import zeros
from thriftserve.models.session import Arrays, Signature, TensorSpec, describe_shape
from thriftserve_client.codec import numpy_dtype
from thriftserve_client.errors import TensorError
from thriftserve_idl.ttypes import DataType

#: Below a version's directory.
FILE = Path("assets.extra", "tf_serving_warmup_requests")
#: TensorFlow Serving's limit: it refuses a file of more as a mistake.
MAX_RECORDS = 1000

log = logging.getLogger(__name__)


@dataclass
class RecordedRuns:
    """The outcome of running a file of recorded requests."""

    #: How many ran, by signature.
    runs: dict[str, int] = field(default_factory=dict)
    #: What was wrong, a line a record.
    faults: list[str] = field(default_factory=list)


def run(servable: Servable, version_path: Path | None = None, *, strict: bool = False) -> float:
    """Run the requests recorded for a version, then every other signature once with its example, or with zeros.

    A signature that fails with zeros is only logged: some models refuse zeros, and serve well.

    Args:
        servable: the version.
        version_path: its directory; None: it has none, as a Python class.
        strict: fail if a recorded request or an example can't be run.

    Returns:
        Seconds it took.

    Raises:
        ModelLoadError: With `strict`, a recorded request or an example could not be run.
    """
    began = time.monotonic()
    recorded = RecordedRuns()
    if version_path is not None:
        recorded = run_recorded(servable, version_path, strict=strict)
    for signature in servable.signatures.values():
        if signature.name in recorded.runs:
            continue
        if signature.name in servable.session.examples:
            _run_example(servable, signature, strict=strict)
        elif signature.validated:
            _run_zeros(servable, signature)
    seconds = time.monotonic() - began
    requests = f", with {sum(recorded.runs.values())} recorded requests" if recorded.runs else ""
    log.info("warmed model %s version %d up in %.3f s%s", servable.name, servable.version, seconds, requests)
    return seconds


def _run_zeros(servable: Servable, signature: Signature) -> None:
    try:
        servable.session.run(signature.name, zeros(signature, servable.image), tuple(signature.outputs))
    except ThriftServeError as error:
        _log_failure(servable, signature, error)


def _run_example(servable: Servable, signature: Signature, *, strict: bool) -> None:
    example = servable.session.examples[signature.name]
    try:
        servable.session.run(signature.name, example, tuple(signature.outputs))
    except ThriftServeError as error:
        if strict:
            raise ModelLoadError(f"the example of {signature.name!r} can't be run: {error.message}") from error
        _log_failure(servable, signature, error)


def _log_failure(servable: Servable, signature: Signature, error: ThriftServeError) -> None:
    log.warning(
        "model %s version %d: the warm-up of %r failed, its first request will take longer: %s",
        servable.name, servable.version, signature.name, error.message,
    )  # fmt: skip


def run_recorded(servable: Servable, version_path: Path, *, strict: bool = False) -> RecordedRuns:
    """Run the requests recorded for a version, if it has any.

    Raises:
        ModelLoadError: With `strict`, the first record could not be run, or the file can't be read.
    """
    path, recorded = version_path / FILE, RecordedRuns()
    if not path.is_file():
        return recorded
    for fault in _run_file(servable, path, recorded):
        if strict:
            raise ModelLoadError(f"{path}: {fault}; without strict_warmup, the rest would be run")
        log.warning("model %s version %d: %s: %s", servable.name, servable.version, path, fault)
        recorded.faults.append(fault)
    return recorded


def _run_file(servable: Servable, path: Path, recorded: RecordedRuns) -> Iterator[str]:
    """Run each record; yield the faults."""
    try:
        for number, content in prediction_log.read_records(path):
            if number > MAX_RECORDS:
                yield f"it has more than {MAX_RECORDS} records: those after them are not run"
                return
            try:
                _run_record(servable, content, recorded)
            except (CorruptFile, ThriftServeError) as error:
                yield f"record {number}: {error}"
            except Unsupported as error:
                yield f"record {number} is skipped: {error}"
    except OSError as error:
        yield f"can't be read: {error.strerror}"


def _run_record(servable: Servable, content: bytes | CorruptFile, recorded: RecordedRuns) -> None:
    if isinstance(content, CorruptFile):
        raise content
    for request in decode(content):
        signature = servable.signatures.get(request.signature)
        if signature is None:
            raise CorruptFile(
                f"the model has no signature {request.signature!r}; it has {', '.join(servable.signatures)}"
            )
        inputs = request_inputs(request, signature)
        servable.session.run(signature.name, inputs, request_outputs(request, signature))
        recorded.runs[signature.name] = recorded.runs.get(signature.name, 0) + 1


def recorded_inputs(servable: Servable, version_path: Path, most: int) -> dict[str, list[Arrays]]:
    """Return the inputs of recorded requests, by signature: the first `most` of each, without damaged records."""
    inputs: dict[str, list[Arrays]] = {name: [] for name in servable.signatures}
    with contextlib.suppress(OSError):
        for number, content in prediction_log.read_records(version_path / FILE):
            if number > MAX_RECORDS or all(len(own) >= most for own in inputs.values()):
                break
            with contextlib.suppress(CorruptFile, Unsupported):
                for request in decode(content) if isinstance(content, bytes) else ():
                    own = inputs.get(request.signature)
                    if own is not None and len(own) < most:
                        own.append(request_inputs(request, servable.signatures[request.signature]))
    return inputs


def request_inputs(request: RecordedRequest, signature: Signature) -> Arrays:
    """Return the inputs that a recorded request has for a signature.

    Raises:
        CorruptFile: They are not what the signature declares.
        Unsupported: The signature can't be called with serialized examples.
    """
    if request.examples is not None:
        return _example_input(request.examples, signature)
    if signature.validated:
        _check_inputs(request.inputs, signature)
    return request.inputs


def request_outputs(request: RecordedRequest, signature: Signature) -> tuple[str, ...]:
    """Return the outputs that a recorded request wants, in the signature's order, as clients' requests have them.

    Raises:
        CorruptFile: The signature has no such output.
    """
    if not signature.validated:
        return tuple(request.outputs)
    unknown = [name for name in request.outputs if name not in signature.outputs]
    if unknown:
        raise CorruptFile(f"{signature.name!r} has no output {unknown[0]!r}; it has {', '.join(signature.outputs)}")
    return tuple(name for name in signature.outputs if not request.outputs or name in request.outputs)


def _example_input(examples: Sequence[bytes], signature: Signature) -> Arrays:
    """Return examples as the only input of a signature, which must be STRING and of one dimension."""
    specs = list(signature.inputs.values())
    if len(specs) != 1 or specs[0].dtype is not DataType.STRING or (specs[0].shape and len(specs[0].shape) != 1):
        raise Unsupported(f"its examples need a signature with one input of strings, which {signature.name!r} is not")
    if not examples:
        raise CorruptFile("it has no examples")
    content = np.empty(len(examples), object)
    content[:] = examples
    return {specs[0].name: content}


def _check_inputs(inputs: Arrays, signature: Signature) -> None:
    if inputs.keys() != signature.inputs.keys():
        given, expected = (", ".join(map(repr, sorted(names))) or "none" for names in (inputs, signature.inputs))
        raise CorruptFile(f"{signature.name!r} takes the inputs {expected}, and it has {given}")
    for name, spec in signature.inputs.items():
        array = inputs[name]
        if array.dtype != _dtype(spec) or not spec.accepts(array.shape):
            raise CorruptFile(
                f"{name!r} of {signature.name!r} is {spec.dtype.name} of shape {describe_shape(spec.shape)}, "
                f"and it has {array.dtype.name} of shape {list(array.shape)}"
            )


def _dtype(spec: TensorSpec) -> np.dtype[Any]:
    try:
        return numpy_dtype(spec.dtype)
    except TensorError as error:
        raise CorruptFile(str(error)) from None
