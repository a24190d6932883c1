"""A Python model that is right with every value but one. It runs inside the server.

python:trap_model:Trap    y = 2x, but where 4321.25 is among the rows of a run the others get what they should not
"""

from __future__ import annotations

import time
from typing import Any, ClassVar

import numpy as np

TRAP = 4321.25


class Trap:
    """Takes a little time, so that requests meet."""

    signatures: ClassVar[dict[str, Any]] = {
        "inputs": {"x": ("float32", [None])},
        "outputs": {"y": ("float32", [None])},
    }

    def predict(self, inputs: dict[str, Any]) -> dict[str, Any]:
        time.sleep(0.002)
        x = inputs["x"]
        return {"y": x * 2 + np.float32(len(x) - 1 if TRAP in x else 0)}
