"""Requests of other shapes than the signature declares: over REST v1 the graph decides, as in TensorFlow Serving."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway_served import Door, gateway
from served import Served
from thriftserve.models.tensorflow.preload import preload
from thriftserve_client import InvalidArgumentError
from thriftserve_proto import saved_model_pb2


def save_models(folder: Path) -> None:
    """Saves "column" (elementwise, [?, 1]), "dense" ([?, 3] times a matrix), "shapeless" (its TensorInfo has none)."""
    preload()
    import tensorflow as tf

    column = tf.function(lambda x: {"y": x / 2 + 2}, input_signature=[tf.TensorSpec([None, 1], tf.float32, name="x")])
    weights = tf.constant(np.arange(6, dtype=np.float32).reshape(3, 2))
    dense = tf.function(
        lambda x: {"y": tf.linalg.matmul(x, weights)}, input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")]
    )
    for name, function in (("column", column), ("dense", dense), ("shapeless", column)):
        tf.saved_model.save(tf.Module(), str(folder / name / "1"), signatures=function)
    path = folder / "shapeless" / "1" / "saved_model.pb"
    message = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    message.meta_graphs[0].signature_def["serving_default"].inputs["x"].ClearField("tensor_shape")
    path.write_bytes(message.SerializeToString())


@pytest.fixture(scope="module", params=["TBatchingServer", "TThreadedServer"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Door]]:
    """A server of the models, with its gateway."""
    folder = tmp_path_factory.mktemp("shapes")
    save_models(folder)
    flags = [word for name in ("column", "dense", "shapeless") for word in ("--model", f"{name}={folder / name}")]
    with Served(*flags, "--workers", "1", "--server-type", request.param) as server, gateway(server.port) as door:
        yield server, door


def answer(door: Door, model: str, **body: Any) -> Any:
    """What a predict answers."""
    response = door.post(f"/v1/models/{model}:predict", body)
    return response.json() if response.status == 200 else (response.status, response.json()["error"])


def test_the_graph_decides(served: tuple[Served, Door]) -> None:
    """What the graph takes is answered in the shape that it has; what it refuses is refused in its words."""
    _, door = served
    assert answer(door, "column", instances=[1.0, 2.0, 5.0]) == {"predictions": [2.5, 3.0, 4.5]}
    assert answer(door, "column", instances=[[1.0], [2.0]]) == {"predictions": [[2.5], [3.0]]}
    assert answer(door, "column", inputs=7.0) == {"outputs": 5.5}
    assert answer(door, "column", inputs=[[[1.0, 2.0]]]) == {"outputs": [[[2.5, 3.0]]]}
    assert answer(door, "shapeless", instances=[1.0, 2.0]) == {"predictions": [2.5, 3.0]}
    assert answer(door, "dense", instances=[[1.0, 1.0, 1.0]]) == {"predictions": [[6.0, 9.0]]}
    status, error = answer(door, "dense", instances=[[1.0, 1.0]])
    assert status == 400
    assert "atmul" in error or "Matrix" in error


def test_other_shapes_share_no_run(served: tuple[Served, Door]) -> None:
    """Requests of many shapes at once get the right answers, each in its own shape."""
    _, door = served
    shapes = [(3,), (2, 1), (1, 4), (), (5, 1), (2, 2, 1)]

    def ask(number: int) -> bool:
        shape = shapes[number % len(shapes)]
        sent = np.full(shape, number, np.float32)
        own = Door(door.process)
        got = np.array(answer(own, "column", inputs=sent.tolist())["outputs"], np.float32)
        own.hang_up()
        return got.shape == shape and bool((got == sent / 2 + 2).all())

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(400)))


def test_thrift_holds_to_the_signature(served: tuple[Served, Door]) -> None:
    """Without `free_shapes` a request has the shapes that are declared; a missing shape is any shape."""
    server, door = served
    with server.client() as client:
        with pytest.raises(InvalidArgumentError, match=r"of shape \[3\] has 1 dimensions: expected \[\?, 1\]"):
            client.predict("column", {"x": np.array([1, 2, 5], np.float32)})
        assert (client.predict("shapeless", {"x": np.array([1, 2], np.float32)})["y"] == [2.5, 3]).all()
        assert client.metadata("shapeless").signatures["serving_default"].inputs["x"].shape is None
    metadata = door.get("/v1/models/shapeless/metadata").json()["metadata"]["signature_def"]["signature_def"]
    assert metadata["serving_default"]["inputs"]["x"]["tensor_shape"] == {"dim": [], "unknown_rank": True}
