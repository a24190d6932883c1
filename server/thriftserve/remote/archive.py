"""A downloaded archive becomes a directory of files; the model in it is found.

download  --its first bytes-->  tar | tar.gz | zip  --unpack-->  unpacked/  --find_model-->  unpacked/digits/3
"""

from __future__ import annotations

from pathlib import Path

from thriftserve.errors import InvalidArgument
from thriftserve.remote import tar_archive, zip_archive
from thriftserve.remote.archive_entries import Unpacked

#: What makes a directory a SavedModel.
MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt")
_GZIP = b"\x1f\x8b"
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
#: Where a tar header says that it is one.
_TAR, _TAR_AT = b"ustar", 257
#: What macOS puts beside every directory it packs.
_NO_MODEL = frozenset({"__MACOSX"})


def unpack(path: Path, into: Unpacked) -> None:
    """Unpacks an archive of a kind that its content tells.

    Raises:
        InvalidArgument: it is no such archive, is damaged, or has an entry that is not safe.
    """
    with open(path, "rb") as file:
        head = file.read(_TAR_AT + len(_TAR))
    if head.startswith(_GZIP):
        tar_archive.unpack(path, gzipped=True, into=into)
    elif head.startswith(_ZIP):
        zip_archive.unpack(path, into)
    elif head[_TAR_AT:] == _TAR:
        tar_archive.unpack(path, gzipped=False, into=into)
    else:
        raise InvalidArgument(
            f"what was fetched is neither tar, tar.gz nor zip: it begins with {head[:16]!r}"
            if head
            else "what was fetched is empty"
        )


def find_model(root: Path) -> Path:
    """The directory of the model: the root itself, or the only one below it, or NAME/VERSION below it.

    Raises:
        InvalidArgument: there is none, or more than one.
    """
    level = [root]
    for _ in range(3):
        found = [one for one in level if any((one / name).is_file() for name in MODEL_FILES)]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(sorted(str(one.relative_to(root)) for one in found))
            raise InvalidArgument(f"the archive has several models ({names}): pack one version by itself")
        level = [
            path
            for one in level
            for path in sorted(one.iterdir())
            if path.is_dir() and not path.is_symlink() and path.name not in _NO_MODEL and path.name[:1] != "."
        ]
    names = ", ".join(sorted(path.name for path in root.iterdir())[:8])
    raise InvalidArgument(
        f"the archive has no saved_model.pb at its root, in a directory or in NAME/VERSION; it has {names or 'nothing'}"
    )
