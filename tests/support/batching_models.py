"""What the batcher is tested with: jobs, a SavedModel of several kinds of signature, Python models that batch.

saved_model()  -->  a session: serving_default, lengths, pairs, uneven, fixed, scalar
python:batching_models:NAME  -->  a Python model
"""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from small_models import CPU, scratch
from thriftserve.batching import Task, TaskResult
from thriftserve.deadline import Deadline
from thriftserve.models.registry import Servable
from thriftserve.models.session import DEFAULT_SIGNATURE, Array, Session
from thriftserve.models.tensorflow.preload import preload
from thriftserve.models.tensorflow.saved_model import SavedModelSession
from thriftserve.repository.model_settings import BatchingSettings


@cache
def saved_model() -> Path:
    """A version directory; each answer depends on its input, and `serving_default` refuses NaN in the graph."""
    preload()
    import tensorflow as tf

    def spec(shape: list[int | None], dtype: Any = tf.float32, name: str = "x") -> Any:
        return tf.TensorSpec(shape, dtype, name)

    model = tf.Module()
    finite = tf.function(lambda x: {"y": tf.debugging.check_numerics(x, "x has holes") * 2 + 1})
    plain = tf.function(lambda x: {"y": x * 2 + 1})
    lengths = tf.function(lambda words: {"n": tf.strings.length(words)})
    pairs = tf.function(lambda a, b: {"sum": a + b, "first": a, "total": tf.reduce_sum(a)})
    uneven = tf.function(lambda x: {"seen": tf.unique(x)[0]})
    path = scratch() / "batching" / "1"
    tf.saved_model.save(
        model,
        str(path),
        {
            "serving_default": finite.get_concrete_function(spec([None, 3])),
            "lengths": lengths.get_concrete_function(spec([None, None], tf.string, "words")),
            "pairs": pairs.get_concrete_function(spec([None, None], name="a"), spec([None, None], name="b")),
            "uneven": uneven.get_concrete_function(spec([None])),
            "fixed": plain.get_concrete_function(spec([2, 3])),
            "scalar": plain.get_concrete_function(spec([])),
        },
    )
    return path


class Watched(Session):
    """A session that keeps the inputs of each run of another one."""

    platform = "tensorflow"
    device = "cpu"

    def __init__(self, session: Any) -> None:
        self._session = session
        self.signatures = session.signatures
        self.runs: list[dict[str, Array]] = []
        #: What a run takes longer than it would.
        self.pause_s = 0.0

    def run(self, signature: str, inputs: Any, outputs: Any) -> Any:
        self.runs.append(dict(inputs))
        if self.pause_s:
            time.sleep(self.pause_s)
        return self._session.run(signature, inputs, outputs)

    def close(self) -> None:
        self._session.close()

    def rows(self) -> list[int]:
        """The leading size of each run since the last look."""
        sizes = [len(next(iter(inputs.values()))) for inputs in self.runs]
        self.runs.clear()
        return sizes


@cache
def _opened() -> SavedModelSession:
    return SavedModelSession.open(saved_model(), CPU)


def watched(**settings: Any) -> Servable:
    """That model with batching settings of its own; `max_batch_size` is 8."""
    return Servable("m", 3, Watched(_opened()), batching=BatchingSettings(**{"max_batch_size": 8} | settings))


def runs(servable: Servable) -> list[int]:
    """The rows of each run since the last look."""
    assert isinstance(servable.session, Watched)
    return servable.session.rows()


def job(
    servable: Servable,
    arrays: dict[str, Any],
    signature: str = DEFAULT_SIGNATURE,
    *,
    wanted: tuple[str, ...] | None = None,
    timeout_ms: int | None = None,
    age_s: float = 0.0,
) -> Task:
    """A job as the handler makes it; `wanted` None: every output."""
    made: dict[str, Array] = {name: np.asarray(value) for name, value in arrays.items()}
    found = servable.signatures[signature]
    rows = next((len(array) for array in made.values() if array.ndim), 1)
    deadline = Deadline(time.monotonic() - age_s, timeout_ms)
    outputs = tuple(found.outputs) if wanted is None else wanted
    return Task(servable, found, made, outputs, deadline, rows)


def rows_of(number: float, rows: int = 1) -> dict[str, Array]:
    """The input of `serving_default`: rows of three numbers from `number` on."""
    return {"x": np.arange(number, number + rows * 3, dtype=np.float32).reshape(rows, 3)}


def answered(answer: TaskResult | Exception) -> TaskResult:
    """The answer, which is no error."""
    assert isinstance(answer, TaskResult), answer
    return answer


class Each:
    """Takes what several requests sent at once; declares nothing."""

    def __init__(self, how: str = "") -> None:
        self.how = how
        self.calls: list[int] = []

    def predict(self, inputs: dict[str, Any]) -> dict[str, Any]:
        self.calls.append(1)
        if inputs["x"].sum() < 0:
            raise ValueError("below zero")
        return {"y": inputs["x"] * 2}

    def predict_batch(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        self.calls.append(len(inputs))
        if any(one["x"].sum() < 0 for one in inputs):
            raise ValueError("one is below zero")
        answers = [{"y": one["x"] * 2} for one in inputs]
        return answers[1:] if self.how == "short" else answers


class Stacked:
    """Declares a free leading size, so that requests are put together into one `predict`."""

    signatures: ClassVar[dict[str, Any]] = {
        "inputs": {"x": ("float32", [None, 2])},
        "outputs": {"y": ("float32", [None, 2])},
    }

    def __init__(self) -> None:
        self.calls: list[int] = []

    def predict(self, inputs: dict[str, Any]) -> dict[str, Any]:
        self.calls.append(len(inputs["x"]))
        return {"y": inputs["x"] + 1}


class Stateful(Stacked):
    """The same, which won't be put together."""

    batching = False


class Undeclared:
    """Declares nothing and has no batch method."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def predict(self, inputs: dict[str, Any]) -> dict[str, Any]:
        self.calls.append(len(inputs["x"]))
        return {"y": inputs["x"]}
