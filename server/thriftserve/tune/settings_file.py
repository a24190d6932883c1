"""The winner's settings in the model's own file, beside whatever else that says.

model.toml  --written-->  the same with the keys set: other keys, comments and order stay
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from thriftserve.errors import ConfigError
from thriftserve.models import model_settings
from thriftserve.models.model_settings_writer import write_model_settings

Tables = Mapping[str, Mapping[str, int]]


def file_of(version_path: Path) -> Path:
    """The file that holds for a version: its own where it has one, else that of its base path."""
    own = version_path / model_settings.FILE
    return own if own.exists() else version_path.parent / model_settings.FILE


def write(path: Path, tables: Tables) -> None:
    """Sets keys of a model.toml; the file changes whole or not at all.

    Raises:
        ModelLoadError: what is there already can't be read as a model's settings.
        ConfigError: it can't be written.
    """
    now = model_settings.load_file(path) or model_settings.UNSET
    then = replace(now, **{name: replace(getattr(now, name), **keys) for name, keys in tables.items()})
    try:
        write_model_settings(path, then)
    except OSError as error:
        raise ConfigError(
            f"{path}: can't be written: {error.strerror}; --dry-run shows the settings, to be put there by hand"
        ) from error
