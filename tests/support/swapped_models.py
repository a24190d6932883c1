"""Versions that are swapped under faults, each with answers of its own, and clients that hold answers against them.

    Versions.land(3)  -->  a server  -->  Caller: every answer's version, labels, what was wrong with any

Version v answers x/2 + v; its signature `slow` does so after n rounds of a loop.
"""

from __future__ import annotations

import shutil
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from thriftserve.models.tensorflow.preload import preload
from thriftserve_client import Client, ServerError, ThriftServeClientError

MODEL, STABLE = "half", "stable"
X = np.arange(3, dtype=np.float32)
_PAUSE_S = 0.02


class Versions:
    """A base path, and versions that can be put into it.

    Args:
        directory: where they are made.
        count: how many there are; version 1 is there from the beginning.
    """

    def __init__(self, directory: Path, count: int) -> None:
        self._store = directory / "store"
        self.base = directory / MODEL
        self.base.mkdir()
        for version in range(1, count + 1):
            _make(self._store / str(version), version)
        self.land(1)

    def land(self, version: int, warmup: bytes | None = None) -> Path:
        """Puts a version there, whole at once; `warmup` is its file of recorded requests."""
        beside = shutil.copytree(self._store / str(version), self.base / f"{version}.tmp")
        if warmup is not None:
            (beside / "assets.extra").mkdir(exist_ok=True)
            (beside / "assets.extra" / "tf_serving_warmup_requests").write_bytes(warmup)
        return beside.rename(self.base / str(version))


@cache
def _tensorflow() -> Any:
    preload()
    import tensorflow as tf

    return tf


def _make(path: Path, version: int) -> None:
    tf = _tensorflow()
    module = tf.Module()
    module.version = tf.Variable(float(version))

    def answer(x: Any) -> dict[str, Any]:
        return {"y": 0.5 * x + module.version}

    def slow(n: Any, x: Any) -> dict[str, Any]:
        rounds = tf.while_loop(lambda at: at < n, lambda at: (at + 1,), (tf.constant(0),))[0]
        return {"y": 0.5 * x + module.version + 0.0 * tf.cast(rounds, tf.float32)}

    vector = tf.TensorSpec([None], tf.float32, name="x")
    signatures = {
        "serving_default": tf.function(answer, input_signature=[vector]),
        "slow": tf.function(slow, input_signature=[tf.TensorSpec([], tf.int32, name="n"), vector]),
    }
    tf.saved_model.save(module, str(path), signatures=signatures)


class Caller(threading.Thread):
    """A client that calls until it is stopped, and calls again where that may help.

    Every other call asks for the label, which points at `stable` all the time.
    """

    def __init__(self, port: int, stable: int) -> None:
        super().__init__()
        self.versions: set[int | None] = set()
        #: Answers of another version than the label's, values of another version than the one named, errors for good.
        self.wrong: list[str] = []
        self.newest: int | None = None
        self.calls = 0
        self._client = Client("127.0.0.1", port, timeout_s=30)
        self._stable = stable
        self._stopped = threading.Event()

    def __enter__(self) -> Caller:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self.join()
        self._client.close()

    def run(self) -> None:
        """Calls."""
        while not self._stopped.is_set():
            try:
                self._pair()
            except ServerError as error:
                if not error.retryable:
                    self.wrong.append(str(error))
                time.sleep(_PAUSE_S)
            except ThriftServeClientError:  # a node that is gone: it comes back
                time.sleep(_PAUSE_S)

    def _pair(self) -> None:
        newest = self._client.predict(MODEL, {"x": X})
        stable = self._client.predict(MODEL, {"x": X}, label=STABLE)
        for one in (newest, stable):
            if not np.array_equal(one["y"], 0.5 * X + float(one.version or 0)):
                self.wrong.append(f"version {one.version} answered {one['y']}")
        if stable.version != self._stable:
            self.wrong.append(f"{STABLE} answered from {stable.version}")
        self.newest = newest.version
        self.versions.add(newest.version)
        self.calls += 1
        time.sleep(0.003)  # light load: others have the processor too
