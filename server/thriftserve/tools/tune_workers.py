"""The processes of one arrangement: each loads the model as a worker does, and calls it on order.

    TuneWorkers(signature, places, threads)  --fork-->  processes with the model  --call(runs, rows)-->  run times

The parent has imported TensorFlow and never used it. So each process is forked, has TensorFlow at once, and has its
own thread settings: TensorFlow makes its threads once in a process.
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

from thriftserve.batching import Batcher, declares_batching
from thriftserve.errors import ExitCode, ModelLoadError, StartError, ThriftServeError
from thriftserve.models import devices, loader, sample_inputs
from thriftserve.models.registry import Servable
from thriftserve.models.session import Arrays, Signature
from thriftserve.repository.versions import ModelConfig
from thriftserve.supervisor.child import die_with_parent

#: Longest wait for a model to load and for a candidate's calls, in seconds.
_ANSWER_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class TunedSignature:
    """The signature to call, of the newest version of a base path."""

    base_path: Path
    name: str


class TuneWorkers:
    """Worker processes with the model loaded, from construction until `close`. Used by one thread.

    Args:
        signature: what they call.
        places: the device of each.
        threads: inside one operation, of each.

    Raises:
        StartError: One of them could not load the model, or there is no such device.
    """

    def __init__(self, signature: TunedSignature, places: tuple[str, ...], threads: int) -> None:
        context = multiprocessing.get_context("fork")
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        for place in places:
            ours, theirs = context.Pipe()
            options = devices.SessionOptions(place, threads)
            process = context.Process(target=_work, args=(theirs, signature, options, os.getpid()), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        try:
            self._receive_all()
        except BaseException:
            self.close()
            raise

    def call(self, runs: int, rows: int, seconds: float) -> tuple[float, list[float]]:
        """Have each process call the model with `rows` rows from `runs` threads at once.

        Returns:
            Rows a second of all together, and the seconds that each run took, ascending.

        Raises:
            StartError: A process has ended.
            ThriftServeError: The model refused the calls.
        """
        for pipe in self._pipes:
            pipe.send((runs, rows, seconds))
        answers = self._receive_all()
        return sum(rate for rate, _ in answers), sorted(seconds for _, times in answers for seconds in times)

    def why_apart(self) -> str:
        """Return why the signature's requests must not share runs, or "" if they may. The first process tries it.

        Raises:
            StartError: The process has ended.
        """
        self._pipes[0].send(None)
        answer = _receive(self._pipes[0])
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
        for process, pipe in zip(self._processes, self._pipes, strict=True):
            process.join()
            pipe.close()

    def _receive_all(self) -> list[Any]:
        answers = [_receive(pipe) for pipe in self._pipes]
        for answer in answers:
            if isinstance(answer, ThriftServeError):
                raise answer
        return answers


def _receive(pipe: Connection) -> Any:
    """Return a process's answer; an error is returned too, so that the answers of the others are read."""
    try:
        if pipe.poll(_ANSWER_TIMEOUT_S):
            return pipe.recv()
        return ModelLoadError(f"no answer within {_ANSWER_TIMEOUT_S:g} s")
    except (EOFError, ConnectionError):
        return ModelLoadError("a process ended while it was measured: the machine may be short of memory")


def _work(pipe: Connection, signature: TunedSignature, options: devices.SessionOptions, parent: int) -> None:
    """Run a process: load the model, report that, then carry out orders until it is killed."""
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent decides
    config = ModelConfig(signature.base_path.name, "tensorflow", str(signature.base_path))
    try:
        devices.claim(options.device)
        servable = loader.load(config, options)
        pipe.send(None)
    except StartError as error:
        pipe.send(error)
        os._exit(ExitCode.MODEL_LOAD)
    while True:
        order = pipe.recv()
        if order is None:
            pipe.send(why_apart(servable, signature.name))
            continue
        runs, rows, seconds = order
        try:
            pipe.send(_measure(_make_call(servable, signature.name, rows), runs, rows, seconds))
        except ThriftServeError as error:
            pipe.send(error)


def why_apart(servable: Servable, signature: str) -> str:
    """Return why requests for a signature must not share runs; "" if they may, or the author says that they do."""
    if declares_batching(servable):
        return ""
    batcher = Batcher(1)
    batcher.examine(servable)
    return batcher.why_apart(servable, signature)


def _make_call(servable: Servable, name: str, rows: int) -> Callable[[], object]:
    """Return a call of a signature with seeded random inputs, of `rows` rows if it has rows.

    Raises:
        ThriftServeError: The model refused them, and zeros too.
    """
    signature = servable.signatures[name]
    outputs = tuple(signature.outputs)
    *_, random = sample_inputs.random_inputs(signature, servable.image)
    inputs = _resize(signature, random, rows)
    try:
        servable.session.run(name, inputs, outputs)
    except ThriftServeError:  # some models refuse random numbers
        inputs = _resize(signature, sample_inputs.zeros(signature, servable.image), rows)
        servable.session.run(name, inputs, outputs)
    return lambda: servable.session.run(name, inputs, outputs)


def _resize(signature: Signature, inputs: Arrays, rows: int) -> Arrays:
    return {
        name: np.resize(array, (rows, *array.shape[1:])) if signature.inputs[name].has_rows else array
        for name, array in inputs.items()
    }


def _measure(call: Callable[[], object], runs: int, rows: int, seconds: float) -> tuple[float, list[float]]:
    """Return rows a second, and the seconds that each run took."""
    times_by_thread: list[list[float]] = [[] for _ in range(runs)]
    errors: list[ThriftServeError] = []
    began = time.perf_counter()

    def work(times: list[float]) -> None:
        last = began
        try:
            while not times or last - began < seconds:
                call()
                now = time.perf_counter()
                times.append(now - last)
                last = now
        except ThriftServeError as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(times,)) for times in times_by_thread]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    elapsed_s = time.perf_counter() - began
    all_times = [seconds for times in times_by_thread for seconds in times]
    return len(all_times) * rows / elapsed_s, all_times
