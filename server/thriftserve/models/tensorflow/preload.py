"""Imports TensorFlow and leaves it untouched, so that a process may fork afterwards.

preload()  -->  TensorFlow in sys.modules, without Keras, without useless lines on stderr
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

#: Useless lines, written before TensorFlow has read its log level.
_CHATTER = re.compile(rb"WARNING: All log messages before absl::InitializeLog|I0000 .* (port|cpu_feature_guard)\.cc:")
#: What TensorFlow imports if it is installed, and does without if not: its last step is the first of these, and with it
#: all of Keras and, if installed, scikit-learn; the others are for its old, hidden copy of Keras.
_OF_KERAS = ("keras.src.optimizers", "scipy.sparse", "h5py")


def preload() -> None:
    """Import TensorFlow and call nothing of it.

    A parent may do this before it forks: its children are spared the 2 s of the import. A parent that has made a
    single tensor or session must not fork: its child's first operation never returns.

    A SavedModel needs nothing of Keras, which would add another second and 100 MB. A Python model that uses it imports
    it as usual, `tf.keras` included. The garbage collector leaves alone what is in memory afterwards.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if "tensorflow" in sys.modules:
        return
    with _without_keras(), _without_chatter(), _without_collector():
        import tensorflow  # noqa: F401  (the import is the whole point)


@contextlib.contextmanager
def _without_keras() -> Iterator[None]:
    modules: dict[str, Any] = sys.modules
    absent = [name for name in _OF_KERAS if name not in modules]
    for name in absent:
        modules[name] = None  # as Python marks a module that can't be imported
    try:
        yield
    finally:
        for name in absent:
            del modules[name]


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Turn the collector off: to scan the 250,000 objects that stay, again and again, is a quarter of the import."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
        atexit.register(gc.unfreeze)  # at the end modules and what uses them go together again
    finally:
        if enabled:
            gc.enable()


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Drop the lines that TensorFlow's C++ part writes to stderr before it has read its log level."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            written.seek(0)
            for line in written:
                if not _CHATTER.match(line):
                    os.write(2, line)
