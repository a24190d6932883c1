"""Writing SavedModels: TensorFlow as cheaply as it can be imported, and a model's description.

small_models, mobilenet  -->  ModelSource  --write-->  saved_model.pb, assets.extra/labels.txt and image.toml
"""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: What TensorFlow imports if it can, and does without otherwise. The server has its own such list.
_OF_KERAS = ("keras.src.optimizers", "scipy.sparse", "h5py")


@dataclass(frozen=True)
class ModelSource:
    """A model before it is written."""

    #: A `tf.Module` that holds everything the signatures use.
    module: Any
    #: Signature name -> `tf.function` with an input signature.
    signatures: Mapping[str, Any]
    #: Class names by class number; empty: no labels.txt is written.
    labels: Sequence[str] = ()
    #: Content of assets.extra/image.toml; empty: none is written.
    image_toml: str = ""

    def write(self, path: Path) -> None:
        """Write a version directory."""
        plain_tensorflow().saved_model.save(self.module, str(path), signatures=dict(self.signatures))
        files: dict[str, str] = {}
        if self.labels:
            files["labels.txt"] = "".join(f"{label}\n" for label in self.labels)
        if self.image_toml:
            files["image.toml"] = self.image_toml
        extra = path / "assets.extra"
        if files:
            extra.mkdir()
        for name, content in files.items():
            (extra / name).write_text(content, encoding="utf-8")


def plain_tensorflow() -> Any:
    """Import TensorFlow without Keras and with the garbage collector off: in less than half of the CPU time.

    Call it before anything else imports TensorFlow. A caller that needs Keras imports it afterwards, as usual.
    """
    if "tensorflow" not in sys.modules:
        _first_import()
    import tensorflow

    return tensorflow


def _first_import() -> None:
    modules: dict[str, Any] = sys.modules
    absent = [name for name in _OF_KERAS if name not in modules]
    for name in absent:
        modules[name] = None  # as Python marks a module that can't be imported
    enabled = gc.isenabled()
    gc.disable()
    try:
        import tensorflow  # noqa: F401  (the import is the whole point)

        gc.freeze()
        atexit.register(gc.unfreeze)  # at exit modules and what uses them are collected together again
    finally:
        for name in absent:
            del modules[name]
        if enabled:
            gc.enable()
