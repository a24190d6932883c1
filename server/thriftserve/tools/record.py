"""`thriftserve model record PATH`: adds a request, as typed, to the version's warm-up file.

--input x=[1, 2]  --read_inputs-->  arrays  --checked by the signature-->  PredictionLog  -->  one TFRecord more
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from thriftserve.errors import ConfigError, ExitCode, ModelLoadError
from thriftserve.files import CorruptFile, write_atomically
from thriftserve.models import prediction_log, warmup
from thriftserve.models.prediction_log import RecordedRequest, encode
from thriftserve.models.session import Signature, TensorSpec
from thriftserve.models.tensorflow import meta_graph
from thriftserve.repository.versions import SAVED_MODEL_FILES, list_versions, newest_version
from thriftserve_client.cli.flags import UsageError
from thriftserve_client.cli.inputs import read_inputs
from thriftserve_client.errors import TensorError
from thriftserve_client.results import SignatureInfo, TensorInfo


def run(flags: argparse.Namespace) -> int:
    """Record a request, and return 0.

    Raises:
        StartError: The path, a flag or an input is wrong.
    """
    version = find_version(flags.path)
    signature = _read_signature(version, flags.signature)
    try:
        inputs = read_inputs(flags.input, lambda: _signature_info(signature, flags.signature))
        request = RecordedRequest(flags.signature, inputs, flags.output)
        if signature is not None:
            warmup.request_inputs(request, signature)
            warmup.request_outputs(request, signature)
        content = encode(version.parent.name, flags.signature, inputs, flags.output)
    except (UsageError, CorruptFile, TensorError, OSError) as error:
        raise ConfigError(str(error)) from error
    path = version / warmup.FILE
    count = add_record(path, content, replace=flags.replace)
    print(f"{path}: {count} {'request' if count == 1 else 'requests'}")
    return ExitCode.OK


def find_version(text: str) -> Path:
    """Return the version directory that a PATH on the command line means.

    Raises:
        ModelLoadError: There is no such directory, or no version in it.
    """
    path = Path(text).expanduser().absolute()
    if any((path / name).exists() for name in SAVED_MODEL_FILES):
        return path
    if path.name.isdecimal() and path.is_dir() and not list_versions(path):
        return path  # a damaged version, or one of a Python model: the caller says what it lacks
    if not path.is_dir():
        raise ModelLoadError(f"{path}: there is no such directory")
    return newest_version(path).path


def add_record(path: Path, content: bytes, *, replace: bool = False) -> int:
    """Add a record to a file, which changes whole or not at all; return how many records it has now.

    Raises:
        ConfigError: The file can't be written, is damaged, or is full.
    """
    try:
        before = path.read_bytes() if path.exists() and not replace else b""
        records = list(prediction_log.read_records(path)) if before else []
        faults = [f"record {number}: {record}" for number, record in records if isinstance(record, CorruptFile)]
        if faults:
            raise ConfigError(f"{path}: {faults[0]}; --replace drops what the file has")
        if len(records) >= warmup.MAX_RECORDS:
            raise ConfigError(f"{path}: it has {len(records)} requests, and no more are run; --replace drops them")
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, before + prediction_log.frame_record(content))
    except OSError as error:
        raise ConfigError(f"{path}: can't be written: {error.strerror}") from error
    return len(records) + 1


def _read_signature(version: Path, name: str) -> Signature | None:
    """Return a signature, or None for a Python model's directory: only running the model shows its signatures."""
    if not any((version / file).exists() for file in SAVED_MODEL_FILES):
        return None
    endpoints = meta_graph.read_endpoints(version)
    if name not in endpoints:
        raise ConfigError(f"signature is {name!r}: {version} has {', '.join(endpoints)}")
    return endpoints[name].signature


def _signature_info(signature: Signature | None, name: str) -> SignatureInfo:
    if signature is None:
        raise UsageError("there is no SavedModel that would tell the types of inputs: give them as NAME=FILE.npy")
    return SignatureInfo(name, signature.method_name, _tensors(signature.inputs), _tensors(signature.outputs))


def _tensors(specs: Mapping[str, TensorSpec]) -> dict[str, TensorInfo]:
    return {name: TensorInfo(name, spec.dtype, spec.shape) for name, spec in specs.items()}
