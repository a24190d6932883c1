"""The model as the users of other servers write it: `tf.saved_model.load`, its signature, Pillow.

content of requests  -->  one batch  -->  signature  -->  an answer for each request
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from thriftserve_bench.peers.pictures import pixels
from thriftserve_bench.peers.questions import TOP, job_of


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
        self._job = job_of(job)
        self._loaded = tf.saved_model.load(path)
        self._signature = self._loaded.signatures["serving_default"]
        # The first call of a signature is slow; a user's health check would make it.
        blank = np.zeros(3 if self._job.name == "tiny" else (1, 224, 224, 3), np.float32)
        self.run(blank)

    def run(self, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """One call of the signature."""
        given = {self._job.input: self._tf.constant(x)}
        found: np.ndarray[Any, Any] = self._signature(**given)[self._job.output].numpy()
        return found

    def decode(self, content: bytes) -> np.ndarray[Any, Any]:
        """A request's content as rows of the model's input."""
        if self._job.name == "jpeg":
            return pixels(content)[None]
        x = np.frombuffer(content, np.float32)
        return x.reshape(1, 224, 224, 3) if self._job.net else x

    def run_batch(self, inputs: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        """The outputs of several requests' rows, run as one batch."""
        if len(inputs) == 1:
            return [self.run(inputs[0])]
        ends = np.cumsum([len(one) for one in inputs])[:-1]
        return np.split(self.run(np.concatenate(inputs)), ends)

    def encode(self, output: np.ndarray[Any, Any]) -> bytes:
        """An output as it goes back: float32; for a picture the best classes' numbers, int32, then their scores."""
        if self._job.name != "jpeg":
            return output.tobytes()
        ids, scores = best(output[0])
        return ids.astype(np.int32).tobytes() + scores.tobytes()


def best(scores: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Numbers and scores of the best classes, best first."""
    ids = np.argpartition(scores, -TOP)[-TOP:]
    ids = ids[np.argsort(-scores[ids])]
    return ids, scores[ids]
