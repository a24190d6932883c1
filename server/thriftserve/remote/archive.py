"""An archive: what was downloaded is unpacked by its kind, and the model in it is found.

download  --its first bytes-->  tar | tar.gz | zip  --unpack-->  unpacked/  --find_model-->  unpacked/digits/3
"""

from __future__ import annotations

from pathlib import Path

from thriftserve.errors import InvalidArgument
from thriftserve.remote import tar_archive, zip_archive
from thriftserve.remote.archive_entries import Unpacker
from thriftserve.repository.versions import SAVED_MODEL_FILES

_GZIP = b"\x1f\x8b"
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
#: The magic of a tar header, and where it is in the file.
_TAR, _TAR_AT = b"ustar", 257
#: macOS puts this beside every directory that it packs.
_NO_MODEL = frozenset({"__MACOSX"})


def unpack(path: Path, unpacker: Unpacker) -> None:
    """Unpack an archive; its content tells of which kind it is.

    Raises:
        InvalidArgument: it is no such archive, is damaged, or has an entry that is not safe.
        TooLarge: it unpacks to more than the limits allow.
    """
    with open(path, "rb") as file:
        head = file.read(_TAR_AT + len(_TAR))
    if head.startswith(_GZIP):
        tar_archive.unpack(path, gzipped=True, unpacker=unpacker)
    elif head.startswith(_ZIP):
        zip_archive.unpack(path, unpacker)
    elif head[_TAR_AT:] == _TAR:
        tar_archive.unpack(path, gzipped=False, unpacker=unpacker)
    elif head:
        raise InvalidArgument(f"what was fetched is neither tar, tar.gz nor zip: it begins with {head[:16]!r}")
    else:
        raise InvalidArgument("what was fetched is empty")


def find_model(root: Path) -> Path:
    """Return the directory of the model: the root itself, or the only one below it, or NAME/VERSION below it.

    Raises:
        InvalidArgument: there is none, or more than one.
    """
    level = [root]
    for _ in range(3):
        models = [path for path in level if any((path / name).is_file() for name in SAVED_MODEL_FILES)]
        if len(models) == 1:
            return models[0]
        if models:
            names = ", ".join(sorted(str(path.relative_to(root)) for path in models))
            raise InvalidArgument(f"the archive has several models ({names}): pack one version by itself")
        level = [child for path in level for child in sorted(path.iterdir()) if _may_hold_model(child)]
    names = ", ".join(sorted(path.name for path in root.iterdir())[:8])
    raise InvalidArgument(
        f"the archive has no saved_model.pb at its root, in a directory or in NAME/VERSION; it has {names or 'nothing'}"
    )


def _may_hold_model(path: Path) -> bool:
    hidden = path.name in _NO_MODEL or path.name.startswith(".")
    return path.is_dir() and not path.is_symlink() and not hidden
