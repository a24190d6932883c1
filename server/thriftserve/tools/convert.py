"""`thriftserve model convert SOURCE TARGET`: turns what training wrote into a version.

NAME.meta … | model.keras | model.h5  -->  .converting-1  --rename-->  BASE_PATH/1
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thriftserve.errors import ConfigError, ExitCode, ModelLoadError
from thriftserve.models import devices
from thriftserve.models.session import DEFAULT_SIGNATURE
from thriftserve.models.tensorflow import meta_graph
from thriftserve.models.tensorflow.preload import preload
from thriftserve.models.tensorflow.saved_model import reason
from thriftserve.models.tensorflow.session_config import reached_operations
from thriftserve.tools.check_child import explain

_KERAS = (".keras", ".h5", ".hdf5")
#: Tensors that a message offers at most.
_SHOWN = 8


@dataclass(frozen=True)
class Naming:
    """The names that requests use, and the graph's tensors ("x:0") that they mean."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    signature: str = DEFAULT_SIGNATURE


def run(flags: argparse.Namespace) -> int:
    """Convert a model, and return 0.

    Raises:
        StartError: A flag is wrong, or the source can't be read.
    """
    target = Path(flags.target).expanduser().absolute()
    if target.exists():
        raise ConfigError(f"{target}: is there already: give a new version directory")
    source = _find_source(Path(flags.source).expanduser().absolute())
    naming = Naming(_read_names(flags.input, "input"), _read_names(flags.output, "output"), flags.signature)
    if source.suffix in _KERAS and (naming.inputs or naming.outputs):
        raise ConfigError("a Keras file names its inputs and outputs itself: --input and --output are for checkpoints")
    devices.claim(devices.CPU)
    preload()
    scratch = target.with_name(f".converting-{target.name}")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix in _KERAS:
            convert_keras(source, scratch)
        else:
            convert_checkpoint(source, scratch, naming)
        signatures = meta_graph.read_endpoints(scratch)
        os.rename(scratch, target)
    except OSError as error:
        raise ConfigError(f"{target}: can't be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(f"{target}: written, with the signatures {', '.join(signatures)}; thriftserve model check {target} tries it")
    return ExitCode.OK


def convert_keras(source: Path, target: Path) -> None:
    """Write the SavedModel of a Keras file into a directory that is not there yet.

    Raises:
        ModelLoadError: Keras can't read the file, or not export the model.
    """
    import keras

    try:
        # Loading never runs code that the file brings: Keras refuses that by default.
        keras.models.load_model(source, compile=False).export(str(target), verbose=False)
    except Exception as error:
        raise ModelLoadError(f"{source}: Keras can't make a SavedModel of it: {reason(error)}") from error


def convert_checkpoint(prefix: Path, target: Path, naming: Naming) -> None:
    """Write the SavedModel of a checkpoint of TensorFlow 1.x into a directory that is not there yet.

    Raises:
        ModelLoadError: The checkpoint can't be read; the message says why.
        ConfigError: It lacks a named tensor, or none is named.
    """
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")
    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        try:
            v1.train.import_meta_graph(f"{prefix}.meta", clear_devices=True).restore(session, str(prefix))
        except Exception as error:
            raise ModelLoadError(f"{prefix}: the checkpoint can't be read: {explain(reason(error))}") from error
        if not naming.outputs:
            raise ConfigError(f"name what requests feed and fetch by --input and --output: {_describe_tensors(graph)}")
        inputs, outputs = _find_tensors(graph, naming.inputs), _find_tensors(graph, naming.outputs)
        missing = {name.decode() for name in session.run(v1.report_uninitialized_variables())}
        _check_restored(outputs.values(), missing)
        build = v1.saved_model.build_tensor_info
        signature = v1.saved_model.build_signature_def(
            {name: build(tensor) for name, tensor in inputs.items()},
            {name: build(tensor) for name, tensor in outputs.items()},
            "tensorflow/serving/predict",
        )
        tables = graph.get_collection(v1.GraphKeys.TABLE_INITIALIZERS)
        # What the checkpoint did not have can't be written; nothing that is served needs it.
        restored = [variable for variable in v1.global_variables() if variable.op.name not in missing]
        builder = v1.saved_model.Builder(str(target))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {naming.signature: signature},
            assets_collection=graph.get_collection(v1.GraphKeys.ASSET_FILEPATHS) or None,
            main_op=v1.tables_initializer() if tables else None,
            strip_default_attrs=True,
            saver=v1.train.Saver(restored, allow_empty=True),
        )
        builder.save()


def _find_tensors(graph: Any, names: Mapping[str, str]) -> dict[str, Any]:
    tensors: dict[str, Any] = {}
    for name, tensor in names.items():
        try:
            tensors[name] = graph.get_tensor_by_name(tensor if ":" in tensor else f"{tensor}:0")
        except (KeyError, ValueError):
            why = f"{name}={tensor}: the graph has no such tensor; {_describe_tensors(graph)}"
            raise ConfigError(why) from None
    return tensors


def _describe_tensors(graph: Any) -> str:
    """Return the placeholders, and tensors that nothing in the graph uses: most likely what is wanted."""
    operations = graph.get_operations()
    placeholders = [operation.outputs[0] for operation in operations if operation.type.startswith("Placeholder")]
    unused = [
        tensor
        for operation in operations
        for tensor in operation.outputs
        if operation.type not in ("SaveV2", "RestoreV2", "NoOp", "Const") and not tensor.consumers()
    ]
    return f"it has the placeholders {_listed(placeholders)} and, unused by others, {_listed(unused)}"


def _listed(tensors: list[Any]) -> str:
    texts = [f"{tensor.name} {tensor.dtype.name}{tensor.shape}" for tensor in tensors[:_SHOWN]]
    return ", ".join([*texts, "…"] if len(tensors) > _SHOWN else texts) or "(none)"


def _check_restored(outputs: Iterable[Any], missing: set[str]) -> None:
    """Refuse outputs that need variables without a value: each call would fail, later."""
    needed = {operation.name for operation in reached_operations(tensor.op for tensor in outputs)}
    lacking = sorted(missing & needed)
    if lacking:
        raise ModelLoadError(f"the checkpoint has no value for {len(lacking)} variables, {lacking[0]!r} among them")


def _find_source(path: Path) -> Path:
    """Return the Keras file, or the checkpoint without the endings of its files."""
    if path.suffix in _KERAS:
        if not path.is_file():
            raise ModelLoadError(f"{path}: there is no such file")
        return path
    prefix = path.with_suffix("") if path.suffix in (".meta", ".index") else path
    for ending in (".meta", ".index"):
        if not Path(f"{prefix}{ending}").is_file():
            raise ModelLoadError(
                f"{prefix}{ending}: there is no such file: a checkpoint is given by the NAME of its files "
                "NAME.meta, NAME.index and NAME.data-…, a Keras model by its .keras or .h5 file"
            )
    return prefix


def _read_names(texts: Iterable[str], flag: str) -> dict[str, str]:
    tensors: dict[str, str] = {}
    for text in texts:
        name, equals, tensor = text.partition("=")
        if not (name and equals and tensor) or name in tensors:
            raise ConfigError(f"{flag} is {text!r}: write NAME=TENSOR, each name once, like x=x:0")
        tensors[name] = tensor
    return tensors
