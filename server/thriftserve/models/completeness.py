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

from thriftserve.models import bundle_index, saved_model_needs
from thriftserve.models.bundle_index import BundleIndex
from thriftserve.models.wire_fields import Damaged

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
            raise Damaged(f"it has more than {MOST_FILES} files")
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
        raise Damaged(f"its directories lie more than {MOST_DEPTH} deep")
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
        needs = saved_model_needs.read(path / graph)
    except (Damaged, OSError) as error:
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


def _variables_fault(path: Path, needs: saved_model_needs.Needs, files: Snapshot) -> str | None:
    if INDEX not in files:
        begun = any(name.startswith("variables/") for name in files)
        return f"{INDEX} is missing" if needs.checkpoint or begun else None
    try:
        index = bundle_index.read(memoryview((path / INDEX).read_bytes()))
    except (Damaged, OSError) as error:
        return f"{INDEX} is damaged: {error}"
    missing = needs.tensors - index.keys
    if missing:
        return f"{INDEX} has no {min(missing)!r}: it is not of this {PB}"
    return _shard_fault(index, files)


def _shard_fault(index: BundleIndex, files: Snapshot) -> str | None:
    for shard, needed in index.needed.items():
        name = f"variables/variables.data-{shard:05d}-of-{index.shards:05d}"
        found = files.get(name)
        if found is None:
            return f"{name} is missing"
        if found.size < needed:
            return f"{name} has {found.size} of its {needed} bytes"
    return None
