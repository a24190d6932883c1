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
from thriftserve.models import sample_inputs
from thriftserve.models.signature import Signature, TensorSpec
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
    tag_sets = [tuple(graph.meta_info_def.tags) for graph in _read(path).meta_graphs]
    serving = sorted((tags for tags in tag_sets if SERVE in tags), key=len)
    if serving:
        return serving[0]
    if len(tag_sets) == 1:
        return tag_sets[0]
    raise ModelLoadError(
        f"{path}: none of its {len(tag_sets)} meta graphs has the tag {SERVE!r}; "
        f"there is {'; '.join(', '.join(tags) or '(none)' for tags in tag_sets) or 'nothing in it'}"
    )


def read_endpoints(path: Path) -> dict[str, Endpoint]:
    """Return the signatures of a version directory from its file alone: nothing is loaded.

    Raises:
        ModelLoadError: As `choose_tags` and `endpoints`.
    """
    tags = choose_tags(path)
    return endpoints(next(graph for graph in _read(path).meta_graphs if tuple(graph.meta_info_def.tags) == tags), path)


def _read(path: Path) -> Any:
    from google.protobuf import message, text_format
    from tensorflow.core.protobuf import saved_model_pb2

    saved_model = saved_model_pb2.SavedModel()
    binary, text = path / "saved_model.pb", path / "saved_model.pbtxt"
    try:
        if binary.exists():
            saved_model.ParseFromString(binary.read_bytes())
        else:
            text_format.Parse(text.read_text(encoding="utf-8"), saved_model)
    except FileNotFoundError:
        raise ModelLoadError(f"{path}: there is no saved_model.pb (or .pbtxt) in it") from None
    except OSError as error:
        raise ModelLoadError(f"{error.filename}: {error.strerror}") from error
    except (message.DecodeError, text_format.ParseError, UnicodeDecodeError) as error:
        damaged = binary if binary.exists() else text
        raise ModelLoadError(f"{damaged}: not a SavedModel, or damaged ({error})") from error
    return saved_model


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
            endpoints_by_name[name] = _endpoint(name, definition)
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


def _endpoint(name: str, definition: Any) -> Endpoint:
    inputs, outputs = sorted(definition.inputs.items()), sorted(definition.outputs.items())
    signature = Signature(
        name,
        {key: _spec(key, info) for key, info in inputs},
        {key: _spec(key, info) for key, info in outputs},
        definition.method_name,
    )
    return Endpoint(signature, {key: info.name for key, info in inputs}, {key: info.name for key, info in outputs})


def _spec(key: str, info: Any) -> TensorSpec:
    if info.WhichOneof("encoding") != "name":
        raise ValueError(f"{key!r} is a sparse or composite tensor")
    try:
        dtype = DataType(info.dtype % _REFERENCE)
    except ValueError:
        raise ValueError(f"{key!r} has the element type number {info.dtype}, which requests can't carry") from None
    if info.tensor_shape.unknown_rank:
        return TensorSpec(key, dtype, None)
    sizes = (dimension.size for dimension in info.tensor_shape.dim)
    return TensorSpec(key, dtype, tuple(None if size < 0 else size for size in sizes))
