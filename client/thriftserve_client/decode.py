"""Convert the contract's structs into the values that callers get.

    thriftserve_idl.ttypes --> results

The accelerated protocols decode enums as plain ints, so a state that this client does not know is given as its number.
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
    """Convert a PredictResponse.

    Raises:
        ProtocolMismatch: an output is malformed.
    """
    outputs = {}
    for name, tensor in response.outputs.items():
        try:
            outputs[name] = from_tensor(tensor)
        except TensorError as error:
            raise ProtocolMismatch(f"the server sent output {name!r} malformed: {error}") from None
    return results.Prediction(outputs, *_ran(response))


def classifications(response: Any) -> results.PerImage[tuple[results.Classification, ...]]:
    """Convert a ClassifyResponse."""
    items = tuple(
        tuple(results.Classification(best.label, best.score, best.class_id) for best in image.classes)
        for image in response.results
    )
    return results.PerImage(items, *_ran(response))


def detections(response: Any) -> results.PerImage[results.ImageDetections]:
    """Convert a DetectResponse."""
    items = tuple(
        results.ImageDetections(tuple(map(_detection, image.detections)), image.width, image.height)
        for image in response.results
    )
    return results.PerImage(items, *_ran(response))


def _detection(struct: Any) -> results.Detection:
    box = struct.box
    return results.Detection(struct.label, struct.score, struct.class_id, box.y_min, box.x_min, box.y_max, box.x_max)


def _ran(response: Any) -> tuple[str, int | None, str | None, results.Timing | None]:
    """Return model, version, signature and timing of a run."""
    spec, timing = response.model_spec, response.timing
    converted = timing and results.Timing(timing.queue_us, timing.compute_us, timing.batch_size, timing.worker_pid)
    return spec.name, spec.version, spec.signature_name, converted


def metadata(struct: Any) -> results.ModelMetadata:
    """Convert a ModelMetadata of the contract."""
    spec = struct.model_spec
    signatures = {name: _signature(signature) for name, signature in sorted(struct.signatures.items())}
    return results.ModelMetadata(spec.name, spec.version, struct.platform, signatures, tuple(struct.labels))


def _signature(struct: Any) -> results.SignatureInfo:
    inputs = {name: _tensor_info(info) for name, info in sorted(struct.inputs.items())}
    outputs = {name: _tensor_info(info) for name, info in sorted(struct.outputs.items())}
    return results.SignatureInfo(struct.name, struct.method_name, inputs, outputs)


def _tensor_info(struct: Any) -> results.TensorInfo:
    try:
        dtype = DataType(struct.dtype)
    except ValueError:
        raise ProtocolMismatch(f"{struct.name!r} has dtype {struct.dtype}, which this client does not know") from None
    shape = None if struct.unknown_rank else tuple(size if size >= 0 else None for size in struct.shape)
    return results.TensorInfo(struct.name, dtype, shape, struct.tensor_name or "")


def model_status(struct: Any) -> results.ModelStatus:
    """Convert a ModelStatus of the contract."""
    counted = None if struct.transitions is None else {_state(key): n for key, n in struct.transitions.items()}
    return results.ModelStatus(struct.name, tuple(map(_version_status, struct.versions)), counted)


def _version_status(struct: Any) -> results.VersionStatus:
    error = None if struct.error_code is None else _name(ErrorCode, struct.error_code)
    return results.VersionStatus(
        struct.version,
        _state(struct.state),
        error,
        struct.error_message or "",
        tuple(struct.labels or ()),
        struct.note or "",
        struct.load_time_ms,
    )


def _state(number: int) -> str:
    """Return a version's state by name. The contract says ENDED for END, which is a reserved word of Thrift."""
    return "END" if number == ModelState.ENDED else _name(ModelState, number)


def server_status(struct: Any) -> results.ServerStatus:
    """Convert a ServerStatus of the contract."""
    return results.ServerStatus(
        state=_name(ServerState, struct.state),
        server_type=struct.server_type,
        uptime_s=struct.uptime_s,
        version=struct.version,
        pid=struct.pid,
        models=tuple(struct.models),
        past_requests=struct.past_requests,
        past_errors=struct.past_errors,
        refused=struct.refused,
        # Older servers list a worker that has not started with pid 0, which a signal would send to the sender's group.
        workers=tuple(_worker_status(worker) for worker in struct.workers if worker.pid > 0),
        histograms=tuple(map(_histogram, struct.histograms or ())),
        queued=struct.queued,
        queued_bytes=struct.queued_bytes,
    )


def _histogram(struct: Any) -> Histogram:
    return Histogram(struct.name, struct.unit, tuple(struct.bounds), tuple(struct.counts), struct.sum)


def _worker_status(struct: Any) -> results.WorkerStatus:
    return results.WorkerStatus(
        index=struct.index,
        pid=struct.pid,
        state=_name(WorkerState, struct.state),
        device=struct.device,
        rss_bytes=struct.rss_bytes,
        cpu_s=struct.cpu_s,
        uptime_s=struct.uptime_s,
        requests=struct.requests,
        errors=struct.errors,
        in_flight=struct.in_flight,
        connections=struct.connections,
        restarts=struct.restarts,
        role=struct.role or "worker",
        note=struct.note or "",
    )


def _name(enum: type[IntEnum], number: int) -> str:
    return enum(number).name if number in set(enum) else str(number)
