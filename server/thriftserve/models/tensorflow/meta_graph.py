"""The meta graphs of a SavedModel: which one to load, and the signatures in it.

    VERSION_DIR/saved_model.pb  --choose_tags-->  tags to load
    loaded meta graph  --endpoints-->  {signature name: Endpoint(Signature, its tensors' names)}

The file is read before it is loaded: loading needs the tags, and a damaged file is told apart from a graph that
TensorFlow refuses.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thriftserve.errors import ModelLoadError
from thriftserve.files import CorruptFile
from thriftserve.models import sample_inputs
from thriftserve.models.session import Signature, TensorSpec
from thriftserve.repository import saved_model_file
from thriftserve.repository.versions import SAVED_MODEL_FILES
from thriftserve_idl.ttypes import DataType

SERVE = "serve"
#: Signatures that loading itself uses.
INTERNAL_SIGNATURES = frozenset({"__saved_model_init_op", "__saved_model_train_op"})
#: TensorFlow adds this to the number of a type for a reference to it (outputs that are old variables).
_REFERENCE = 100
#: Number of the type of strings, and how many of a graph's strings are enough to try it with.
_STRING, _MOST_WORDS = 7, 24

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Endpoint:
    """A signature and the graph's names of its tensors ("x:0"), by the names that requests use."""

    signature: Signature
    feeds: Mapping[str, str]
    fetches: Mapping[str, str]


def choose_tags(path: Path) -> tuple[str, ...]:
    """Return the tags of the meta graph to serve: exactly "serve", else one that has it, else the only one.

    Raises:
        ModelLoadError: The file is missing or damaged, or none of several meta graphs is for serving.
    """
    return tuple(_read_graph(path).meta_info_def.tags)


def read_endpoints(path: Path) -> dict[str, Endpoint]:
    """Return the signatures of a version directory from its file alone, without TensorFlow.

    Raises:
        ModelLoadError: As `choose_tags` and `endpoints`.
    """
    return endpoints(_read_graph(path), path)


def _read_graph(path: Path) -> Any:
    """Return the meta graph to serve, without TensorFlow."""
    file = next((path / name for name in SAVED_MODEL_FILES if (path / name).exists()), None)
    if file is None:
        raise ModelLoadError(f"{path}: there is no saved_model.pb (or .pbtxt) in it")
    try:
        graphs = list(saved_model_file.read(file).meta_graphs)
    except OSError as error:
        raise ModelLoadError(f"{error.filename}: {error.strerror}") from error
    except CorruptFile as error:
        raise ModelLoadError(f"{file}: not a SavedModel, or damaged ({error})") from error
    serving = [graph for graph in graphs if SERVE in graph.meta_info_def.tags]
    if serving:
        return min(serving, key=lambda graph: len(graph.meta_info_def.tags))
    if len(graphs) == 1:
        return graphs[0]
    tag_sets = "; ".join(", ".join(graph.meta_info_def.tags) or "(none)" for graph in graphs)
    raise ModelLoadError(f"{path}: none of its {len(graphs)} meta graphs has the tag {SERVE!r}; there is {tag_sets}")


def endpoints(meta_graph: Any, path: Path) -> dict[str, Endpoint]:
    """Return every signature of a meta graph that can be served; one that can't is named in the log.

    Raises:
        ModelLoadError: There is none.
    """
    endpoints_by_name: dict[str, Endpoint] = {}
    faults: list[str] = []
    for name, definition in sorted(meta_graph.signature_def.items()):
        if name in INTERNAL_SIGNATURES:
            continue
        try:
            endpoints_by_name[name], left_out = _endpoint(name, definition)
            for fault in left_out:
                log.warning("%s: signature %s is served without an output: %s", path, name, fault)
        except ValueError as error:
            faults.append(f"{name}: {error}")
            log.warning("%s: signature %s is not served: %s", path, name, error)
    if not endpoints_by_name:
        raise ModelLoadError(f"{path}: no signature in it can be served ({'; '.join(faults) or 'it has none'})")
    return endpoints_by_name


def graph_words(meta_graph: Any) -> list[bytes]:
    """Return some of the strings that the graph has as constants: the keys of its tables, mostly."""
    graph = meta_graph.graph_def
    functions = [function for function in graph.library.function if not _is_of_saver(function.signature.name)]
    constants = [
        node.attr["value"].tensor.string_val
        for nodes in (graph.node, *(function.node_def for function in functions))
        for node in nodes
        if node.op == "Const" and node.attr["dtype"].type == _STRING
    ]
    longest_first = sorted(constants, key=len, reverse=True)
    words = [word for strings in longest_first for word in sample_inputs.choose_words(strings)]
    return list(dict.fromkeys(words))[:_MOST_WORDS]


def _is_of_saver(function: str) -> bool:
    """Return whether a function writes or reads a checkpoint: its strings are names of variables."""
    return "traced_save" in function or "traced_restore" in function


def _endpoint(name: str, definition: Any) -> tuple[Endpoint, list[str]]:
    """Return a signature's endpoint, and why outputs of it are left out.

    Raises:
        ValueError: requests can't carry one of its inputs, or any of its outputs.
    """
    inputs = sorted(definition.inputs.items())
    outputs: dict[str, TensorSpec] = {}
    left_out: list[str] = []
    for key, info in sorted(definition.outputs.items()):
        try:
            outputs[key] = _spec(key, info)
        except ValueError as error:
            left_out.append(str(error))
    if left_out and not outputs:
        raise ValueError("; ".join(left_out))
    signature = Signature(name, {key: _spec(key, info) for key, info in inputs}, outputs, definition.method_name)
    input_names = {key: info.name for key, info in inputs}
    return Endpoint(signature, input_names, {key: definition.outputs[key].name for key in outputs}), left_out


def _spec(key: str, info: Any) -> TensorSpec:
    if info.WhichOneof("encoding") != "name":
        raise ValueError(f"{key!r} is a sparse or composite tensor")
    try:
        dtype = DataType(info.dtype % _REFERENCE)
    except ValueError:
        raise ValueError(f"{key!r} has the element type number {info.dtype}, which requests can't carry") from None
    if not info.HasField("tensor_shape") or info.tensor_shape.unknown_rank:
        return TensorSpec(key, dtype, None, info.name)
    sizes = (dimension.size for dimension in info.tensor_shape.dim)
    return TensorSpec(key, dtype, tuple(None if size < 0 else size for size in sizes), info.name)
