"""The version directory that a PATH on the command line means.

/models/digits/3 (a SavedModel itself)  |  /models/digits (its newest version)  -->  /models/digits/3
"""

from __future__ import annotations

from pathlib import Path

from thriftserve.errors import ModelLoadError
from thriftserve.models.repository import SAVED_MODEL_FILES, newest_version, versions


def version_of(text: str) -> Path:
    """The directory of the version meant.

    Raises:
        ModelLoadError: there is no such directory, or no version in it.
    """
    path = Path(text).expanduser().absolute()
    if any((path / name).exists() for name in SAVED_MODEL_FILES):
        return path
    if path.name.isdecimal() and path.is_dir() and not versions(path):
        return path  # a damaged version, or one of a Python model: what it lacks is another's to say
    if not path.is_dir():
        raise ModelLoadError(f"{path}: there is no such directory")
    return newest_version(path).path
