"""Whether a version's directory is whole, or a copy that is not done yet.

    VERSION_DIR  --look-->  Snapshot  --fault(path, snapshot)-->  None | "variables/… has 512 of its 4096 bytes"

Whole means: saved_model.pb (or .pbtxt) reads to its end and is a SavedModel; every asset that it names is there; the
index of its variables is there and holds every tensor that it restores; every data file is as long as the index says.
What no file tells, whether an asset has all of its bytes, shows only in a snapshot that stays the same.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from thriftserve.repository import checkpoint_index, config_text
from thriftserve.repository.checkpoint_index import CheckpointIndex
from thriftserve.repository.config_text import ConfigBlock, Field, SyntaxFault
from thriftserve.repository.protobuf import VARINT, CorruptFile, WireField, fields

# What a SavedModel needs beside its saved_model.pb, by the file's own word and without TensorFlow.

# Numbers of fields, by message.
_SCHEMA_VERSION, _META_GRAPH = 1, 2
_GRAPH, _SAVER, _ASSETS = 2, 3, 6
_ASSET_FILENAME, _SAVER_RESTORE_OP = 2, 3
_NODE, _LIBRARY, _FUNCTION = 1, 2, 1
_FUNCTION_SIGNATURE, _FUNCTION_NODE = 1, 3
_NAME, _OP, _INPUT, _ATTR = 1, 2, 3, 5
_KEY, _VALUE = 1, 2
_ATTR_TENSOR, _ATTR_FUNCTION, _STRINGS = 8, 10, 8
_CALLS = (b"PartitionedCall", b"StatefulPartitionedCall")


@dataclass(frozen=True)
class SavedModelManifest:
    """What a SavedModel needs of other files."""

    #: Names below the directory assets.
    assets: tuple[str, ...]
    #: Tensors that the checkpoint must have; empty where they can't be told.
    tensors: frozenset[str]
    #: Whether there must be a checkpoint at all.
    checkpoint: bool


@dataclass(frozen=True)
class _Node:
    name: bytes
    op: bytes
    inputs: tuple[bytes, ...]
    attrs: tuple[memoryview, ...]

    def attr(self, key: bytes, number: int) -> memoryview | None:
        """The part of an attribute's value that lies in field `number`."""
        for entry in self.attrs:
            found = {one.number: one for one in fields(entry)}
            if _KEY in found and bytes(found[_KEY].content) == key and _VALUE in found:
                return next((one.content for one in fields(found[_VALUE].content) if one.number == number), None)
        return None


def read(path: Path) -> SavedModelManifest:
    """Reads saved_model.pb or saved_model.pbtxt.

    Raises:
        Damaged: the file is cut short, or is no SavedModel.
        OSError: it can't be read.
    """
    # Read, not mapped into memory: a file that is cut meanwhile would end the process with SIGBUS.
    data = path.read_bytes()
    return _of_text(data) if path.suffix == ".pbtxt" else _of_pb(memoryview(data))


def _of_pb(data: memoryview) -> SavedModelManifest:
    graphs: list[SavedModelManifest] = []
    for one in fields(data):
        if one.number == _META_GRAPH:
            graphs.append(_of_meta_graph(one.content))
        elif one.number != _SCHEMA_VERSION or one.kind != VARINT:
            raise CorruptFile(f"it is no SavedModel: it has a field {one.number}")
    return _together(graphs)


def _together(graphs: list[SavedModelManifest]) -> SavedModelManifest:
    if not graphs:
        raise CorruptFile("it has no meta graph")
    return SavedModelManifest(
        tuple(sorted({name for one in graphs for name in one.assets})),
        frozenset().union(*(one.tensors for one in graphs)),
        any(one.checkpoint for one in graphs),
    )


def _of_meta_graph(data: memoryview) -> SavedModelManifest:
    graph, restore, assets = memoryview(b""), b"", []
    for one in fields(data):
        if one.number == _GRAPH:
            graph = one.content
        elif one.number == _SAVER:
            restore = _bytes(one.content, _SAVER_RESTORE_OP)
        elif one.number == _ASSETS:
            assets.append(_bytes(one.content, _ASSET_FILENAME).decode(errors="replace"))
    tensors = _restored(graph, restore) if restore else frozenset()
    return SavedModelManifest(tuple(assets), tensors, bool(restore))


def _restored(graph: memoryview, restore: bytes) -> frozenset[str]:
    """Names of the tensors that a restore operation reads: those that its RestoreV2 operations have as constants.

    The saver of TensorFlow 1 is a scope of the graph (`save/restore_all`), that of TensorFlow 2 a call of a function.
    Other RestoreV2 operations may be there that read other files; they are none of ours.
    """
    scope, slash, _ = restore.rpartition(b"/")
    called = b""
    nodes: list[_Node] = []
    for node in _nodes(graph, _NODE):
        if node.name == restore and node.op in _CALLS:
            function = node.attr(b"f", _ATTR_FUNCTION)
            called = _bytes(function, _NAME) if function is not None else b""
        if slash and node.name.startswith(scope + slash):
            nodes.append(node)
    if called:
        nodes = list(_nodes_of_function(graph, called))
    constants = {node.name: node for node in nodes if node.op == b"Const"}
    names = {node.inputs[1].split(b":")[0] for node in nodes if node.op == b"RestoreV2" and len(node.inputs) > 1}
    return frozenset(text for name in names if name in constants for text in _strings(constants[name]))


def _nodes_of_function(graph: memoryview, name: bytes) -> Iterator[_Node]:
    for library in _contents(graph, _LIBRARY):
        for function in _contents(library, _FUNCTION):
            if _bytes(next(_contents(function, _FUNCTION_SIGNATURE), memoryview(b"")), _NAME) == name:
                yield from _nodes(function, _FUNCTION_NODE)


def _nodes(message: memoryview, number: int) -> Iterator[_Node]:
    for content in _contents(message, number):
        found: Mapping[int, list[WireField]] = {_NAME: [], _OP: [], _INPUT: [], _ATTR: []}
        for one in fields(content):
            if one.number in found:
                found[one.number].append(one)
        name, op = (b"".join(bytes(one.content) for one in found[number][-1:]) for number in (_NAME, _OP))
        inputs = tuple(bytes(one.content) for one in found[_INPUT])
        yield _Node(name, op, inputs, tuple(one.content for one in found[_ATTR]))


def _strings(constant: _Node) -> list[str]:
    tensor = constant.attr(b"value", _ATTR_TENSOR)
    return [bytes(one).decode(errors="replace") for one in _contents(tensor, _STRINGS)] if tensor is not None else []


def _contents(message: memoryview, number: int) -> Iterator[memoryview]:
    return (one.content for one in fields(message) if one.number == number)


def _bytes(message: memoryview, number: int) -> bytes:
    """A string of a message; the last one where it is there twice, as protobuf has it."""
    found = b""
    for content in _contents(message, number):
        found = bytes(content)
    return found


def _of_text(data: bytes) -> SavedModelManifest:
    """The same of the text format; which tensors it restores is not looked for."""
    try:
        top = config_text.parse(data.decode())
    except SyntaxFault as fault:
        raise CorruptFile(f"line {fault.where}: {fault.message}") from fault
    except UnicodeDecodeError as error:
        raise CorruptFile(f"it is no text: {error}") from error
    graphs = list(top.blocks("meta_graphs"))
    assets = [
        str(field.value)
        for graph in graphs
        for asset in graph.blocks("asset_file_def")
        for field in asset.named("filename")
    ]
    saver = any(field.value for graph in graphs for one in graph.blocks("saver_def") for field in _restore_op(one))
    return _together([SavedModelManifest(tuple(assets), frozenset(), saver) for _ in graphs])


def _restore_op(saver: ConfigBlock) -> Iterator[Field]:
    return saver.named("restore_op_name")


PB, PBTXT = "saved_model.pb", "saved_model.pbtxt"
INDEX = "variables/variables.index"
#: What rsync, curl, browsers, hadoop and gsutil call a file that they have not finished.
_UNFINISHED = re.compile(
    r"(^|/)(\.[^/]+\.[A-Za-z0-9]{6}|[^/]+(\.part|\.partial|\.tmp|\.filepart|\.crdownload|\._COPYING_|_\.gstmp))$"
)
#: Deeper trees, and larger ones, are no SavedModels, and looking at them would take long.
MOST_DEPTH, MOST_FILES = 16, 100_000


@dataclass(frozen=True)
class FileStat:
    """What tells that a file has changed. No inode: file systems over a network give a file a new one at any time."""

    size: int
    modified_ns: int
    #: A copy that keeps times (`cp -p`, `rsync -t`) sets the one above back; this one can't be set.
    changed_ns: int


#: The files below a directory at one moment, by their path relative to it; equal where nothing changed.
Snapshot = Mapping[str, FileStat]


def look(path: Path) -> Snapshot:
    """The files in a version's directory; links are followed.

    Raises:
        OSError: it can't be read.
        Damaged: it is larger or deeper than any model.
    """
    files: dict[str, FileStat] = {}
    for name, found in _walk(str(path), "", 0):
        files[name] = _file_stat(found)
        if len(files) > MOST_FILES:
            raise CorruptFile(f"it has more than {MOST_FILES} files")
    return files


def look_at_graph(path: Path) -> FileStat | None:
    """The saved_model.pb or .pbtxt of a version's directory alone; None where there is none to be seen."""
    for name in (PB, PBTXT):
        try:
            return _file_stat(os.stat(path / name))
        except OSError:  # another name, or nothing
            continue
    return None


def _file_stat(found: os.stat_result) -> FileStat:
    return FileStat(found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _walk(directory: str, above: str, depth: int) -> Iterator[tuple[str, os.stat_result]]:
    if depth > MOST_DEPTH:
        raise CorruptFile(f"its directories lie more than {MOST_DEPTH} deep")
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                found = entry.stat()
            except FileNotFoundError:  # a link to nothing, or a file that was there a moment ago: missing either way
                continue
            if stat.S_ISDIR(found.st_mode):
                yield from _walk(entry.path, f"{above}{entry.name}/", depth + 1)
            else:
                yield f"{above}{entry.name}", found


def fault(path: Path, snapshot: Snapshot) -> str | None:
    """What a version lacks to be whole, in words; None where it is whole.

    It reads saved_model.pb and the index, and nothing else: ask once for each snapshot.
    """
    files = snapshot
    unfinished = next((name for name in files if _UNFINISHED.search(name)), None)
    if unfinished:
        return f"{unfinished} is a copy that is not done"
    graph = next((name for name in (PB, PBTXT) if name in files), None)
    if graph is None:
        return f"{PB} is missing"
    try:
        needs = read(path / graph)
    except (CorruptFile, OSError) as error:
        return f"{graph} is damaged: {error}"
    return _asset_fault(needs.assets, files) or _variables_fault(path, needs, files)


def _asset_fault(assets: tuple[str, ...], files: Snapshot) -> str | None:
    for name in assets:
        found = files.get(f"assets/{name}")
        if found is None:
            return f"assets/{name} is missing"
        # An empty one could be meant so. Far more often it is the first moment of a copy, or a full disk.
        if not found.size:
            return f"assets/{name} is empty"
    return None


def _variables_fault(path: Path, needs: SavedModelManifest, files: Snapshot) -> str | None:
    if INDEX not in files:
        begun = any(name.startswith("variables/") for name in files)
        return f"{INDEX} is missing" if needs.checkpoint or begun else None
    try:
        index = checkpoint_index.read(memoryview((path / INDEX).read_bytes()))
    except (CorruptFile, OSError) as error:
        return f"{INDEX} is damaged: {error}"
    missing = needs.tensors - index.keys
    if missing:
        return f"{INDEX} has no {min(missing)!r}: it is not of this {PB}"
    return _shard_fault(index, files)


def _shard_fault(index: CheckpointIndex, files: Snapshot) -> str | None:
    for shard, needed in index.needed.items():
        name = f"variables/variables.data-{shard:05d}-of-{index.shards:05d}"
        found = files.get(name)
        if found is None:
            return f"{name} is missing"
        if found.size < needed:
            return f"{name} has {found.size} of its {needed} bytes"
    return None
