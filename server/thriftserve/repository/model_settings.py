"""How a model is batched and run: the settings file of a version, or of all versions of a model.

    BASE_PATH/3/model.toml | BASE_PATH/model.toml  --load-->  ModelSettings  -->  batching, session
                                                   <--write_model_settings--  `thriftserve model tune`

A file with every key but two:

    [batching]
    max_batch_size = 32              # rows of one run; 1: requests never share a run
    batch_timeout_ms = 0             # unset: as long as the measured run times make it worth while
    allowed_batch_sizes = [8, 32]    # runs are padded up to one of these
    pad_variable_length_inputs = true
    max_enqueued = 1000

    [session]
    workers = 2
    runs_per_worker = 1

The version's own file goes before the model's; they are not mixed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from thriftserve.errors import ModelLoadError
from thriftserve.files import write_atomically
from thriftserve.repository.settings_table import (
    Check,
    build,
    is_integer,
    is_number,
    parse_toml,
    read_toml,
    whole_number,
)

FILE = "model.toml"
#: No limit of a batch is larger: rows of one run, or requests that wait.
MOST_ROWS = 1_000_000
MOST_THREADS = 4096
_EXAMPLE = "max_batch_size = 32"


@dataclass(frozen=True)
class BatchingSettings:
    """How requests for a model share runs."""

    #: Rows of one run; None: the server's own setting. 1: requests never share a run.
    max_batch_size: int | None = None
    #: How long a request may wait for others to share its run; None: the server's own setting.
    batch_timeout_ms: float | None = None
    #: Ascending. A run is padded up to one of these by repeating its last row; the outputs of the padding are dropped.
    #: The largest one bounds `max_batch_size`. Empty: runs are never padded.
    allowed_batch_sizes: tuple[int, ...] = ()
    #: Pad inner sizes that the signature leaves free to the run's longest, with zeros or empty strings. The outputs
    #: keep the padded sizes.
    pad_variable_length_inputs: bool = False
    #: Requests for the model that may wait in one process; None: the server's own limits are enough.
    max_enqueued: int | None = None


@dataclass(frozen=True)
class RunSettings:
    """How a model's sessions are laid over processes and threads; None: the server's own setting."""

    workers: int | None = None
    runs_per_worker: int | None = None
    intra_op_threads: int | None = None
    inter_op_threads: int | None = None


@dataclass(frozen=True)
class ModelSettings:
    """The content of a model.toml."""

    batching: BatchingSettings = BatchingSettings()
    session: RunSettings = RunSettings()


#: The settings of a model without a model.toml: always this very object.
UNSET = ModelSettings()


def load(version_path: Path) -> ModelSettings:
    """Return the settings of a version: its own model.toml, else that of the base path above it, else `UNSET`.

    Raises:
        ModelLoadError: The file is not TOML, or has an unknown key or a value that will not do. The message has file,
            key, value and remedy.
    """
    return load_file(version_path / FILE) or load_file(version_path.parent / FILE) or UNSET


def load_file(path: Path) -> ModelSettings | None:
    """Return the settings in a TOML file, or None if there is no such file.

    Raises:
        ModelLoadError: As for `load`.
    """
    tables = read_toml(path, _EXAMPLE)
    return None if tables is None else _from_tables(path, tables)


def write_model_settings(path: Path, settings: ModelSettings) -> None:
    """Make a model.toml say exactly `settings`. The file changes at once, or not at all.

    Comments, order and what does not change stay as people wrote them; only a file that is not valid is written anew.
    Settings that become their default are left out.

    Raises:
        ModelLoadError: The settings would not be accepted when they are read again.
        OSError: The file can't be written.
    """
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    try:
        text = _edit(path, before, settings)
    except ModelLoadError:
        text = _edit(path, "", settings)
    write_atomically(path, text, mode=path.stat().st_mode & 0o777 if path.exists() else 0o644)


def _edit(path: Path, text: str, settings: ModelSettings) -> str:
    """Return the text with `settings` in it.

    Raises:
        ModelLoadError: The text is not valid before or after.
    """
    import tomlkit  # here: workers read settings and never write them
    from tomlkit.exceptions import TOMLKitError

    before = _from_text(path, text)
    try:
        document = tomlkit.parse(text)
    except TOMLKitError as error:
        raise ModelLoadError(f"{path}: can't be edited: {error}; write the file anew") from error
    for table in fields(settings):
        was, becomes = getattr(before, table.name), getattr(settings, table.name)
        for setting in fields(becomes):
            value = getattr(becomes, setting.name)
            if value == getattr(was, setting.name):
                continue
            if value == setting.default:
                del document[table.name][setting.name]
            else:
                document.setdefault(table.name, tomlkit.table())[setting.name] = value
    text = document.as_string()
    if _from_text(path, text) != settings:
        raise ModelLoadError(f"{path}: does not become {settings}: write the file anew")
    return text


def _from_text(path: Path, text: str) -> ModelSettings:
    return _from_tables(path, parse_toml(path, text, _EXAMPLE))


def _from_tables(path: Path, tables: Mapping[str, Any]) -> ModelSettings:
    for name, table in tables.items():
        if name not in ("batching", "session"):
            raise ModelLoadError(f"{path}: unknown key {name} = {table!r}: use the tables [batching] and [session]")
        if not isinstance(table, dict):
            raise ModelLoadError(f"{path}: {name} = {table!r}: make it a table: a line [{name}], its keys below")

    def fail(key: str, message: str) -> ModelLoadError:
        return ModelLoadError(f"{path}: {message}")

    return ModelSettings(
        build(BatchingSettings, tables.get("batching", {}), BATCHING_CHECKS, fail, "batching."),
        build(RunSettings, tables.get("session", {}), SESSION_CHECKS, fail, "session."),
    )


def _are_sizes(value: Any) -> bool:
    return (
        isinstance(value, list)
        and value != []
        and all(is_integer(size, 1, MOST_ROWS) for size in value)
        and value == sorted(set(value))
    )


BATCHING_CHECKS: Mapping[str, Check] = {
    "max_batch_size": whole_number(MOST_ROWS),
    "batch_timeout_ms": Check(lambda value: is_number(value) and value >= 0, "give milliseconds, 0 or more"),
    "allowed_batch_sizes": Check(_are_sizes, "give a list of whole numbers from 1, each larger than the one before"),
    "pad_variable_length_inputs": Check(lambda value: isinstance(value, bool), "give true or false"),
    "max_enqueued": whole_number(MOST_ROWS),
}
SESSION_CHECKS: Mapping[str, Check] = {setting.name: whole_number(MOST_THREADS) for setting in fields(RunSettings)}
