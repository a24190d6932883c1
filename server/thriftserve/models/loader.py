"""Turns what is to be served into what is served.

    Plan  -->  each version: session + labels + image settings  -->  Servables

It runs in the process that serves, after any fork, and after `devices.claim`.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from thriftserve.errors import ModelLoadError, StartError
from thriftserve.models import trial_rows
from thriftserve.models.devices import CPU, SessionOptions
from thriftserve.models.python.session import PythonSession
from thriftserve.models.registry import Registry
from thriftserve.models.servable import Servable
from thriftserve.models.tensorflow.saved_model import SavedModelSession
from thriftserve.repository import image_settings, model_settings
from thriftserve.repository.model_settings import UNSET
from thriftserve.repository.plan import Plan, PlannedModel
from thriftserve.repository.state_store import LoadReport
from thriftserve.repository.versions import PYTHON_VERSION, ModelConfig, VersionDir, newest_version

# Loading that leaves the processor to those that serve.

_NICE = 10


@contextlib.contextmanager
def in_background(wanted: bool) -> Iterator[None]:
    """While entered, this process's threads have a low priority, where they can have their old one back."""
    if not wanted or not _may_return():
        yield
        return
    own = os.getpriority(os.PRIO_PROCESS, 0)
    _set_all(own + _NICE)
    try:
        yield
    finally:
        _set_all(own)


def _set_all(nice: int) -> None:
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            os.setpriority(os.PRIO_PROCESS, int(thread), nice)


def _may_return() -> bool:
    """Whether a lower priority can be taken back; tried by a thread that does nothing else."""
    answers: list[bool] = []

    def attempt() -> None:
        own = os.getpriority(os.PRIO_PROCESS, 0)
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), own + 1)
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), own)
        except OSError:
            answers.append(False)
        else:
            answers.append(True)

    trial = threading.Thread(target=attempt)
    trial.start()
    trial.join()
    return answers == [True]


log = logging.getLogger(__name__)


def load_plan(plan: Plan, options: SessionOptions, attempt: LoadReport | None = None) -> list[Servable]:
    """Loads every version of a plan.

    Of the first plan a version that can't be loaded is left out where another one of its model can; of any
    other it is an error, and what was loaded before it is closed again.

    Raises:
        ModelLoadError: names the model, its path and the reason.
        DeviceError: the device of `options` is not there.
    """
    loaded: list[Servable] = []
    try:
        for model in plan.models:
            loaded += _load_model(model, options, attempt, lenient=plan.first)
    except StartError:
        Registry(loaded).close()
        raise
    return loaded


def _load_model(
    model: PlannedModel, options: SessionOptions, attempt: LoadReport | None, *, lenient: bool
) -> list[Servable]:
    loaded: list[Servable] = []
    for one in model.versions:
        try:
            with attempt.loading(model.config.name, one.version) if attempt is not None else nullcontext():
                loaded.append(load(model.config, options, one))
        except ModelLoadError as error:
            if not lenient or (not loaded and one is model.versions[-1]):
                Registry(loaded).close()
                raise
            log.error("left out: %s", error.message)
    return loaded


def load(config: ModelConfig, options: SessionOptions, version: VersionDir | None = None) -> Servable:
    """Loads one version of a model; its newest one where none is given.

    Raises:
        ModelLoadError: names the model, its path and the reason.
        DeviceError: the device of `options` is not there.
    """
    began = time.monotonic()
    if config.devices == CPU:  # which a worker has beside its own device
        options = replace(options, device=CPU)
    try:
        servable = _python(config, options) if config.platform == "python" else _saved_model(config, options, version)
    except ModelLoadError as error:
        raise ModelLoadError(f"model {config.name!r}: {error.message}") from error
    log.info(
        "loaded model %s version %d on %s in %.2f s: %s",
        servable.name, servable.version, options.device, time.monotonic() - began, ", ".join(servable.signatures),
    )  # fmt: skip
    return servable


def _python(config: ModelConfig, options: SessionOptions) -> Servable:
    session = PythonSession.open(config.source, options.device)
    batching = config.batching or UNSET.batching
    return Servable(config.name, PYTHON_VERSION, session, session.labels, config.image, batching)


def _saved_model(config: ModelConfig, options: SessionOptions, version: VersionDir | None) -> Servable:
    found = version or newest_version(Path(config.source))
    # The small files first: a mistake in them is told without the seconds that a large model takes.
    labels, image = read_labels(found.path), config.image or image_settings.load(found.path)
    settings = model_settings.load(found.path)
    session = SavedModelSession.open(found.path, options)
    if options.freeze:
        session.optimize(image)
    give_memory_back()
    batching = config.batching or settings.batching
    words = (*trial_rows.vocabulary(found.path), *session.words)
    return Servable(config.name, found.version, session, labels, image, batching, words=words, note=session.optimized)


def give_memory_back() -> None:
    """Has the C library return what was used and freed: tens of MB after a load. Not every C library needs telling."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def read_labels(version_path: Path) -> tuple[str, ...]:
    """Class names by class number, one a line, UTF-8; empty where the version has none.

    They are looked for in assets.extra/labels.txt, then assets/labels.txt, then the only text file of assets
    whose name speaks of labels or classes (ImageNetLabels.txt): any other is more likely a vocabulary.

    Raises:
        ModelLoadError: the file can't be read.
    """
    path = _labels_file(version_path)
    if path is None:
        return ()
    try:
        return tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise ModelLoadError(f"{path}: the labels can't be read: {error}") from error


def _labels_file(version_path: Path) -> Path | None:
    for folder in ("assets.extra", "assets"):
        path = version_path / folder / "labels.txt"
        if path.exists():
            return path
    texts = [path for path in (version_path / "assets").glob("*.txt") if re.search("label|class", path.name.lower())]
    return texts[0] if len(texts) == 1 else None
