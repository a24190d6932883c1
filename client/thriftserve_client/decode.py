"""From the contract's structs to what callers get.

    thriftserve_idl.ttypes --answers--> results

The accelerated protocols decode enums as plain ints, so numbers that this client does not know yet arrive
here unhurt: states of that kind are shown as the number.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from thriftserve_client import results
from thriftserve_client.codec import from_tensor
from thriftserve_client.errors import ProtocolMismatch, TensorError
from thriftserve_client.histogram import Histogram
from thriftserve_idl.ttypes import DataType, ErrorCode, ModelState, ServerState, WorkerState


def prediction(response: Any) -> results.Prediction:
    """Of a PredictResponse.

    Raises:
        ProtocolMismatch: an output is not well formed.
    """
    outputs = {}
    for name, tensor in response.outputs.items():
        try:
            outputs[name] = from_tensor(tensor)
        except TensorError as error:
            raise ProtocolMismatch(f"the server sent output {name!r} malformed: {error}") from None
    return results.Prediction(outputs, *_ran(response))


def classifications(response: Any) -> results.PerImage[tuple[results.Classification, ...]]:
    """Of a ClassifyResponse."""
    items = tuple(
        tuple(results.Classification(one.label, one.score, one.class_id) for one in image.classes)
        for image in response.results
    )
    return results.PerImage(items, *_ran(response))


def detections(response: Any) -> results.PerImage[results.ImageDetections]:
    """Of a DetectResponse."""
    items = tuple(
        results.ImageDetections(tuple(map(_detection, image.detections)), image.width, image.height)
        for image in response.results
    )
    return results.PerImage(items, *_ran(response))


def _detection(one: Any) -> results.Detection:
    box = one.box
    return results.Detection(one.label, one.score, one.class_id, box.y_min, box.x_min, box.y_max, box.x_max)


def _ran(response: Any) -> tuple[str, int | None, str | None, results.Timing | None]:
    """What was run, and the timing."""
    spec, timing = response.model_spec, response.timing
    measured = timing and results.Timing(timing.queue_us, timing.compute_us, timing.batch_size, timing.worker_pid)
    return spec.name, spec.version, spec.signature_name, measured


def metadata(answer: Any) -> results.ModelMetadata:
    """Of a ModelMetadata of the contract."""
    spec = answer.model_spec
    signatures = {name: _signature(one) for name, one in sorted(answer.signatures.items())}
    return results.ModelMetadata(spec.name, spec.version, answer.platform, signatures, tuple(answer.labels))


def _signature(one: Any) -> results.SignatureInfo:
    inputs = {name: _tensor_info(info) for name, info in sorted(one.inputs.items())}
    outputs = {name: _tensor_info(info) for name, info in sorted(one.outputs.items())}
    return results.SignatureInfo(one.name, one.method_name, inputs, outputs)


def _tensor_info(one: Any) -> results.TensorInfo:
    try:
        dtype = DataType(one.dtype)
    except ValueError:
        raise ProtocolMismatch(f"the server names dtype {one.dtype} for {one.name!r}, unknown to this client") from None
    shape = None if one.unknown_rank else tuple(size if size >= 0 else None for size in one.shape)
    return results.TensorInfo(one.name, dtype, shape)


def model_status(answer: Any) -> results.ModelStatus:
    """Of a ModelStatus of the contract."""
    counted = None if answer.transitions is None else {_state(key): n for key, n in answer.transitions.items()}
    return results.ModelStatus(answer.name, tuple(map(_version_status, answer.versions)), counted)


def _version_status(one: Any) -> results.VersionStatus:
    error = None if one.error_code is None else _name(ErrorCode, one.error_code)
    return results.VersionStatus(
        one.version,
        _state(one.state),
        error,
        one.error_message or "",
        tuple(one.labels or ()),
        one.note or "",
        one.load_time_ms,
    )


def _state(number: int) -> str:
    """A version's state by name. END is a reserved word of Thrift: the contract calls it ENDED, operators END."""
    return "END" if number == ModelState.ENDED else _name(ModelState, number)


def server_status(answer: Any) -> results.ServerStatus:
    """Of a ServerStatus of the contract."""
    return results.ServerStatus(
        state=_name(ServerState, answer.state),
        server_type=answer.server_type,
        uptime_s=answer.uptime_s,
        version=answer.version,
        pid=answer.pid,
        models=tuple(answer.models),
        past_requests=answer.past_requests,
        past_errors=answer.past_errors,
        refused=answer.refused,
        # Older servers list a worker that is still to be made with pid 0, which signals the sender's own group.
        workers=tuple(_worker_status(one) for one in answer.workers if one.pid > 0),
        histograms=tuple(map(_histogram, answer.histograms or ())),
        queued=answer.queued,
        queued_bytes=answer.queued_bytes,
    )


def _histogram(one: Any) -> Histogram:
    return Histogram(one.name, one.unit, tuple(one.bounds), tuple(one.counts), one.sum)


def _worker_status(one: Any) -> results.WorkerStatus:
    return results.WorkerStatus(
        index=one.index,
        pid=one.pid,
        state=_name(WorkerState, one.state),
        device=one.device,
        rss_bytes=one.rss_bytes,
        cpu_s=one.cpu_s,
        uptime_s=one.uptime_s,
        requests=one.requests,
        errors=one.errors,
        in_flight=one.in_flight,
        connections=one.connections,
        restarts=one.restarts,
        role=one.role or "worker",
        note=one.note or "",
    )


def _name(enum: type[IntEnum], number: int) -> str:
    return enum(number).name if number in set(enum) else str(number)
