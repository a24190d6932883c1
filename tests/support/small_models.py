"""Small models on disk, each made once for the whole run of the tests.

small("half_plus_two")  -->  a base path with version 1 in it
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from thriftserve.models import devices
from thriftserve.models.tensorflow.preload import preload
from thriftserve.models.tensorflow.saved_model import SavedModelSession
from thriftserve_bench.workloads import builders

CPU = devices.SessionOptions()


@cache
def scratch() -> Path:
    path = Path(tempfile.mkdtemp(prefix="thriftserve-models-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@cache
def small(kind: str) -> Path:
    """The base path of a model of a kind that `thriftserve_bench.workloads.builders` knows. Copy it to change it."""
    preload()
    return builders.build(kind, scratch())


def opened(kind: str) -> SavedModelSession:
    """A session of that model, on the CPU."""
    return SavedModelSession.open(small(kind) / "1", CPU)
