"""The same work without any RPC: our own session and image code, called by threads of this process.

    python -m thriftserve_bench.servers.local_work JOB MODEL/1 SAMPLES.npz

    stdin: an order, one line of JSON  -->  each caller works without a pause  -->  requests done

The benchmarks start it and never import it. What a server reaches below this figure is the cost of its other parts.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from thriftserve.models import images
from thriftserve.models.devices import SessionOptions, claim
from thriftserve.models.tensorflow.saved_model import SavedModelSession
from thriftserve.repository import image_settings
from thriftserve_bench.processes import answer_json_lines
from thriftserve_bench.workloads.jobs import JOBS, Job, Sample, check_classes, check_values, load_samples
from thriftserve_bench.workloads.user_model import best_classes

_SIGNATURE = "serving_default"
_MAX_PIXELS = 50_000_000

Array = np.ndarray[Any, Any]


class Work:
    """The work of a request besides its transport: decode the content, run the session, compare the answer."""

    def __init__(self, job: Job, path: Path, samples: Path) -> None:
        self._job = job
        self._path = path
        self._image = image_settings.load(path)
        self._samples = load_samples(samples)
        self._sessions: dict[bool, SavedModelSession] = {}

    def session(self, frozen: bool) -> SavedModelSession:
        """Return the session as loaded, or frozen; its answers are checked once."""
        if frozen not in self._sessions:
            # One thread for each operation: as many callers as cores do more that way.
            session = SavedModelSession.open(self._path, SessionOptions(intra_op_threads=1))
            if frozen:
                session.optimize(self._image)
            for sample in self._samples[:3]:
                self._check(session, sample)
            self._sessions[frozen] = session
            gc.collect()
            gc.freeze()  # as the server does: the collector need not walk TensorFlow's heap
        return self._sessions[frozen]

    def _check(self, session: SavedModelSession, sample: Sample) -> None:
        (answer,) = self._run(session, [sample])
        if self._job.name == "jpeg":
            check_classes(answer.tolist(), sample.answer)
        else:
            check_values(answer, sample.answer)

    def rows(self, sample: Sample) -> Array:
        """Decode a sample's content into the model's input."""
        if sample.shape:
            return np.frombuffer(sample.content, np.float32).reshape(sample.shape)
        assert self._image is not None, "the model has no settings for pictures"
        target = images.Target(self._image.height, self._image.width, 3, self._image)
        decoded = images.decode(sample.content, target, max_pixels=_MAX_PIXELS, index=0)
        return images.scale_pixels(decoded.pixels[None], np.dtype(np.float32), self._image)

    def _run(self, session: SavedModelSession, batch: Sequence[Sample]) -> list[Array]:
        inputs = [self.rows(sample) for sample in batch]
        x = inputs[0] if len(inputs) == 1 else np.concatenate(inputs)
        y = session.run(_SIGNATURE, {self._job.input: x}, (self._job.output,))[self._job.output]
        if self._job.name == "jpeg":
            return [best_classes(row)[0] for row in y]
        return list(y) if self._job.net else np.split(y, len(batch))

    def caller(self, frozen: bool, batch: int, first: int) -> Callable[[], int]:
        """Return a function that runs a batch and returns its number of requests."""
        session, samples = self.session(frozen), self._samples
        place = first

        def once() -> int:
            nonlocal place
            sent = [samples[(place + number) % len(samples)] for number in range(batch)]
            place += batch
            return len(self._run(session, sent))

        return once


def measure(work: Work, order: dict[str, Any]) -> dict[str, Any]:
    """Carry out an order; `seconds` of 0 only loads."""
    done = [0] * order["callers"]
    callers = [work.caller(order["frozen"], order["batch"], number * 7) for number in range(order["callers"])]
    if not order["seconds"]:
        return {"calls": 0, "elapsed_s": 0.0}
    for call in callers:
        call()
    began = time.perf_counter()
    until = began + order["seconds"]

    def loop(number: int) -> None:
        while time.perf_counter() < until:
            done[number] += callers[number]()

    threads = [threading.Thread(target=loop, args=(number,)) for number in range(len(callers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"calls": sum(done), "elapsed_s": time.perf_counter() - began}


def main(arguments: Sequence[str]) -> None:
    """Answer orders until there are no more."""
    job, path, samples = arguments
    claim("cpu")
    work = Work(JOBS[job], Path(path), Path(samples))
    answer_json_lines(lambda order: measure(work, order))


if __name__ == "__main__":
    main(sys.argv[1:])
