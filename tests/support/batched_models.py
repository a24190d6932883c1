"""Python models that do what their requests tell them. They run inside the server.

python:batched_models:Steered?path=DIR&ms=MS   y = 2x + 1 for each request of a batch, and what `do` asks for besides

    do = "kill"                 ends the process, in the middle of the batch, every time
    do = "exit"                 raises SystemExit
    do = "hang"                 never returns
    do = "hold:NAME"            says so by a file DIR/NAME.held, and returns once there is a file DIR/NAME
    do = "grow:N"               answers with N float32 more

A run takes MS milliseconds, however many share it. A request's `id` is noted in DIR/ran before it runs. While
there is a file DIR/no-load the model stays loading.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

Inputs = dict[str, Any]
_TICK_S = 0.005


class Steered:
    """Takes what several requests sent at once. Its runs are counted, so none is checked by another one."""

    batching = True

    def __init__(self, path: str, ms: str = "0") -> None:
        self._folder = Path(path)
        self._run_s = int(ms) / 1000

    def load(self) -> None:
        while (self._folder / "no-load").exists():
            time.sleep(_TICK_S)

    def predict(self, inputs: Inputs) -> Inputs:
        return self.predict_batch([inputs])[0]

    def predict_batch(self, batch: list[Inputs]) -> list[Inputs]:
        time.sleep(self._run_s)
        for inputs in batch:
            if "id" in inputs:
                with (self._folder / "ran").open("a") as ledger:
                    ledger.write(f"{int(inputs['id'])}\n")
        return [self._answer(inputs) for inputs in batch]

    def _answer(self, inputs: Inputs) -> Inputs:
        outputs = {"y": inputs["x"] * 2 + 1}
        what, _, detail = inputs["do"].item().decode().partition(":") if "do" in inputs else ("", "", "")
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif what == "exit":
            raise SystemExit(3)
        elif what == "hang":
            while True:
                time.sleep(_TICK_S)
        elif what == "hold":
            (self._folder / f"{detail}.held").touch()
            while not (self._folder / detail).exists():
                time.sleep(_TICK_S)
        elif what == "grow":
            outputs["more"] = np.zeros(int(detail), np.float32)
        return outputs


class Brightness:
    """Takes images; the score of class 1 is how bright they are."""

    signatures: ClassVar[dict[str, Any]] = {
        "inputs": {"image": ("float32", [None, 8, 8, 3])},
        "outputs": {"scores": ("float32", [None, 2])},
    }
    labels: ClassVar[list[str]] = ["dark", "bright"]

    def predict(self, inputs: Inputs) -> Inputs:
        bright = inputs["image"].mean(axis=(1, 2, 3))
        bright = bright / max(1.0, float(bright.max(initial=0.0)))
        return {"scores": np.stack([1 - bright, bright], axis=1).astype(np.float32)}
