"""Whether a directory is a SavedModel, whole, as far as its files tell; TensorFlow is not needed.

VERSION_DIR  --faults-->  [] | ["variables/variables.data-00000-of-00001: has 10 of 4096 bytes", …]
"""

from __future__ import annotations

from pathlib import Path

from thriftserve.errors import InvalidArgument
from thriftserve.fetch.bundle import Damaged, data_files, varint
from thriftserve.fetch.unpack import MODEL_FILES

#: How the fields of the SavedModel message begin: its format's number, and each graph, which has a length.
_SCHEMA, _META_GRAPH = 1 << 3, 2 << 3 | 2
#: The longest such beginning, in bytes.
_MAX_HEAD = 11


def check(path: Path) -> None:
    """Holds a version directory to being a whole SavedModel.

    Raises:
        InvalidArgument: it is not; the message has every fault.
    """
    found = faults(path)
    if found:
        raise InvalidArgument(f"not a whole SavedModel: {'; '.join(found)}")


def faults(path: Path) -> list[str]:
    """What its files lack, in words; empty: nothing.

    Raises:
        OSError: a file can't be read.
    """
    return [*_graph_faults(path), *_variable_faults(path / "variables")]


def _graph_faults(path: Path) -> list[str]:
    binary, text = (path / name for name in MODEL_FILES)
    if not binary.is_file():
        if not text.is_file():
            return [f"{binary.name}: is not there"]
        return [] if text.stat().st_size else [f"{text.name}: is empty"]
    size = binary.stat().st_size
    if not size:
        return [f"{binary.name}: is empty"]
    return _message_faults(binary, size)


def _message_faults(binary: Path, size: int) -> list[str]:
    """Walks the outermost fields: a file that was cut off ends before the last of them does."""
    graphs = at = 0
    with open(binary, "rb") as file:
        while at < size:
            file.seek(at)
            head = file.read(_MAX_HEAD)
            if head[0] not in (_SCHEMA, _META_GRAPH):
                return [f"{binary.name}: is no SavedModel, or damaged"]
            try:
                value, used = varint(head, 1)
            except (IndexError, ValueError):
                return [f"{binary.name}: is cut off"]
            graphs += head[0] == _META_GRAPH
            at += used + (value if head[0] == _META_GRAPH else 0)
    if at > size:
        return [f"{binary.name}: has {size} of {at} bytes"]
    return [] if graphs else [f"{binary.name}: has no graph in it"]


def _variable_faults(folder: Path) -> list[str]:
    """A model without variables has no such directory, or an empty one."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return []
    index = folder / "variables.index"
    if not index.is_file():
        return [f"variables/{index.name}: is not there"]
    try:
        wanted = data_files(index)
    except Damaged as error:
        return [f"variables/{index.name}: {str(error).partition(': ')[2]}"]
    found = []
    for name, size in wanted.items():
        file = folder / name
        have = file.stat().st_size if file.is_file() else -1
        if have < size:
            found.append(f"variables/{name}: {f'has {have} of {size} bytes' if have >= 0 else 'is not there'}")
    return found
