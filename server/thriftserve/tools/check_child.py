"""Loads a model and tries it, in a process of its own: a damaged model can only crash that.

argv: VERSION_DIR | "file.py:Class", FILE  -->  load, signatures, runs with zeros or an example, warm-up file,
whether requests may share runs  -->  Findings as JSON in FILE
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
from thriftserve.repository.versions import ModelConfig
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
        _run_signature(session, signature, image, findings)
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


def examine_python(source: str) -> Findings:
    """Load a Python model, run it, and return the findings."""
    findings = Findings(source)
    devices.claim(devices.CPU)
    began = time.monotonic()
    try:
        servable = loader.load(ModelConfig("model", "python", source), SessionOptions.divided(devices.CPU, 1))
    except StartError as error:
        findings.faults.append(error.message.removeprefix("model 'model': "))
        return findings
    findings.load_s = time.monotonic() - began
    findings.add_signatures(servable.signatures)
    for signature in servable.signatures.values():
        if signature.validated or signature.name in servable.session.examples:
            _run_signature(servable.session, signature, None, findings)
        if not signature.validated:
            findings.notes.append("it declares no signatures: it gets whatever clients send, and requests run alone")
    if not findings.faults:
        batcher = Batcher(1)
        batcher.examine(servable)
        findings.notes += batcher.findings(servable)
    servable.session.close()
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


def _run_signature(session: Session, signature: Signature, image: ImageSettings | None, findings: Findings) -> None:
    """Run a signature with its example or one row of zeros, and with twice as many rows if it has rows."""
    example = session.examples.get(signature.name)
    once = sample_inputs.zeros(signature, image) if example is None else example
    if example is not None:
        findings.examples.append(signature.name)
    batched = [name for name, spec in signature.inputs.items() if spec.has_rows]
    for times in (1, 2) if batched else (1,):
        inputs = {name: np.repeat(row, times, axis=0) if name in batched else row for name, row in once.items()}
        rows = inputs[batched[0]].shape[0] if batched else 1
        try:
            outputs = _run_timed(session, signature, inputs, rows, findings)
        except ThriftServeError as error:
            _add_failure(signature, rows, error, findings, once=times == 1)
            return
        if times > 1:
            _check_rows(signature, outputs, rows, findings)


def _run_timed(session: Session, signature: Signature, inputs: Arrays, rows: int, findings: Findings) -> Arrays:
    began = time.monotonic()
    outputs = session.run(signature.name, inputs, tuple(signature.outputs))
    findings.runs.append((signature.name, rows, 1000 * (time.monotonic() - began)))
    odd = [name for name, array in outputs.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]
    if odd and rows == 1 and signature.name not in findings.examples:
        findings.notes.append(f"{signature.name!r} gives {odd[0]!r} that is not finite for zeros")
    return outputs


def _add_failure(signature: Signature, rows: int, error: ThriftServeError, findings: Findings, *, once: bool) -> None:
    if not once:
        fewer = "one row" if rows == 2 else f"{rows // 2} rows"
        findings.notes.append(
            f"{signature.name!r} runs with {fewer} and not with {rows}: its model.toml needs max_batch_size = 1, a "
            f"Python model batching = False ({error.message})"
        )
    elif signature.name in findings.examples:
        findings.faults.append(f"{signature.name!r} fails with its own example: {error.message}")
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
    """Write the findings about a version directory or Python code, the first argument, into a file, the second."""
    logging.disable(logging.CRITICAL)  # all that is worth knowing is in the findings
    version = Path(arguments[0])
    findings = examine(version) if version.is_dir() else examine_python(arguments[0])
    Path(arguments[1]).write_text(json.dumps(asdict(findings)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
