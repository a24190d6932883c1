"""Convert the server's own types into the contract's structs.

    Servable | VersionStatus | ServerSnapshot | arrays --> structs of the IDL

Enums of both sides have the same numbers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from thriftserve.batching import TaskResult
from thriftserve.deadline import Deadline
from thriftserve.errors import Internal
from thriftserve.models.registry import Servable
from thriftserve.models.session import Array, Signature, TensorSpec
from thriftserve.repository.version_states import VersionStatus
from thriftserve.service.errors import quote
from thriftserve.service.validation import RequestValidator
from thriftserve.status import ServerSnapshot, WorkerSnapshot
from thriftserve_client.codec import to_tensor
from thriftserve_idl.ttypes import (
    ErrorCode,
    Histogram,
    ModelMetadata,
    ModelSpec,
    ModelState,
    ModelStatus,
    ModelVersionStatus,
    ServerState,
    ServerStatus,
    SignatureInfo,
    Tensor,
    TensorInfo,
    Timing,
    WorkerState,
    WorkerStatus,
)


def resolved_spec(servable: Servable, validator: RequestValidator) -> ModelSpec:
    """Return which model, version and signature ran."""
    return ModelSpec(servable.name, servable.version, None, validator.signature.name)


def timing(deadline: Deadline, result: TaskResult) -> Timing:
    """Return where a request's time went, and the process that ran it: this one."""
    return Timing(queue_us(deadline, result), result.compute_us, result.batch_size, os.getpid())


def queue_us(deadline: Deadline, result: TaskResult) -> int:
    """Return the microseconds from a request's arrival until its run began."""
    return int((result.began - deadline.arrived) * 1e6)


def tensors(outputs: Mapping[str, Array]) -> dict[str, Tensor]:
    """Return one tensor for each output.

    Raises:
        Internal: no tensor can carry what the model returned.
    """
    sent: dict[str, Tensor] = {}
    for name, array in outputs.items():
        try:
            sent[name] = to_tensor(array)
        except ValueError as error:
            raise Internal(f"the model's output {quote(name)} can't be sent: {error}") from error
    return sent


def model_metadata(servable: Servable, signatures: Iterable[Signature]) -> ModelMetadata:
    """Return the signatures and labels of a servable."""
    return ModelMetadata(
        ModelSpec(servable.name, servable.version),
        servable.session.platform,
        {signature.name: _signature(signature) for signature in signatures},
        list(servable.labels),
    )


def _signature(signature: Signature) -> SignatureInfo:
    return SignatureInfo(
        signature.name,
        signature.method_name,
        {name: _tensor_info(spec) for name, spec in signature.inputs.items()},
        {name: _tensor_info(spec) for name, spec in signature.outputs.items()},
    )


def _tensor_info(spec: TensorSpec) -> TensorInfo:
    sizes = [-1 if size is None else size for size in spec.shape or ()]
    return TensorInfo(spec.name, spec.dtype, sizes, spec.shape is None, spec.tensor_name or None)


def model_status(
    name: str, versions: Iterable[VersionStatus], transitions: dict[ModelState, int] | None = None
) -> ModelStatus:
    """Return the states of a model's versions, newest first, and how often they entered each state."""
    newest_first = sorted(versions, key=lambda status: status.version, reverse=True)
    return ModelStatus(name, [_version_status(status) for status in newest_first], transitions)


def _version_status(status: VersionStatus) -> ModelVersionStatus:
    code = None if status.error_code is None else ErrorCode(status.error_code)
    return ModelVersionStatus(
        status.version,
        ModelState(status.state),
        code,
        status.error_message or "",
        list(status.labels),
        status.note or None,
        None if status.load_time_s is None else round(status.load_time_s * 1e3, 3),
    )


def server_status(snapshot: ServerSnapshot, models: Iterable[str], version: str) -> ServerStatus:
    """Return the state of the server and of its processes."""
    return ServerStatus(
        state=ServerState(snapshot.phase),
        server_type=snapshot.server_type,
        uptime_s=snapshot.uptime_s,
        version=version,
        pid=snapshot.pid,
        workers=[_worker_status(worker) for worker in snapshot.workers],
        models=sorted(models),
        past_requests=snapshot.past_requests,
        past_errors=snapshot.past_errors,
        refused=snapshot.refused,
        histograms=[
            Histogram(histogram.name, histogram.unit, list(histogram.bounds), list(histogram.counts), histogram.sum)
            for histogram in snapshot.histograms
        ],
        queued=snapshot.queued,
        queued_bytes=snapshot.queued_bytes,
    )


def _worker_status(worker: WorkerSnapshot) -> WorkerStatus:
    return WorkerStatus(
        index=worker.index,
        pid=worker.pid,
        state=WorkerState(worker.phase),
        device=worker.device,
        rss_bytes=worker.rss_bytes,
        cpu_s=worker.cpu_s,
        uptime_s=worker.uptime_s,
        requests=worker.requests,
        errors=worker.errors,
        in_flight=worker.in_flight,
        connections=worker.connections,
        restarts=worker.restarts,
        role=worker.role.name.lower(),
        note=worker.note or None,
    )
