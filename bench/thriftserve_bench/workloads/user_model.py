"""The model as the users of other servers write it: `tf.saved_model.load`, its signature, Pillow.

content of requests  -->  one batch  -->  signature  -->  an answer for each request
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from thriftserve_bench.workloads.jobs import JOBS, TOP
from thriftserve_bench.workloads.photos import pixels

Array = np.ndarray[Any, Any]


class UserModel:
    """A loaded SavedModel; calls may come from several threads.

    Args:
        job: name of the job that it works on.
        path: a version directory.
        threads: inside one operation; 0: TensorFlow's own choice.
    """

    def __init__(self, job: str, path: str, threads: int = 0) -> None:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        self._tf = tf
        self._job = JOBS[job]
        self._model = tf.saved_model.load(path)
        self._signature = self._model.signatures["serving_default"]
        # The first call of a signature is slow; a user's health check would make it.
        self.run(np.zeros(3 if self._job.name == "tiny" else (1, 224, 224, 3), np.float32))

    def run(self, x: Array) -> Array:
        """Call the signature once."""
        inputs = {self._job.input: self._tf.constant(x)}
        output: Array = self._signature(**inputs)[self._job.output].numpy()
        return output

    def run_batch(self, inputs: Sequence[Array]) -> list[Array]:
        """Run the rows of several requests as one batch, and return each request's output."""
        if len(inputs) == 1:
            return [self.run(inputs[0])]
        ends = np.cumsum([len(rows) for rows in inputs])[:-1]
        return np.split(self.run(np.concatenate(inputs)), ends)

    def decode(self, content: bytes) -> Array:
        """Decode a request's content into rows of the model's input."""
        if self._job.name == "jpeg":
            return pixels(content)[None]
        x = np.frombuffer(content, np.float32)
        return x.reshape(1, 224, 224, 3) if self._job.net else x

    def encode(self, output: Array) -> bytes:
        """Encode an output: float32; for a picture the best classes' numbers, int32, then their scores."""
        if self._job.name != "jpeg":
            return output.tobytes()
        classes, scores = best_classes(output[0])
        return classes.astype(np.int32).tobytes() + scores.tobytes()


def best_classes(scores: Array) -> tuple[Array, Array]:
    """Return numbers and scores of the best classes, best first."""
    classes = np.argpartition(scores, -TOP)[-TOP:]
    classes = classes[np.argsort(-scores[classes])]
    return classes, scores[classes]
