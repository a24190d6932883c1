"""How a model is batched and run: the settings file of a version, or of all versions of a model.

    BASE_PATH/3/model.toml | BASE_PATH/model.toml  -->  ModelSettings  -->  batching, session

A whole file:

    [batching]
    max_batch_size = 32              # rows of one run; 1: requests are never put together
    batch_timeout_ms = 0             # unset: as long as the measured run times say that it is worth
    allowed_batch_sizes = [8, 32]    # runs are padded up to one of these
    pad_variable_length_inputs = true
    max_enqueued = 1000

    [session]
    workers = 2
    runs_per_worker = 1
    intra_op_threads = 1
    inter_op_threads = 2

The version's own file goes before the model's; they are not mixed.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from thriftserve.errors import ModelLoadError

FILE = "model.toml"
#: No limit of a batch is larger: rows of one run, or requests that wait.
MOST_ROWS = 1_000_000
MOST_THREADS = 4096


@dataclass(frozen=True)
class BatchingSettings:
    """How requests for a model are put together."""

    #: Rows of one run; None: the server's own setting. 1: nothing is put together.
    max_batch_size: int | None = None
    #: How long a request may wait for others to share its run; None: the server's own setting.
    batch_timeout_ms: float | None = None
    #: Ascending. A run is padded up to one of these with its last row again; the padding's rows are taken off
    #: the outputs. The largest one bounds `max_batch_size`. Empty: runs are never padded.
    allowed_batch_sizes: tuple[int, ...] = ()
    #: Inner sizes that the signature leaves free are padded to the run's longest, with zeros or empty strings. The
    #: outputs keep the padded sizes.
    pad_variable_length_inputs: bool = False
    #: Requests for the model that may wait in one process; None: the server's own limits are enough.
    max_enqueued: int | None = None


@dataclass(frozen=True)
class RunSettings:
    """How a model's sessions are laid out; None: the server's own setting."""

    workers: int | None = None
    runs_per_worker: int | None = None
    intra_op_threads: int | None = None
    inter_op_threads: int | None = None


@dataclass(frozen=True)
class ModelSettings:
    """Everything that a model.toml says."""

    batching: BatchingSettings = BatchingSettings()
    session: RunSettings = RunSettings()


#: What a model without a model.toml has: always this very object.
UNSET = ModelSettings()


def load(version_path: Path) -> ModelSettings:
    """The settings of a version: its own model.toml, else that of the base path above it, else `UNSET`.

    Raises:
        ModelLoadError: the file is no TOML, or holds an unknown key or a value that will not do; the
            message names the file, the key, the value and the remedy.
    """
    own = load_file(version_path / FILE)
    return own or load_file(version_path.parent / FILE) or UNSET


def load_file(path: Path) -> ModelSettings | None:
    """The settings in a TOML file; None where there is no such file.

    Raises:
        ModelLoadError: as for `load`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ModelLoadError(f"{path}: can't be read: {error}; make it a readable UTF-8 file") from error
    return from_text(path, text)


def from_text(path: Path, text: str) -> ModelSettings:
    """The settings that a file's text says; `path` is for messages.

    Raises:
        ModelLoadError: as for `load`.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ModelLoadError(f"{path}: no valid TOML: {error}; write lines like max_batch_size = 32") from error
    for name, table in tables.items():
        if name not in _TABLES:
            raise ModelLoadError(f"{path}: unknown key {name} = {table!r}: use the tables [batching] and [session]")
        if not isinstance(table, dict):
            raise ModelLoadError(f"{path}: {name} = {table!r}: make it a table: a line [{name}], its keys below")
    made = {name: _made(path, name, tables.get(name, {})) for name in _TABLES}
    return ModelSettings(**made)


def _made(path: Path, name: str, table: Mapping[str, Any]) -> Any:
    kind = _TABLES[name]
    known = [one.name for one in fields(kind)]
    for key, value in table.items():
        if key not in known:
            raise ModelLoadError(f"{path}: unknown key {name}.{key} = {value!r}: use one of {', '.join(known)}")
        told = complaint(key, value)
        if told:
            raise ModelLoadError(f"{path}: {name}.{key} = {value!r}: {told}")
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in table.items()})


def complaint(key: str, value: Any) -> str | None:
    """What a key's value should have been; None where it will do. Lists are TOML's."""
    fits, expected = _CHECKS[key]
    return None if fits(value) else expected


def _whole(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _rows(value: Any) -> bool:
    return _whole(value, MOST_ROWS)


def _threads(value: Any) -> bool:
    return _whole(value, MOST_THREADS)


def _milliseconds(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and value != [] and all(map(_rows, value)) and value == sorted(set(value))


_A_COUNT = f"give a whole number from 1 to {MOST_ROWS}"
_A_THREAD_COUNT = f"give a whole number from 1 to {MOST_THREADS}"
_TABLES: dict[str, type[Any]] = {"batching": BatchingSettings, "session": RunSettings}
#: For each key, whether a value will do, and what to say where it will not.
_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "max_batch_size": (_rows, _A_COUNT),
    "batch_timeout_ms": (_milliseconds, "give milliseconds, 0 or more"),
    "allowed_batch_sizes": (_sizes, "give a list of whole numbers from 1, each larger than the one before"),
    "pad_variable_length_inputs": (lambda value: isinstance(value, bool), "give true or false"),
    "max_enqueued": (_rows, _A_COUNT),
    "workers": (_threads, _A_THREAD_COUNT),
    "runs_per_worker": (_threads, _A_THREAD_COUNT),
    "intra_op_threads": (_threads, _A_THREAD_COUNT),
    "inter_op_threads": (_threads, _A_THREAD_COUNT),
}
