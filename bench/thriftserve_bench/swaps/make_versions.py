"""Builds the versions that are swapped.

python -m thriftserve_bench.swaps.make_versions STORE COUNT  -->  STORE/1 … STORE/COUNT: SavedModels, y = x/2 + version
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from thriftserve_bench.plain_tensorflow import plain_tensorflow


def make_all(store: Path, count: int) -> None:
    """Builds them, some 30 ms each."""
    for version in range(1, count + 1):
        _make(store / str(version), version)


def _make(path: Path, version: int) -> None:
    tf = plain_tensorflow()
    module = tf.Module()
    module.half = tf.Variable(0.5, name="half")
    module.version = tf.Variable(float(version), name="version")

    def answer(x: Any) -> dict[str, Any]:
        return {"y": module.half * x + module.version}

    called = tf.function(answer, input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    tf.saved_model.save(module, str(path), signatures={"serving_default": called})


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    make_all(Path(sys.argv[1]), int(sys.argv[2]))
