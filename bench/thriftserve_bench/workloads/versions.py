"""Versions of one model, each with answers of its own, and the base path that they appear in.

    python -m thriftserve_bench.workloads.versions STORE COUNT  -->  STORE/1, STORE/2, …: SavedModels, y = x/2 + version
    STORE/1, STORE/2, …  --Versions.land: copy, rename-->  BASE/1, BASE/2, …

Version v answers x/2 + v: an answer shows which version gave it.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from thriftserve_bench.processes import run_module
from thriftserve_bench.workloads.saved_model import ModelSource, plain_tensorflow

#: The model's name at every server.
MODEL = "half"


def make(store: Path, count: int) -> None:
    """Build versions 1 to `count` into `store`, in a process of its own: some 30 ms each.

    Raises:
        ProgramFailed: TensorFlow is not installed, or the disk is full.
    """
    run_module("thriftserve_bench.workloads.versions", str(store), str(count))


def expected(x: np.ndarray[Any, np.dtype[np.float32]], version: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return what a version answers."""
    return x * np.float32(0.5) + np.float32(version)


class Versions:
    """A base path whose versions come and go.

    Args:
        store: what `make` has filled.
        base: the base path; it is created, with version 1 in it.
    """

    def __init__(self, store: Path, base: Path) -> None:
        self._store = store
        self.base = base
        self.newest = 0
        base.mkdir(parents=True)
        self.land()

    def land(self) -> int:
        """Put the next version there, complete at once, as docs/models.md says; return its number."""
        version = self.newest + 1
        unfinished = self.base / f"{version}.tmp"
        shutil.copytree(self._store / str(version), unfinished)
        unfinished.rename(self.base / str(version))
        self.newest = version
        return version

    def remove(self, version: int) -> None:
        """Remove a version that is no longer served."""
        shutil.rmtree(self.base / str(version))


def _build(path: Path, version: int) -> None:
    tf = plain_tensorflow()
    module = tf.Module()
    module.half = tf.Variable(0.5, name="half")
    module.version = tf.Variable(float(version), name="version")

    def answer(x: Any) -> dict[str, Any]:
        return {"y": module.half * x + module.version}

    signature = tf.function(answer, input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    ModelSource(module, {"serving_default": signature}).write(path)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    for number in range(1, int(sys.argv[2]) + 1):
        _build(Path(sys.argv[1]) / str(number), number)
