"""TensorFlow for building models: without Keras, which nothing here uses, and with the collector at rest.

plain_tensorflow()  -->  the module, in less than half of the CPU time that importing all of it takes
"""

from __future__ import annotations

import atexit
import gc
import sys
from typing import Any

#: What TensorFlow imports where it can be had, and does without where it can't. The server has its own such list.
_OF_KERAS = ("keras.src.optimizers", "scipy.sparse", "h5py")


def plain_tensorflow() -> Any:
    """The `tensorflow` module; who wants Keras imports it afterwards, as usual."""
    if "tensorflow" not in sys.modules:
        _first_import()
    import tensorflow

    return tensorflow


def _first_import() -> None:
    modules: dict[str, Any] = sys.modules
    absent = [name for name in _OF_KERAS if name not in modules]
    for name in absent:
        modules[name] = None  # as Python marks a module that is not to be had
    enabled = gc.isenabled()
    gc.disable()
    try:
        import tensorflow  # noqa: F401  (the import is the whole point)

        gc.freeze()
        atexit.register(gc.unfreeze)  # at the end modules and what uses them go together again
    finally:
        for name in absent:
            del modules[name]
        if enabled:
            gc.enable()
