"""Times calls of a model, numpy in to numpy out: through TensorFlow's APIs and ours, or as loaded and frozen.

    session_probe BASE_PATH/1 --calls 2000  -->  one line of JSON: nanoseconds of each call
    session_probe BASE_PATH/1 --frozen      -->  rows a second of both, by rows and callers
    session_probe BASE_PATH/1 --cost frozen -->  seconds to load it, MiB of the process

The benchmarks start it and never import it. The APIs are called in turns, so that whatever else the
machine does meets all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from thriftserve.models import loader, sample_inputs, warmup
from thriftserve.models.devices import SessionOptions
from thriftserve.models.registry import Servable
from thriftserve.models.tensorflow.preload import preload
from thriftserve.models.tensorflow.saved_model import SavedModelSession
from thriftserve.repository.versions import ModelConfig

_SIGNATURE = "serving_default"
_WARM_UP = 200
#: Calls in a row through an API, before the next has its turn.
_IN_A_ROW = 50

Call = Callable[[np.ndarray[Any, Any]], Any]


def ours(path: Path) -> Call:
    """Return the session that the server runs."""
    session = SavedModelSession.open(path, SessionOptions())
    return lambda x: session.run(_SIGNATURE, {"x": x}, ("y",))["y"]


def eager_signature(path: Path) -> Call:
    """Return the signature of `tf.saved_model.load`, as TensorFlow 2's guides call it."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures[_SIGNATURE]

    def call(x: np.ndarray[Any, Any]) -> Any:
        return signature(x=tf.constant(x))["y"].numpy()

    call.model = loaded  # type: ignore[attr-defined]  # its variables end with it
    return call


def session_run(path: Path) -> Call:
    """Return `Session.run` of TensorFlow 1, as older servers call it."""
    import tensorflow as tf

    session = tf.compat.v1.Session(graph=tf.Graph())
    meta_graph = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(path))
    definition = meta_graph.signature_def[_SIGNATURE]
    feed, fetch = definition.inputs["x"].name, definition.outputs["y"].name
    return lambda x: session.run(fetch, {feed: x})


def measure(apis: dict[str, Call], calls: int) -> dict[str, list[int]]:
    """Return nanoseconds of each call; each API's first answer is checked.

    Raises:
        ValueError: an API gives another answer than x/2 + 2.
    """
    x = np.array([3.0], np.float32)
    for name, api in apis.items():
        if not np.array_equal(api(x), [3.5]):
            raise ValueError(f"{name} answers {api(x)}, not [3.5]")
        for _ in range(_WARM_UP):
            api(x)
    times: dict[str, list[int]] = {name: [] for name in apis}
    now = time.perf_counter_ns
    for _ in range(0, calls, _IN_A_ROW):
        for name, api in apis.items():
            latencies = times[name]
            for _ in range(_IN_A_ROW):
                began = now()
                api(x)
                latencies.append(now() - began)
    return times


def load(path: Path, *, freeze: bool) -> Servable:
    """Load the model as a worker does, with one thread inside each operation."""
    config = ModelConfig("model", "tensorflow", str(path.parent))
    return loader.load(config, SessionOptions(freeze=freeze))


def frozen_rates(path: Path, windows: int, seconds: float) -> dict[str, list[float]]:
    """Return rows a second of the model as loaded and frozen, in turns: "loaded 4 rows 2 callers" and its windows."""
    models = {"loaded": load(path, freeze=False), "frozen": load(path, freeze=True)}
    rates: dict[str, list[float]] = {}
    for rows in (1, 2, 4, 8):
        for callers in (1, 2):
            for _ in range(windows):
                for name, model in models.items():
                    rate = _rate(_caller(model, rows), rows, callers, seconds)
                    rates.setdefault(f"{name} {rows} rows {callers} callers", []).append(rate)
    return rates


def _caller(model: Servable, rows: int) -> Callable[[], object]:
    signature = model.signatures[_SIGNATURE]
    *_, batch = sample_inputs.random_inputs(signature, model.image)
    inputs = {name: np.resize(value, (rows, *value.shape[1:])) for name, value in batch.items()}
    outputs = tuple(signature.outputs)
    return lambda: model.session.run(_SIGNATURE, inputs, outputs)


def _rate(call: Callable[[], object], rows: int, callers: int, seconds: float) -> float:
    call()
    done = [0] * callers
    began = time.perf_counter()

    def work(number: int) -> None:
        while time.perf_counter() - began < seconds:
            call()
            done[number] += rows

    threads = [threading.Thread(target=work, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return round(sum(done) / (time.perf_counter() - began), 1)


def cost(path: Path, *, freeze: bool) -> dict[str, float]:
    """Return the seconds that loading and warming up take, and what they add to the process's memory, in MiB."""
    preload()
    before, began = _rss_mib(), time.perf_counter()
    model = load(path, freeze=freeze)
    warmup.run(model)
    took, added = time.perf_counter() - began, _rss_mib() - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    return {"seconds": round(took, 2), "added_mib": round(added, 1), "peak_mib": round(peak, 1)}


def _rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="a version directory; without --frozen or --cost, of half_plus_two")
    parser.add_argument("--calls", type=int, default=2000, help="through each API")
    parser.add_argument("--frozen", action="store_true", help="rates as loaded and frozen")
    parser.add_argument("--cost", choices=("loaded", "frozen"), help="what loading it so takes")
    parser.add_argument("--windows", type=int, default=3, help="of --frozen")
    parser.add_argument("--seconds", type=float, default=1.0, help="a window")
    flags = parser.parse_args()
    if flags.cost:
        result: Any = cost(flags.path, freeze=flags.cost == "frozen")
    elif flags.frozen:
        result = frozen_rates(flags.path, flags.windows, flags.seconds)
    else:
        result = _by_api(flags.path, flags.calls)
    print(json.dumps(result))


def _by_api(path: Path, calls: int) -> dict[str, list[int]]:
    apis = {"ours": ours(path), "eager signature": eager_signature(path), "Session.run": session_run(path)}
    return measure(apis, calls)


if __name__ == "__main__":
    main()
