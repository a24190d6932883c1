"""Times one call of a model, numpy in to numpy out, through each of TensorFlow's doors and ours.

    python -m thriftserve_bench.session_probe BASE_PATH/1 --calls 2000  -->  one line of JSON: nanoseconds of each call

The benchmarks start it and never import it. The doors are called in turns, so that whatever else the
machine does meets all of them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from thriftserve.models.devices import SessionOptions
from thriftserve.models.saved_model import SavedModelSession

_SIGNATURE = "serving_default"
_WARM_UP = 200
#: Calls in a row through one door, before the next has its turn.
_IN_A_ROW = 50

Door = Callable[[np.ndarray[Any, Any]], Any]


def ours(path: Path) -> Door:
    """The session that the server runs."""
    session = SavedModelSession.open(path, SessionOptions())
    return lambda x: session.run(_SIGNATURE, {"x": x}, ("y",))["y"]


def eager_signature(path: Path) -> Door:
    """The signature of `tf.saved_model.load`, as TensorFlow 2's guides call it."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures[_SIGNATURE]

    def call(x: np.ndarray[Any, Any]) -> Any:
        return signature(x=tf.constant(x))["y"].numpy()

    call.keep = loaded  # type: ignore[attr-defined]  # its variables end with it
    return call


def session_run(path: Path) -> Door:
    """`Session.run` of TensorFlow 1, as older servers call it."""
    import tensorflow as tf

    session = tf.compat.v1.Session(graph=tf.Graph())
    meta_graph = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(path))
    definition = meta_graph.signature_def[_SIGNATURE]
    feed, fetch = definition.inputs["x"].name, definition.outputs["y"].name
    return lambda x: session.run(fetch, {feed: x})


def measure(doors: dict[str, Door], calls: int) -> dict[str, list[int]]:
    """Nanoseconds of each call; the answer of each door's first is checked.

    Raises:
        ValueError: a door gives another answer than x/2 + 2.
    """
    x = np.array([3.0], np.float32)
    for name, door in doors.items():
        if not np.array_equal(door(x), [3.5]):
            raise ValueError(f"{name} answers {door(x)}, not [3.5]")
        for _ in range(_WARM_UP):
            door(x)
    times: dict[str, list[int]] = {name: [] for name in doors}
    now = time.perf_counter_ns
    for _ in range(0, calls, _IN_A_ROW):
        for name, door in doors.items():
            kept = times[name]
            for _ in range(_IN_A_ROW):
                began = now()
                door(x)
                kept.append(now() - began)
    return times


def main() -> None:
    """Prints the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="a version directory of half_plus_two")
    parser.add_argument("--calls", type=int, default=2000, help="through each door")
    flags = parser.parse_args()
    doors = {
        "ours": ours(flags.path),
        "eager signature": eager_signature(flags.path),
        "Session.run": session_run(flags.path),
    }
    print(json.dumps(measure(doors, flags.calls)))


if __name__ == "__main__":
    main()
