"""The inputs of the calls of `experiments`.

"empty" | "no-service" | "images"  -->  arrays by input name
"""

from __future__ import annotations

from typing import Any

import numpy as np

#: Workloads of milliseconds need no input.
EMPTY = "empty"
#: The same, asked to spend no time at all.
NO_SERVICE = "no-service"
#: Images for `image_classifier`, the model that stands for real ones: enough for some milliseconds.
IMAGES = "images"
_BATCH = 64


def make_inputs(kind: str) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
    """Return the arrays of that kind; IMAGES is float32 [64, 28, 28, 1]."""
    if kind == NO_SERVICE:
        return {"ms": np.asarray(0.0)}
    if kind == IMAGES:
        return {"image": np.random.default_rng(1).random((_BATCH, 28, 28, 1), np.float32)}
    return {}
