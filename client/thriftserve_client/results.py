"""The values that calls return: plain Python, no Thrift types but DataType.

PredictResponse, ModelMetadata, ServerStatus, … --decode--> the classes here
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, overload

import numpy as np

from thriftserve_client.histogram import Histogram
from thriftserve_idl.ttypes import DataType

Array = np.ndarray[Any, np.dtype[Any]]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Timing:
    """Where a request's time went, as the server saw it.

    Attributes:
        queue_us: microseconds from its arrival until its run began.
        compute_us: microseconds in the model.
        batch_size: rows in the run, those of other requests included.
        worker_pid: process id of the worker that ran it.
    """

    queue_us: int
    compute_us: int
    batch_size: int
    worker_pid: int


@dataclass(frozen=True, eq=False)
class Prediction(Mapping[str, Array]):
    """The outputs of a run by name, as read-only arrays.

    `model`, `version` and `signature` are those that the server ran.
    """

    outputs: dict[str, Array]
    model: str
    version: int | None
    signature: str | None
    timing: Timing | None

    def __getitem__(self, name: str) -> Array:
        try:
            return self.outputs[name]
        except KeyError:
            raise KeyError(
                f"output {name!r} does not exist: expected one of {', '.join(self.outputs) or 'none'}"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.outputs)

    def __len__(self) -> int:
        return len(self.outputs)


@dataclass(frozen=True, eq=False)
class PerImage(Sequence[Item], Generic[Item]):
    """One item for each image of the request, in its order; the model, version and signature that ran."""

    items: tuple[Item, ...]
    model: str
    version: int | None
    signature: str | None
    timing: Timing | None

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class Classification:
    """One class of one image: its name, its score from the model, and its number."""

    label: str
    score: float
    class_id: int


@dataclass(frozen=True)
class Detection:
    """One object in an image; its box in fractions (0 to 1) of height and width, from the upper left corner."""

    label: str
    score: float
    class_id: int
    y_min: float
    x_min: float
    y_max: float
    x_max: float


@dataclass(frozen=True)
class ImageDetections(Sequence[Detection]):
    """The objects in one image, best first; `width` and `height` of the upright image, in pixels."""

    detections: tuple[Detection, ...]
    width: int
    height: int

    @overload
    def __getitem__(self, index: int) -> Detection: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Detection]: ...
    def __getitem__(self, index: int | slice) -> Detection | Sequence[Detection]:
        return self.detections[index]

    def __len__(self) -> int:
        return len(self.detections)


@dataclass(frozen=True)
class TensorInfo:
    """Name, type and shape of an input or output. A size of None is any size; a shape of None is any rank.

    `tensor_name` is its name in the model's graph, empty where that is not known.
    """

    name: str
    dtype: DataType
    shape: tuple[int | None, ...] | None
    tensor_name: str = ""


@dataclass(frozen=True)
class SignatureInfo:
    """One function that a model offers."""

    name: str
    method_name: str
    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]


@dataclass(frozen=True)
class ModelMetadata:
    """What one version of a model offers: signatures by name, and labels by class number."""

    model: str
    version: int | None
    platform: str
    signatures: dict[str, SignatureInfo]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class VersionStatus:
    """The state of one version: START, LOADING, AVAILABLE, UNLOADING or END.

    `error` is the name of the ErrorCode if it failed, `error_message` the failure in words, `note` how it is served.
    """

    version: int
    state: str
    error: str | None = None
    error_message: str = ""
    labels: tuple[str, ...] = ()
    note: str = ""
    #: Milliseconds to load and warm it up; None if no worker reported it.
    load_time_ms: float | None = None


@dataclass(frozen=True)
class ModelStatus:
    """The versions of one model, newest first."""

    name: str
    versions: tuple[VersionStatus, ...] = ()
    #: How often its versions entered each state since the server started; None if the server does not count.
    transitions: dict[str, int] | None = None


@dataclass(frozen=True)
class WorkerStatus:
    """One worker process: STARTING, IDLE, BUSY or DRAINING, and its counters (see the IDL for each)."""

    index: int
    pid: int
    state: str
    device: str
    rss_bytes: int
    cpu_s: float
    uptime_s: float
    requests: int
    errors: int
    in_flight: int
    connections: int
    restarts: int
    role: str = "worker"
    note: str = ""


@dataclass(frozen=True)
class ServerStatus:
    """A server (STARTING, SERVING, DRAINING or DEGRADED) and its workers (see the IDL for each field).

    `histograms` is empty if the server is too old for them; `queued` and `queued_bytes` are None if it has no queue.
    """

    state: str
    server_type: str
    uptime_s: float
    version: str
    pid: int
    models: tuple[str, ...]
    past_requests: int
    past_errors: int
    refused: int
    workers: tuple[WorkerStatus, ...] = field(default=())
    histograms: tuple[Histogram, ...] = ()
    queued: int | None = None
    queued_bytes: int | None = None
