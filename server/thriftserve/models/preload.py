"""TensorFlow imported and left untouched, so that a process may fork afterwards.

preload()  -->  TensorFlow in sys.modules, without Keras, without a word on stderr that is of no use
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

#: Lines of no use to anybody, written before TensorFlow has read the log level it is given.
_CHATTER = re.compile(rb"WARNING: All log messages before absl::InitializeLog|I0000 .* (port|cpu_feature_guard)\.cc:")
#: TensorFlow's last step is to import this, and with it all of Keras and, where they are installed, scikit-learn
#: and SciPy; that it can't be had is no failure there.
_KERAS = "keras.src.optimizers"


def preload() -> None:
    """Imports TensorFlow and touches nothing of it.

    A parent may do this before it forks: its children are spared the 2 s of the import. A parent that
    has made a single tensor or session must not fork: its child's first operation never returns.

    A SavedModel needs nothing of Keras, which would take another second and 100 MB. A Python model that
    uses it imports it as usual, `tf.keras` included.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with _without_keras(), _without_chatter():
        import tensorflow  # noqa: F401  (the import is the whole point)


@contextlib.contextmanager
def _without_keras() -> Iterator[None]:
    if "tensorflow" in sys.modules or _KERAS in sys.modules:
        yield
        return
    modules: dict[str, Any] = sys.modules
    modules[_KERAS] = None  # as Python marks a module that is not to be had
    try:
        yield
    finally:
        del modules[_KERAS]


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Leaves out what TensorFlow's C++ part tells on stderr, whatever its log level, before it has read that."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            said.seek(0)
            for line in said:
                if not _CHATTER.match(line):
                    os.write(2, line)
