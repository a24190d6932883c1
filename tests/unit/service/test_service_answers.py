"""What the server tells of itself: metadata, model and server states, and the control service's answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from numpy_models import Counter, NumpySession, Server, half_plus_two, over_the_wire, serve, signature
from thriftserve.errors import ConfigError
from thriftserve.models.registry import Servable
from thriftserve.repository.version_states import VersionStatus
from thriftserve.service import ControlHandler
from thriftserve_idl.ttypes import (
    DataType,
    ErrorCode,
    LoadModelRequest,
    ModelSpec,
    ModelState,
    PredictError,
    ServerState,
    SetVersionLabelRequest,
    WorkerState,
)


def two_signatures() -> NumpySession:
    one = signature({"x": (DataType.FLOAT, (None, 3))}, {"y": (DataType.INT64, None)}, "one")
    two = signature({"s": (DataType.STRING, ())}, {"t": (DataType.BOOL, (2,))}, "two")
    return NumpySession({"one": (one, dict), "two": (two, dict)})


def test_ping() -> None:
    """Ping answers nothing, and is no error."""
    server = serve(half_plus_two())
    assert server.call("ping") is None
    assert server.counter.errors == 0


def test_metadata_describes_every_signature() -> None:
    """Names, types and shapes: -1 where any size will do, unknown_rank where any rank will; labels and platform."""
    metadata = serve(two_signatures(), labels=("a", "b")).call("getModelMetadata", ModelSpec("m"))
    assert (metadata.model_spec.name, metadata.model_spec.version, metadata.platform) == ("m", 3, "python")
    assert metadata.labels == ["a", "b"]
    assert set(metadata.signatures) == {"one", "two"}
    one, two = metadata.signatures["one"], metadata.signatures["two"]
    assert (one.name, one.method_name) == ("one", "test/method")
    x, y, s = one.inputs["x"], one.outputs["y"], two.inputs["s"]
    assert (x.name, x.dtype, x.shape, x.unknown_rank) == ("x", DataType.FLOAT, [-1, 3], False)
    assert (y.dtype, y.shape, y.unknown_rank) == (DataType.INT64, [], True)
    assert (s.dtype, s.shape, s.unknown_rank) == (DataType.STRING, [], False)


def test_metadata_of_one_signature() -> None:
    """A signature that is named is described alone; one that is not there is told."""
    server = serve(two_signatures())
    assert set(server.call("getModelMetadata", ModelSpec("m", signature_name="two")).signatures) == {"two"}
    with pytest.raises(PredictError, match="has no signature 'three': it has 'one', 'two'") as caught:
        server.call("getModelMetadata", ModelSpec("m", signature_name="three"))
    assert caught.value.code == ErrorCode.NOT_FOUND


@pytest.fixture
def versions() -> Server:
    server = Server(
        Servable("b", 1, half_plus_two(), note="frozen"),
        Servable("b", 10, half_plus_two()),
        Servable("b", 2, half_plus_two()),
        Servable("a", 7, half_plus_two()),
    )
    server.registry.relabel({"b": {"stable": 1}})
    return server


def test_model_status_tells_every_version(versions: Server) -> None:
    """All versions newest first; the one that is named, by number or label, alone."""
    status = versions.call("getModelStatus", ModelSpec("b"))
    assert status.name == "b"
    assert [one.version for one in status.versions] == [10, 2, 1]
    oldest = status.versions[-1]
    assert (oldest.state, oldest.error_code, oldest.error_message) == (ModelState.AVAILABLE, None, "")
    assert (oldest.labels, oldest.note) == (["stable"], "frozen")
    assert status.versions[0].note is None
    for named in (ModelSpec("b", 1), ModelSpec("b", None, "stable")):
        assert [one.version for one in versions.call("getModelStatus", named).versions] == [1]


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        (ModelSpec("z"), ErrorCode.NOT_FOUND),
        (ModelSpec("b", 99), ErrorCode.NOT_FOUND),
        (ModelSpec("b", 1, "stable"), ErrorCode.INVALID_ARGUMENT),
        (ModelSpec(None), ErrorCode.INVALID_ARGUMENT),
    ],
)
def test_status_and_metadata_of_what_is_not_there(versions: Server, spec: ModelSpec, code: ErrorCode) -> None:
    """An unknown model or version, and a spec that contradicts itself, fail as they do in predict."""
    for method in ("getModelStatus", "getModelMetadata"):
        with pytest.raises(PredictError) as caught:
            versions.call(method, spec)
        assert caught.value.code == code


def test_list_models(versions: Server) -> None:
    """Every model by name, with every version."""
    listed = versions.call("listModels")
    assert [(one.name, [each.version for each in one.versions]) for one in listed] == [("a", [7]), ("b", [10, 2, 1])]


def test_server_status_tells_server_and_workers(versions: Server) -> None:
    """Each field of the snapshot stands in its field of the answer."""
    status = versions.call("getServerStatus")
    assert (status.state, status.server_type, status.version) == (ServerState.DEGRADED, "TProcessPoolServer", "1.2.3")
    assert (status.pid, status.uptime_s, status.models) == (11, 2.5, ["a", "b"])
    assert (status.past_requests, status.past_errors, status.refused) == (8, 9, 10)
    (worker,) = status.workers
    assert (worker.index, worker.pid, worker.state, worker.device) == (1, 12, WorkerState.BUSY, "gpu:1")
    assert (worker.rss_bytes, worker.cpu_s, worker.uptime_s) == (1000, 1.5, 2.0)
    assert (worker.requests, worker.errors, worker.in_flight) == (30, 4, 5)
    assert (worker.connections, worker.restarts) == (6, 7)


class Told:
    """Stands for a keeper: notes what it is told."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.calls: list[Any] = []
        self._fault = fault

    def reload(self) -> None:
        self.calls.append("reload")
        if self._fault is not None:
            raise self._fault

    def load(
        self, name: str, source: str, version: int | None = None, sha256: str | None = None
    ) -> list[VersionStatus]:
        self.calls.append((name, source, version, sha256))
        return [VersionStatus(7, ModelState.START)]

    def unload(self, name: str, version: int | None = None) -> list[VersionStatus]:
        self.calls.append((name, version))
        return [VersionStatus(7, ModelState.UNLOADING)]

    def label(
        self, name: str, label: str, version: int | None, *, allow_unavailable: bool = False
    ) -> list[VersionStatus]:
        self.calls.append((name, label, version, allow_unavailable))
        return [VersionStatus(7, ModelState.AVAILABLE, labels=(label,))]

    def status(self, name: str, version: int | None = None) -> list[VersionStatus]:
        self.calls.append((name, version))
        return [VersionStatus(7, ModelState.START, note="downloading")]


def test_reload_is_called() -> None:
    """reloadConfig begins the reload; its failure is answered and counted."""
    told = Told()
    ControlHandler(told, counters=Counter()).reloadConfig()
    assert told.calls == ["reload"]

    counter = Counter()
    with pytest.raises(PredictError, match="port is 99999"):
        ControlHandler(Told(ConfigError("port is 99999")), counters=counter).reloadConfig()
    assert counter.errors == 1


def test_operators_are_heard() -> None:
    """What ModelControl is asked for reaches who does it, and its answer is the model's states."""
    told = Told()
    handler = ControlHandler(told, counters=Counter())
    states = [
        handler.loadModel(LoadModelRequest("m", "/models/m", 7, "ab")),
        handler.unloadModel(ModelSpec("m", 7)),
        handler.setVersionLabel(SetVersionLabelRequest("m", "stable", 7)),
        handler.getLoadStatus(ModelSpec("m")),
    ]
    assert told.calls == [("m", "/models/m", 7, "ab"), ("m", 7), ("m", "stable", 7, False), ("m", None)]
    assert [(one.name, one.versions[0].state) for one in states] == [
        ("m", ModelState.START), ("m", ModelState.UNLOADING), ("m", ModelState.AVAILABLE), ("m", ModelState.START),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("call", "code", "said"),
    [
        (lambda handler: handler.loadModel(None), ErrorCode.INVALID_ARGUMENT, "name or source is not set"),
        (lambda handler: handler.unloadModel(ModelSpec("m", None, "stable")), ErrorCode.INVALID_ARGUMENT, "number"),
        (lambda handler: handler.setVersionLabel(None), ErrorCode.INVALID_ARGUMENT, "name is not set"),
    ],
)
def test_what_operators_can_not_have(call: Callable[[ControlHandler], Any], code: ErrorCode, said: str) -> None:
    """What is left out, or not there yet, is an error that says so and is not retryable."""
    with pytest.raises(PredictError, match=said) as caught:
        call(ControlHandler(Told(), counters=Counter()))
    error = over_the_wire(caught.value)
    assert (error.code, error.retryable) == (code, False)
