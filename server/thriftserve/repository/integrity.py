"""Whether a version's directory is complete, or a copy that is not done yet.

    VERSION_DIR  --scan-->  Snapshot  --find_fault(path, snapshot)-->  None | "variables/… has 512 of its 4096 bytes"

Complete means: saved_model.pb (or .pbtxt) reads to its end and is a SavedModel; every asset that it names is there; the
index of its variables is there and has every tensor that the SavedModel restores; every data file is as long as the
index says. No file says how long an asset is: that shows only in a snapshot that stays the same.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from thriftserve.files import CorruptFile
from thriftserve.repository import checkpoint_index, saved_model_file
from thriftserve.repository.checkpoint_index import CheckpointIndex
from thriftserve.repository.saved_model_file import PB, PBTXT, SavedModelNeeds

INDEX = "variables/variables.index"
#: What rsync, curl, browsers, hadoop and gsutil call a file that they have not finished.
_UNFINISHED = re.compile(
    r"(^|/)(\.[^/]+\.[A-Za-z0-9]{6}|[^/]+(\.part|\.partial|\.tmp|\.filepart|\.crdownload|\._COPYING_|_\.gstmp))$"
)
#: An asset that has been empty for so long, in seconds, is meant to be.
_EMPTY_FOR_S = 10
#: Deeper trees, and larger ones, are no SavedModels, and scanning them would take long.
MOST_DEPTH, MOST_FILES = 16, 100_000


@dataclass(frozen=True)
class FileStat:
    """What shows that a file has changed. No inode: file systems over a network give a file a new one at any time."""

    size: int
    modified_ns: int
    #: A copy that keeps times (`cp -p`, `rsync -t`) sets the one above back; this one can't be set.
    changed_ns: int


#: The files below a directory at one moment, by their path relative to it; equal if nothing changed.
Snapshot = Mapping[str, FileStat]


def scan(path: Path) -> Snapshot:
    """Return the files in a version's directory; links are followed.

    Raises:
        OSError: It can't be read.
        CorruptFile: It is larger or deeper than any model.
    """
    files: dict[str, FileStat] = {}
    for name, status in _walk(str(path), "", 0):
        files[name] = _file_stat(status)
        if len(files) > MOST_FILES:
            raise CorruptFile(f"it has more than {MOST_FILES} files")
    return files


def graph_stat(path: Path) -> FileStat | None:
    """Return the state of a version's saved_model.pb or .pbtxt, or None if there is neither."""
    for name in (PB, PBTXT):
        try:
            return _file_stat(os.stat(path / name))
        except OSError:  # another name, or nothing
            continue
    return None


def find_fault(path: Path, snapshot: Snapshot) -> str | None:
    """Return what a version lacks, in words; None if it is complete.

    It reads saved_model.pb and the index, and nothing else: ask once for each snapshot.
    """
    graph = next((name for name in (PB, PBTXT) if name in snapshot), None)
    if graph is None:
        return _unfinished_fault(snapshot, frozenset()) or f"{PB} is missing"
    try:
        needs = saved_model_file.list_needs(saved_model_file.read(path / graph))
    except (CorruptFile, OSError) as error:
        return f"{graph} is damaged: {error}"
    assets = frozenset(f"assets/{name}" for name in needs.assets)
    return (
        _unfinished_fault(snapshot, assets)
        or next((f"{name} is missing" for name in sorted(assets) if name not in snapshot), None)
        or _variables_fault(path, needs, snapshot)
    )


def new_empty_asset(snapshot: Snapshot) -> str | None:
    """Return an asset that is empty and was written a moment ago, if any: its copy may just have begun."""
    oldest_ns = time.time_ns() - _EMPTY_FOR_S * 1_000_000_000
    empty = (name for name, file in snapshot.items() if name.startswith("assets/") and not file.size)
    return next((name for name in empty if snapshot[name].changed_ns > oldest_ns), None)


def diagnose(path: Path) -> str | None:
    """Return what a version lacks now, or why it can't be read, in words; None if it is complete."""
    try:
        return find_fault(path, scan(path))
    except (OSError, CorruptFile) as error:
        return str(error)


def _file_stat(status: os.stat_result) -> FileStat:
    return FileStat(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _walk(directory: str, above: str, depth: int) -> Iterator[tuple[str, os.stat_result]]:
    if depth > MOST_DEPTH:
        raise CorruptFile(f"its directories are more than {MOST_DEPTH} deep")
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                status = entry.stat()
            except FileNotFoundError:  # a link to nothing, or a file that was there a moment ago: missing either way
                continue
            if stat.S_ISDIR(status.st_mode):
                yield from _walk(entry.path, f"{above}{entry.name}/", depth + 1)
            else:
                yield f"{above}{entry.name}", status


def _unfinished_fault(snapshot: Snapshot, assets: Container[str]) -> str | None:
    """Return the fault of a file that a copy has left; an asset of the model may have any name, and be empty."""
    unfinished = next((name for name in snapshot if _UNFINISHED.search(name) and name not in assets), None)
    return None if unfinished is None else f"{unfinished} is a copy that is not done"


def _variables_fault(path: Path, needs: SavedModelNeeds, snapshot: Snapshot) -> str | None:
    if INDEX not in snapshot:
        begun = any(name.startswith("variables/") for name in snapshot)
        return f"{INDEX} is missing" if needs.checkpoint or begun else None
    try:
        index = checkpoint_index.read(memoryview((path / INDEX).read_bytes()))
    except (CorruptFile, OSError) as error:
        return f"{INDEX} is damaged: {error}"
    missing = needs.tensors - index.keys
    if missing:
        return f"{INDEX} has no {min(missing)!r}: it is not of this {PB}"
    return _shard_fault(index, snapshot)


def _shard_fault(index: CheckpointIndex, snapshot: Snapshot) -> str | None:
    for shard, needed in index.needed.items():
        name = f"variables/variables.data-{shard:05d}-of-{index.shards:05d}"
        file = snapshot.get(name)
        if file is None:
            return f"{name} is missing"
        if file.size < needed:
            return f"{name} has {file.size} of its {needed} bytes"
    return None
