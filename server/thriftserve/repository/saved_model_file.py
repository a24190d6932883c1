"""A SavedModel's own file, read without TensorFlow.

    VERSION_DIR/saved_model.pb | .pbtxt  --read-->  SavedModel  --list_needs-->  assets, tensors of the checkpoint

The file is read, never mapped into memory: one that is cut short meanwhile would end the process with SIGBUS. 1 GB
takes 1.4 s and, until it is parsed, twice its size in memory; to load a model of one large file, TensorFlow takes
seven times its size.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from thriftserve.files import CorruptFile
from thriftserve.repository.versions import SAVED_MODEL_FILES
from thriftserve_proto.saved_model_pb2 import GraphDef, MetaGraphDef, NodeDef, SavedModel

PB, PBTXT = SAVED_MODEL_FILES
_CALLS = (b"PartitionedCall", b"StatefulPartitionedCall")


@dataclass(frozen=True)
class SavedModelNeeds:
    """The other files of a version that its SavedModel needs."""

    #: Names below the directory assets.
    assets: tuple[str, ...]
    #: Tensors that the checkpoint must have; empty if they can't be found out.
    tensors: frozenset[str]
    #: Whether there must be a checkpoint.
    checkpoint: bool


def read(path: Path) -> SavedModel:
    """Read saved_model.pb or saved_model.pbtxt, as far as idl/thriftserve_proto/saved_model.proto describes it.

    Raises:
        CorruptFile: The file is cut short, or is no SavedModel.
        OSError: It can't be read.
    """
    content = path.read_bytes()
    saved_model = SavedModel()
    try:
        if path.suffix == ".pbtxt":
            text_format.Parse(content.decode(), saved_model, allow_unknown_field=True)
        else:
            saved_model.ParseFromString(content)
    except UnicodeDecodeError as error:
        raise CorruptFile(f"it is no text: {error}") from error
    except text_format.ParseError as error:
        raise CorruptFile(f"line {error.GetLine()} of it is cut short, or not of a SavedModel") from error
    except DecodeError as error:
        raise CorruptFile("it is cut short, or no SavedModel") from error
    unknown = next(iter(UnknownFieldSet(saved_model)), None)
    if unknown is not None:
        raise CorruptFile(f"it is no SavedModel: it has a field {unknown.field_number}")
    if not saved_model.meta_graphs:
        raise CorruptFile("it has no meta graph")
    return saved_model


def list_needs(saved_model: SavedModel) -> SavedModelNeeds:
    """Return what all meta graphs of a SavedModel need."""
    graphs: list[MetaGraphDef] = list(saved_model.meta_graphs)
    restores = [(graph.graph_def, graph.saver_def.restore_op_name) for graph in graphs]
    return SavedModelNeeds(
        tuple(sorted({asset.filename.decode(errors="replace") for graph in graphs for asset in graph.asset_file_def})),
        frozenset().union(*(_restored_tensors(graph, restore) for graph, restore in restores if restore)),
        any(restore for _, restore in restores),
    )


def _restored_tensors(graph: GraphDef, restore: bytes) -> frozenset[str]:
    """Return the names of the tensors that a restore operation reads: constants of its RestoreV2 operations.

    The saver of TensorFlow 1 is a scope of the graph (`save/restore_all`), that of TensorFlow 2 a call of a function.
    Other RestoreV2 operations of the graph may read other files.
    """
    nodes = list(_nodes_of_saver(graph, restore))
    constants = {node.name: node for node in nodes if node.op == b"Const"}
    names = {node.input[1].split(b":")[0] for node in nodes if node.op == b"RestoreV2" and len(node.input) > 1}
    return frozenset(
        tensor.decode(errors="replace")
        for name in names & constants.keys()
        for tensor in constants[name].attr["value"].tensor.string_val
    )


def _nodes_of_saver(graph: GraphDef, restore: bytes) -> Iterable[NodeDef]:
    scope, slash, _ = restore.rpartition(b"/")
    for node in graph.node:
        if node.name == restore and node.op in _CALLS:
            called = node.attr["f"].func.name
            return [
                inner
                for function in graph.library.function
                if function.signature.name == called
                for inner in function.node_def
            ]
    return [node for node in graph.node if slash and node.name.startswith(scope + slash)]
