"""Loads a model and tries it, in a process of its own: what a damaged one does to a process stays there.

argv: VERSION_DIR, FILE  -->  load, signatures, runs with zeros, warm-up file, whether requests may share runs
                         -->  Findings as JSON in FILE
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from thriftserve.batching import Batcher
from thriftserve.errors import InvalidArgument, StartError, ThriftServeError
from thriftserve.models import devices, loader, sample_inputs, warmup
from thriftserve.models.devices import SessionOptions
from thriftserve.models.servable import Servable
from thriftserve.models.session import Arrays
from thriftserve.models.signature import Signature
from thriftserve.models.tensorflow.preload import preload
from thriftserve.models.tensorflow.saved_model import SavedModelSession
from thriftserve.repository import image_settings, model_settings
from thriftserve.repository.image_settings import ImageSettings
from thriftserve.tools.check import Findings
from thriftserve_idl.ttypes import DataType

# TensorFlow's own words about a model that it can't load, and what they mean for who has it.

_MEANINGS = (
    (
        re.compile(r"Op type not registered '(\w+)'"),
        "it uses the operation {0!r}, which this TensorFlow does not have: it is of a library of its own "
        "(as tensorflow-text has), or of a newer TensorFlow",
    ),
    (
        re.compile(r"no signature in it can be served"),
        "it has no signature to serve: save it with tf.saved_model.save(…, signatures=…) or Keras' model.export(path)",
    ),
    (
        re.compile(r"(?i)data.?loss|checksum|corrupted|out of range.*read|truncated|Unable to open table"),
        "its variables are damaged: copy it again, and compare sums",
    ),
    (
        re.compile(r"NodeDef (mentions attr|expected inputs)|not in Op<"),
        "it was written by another TensorFlow, newer than this one: save it with this one, or serve with that",
    ),
    (
        re.compile(r"(?i)resource ?exhausted|OOM when|bad_alloc|can't allocate"),
        "it needs more memory than there is",
    ),
)


def told(message: str) -> str:
    """A message with what it means before it, where that is known."""
    for pattern, meaning in _MEANINGS:
        found = pattern.search(message)
        if found:
            return f"{meaning.format(*found.groups())} ({message})"
    return message


def examine(path: Path) -> Findings:
    """Loads a version and runs it."""
    found = Findings(str(path))
    devices.claim(devices.CPU)
    preload()
    began = time.monotonic()
    try:
        labels, image = loader.read_labels(path), image_settings.load(path)
        settings = model_settings.load(path)
        session = SavedModelSession.open(path, SessionOptions())
    except StartError as error:
        found.faults.append(told(error.message))
        return found
    found.load_s = time.monotonic() - began
    found.describe(session.signatures)
    found.notes += _origin(path)
    for signature in session.signatures.values():
        _probe(session, signature, image, found)
    words = (*sample_inputs.read_vocabulary(path), *session.words)
    servable = Servable(path.parent.name, 1, session, labels, image, settings.batching, words=words)
    warmed = warmup.run_recorded(servable, path)
    found.notes += [f"{warmup.FILE}: {one}" for one in warmed.faults]
    if warmed.runs:
        found.notes.append(f"{sum(warmed.runs.values())} recorded requests ran")
    batcher = Batcher(1)
    batcher.examine(servable, path)
    found.notes += batcher.findings(servable)
    return found


def _origin(path: Path) -> list[str]:
    """Who wrote it, where that matters."""
    from tensorflow.python.saved_model import loader_impl

    graphs = loader_impl.parse_saved_model(str(path)).meta_graphs
    version = next((one.meta_info_def.tensorflow_version for one in graphs), "")
    notes = [f"written by TensorFlow {version or '(it does not say which)'}"]
    if not any(one.HasField("object_graph_def") for one in graphs):
        notes.append("an export of TensorFlow 1.x: it is served, and tf.saved_model.load may refuse it")
    return notes


def _probe(session: Any, signature: Signature, image: ImageSettings | None, found: Findings) -> None:
    zeros = sample_inputs.zeros(signature, image)
    batched = [name for name, spec in signature.inputs.items() if spec.shape and spec.shape[0] is None]
    for rows in (1, 2) if batched else (1,):
        inputs = {name: np.repeat(one, rows, axis=0) if name in batched else one for name, one in zeros.items()}
        try:
            outputs = _timed(session, signature, inputs, rows, found)
        except ThriftServeError as error:
            _note_failure(signature, rows, error, found)
            return
        if rows > 1:
            _note_rows(signature, outputs, rows, found)


def _timed(session: Any, signature: Signature, inputs: Arrays, rows: int, found: Findings) -> Arrays:
    began = time.monotonic()
    outputs: Arrays = session.run(signature.name, inputs, tuple(signature.outputs))
    found.runs.append((signature.name, rows, 1000 * (time.monotonic() - began)))
    odd = [name for name, one in outputs.items() if one.dtype.kind == "f" and not np.isfinite(one).all()]
    if odd and rows == 1:
        found.notes.append(f"{signature.name!r} gives {odd[0]!r} that is not finite for zeros")
    return outputs


def _note_failure(signature: Signature, rows: int, error: ThriftServeError, found: Findings) -> None:
    if rows > 1:
        found.notes.append(
            f"{signature.name!r} runs with one row and not with {rows}: its model.toml needs max_batch_size = 1 "
            f"({error.message})"
        )
    elif isinstance(error, InvalidArgument):  # some models take no zeros, and serve well
        found.notes.append(f"{signature.name!r} refuses zeros: {told(error.message)}")
    else:
        found.faults.append(f"{signature.name!r} fails: {told(error.message)}")


def _note_rows(signature: Signature, outputs: Arrays, rows: int, found: Findings) -> None:
    alone = [name for name, one in outputs.items() if one.shape[:1] != (rows,)]
    if alone and signature.outputs[alone[0]].dtype is not DataType.STRING:
        found.notes.append(
            f"{signature.name!r}: the output {alone[0]!r} has not a row for each row of the inputs: "
            "requests for it are not put together"
        )


def main(arguments: list[str]) -> int:
    """What the process does."""
    logging.disable(logging.CRITICAL)  # all that is worth knowing is in the findings
    Path(arguments[1]).write_text(json.dumps(asdict(examine(Path(arguments[0])))), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
