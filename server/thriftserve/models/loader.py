"""Loads the versions of a plan.

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
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from thriftserve.errors import ModelLoadError, StartError
from thriftserve.models import sample_inputs
from thriftserve.models.devices import CPU, SessionOptions
from thriftserve.models.python.session import PythonSession
from thriftserve.models.registry import Servable, close_all
from thriftserve.models.tensorflow.saved_model import SavedModelSession
from thriftserve.repository import image_settings, model_settings
from thriftserve.repository.model_settings import UNSET
from thriftserve.repository.plan import Plan, PlannedModel
from thriftserve.repository.state_store import LoadReport
from thriftserve.repository.versions import PYTHON_VERSION, ModelConfig, VersionDir, newest_version

#: Added to the priority number of threads that load while others serve.
_NICE = 10

log = logging.getLogger(__name__)


def load_plan(plan: Plan, options: SessionOptions, report: LoadReport | None = None) -> list[Servable]:
    """Load every version of a plan.

    In the first plan, a version that can't be loaded is left out if another one of its model can; in any other plan it
    is an error, and what was loaded before it is closed again.

    Raises:
        ModelLoadError: A version can't be loaded; the message names the model, its path and the reason.
        DeviceError: There is no device as `options` say.
    """
    servables: list[Servable] = []
    try:
        for model in plan.models:
            servables += _load_model(model, options, report, lenient=plan.first)
    except StartError:
        close_all(servables)
        raise
    return servables


def _load_model(
    model: PlannedModel, options: SessionOptions, report: LoadReport | None, *, lenient: bool
) -> list[Servable]:
    servables: list[Servable] = []
    for version in model.versions:
        try:
            with report.loading(model.config.name, version.version) if report is not None else nullcontext():
                servables.append(load(model.config, options, version))
        except ModelLoadError as error:
            if not lenient or (not servables and version is model.versions[-1]):
                close_all(servables)
                raise
            log.error("left out: %s", error.message)
    return servables


def load(config: ModelConfig, options: SessionOptions, version: VersionDir | None = None) -> Servable:
    """Load one version of a model; None: its newest.

    Raises:
        ModelLoadError: It can't be loaded; the message names the model, its path and the reason.
        DeviceError: There is no device as `options` say.
    """
    began = time.monotonic()
    if config.devices == CPU:  # every worker has the CPU beside its own device
        options = replace(options, device=CPU)
    try:
        if config.platform == "python":
            servable = _load_python(config, options)
        else:
            servable = _load_saved_model(config, options, version or newest_version(Path(config.source)))
    except ModelLoadError as error:
        raise ModelLoadError(f"model {config.name!r}: {error.message}") from error
    log.info(
        "loaded model %s version %d on %s in %.2f s: %s",
        servable.name, servable.version, options.device, time.monotonic() - began, ", ".join(servable.signatures),
    )  # fmt: skip
    return servable


def _load_python(config: ModelConfig, options: SessionOptions) -> Servable:
    session = PythonSession.open(config.source, options.device, name=config.name, cores=options.intra_op_threads)
    batching = config.batching or UNSET.batching
    return Servable(config.name, PYTHON_VERSION, session, session.labels, config.image, batching)


def _load_saved_model(config: ModelConfig, options: SessionOptions, version: VersionDir) -> Servable:
    path = version.path
    # The small files first: a mistake in them shows before the seconds that a large model takes.
    labels, image = read_labels(path), config.image or image_settings.load(path)
    settings = model_settings.load(path)
    session = SavedModelSession.open(path, options)
    if options.freeze:
        session.optimize(image)
    release_free_memory()
    batching = config.batching or settings.batching
    words = (*sample_inputs.read_vocabulary(path), *session.words)
    note = session.optimized
    return Servable(config.name, version.version, session, labels, image, batching, words=words, note=note)


def read_labels(version_path: Path) -> tuple[str, ...]:
    """Return the class names of a version by class number: the lines of a UTF-8 file; () if it has no such file.

    The file is assets.extra/labels.txt, else assets/labels.txt, else the only text file of assets with "label" or
    "class" in its name (ImageNetLabels.txt): any other is more likely a vocabulary.

    Raises:
        ModelLoadError: The file can't be read.
    """
    path = _find_labels(version_path)
    if path is None:
        return ()
    try:
        return tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise ModelLoadError(f"{path}: the labels can't be read: {error}; make it a readable UTF-8 file") from error


def _find_labels(version_path: Path) -> Path | None:
    for folder in ("assets.extra", "assets"):
        path = version_path / folder / "labels.txt"
        if path.exists():
            return path
    texts = [path for path in (version_path / "assets").glob("*.txt") if re.search("label|class", path.name.lower())]
    return texts[0] if len(texts) == 1 else None


def release_free_memory() -> None:
    """Have the C library return freed memory to the system: tens of MB after a load. Only glibc needs the call."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@contextlib.contextmanager
def in_background(wanted: bool) -> Iterator[None]:
    """Give this process's threads a low priority for a while, unless they could not have their old one back."""
    if not wanted or not _can_restore_priority():
        yield
        return
    own = os.getpriority(os.PRIO_PROCESS, 0)
    _set_priority(own + _NICE)
    try:
        yield
    finally:
        _set_priority(own)


def _set_priority(nice: int) -> None:
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            os.setpriority(os.PRIO_PROCESS, int(thread), nice)


def _can_restore_priority() -> bool:
    """Return whether a lower priority can be undone; tried by a thread that does nothing else."""

    def attempt() -> bool:
        thread, own = threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0)
        try:
            os.setpriority(os.PRIO_PROCESS, thread, own + 1)
            os.setpriority(os.PRIO_PROCESS, thread, own)
        except OSError:
            return False
        return True

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(attempt).result()
