"""The models of examples/python, served and called.

The environment of `make test` has scikit-learn; `make examples` has the others, and lets none be missing. PyTorch may
be: on Linux it brings gigabytes of CUDA, so that CI leaves it out.
"""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from documents import ROOT
from served import Served, environment
from thriftserve_client import errors
from thriftserve_client.client import Client

EXAMPLES = ROOT / "examples" / "python"


def needed(name: str, *, heavy: bool = False) -> Any:
    """A module, or a skip that names how to have it."""
    if os.environ.get("THRIFTSERVE_TEST_EXAMPLES") == "all" and not heavy:
        return importlib.import_module(name)
    how = "TORCH=torch make examples" if heavy else "make examples"
    return pytest.importorskip(name, reason=f"{name} is not installed here: {how}")


def predict(client: Client, model: str, **inputs: Any) -> dict[str, Any]:
    """The outputs of a call."""
    return dict(client.predict(model, inputs))


def test_functions_and_classes_of_one_file() -> None:
    """greet.py: a plain function beside a class with options, an example and ValueError as the caller's fault."""
    file = EXAMPLES / "greet.py"
    with Served("--model", f"half={file}:half", "--model", f"greet={file}:Greeter?greeting=Hi") as server:
        with server.client() as client:
            assert predict(client, "half", x=np.array([3.0]))["y"].tolist() == [1.5]
            assert predict(client, "greet", name=np.array(["Bo"], object))["text"].tolist() == [b"Hi, Bo!"]
            with pytest.raises(errors.InvalidArgumentError, match="a name is empty"):
                predict(client, "greet", name=np.array([""], object))
        log = server.log()
    assert "greeting on cpu with" in log
    assert "warm-up of" not in log


def test_scikit_learn(tmp_path: Path) -> None:
    """sklearn_digits.py: trained, served, and right about most digits; NaN is the caller's fault."""
    needed("joblib")
    datasets = needed("sklearn.datasets")
    file = Path(shutil.copy(EXAMPLES / "sklearn_digits.py", tmp_path))
    train(file)
    digits = datasets.load_digits()
    pixels = digits.data[:100].astype(np.float32)
    with Served("--model", f"digits={file}:Digits") as server, server.client() as client:
        scores = predict(client, "digits", pixels=pixels)["scores"]
        assert np.mean(scores.argmax(axis=1) == digits.target[:100]) > 0.9
        with pytest.raises(errors.InvalidArgumentError, match="NaN"):
            predict(client, "digits", pixels=np.full((1, 64), np.nan, np.float32))


def train(file: Path) -> None:
    """Run an example as its reader would."""
    subprocess.run([sys.executable, str(file)], env=environment(), check=True, timeout=100)


def test_onnx_runtime(tmp_path: Path) -> None:
    """onnx_model.py: the signature is that of the file, and the answer is the graph's."""
    onnx = needed("onnx")
    needed("onnxruntime")
    kind, shape = onnx.TensorProto.FLOAT, ["rows", 2]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Mul", ["x", "two"], ["y"])],
        "double",
        [onnx.helper.make_tensor_value_info("x", kind, shape)],
        [onnx.helper.make_tensor_value_info("y", kind, shape)],
        [onnx.helper.make_tensor("two", kind, [], [2.0])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "double.onnx")
    source = f"{EXAMPLES / 'onnx_model.py'}:OnnxModel?file={tmp_path / 'double.onnx'}"
    with Served("--model", f"double={source}") as server, server.client() as client:
        x = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
        assert predict(client, "double", x=x)["y"].tolist() == [[2.0, 4.0], [6.0, 8.0]]


def test_pytorch(tmp_path: Path) -> None:
    """torch_model.py: weights are read, and the scores are those of the network run here."""
    torch = needed("torch", heavy=True)
    net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    torch.save(net.state_dict(), tmp_path / "net.pt")
    x = np.random.default_rng(5).normal(size=(3, 4)).astype(np.float32)
    expected = torch.softmax(net(torch.from_numpy(x)), dim=1).detach().numpy()
    source = f"{EXAMPLES / 'torch_model.py'}:Net?weights={tmp_path / 'net.pt'}"
    with Served("--model", f"net={source}") as server, server.client() as client:
        np.testing.assert_allclose(predict(client, "net", x=x)["scores"], expected, rtol=1e-4)
