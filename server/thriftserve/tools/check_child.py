"""Loads a model and tries it, in a process of its own: a damaged model can only crash that.

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

import numpy as np

from thriftserve.batching import Batcher
from thriftserve.errors import InvalidArgument, StartError, ThriftServeError
from thriftserve.models import devices, loader, sample_inputs, warmup
from thriftserve.models.devices import SessionOptions
from thriftserve.models.registry import Servable
from thriftserve.models.session import Arrays, Session, Signature
from thriftserve.models.tensorflow.preload import preload
from thriftserve.models.tensorflow.saved_model import SavedModelSession
from thriftserve.repository import image_settings, model_settings
from thriftserve.repository.image_settings import ImageSettings
from thriftserve.tools.check import Findings
from thriftserve_idl.ttypes import DataType

#: What TensorFlow says of a model that it can't load -> what it means for the model's owner.
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


def explain(message: str) -> str:
    """Return a message of TensorFlow's with its meaning before it, if that is known."""
    for pattern, meaning in _MEANINGS:
        match = pattern.search(message)
        if match:
            return f"{meaning.format(*match.groups())} ({message})"
    return message


def examine(path: Path) -> Findings:
    """Load a version, run it, and return the findings."""
    findings = Findings(str(path))
    devices.claim(devices.CPU)
    preload()
    began = time.monotonic()
    try:
        labels, image = loader.read_labels(path), image_settings.load(path)
        settings = model_settings.load(path)
        session = SavedModelSession.open(path, SessionOptions())
    except StartError as error:
        findings.faults.append(explain(error.message))
        return findings
    findings.load_s = time.monotonic() - began
    findings.add_signatures(session.signatures)
    findings.notes += _origin_notes(path)
    for signature in session.signatures.values():
        _run_zeros(session, signature, image, findings)
    words = (*sample_inputs.read_vocabulary(path), *session.words)
    servable = Servable(path.parent.name, 1, session, labels, image, settings.batching, words=words)
    recorded = warmup.run_recorded(servable, path)
    findings.notes += [f"{warmup.FILE}: {fault}" for fault in recorded.faults]
    if recorded.runs:
        findings.notes.append(f"{sum(recorded.runs.values())} recorded requests ran")
    batcher = Batcher(1)
    batcher.examine(servable, path)
    findings.notes += batcher.findings(servable)
    return findings


def _origin_notes(path: Path) -> list[str]:
    """Return which TensorFlow wrote it, and what follows from that."""
    from tensorflow.python.saved_model import loader_impl

    graphs = loader_impl.parse_saved_model(str(path)).meta_graphs
    version = next((graph.meta_info_def.tensorflow_version for graph in graphs), "")
    notes = [f"written by TensorFlow {version or '(it does not say which)'}"]
    if not any(graph.HasField("object_graph_def") for graph in graphs):
        notes.append("an export of TensorFlow 1.x: it is served, and tf.saved_model.load may refuse it")
    return notes


def _run_zeros(session: Session, signature: Signature, image: ImageSettings | None, findings: Findings) -> None:
    """Run a signature with one row of zeros, and with two if it has rows."""
    zeros = sample_inputs.zeros(signature, image)
    batched = [name for name, spec in signature.inputs.items() if spec.has_rows]
    for rows in (1, 2) if batched else (1,):
        inputs = {name: np.repeat(row, rows, axis=0) if name in batched else row for name, row in zeros.items()}
        try:
            outputs = _run_timed(session, signature, inputs, rows, findings)
        except ThriftServeError as error:
            _add_failure(signature, rows, error, findings)
            return
        if rows > 1:
            _check_rows(signature, outputs, rows, findings)


def _run_timed(session: Session, signature: Signature, inputs: Arrays, rows: int, findings: Findings) -> Arrays:
    began = time.monotonic()
    outputs = session.run(signature.name, inputs, tuple(signature.outputs))
    findings.runs.append((signature.name, rows, 1000 * (time.monotonic() - began)))
    odd = [name for name, array in outputs.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]
    if odd and rows == 1:
        findings.notes.append(f"{signature.name!r} gives {odd[0]!r} that is not finite for zeros")
    return outputs


def _add_failure(signature: Signature, rows: int, error: ThriftServeError, findings: Findings) -> None:
    if rows > 1:
        findings.notes.append(
            f"{signature.name!r} runs with one row and not with {rows}: its model.toml needs max_batch_size = 1 "
            f"({error.message})"
        )
    elif isinstance(error, InvalidArgument):  # some models refuse zeros, and serve well
        findings.notes.append(f"{signature.name!r} refuses zeros: {explain(error.message)}")
    else:
        findings.faults.append(f"{signature.name!r} fails: {explain(error.message)}")


def _check_rows(signature: Signature, outputs: Arrays, rows: int, findings: Findings) -> None:
    without_rows = [name for name, array in outputs.items() if array.shape[:1] != (rows,)]
    if without_rows and signature.outputs[without_rows[0]].dtype is not DataType.STRING:
        findings.notes.append(
            f"{signature.name!r}: the output {without_rows[0]!r} has not a row for each row of the inputs: "
            "requests for it are not put together"
        )


def main(arguments: list[str]) -> int:
    """Write the findings about a version directory, the first argument, into a file, the second."""
    logging.disable(logging.CRITICAL)  # all that is worth knowing is in the findings
    Path(arguments[1]).write_text(json.dumps(asdict(examine(Path(arguments[0])))), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
