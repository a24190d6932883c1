"""The processes of one arrangement: each loads the model as a worker would, and calls it as it is told.

    Crew(model, workers, threads)  --fork-->  workers, each with the model loaded  --call(runs, rows)-->  run times

The parent has imported TensorFlow and never used it; so each process is forked, has TensorFlow at once, and its
thread settings are its own: TensorFlow makes its threads once in a process.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from thriftserve.batching import Batcher, on_word
from thriftserve.errors import ExitCode, ModelLoadError, StartError, ThriftServeError
from thriftserve.models import devices, loader, sample_inputs
from thriftserve.models.servable import Servable
from thriftserve.models.session import Arrays
from thriftserve.models.signature import Signature
from thriftserve.repository.versions import ModelConfig
from thriftserve.supervisor.child import die_with_parent

#: Longest wait for a model to load and for a cell's calls, in seconds.
_PATIENCE_S = 600.0


@dataclass(frozen=True)
class TunedSignature:
    """What is called: a model's base path and the name of its signature."""

    base_path: Path
    signature: str


class TuneWorkers:
    """Worker processes with the model loaded, from construction until `close`.

    Args:
        job: what they call.
        places: the device of each.
        threads: inside one operation, of each.

    Raises:
        StartError: one of them could not load the model, or its device is not there.
    """

    def __init__(self, job: TunedSignature, places: tuple[str, ...], threads: int) -> None:
        context = multiprocessing.get_context("fork")
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        for place in places:
            ours, theirs = context.Pipe()
            options = devices.SessionOptions(place, threads)
            process = context.Process(target=_work, args=(theirs, job, options, os.getpid()), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        try:
            self._answers()
        except BaseException:
            self.close()
            raise

    def call(self, runs: int, rows: int, seconds: float) -> tuple[float, list[float]]:
        """Has each process make calls of `rows` rows from `runs` threads at once.

        Returns:
            Rows a second of all together, and the seconds that each run took, ascending.

        Raises:
            StartError: a process has ended.
            ThriftServeError: the model refused the calls.
        """
        for pipe in self._pipes:
            pipe.send((runs, rows, seconds))
        answers = self._answers()
        return sum(rate for rate, _ in answers), sorted(took for _, times in answers for took in times)

    def why_apart(self) -> str:
        """Why the signature's requests must not share runs; empty where they may. Tried in the first process.

        Raises:
            StartError: the process has ended.
        """
        self._pipes[0].send(None)
        answer = _answer(self._pipes[0])
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    def close(self) -> None:
        """Ends the processes."""
        for process in self._processes:
            process.kill()
        for process, pipe in zip(self._processes, self._pipes, strict=True):
            process.join()
            pipe.close()

    def _answers(self) -> list[Any]:
        answers = [_answer(pipe) for pipe in self._pipes]
        for answer in answers:
            if isinstance(answer, ThriftServeError):
                raise answer
        return answers


def _answer(pipe: Connection) -> Any:
    """What a process said; an error is returned, so that those of the others are read too."""
    try:
        return pipe.recv() if pipe.poll(_PATIENCE_S) else ModelLoadError(f"no answer within {_PATIENCE_S:g} s")
    except (EOFError, ConnectionError):
        return ModelLoadError("a process ended while it was measured: the machine may be short of memory")


def _work(pipe: Connection, job: TunedSignature, options: devices.SessionOptions, parent: int) -> None:
    """A process's life: load, say so, then carry out orders."""
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent decides
    try:
        devices.claim(options.device)
        model = loader.load(ModelConfig(job.base_path.name, "tensorflow", str(job.base_path)), options)
        pipe.send(None)
    except StartError as error:
        pipe.send(error)
        os._exit(ExitCode.MODEL_LOAD)
    while True:
        order = pipe.recv()
        if order is None:
            pipe.send(why_apart(model, job.signature))
            continue
        runs, rows, seconds = order
        try:
            pipe.send(_calls(caller(model, job.signature, rows), runs, rows, seconds))
        except ThriftServeError as error:
            pipe.send(error)


def why_apart(model: Servable, signature: str) -> str:
    """Why requests for a signature must not share runs; empty where they may, or where the author says so."""
    if on_word(model):
        return ""
    batcher = Batcher(1)
    batcher.examine(model)
    return batcher.why_apart(model, signature)


def caller(model: Servable, name: str, rows: int) -> Callable[[], object]:
    """A call of a signature with seeded random inputs of `rows` rows, where it has rows.

    Raises:
        ThriftServeError: the model refused them, and zeros too.
    """
    signature = model.signatures[name]
    outputs = tuple(signature.outputs)
    *_, random = sample_inputs.random_inputs(signature, model.image)
    try:
        inputs = _sized(signature, random, rows)
        model.session.run(name, inputs, outputs)
    except ThriftServeError:
        # Some models refuse random numbers.
        inputs = _sized(signature, sample_inputs.zeros(signature, model.image), rows)
        model.session.run(name, inputs, outputs)
    return lambda: model.session.run(name, inputs, outputs)


def _sized(signature: Signature, inputs: Arrays, rows: int) -> Arrays:
    return {
        name: np.resize(value, (rows, *value.shape[1:])) if has_rows(signature.inputs[name].shape) else value
        for name, value in inputs.items()
    }


def has_rows(shape: tuple[int | None, ...] | None) -> bool:
    """Whether an input's first size is free: a batch's."""
    return bool(shape) and shape is not None and shape[0] is None


def _calls(call: Callable[[], object], runs: int, rows: int, seconds: float) -> tuple[float, list[float]]:
    times: list[list[float]] = [[] for _ in range(runs)]
    failed: list[ThriftServeError] = []
    began = time.perf_counter()

    def work(mine: list[float]) -> None:
        last = began
        try:
            while not mine or last - began < seconds:
                call()
                now = time.perf_counter()
                mine.append(now - last)
                last = now
        except ThriftServeError as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(mine,)) for mine in times]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    took = time.perf_counter() - began
    return sum(map(len, times)) * rows / took, [one for mine in times for one in mine]
