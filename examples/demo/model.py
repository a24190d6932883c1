"""The demo's model on disk, trained if it is missing.

directory  -->  newest version of this recipe  |  make_model in a process of its own  -->  base path
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.digits import RECIPE, RECIPE_FILE

#: What the child of a demo needs to be quiet and to leave the GPU to the server.
_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "0", "CUDA_VISIBLE_DEVICES": "-1"}
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: Called after each epoch with the epochs done, the epochs in all, and the mean loss of the last one.
OnEpoch = Callable[[int, int, float], None]


class TrainingFailed(Exception):
    """The process that trains ended without a model; the message has what it wrote."""


@dataclass(frozen=True)
class Model:
    """A version of the model: `base_path/version/saved_model.pb`."""

    base_path: Path
    version: int


def newest(base_path: Path) -> Model | None:
    """Return the newest version, or None if there is none or another recipe made it."""
    version = max(_versions(base_path), default=None)
    if version is None:
        return None
    recipe = base_path / str(version) / RECIPE_FILE
    if not recipe.is_file() or recipe.read_text(encoding="utf-8").strip() != str(RECIPE):
        return None
    return Model(base_path, version)


def make(base_path: Path, on_epoch: OnEpoch) -> Model:
    """Train a model and add it as the next version; an interrupted one leaves nothing.

    Raises:
        TrainingFailed: the process that trains ended early.
    """
    base_path.mkdir(parents=True, exist_ok=True)
    version = max(_versions(base_path), default=0) + 1
    # Beside the versions: a name that is no number is none of them, and a rename does not cross file systems.
    with tempfile.TemporaryDirectory(dir=base_path, prefix=".training-") as scratch:
        unfinished = Path(scratch) / "model"
        _train(unfinished, on_epoch)
        unfinished.rename(base_path / str(version))
    return Model(base_path, version)


def _versions(base_path: Path) -> list[int]:
    if not base_path.is_dir():
        return []
    return [int(directory.name) for directory in base_path.iterdir() if directory.name.isdecimal()]


def _train(directory: Path, on_epoch: OnEpoch) -> None:
    command = [sys.executable, "-m", "demo.make_model", str(directory)]
    with tempfile.TemporaryFile() as log, ExitStack() as ending:
        with _deferred_signals():
            # A session of its own: Ctrl-C comes to the demo, which ends it below.
            process = ending.enter_context(
                subprocess.Popen(
                    command,
                    env=os.environ | _QUIET | {"PYTHONPATH": os.fspath(Path(__file__).parents[1])},
                    stdout=subprocess.PIPE,
                    stderr=log,
                    start_new_session=True,
                )
            )
            ending.callback(process.kill)  # and waited for: what it writes must be over before its directory is removed
        _follow(process, on_epoch)
        if process.wait() != 0:
            log.seek(0)
            output = log.read().decode(errors="replace").strip()
            raise TrainingFailed(f"training ended with exit code {process.returncode}:\n{output}")


@contextmanager
def _deferred_signals() -> Iterator[None]:
    """Defer signals that end the program to the end of the block: during Popen nobody could end the new process."""
    received: list[int] = []
    before = {ending: signal.signal(ending, lambda number, _: received.append(number)) for ending in _ENDING}
    try:
        yield
    finally:
        for ending, handler in before.items():
            signal.signal(ending, handler)
        for number in received:
            signal.raise_signal(number)


def _follow(process: subprocess.Popen[bytes], on_epoch: OnEpoch) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        progress: dict[str, Any] = json.loads(line)
        on_epoch(progress["epoch"], progress["epochs"], progress["loss"])
