"""Python numbers without a type: they get the one that the model declares, where they fit."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from documents import SUPPORT
from served import Served
from small_models import small
from thriftserve_client import Client, InvalidArgumentError, NotFoundError, TensorError


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    """half_plus_two (FLOAT), a Python model that declares inputs, and one that does not."""
    models = {
        "half_plus_two": small("half_plus_two"),
        "declared": "python:served_models:Declared",
        "any": "python:served_models:Doubler",
    }
    flags = [word for name, path in models.items() for word in ("--model", f"{name}={path}")]
    with Served(*flags, "--workers", "1", PYTHONPATH=str(SUPPORT)) as running:
        yield running


@pytest.fixture
def client(server: Served) -> Iterator[Client]:
    with server.client() as made:
        yield made


@pytest.mark.parametrize("value", [[1.0, 2.0, 5.0], [1, 2, 5], (1, 2.0, 5)])
def test_numbers_get_the_declared_type(client: Client, value: object) -> None:
    """Lists and tuples of int and float go to a FLOAT input; the metadata is asked for once."""
    expected = np.asarray(value) / 2 + 2
    for _ in range(2):
        assert (client.predict("half_plus_two", {"x": value})["y"] == expected).all()


def test_numbers_that_do_not_fit(client: Client) -> None:
    """What the type can't hold is an error before anything is sent; typed arrays are left as they are."""
    with pytest.raises(TensorError, match=r"input 'x': 16777217 \(int64\) does not fit FLOAT"):
        client.predict("half_plus_two", {"x": [2**24 + 1]})
    with pytest.raises(InvalidArgumentError, match="has dtype DOUBLE: expected FLOAT"):
        client.predict("half_plus_two", {"x": np.array([1.0])})
    with pytest.raises(InvalidArgumentError, match="inputs 'z' are unknown"):
        client.predict("half_plus_two", {"z": [1.0]})
    with pytest.raises(NotFoundError, match="missing"):
        client.predict("missing", {"x": [1.0]})


def test_a_model_that_declares_nothing(client: Client, server: Served) -> None:
    """It gets what numpy makes of the numbers, from the client and from the command line."""
    assert client.predict("any", {"x": [1, 2]})["x"].dtype == np.int64
    assert client.predict("any", {"x": [1.5]})["x"].dtype == np.float64
    command = [str(Path(sys.executable).with_name("thriftserve-client")), "--port", str(server.port), "--json"]
    done = subprocess.run([*command, "predict", "any", "--input", "x=[1.5, 2]"], capture_output=True, check=True)
    assert json.loads(done.stdout)["outputs"]["y"] == [3.0, 4.0]


def test_a_model_that_changes_its_types(tmp_path: Path) -> None:
    """A client that knows an older version's types asks again when they do not fit."""
    code = "class M:\n    signatures = {'inputs': {'x': ('%s', [None])}, 'outputs': {'x': ('%s', [None])}}\n"
    code += "    def predict(self, inputs):\n        return inputs\n"
    for name, dtype in (("first", "float32"), ("second", "int64")):
        (tmp_path / f"{name}.py").write_text(code % (dtype, dtype))
    with Served("--model", "m=python:first:M", "--workers", "1", PYTHONPATH=str(tmp_path)) as server:
        client = server.client()
        assert client.predict("m", {"x": [1, 2]})["x"].dtype == np.float32
        port = server.port
    flags = ("--port", str(port), "--model", "m=python:second:M", "--workers", "1")
    with client, Served(*flags, PYTHONPATH=str(tmp_path)):
        assert client.predict("m", {"x": [1, 2]})["x"].dtype == np.int64
