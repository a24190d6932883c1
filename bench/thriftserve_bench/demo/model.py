"""The demo's model on disk, made where it is missing.

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

from thriftserve_bench.demo.recipe import RECIPE, RECIPE_FILE

#: What the child of a demo needs to be quiet and to leave the GPU to the server.
_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "0", "CUDA_VISIBLE_DEVICES": "-1"}
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: Told after each epoch: epochs done, epochs in all, mean loss of the last one.
Told = Callable[[int, int, float], None]


class TrainingFailed(Exception):
    """The process that trains ended without a model; the message has what it wrote."""


@dataclass(frozen=True)
class Model:
    """A version of the model: `base_path/version/saved_model.pb`."""

    base_path: Path
    version: int


def newest(base_path: Path) -> Model | None:
    """The newest version there is, where it was made by this recipe."""
    version = max(_versions(base_path), default=None)
    if version is None:
        return None
    recipe = base_path / str(version) / RECIPE_FILE
    if not recipe.is_file() or recipe.read_text(encoding="utf-8").strip() != str(RECIPE):
        return None
    return Model(base_path, version)


def make(base_path: Path, told: Told) -> Model:
    """Trains a model and adds it as the next version; an interrupted one leaves nothing.

    Raises:
        TrainingFailed: the process that trains ended early.
    """
    base_path.mkdir(parents=True, exist_ok=True)
    version = max(_versions(base_path), default=0) + 1
    # Beside the versions: a name that is no number is none of them, and a rename does not cross file systems.
    with tempfile.TemporaryDirectory(dir=base_path, prefix=".training-") as scratch:
        made = Path(scratch) / "model"
        _train(made, told)
        made.rename(base_path / str(version))
    return Model(base_path, version)


def _versions(base_path: Path) -> list[int]:
    if not base_path.is_dir():
        return []
    return [int(one.name) for one in base_path.iterdir() if one.name.isdecimal()]


def _train(directory: Path, told: Told) -> None:
    command = [sys.executable, "-m", "thriftserve_bench.demo.make_model", str(directory)]
    with tempfile.TemporaryFile() as log, ExitStack() as ending:
        with _signals_later():
            # A session of its own: Ctrl-C comes to the demo, which ends it below.
            process = ending.enter_context(
                subprocess.Popen(
                    command, env=os.environ | _QUIET, stdout=subprocess.PIPE, stderr=log, start_new_session=True
                )
            )
            ending.callback(process.kill)  # and waited for: what it writes must be over before its directory is removed
        _follow(process, told)
        if process.wait() != 0:
            log.seek(0)
            said = log.read().decode(errors="replace").strip()
            raise TrainingFailed(f"training ended with exit code {process.returncode}:\n{said}")


@contextmanager
def _signals_later() -> Iterator[None]:
    """Signals that end the program do so at the end of the block: in the midst of Popen nobody has the process."""
    came: list[int] = []
    before = {one: signal.signal(one, lambda number, _: came.append(number)) for one in _ENDING}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
        for number in came:
            signal.raise_signal(number)


def _follow(process: subprocess.Popen[bytes], told: Told) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        progress: dict[str, Any] = json.loads(line)
        told(progress["epoch"], progress["epochs"], progress["loss"])
