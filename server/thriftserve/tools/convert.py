"""`thriftserve model convert SOURCE TARGET`: what training wrote becomes a version that can be served.

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
from thriftserve.models.signature import DEFAULT_SIGNATURE
from thriftserve.models.tensorflow import meta_graph
from thriftserve.models.tensorflow.preload import preload
from thriftserve.models.tensorflow.saved_model import reason
from thriftserve.tools.check_child import told

# A checkpoint of TensorFlow 1.x and its meta graph become a SavedModel.

#: Tensors that a message offers at most.
_SHOWN = 8


@dataclass(frozen=True)
class Naming:
    """The names that requests use, and the graph's tensors ("x:0") that they mean."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    signature: str = DEFAULT_SIGNATURE


def convert(prefix: Path, target: Path, naming: Naming) -> None:
    """Writes the SavedModel of a checkpoint into a directory that is not there yet.

    Raises:
        ModelLoadError: the checkpoint can't be read; the message says why.
        ConfigError: a tensor named is not in it, or none is named.
    """
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")
    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        try:
            v1.train.import_meta_graph(f"{prefix}.meta", clear_devices=True).restore(session, str(prefix))
        except Exception as error:
            raise ModelLoadError(f"{prefix}: the checkpoint can't be read: {told(reason(error))}") from error
        _check_named(graph, naming)
        missing = {name.decode() for name in session.run(v1.report_uninitialized_variables())}
        _check_restored(graph, naming, missing)
        signature = v1.saved_model.build_signature_def(
            _infos(v1, graph, naming.inputs), _infos(v1, graph, naming.outputs), "tensorflow/serving/predict"
        )
        tables = graph.get_collection(v1.GraphKeys.TABLE_INITIALIZERS)
        builder = v1.saved_model.Builder(str(target))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {naming.signature: signature},
            assets_collection=graph.get_collection(v1.GraphKeys.ASSET_FILEPATHS) or None,
            main_op=v1.tables_initializer() if tables else None,
            strip_default_attrs=True,
            # What the checkpoint did not have can't be written; nothing that is served needs it.
            saver=_saver(v1, missing),
        )
        builder.save()


def _infos(v1: Any, graph: Any, names: Mapping[str, str]) -> dict[str, Any]:
    build = v1.saved_model.build_tensor_info
    return {name: build(_tensor(graph, tensor, name)) for name, tensor in names.items()}


def _tensor(graph: Any, tensor: str, name: str) -> Any:
    try:
        return graph.get_tensor_by_name(tensor if ":" in tensor else f"{tensor}:0")
    except (KeyError, ValueError):
        raise ConfigError(f"{name}={tensor}: the graph has no such tensor; {_offer(graph)}") from None


def _check_named(graph: Any, naming: Naming) -> None:
    if not naming.outputs:
        raise ConfigError(f"name what requests feed and fetch by --input and --output: {_offer(graph)}")
    for names in (naming.inputs, naming.outputs):
        _ = [_tensor(graph, tensor, name) for name, tensor in names.items()]


def _offer(graph: Any) -> str:
    """Placeholders, and tensors that nothing in the graph uses: most likely what is wanted."""
    operations = graph.get_operations()
    fed = [one.outputs[0] for one in operations if one.type.startswith("Placeholder")]
    last = [
        tensor
        for one in operations
        for tensor in one.outputs
        if one.type not in ("SaveV2", "RestoreV2", "NoOp", "Const") and not tensor.consumers()
    ]
    return f"it has the placeholders {_listed(fed)} and, unused by others, {_listed(last)}"


def _listed(tensors: list[Any]) -> str:
    texts = [f"{one.name} {one.dtype.name}{one.shape}" for one in tensors[:_SHOWN]]
    return ", ".join([*texts, "…"] if len(tensors) > _SHOWN else texts) or "(none)"


def _saver(v1: Any, missing: set[str]) -> Any:
    there = [one for one in v1.global_variables() if one.op.name not in missing]
    return v1.train.Saver(there, allow_empty=True)


def _check_restored(graph: Any, naming: Naming, missing: set[str]) -> None:
    """Variables that the saver does not restore would fail each call, later."""
    needed = {one.name for one in _reached(_tensor(graph, tensor, name) for name, tensor in naming.outputs.items())}
    lacking = sorted(missing & needed)
    if lacking:
        raise ModelLoadError(f"the checkpoint has no value for {len(lacking)} variables, {lacking[0]!r} among them")


def _reached(tensors: Any) -> set[Any]:
    """Every operation that tensors depend on."""
    seen: set[Any] = set()
    waiting = [one.op for one in tensors]
    while waiting:
        operation = waiting.pop()
        if operation not in seen:
            seen.add(operation)
            waiting += [*operation.control_inputs, *(one.op for one in operation.inputs)]
    return seen


_KERAS = (".keras", ".h5", ".hdf5")


def run(flags: argparse.Namespace) -> int:
    """Converts a model.

    Returns:
        0.

    Raises:
        StartError: a flag is wrong, or the source can't be read.
    """
    target = Path(flags.target).expanduser().absolute()
    if target.exists():
        raise ConfigError(f"{target}: is there already: give a new version directory")
    source = _source(Path(flags.source).expanduser().absolute())
    naming = Naming(_named(flags.input, "input"), _named(flags.output, "output"), flags.signature)
    if source.suffix in _KERAS and (naming.inputs or naming.outputs):
        raise ConfigError("a Keras file names its inputs and outputs itself: --input and --output are for checkpoints")
    devices.claim(devices.CPU)
    preload()
    scratch = target.with_name(f".converting-{target.name}")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix in _KERAS:
            _export(source, scratch)
        else:
            convert(source, scratch, naming)
        found = meta_graph.read_endpoints(scratch)
        os.rename(scratch, target)
    except OSError as error:
        raise ConfigError(f"{target}: can't be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(f"{target}: written, with the signatures {', '.join(found)}; thriftserve model check {target} tries it")
    return ExitCode.OK


def _source(path: Path) -> Path:
    """The Keras file, or the checkpoint without the endings of its files."""
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


def _named(texts: Iterable[str], flag: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, equals, tensor = text.partition("=")
        if not (name and equals and tensor) or name in found:
            raise ConfigError(f"{flag} is {text!r}: write NAME=TENSOR, each name once, like x=x:0")
        found[name] = tensor
    return found


def _export(source: Path, target: Path) -> None:
    import keras

    try:
        # Loading never runs code that the file brings: Keras refuses that by default.
        keras.models.load_model(source, compile=False).export(str(target), verbose=False)
    except Exception as error:
        raise ModelLoadError(f"{source}: Keras can't make a SavedModel of it: {reason(error)}") from error
