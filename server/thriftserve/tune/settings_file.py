"""The winner's settings in the model's own file, beside whatever else that says.

model.toml  --written-->  the same with the keys set: other keys, comments and order stay
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from thriftserve.errors import ConfigError
from thriftserve.models import model_settings

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
    model_settings.load_file(path)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    for table, values in tables.items():
        for key, value in values.items():
            text = with_key(text, table, key, value)
    try:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as new:
            new.write(text)
        os.chmod(new.name, 0o644)
        os.replace(new.name, path)
    except OSError as error:
        raise ConfigError(
            f"{path}: can't be written: {error.strerror}; --dry-run shows the settings, to be put there by hand"
        ) from error
    model_settings.load_file(path)


def with_key(text: str, table: str, key: str, value: int) -> str:
    r"""A TOML text with one key of one table set.

    >>> with_key("[session]\nworkers = 1  # mine\n", "session", "workers", 2)
    '[session]\nworkers = 2  # mine\n'
    """
    lines = text.splitlines()
    heads = [at for at, line in enumerate(lines) if re.match(rf"\s*\[\s*{table}\s*\]", line)]
    if not heads:
        before = [*lines, ""] if lines else []
        return "\n".join([*before, f"[{table}]", f"{key} = {value}", ""])
    start = heads[0] + 1
    end = next((at for at in range(start, len(lines)) if lines[at].lstrip().startswith("[")), len(lines))
    for at in range(start, end):
        found = re.match(rf"(\s*{key}\s*=\s*)[^#]*?(\s*(#.*)?)$", lines[at])
        if found:
            lines[at] = f"{found[1]}{value}{found[2]}"
            return "\n".join([*lines, ""])
    last = max((at for at in range(start, end) if lines[at].strip()), default=start - 1)
    lines.insert(last + 1, f"{key} = {value}")
    return "\n".join([*lines, ""])
