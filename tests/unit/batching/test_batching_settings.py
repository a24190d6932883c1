"""The model.toml of a model: what it may say, what is told where it says something else, and how it is written."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from thriftserve.errors import ExitCode, ModelLoadError
from thriftserve.repository.model_settings import (
    UNSET,
    BatchingSettings,
    ModelSettings,
    RunSettings,
    load,
    load_file,
    write_model_settings,
)

WHOLE = """
[batching]
max_batch_size = 32
batch_timeout_ms = 0.5
allowed_batch_sizes = [8, 32]
pad_variable_length_inputs = true
max_enqueued = 1000

[session]
workers = 2
runs_per_worker = 1
intra_op_threads = 3
inter_op_threads = 4
"""
MEANT = ModelSettings(BatchingSettings(32, 0.5, (8, 32), True, 1000), RunSettings(2, 1, 3, 4))


def test_every_key_is_read(tmp_path: Path) -> None:
    """A version's own file goes before the model's; without either, nothing is set."""
    version = tmp_path / "7"
    version.mkdir()
    assert load(version) is UNSET
    (tmp_path / "model.toml").write_text(WHOLE)
    assert load(version) == MEANT
    (version / "model.toml").write_text("[batching]\nmax_batch_size = 3\n")
    assert load(version) == ModelSettings(BatchingSettings(3))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[batching", "not valid TOML"),
        ("max_batch_size = 3", "unknown key max_batch_size = 3: use the tables [batching] and [session]"),
        ("batching = 3", "batching = 3: make it a table"),
        ("[batching]\nmax_batch = 3", "unknown key batching.max_batch = 3: use one of max_batch_size, "),
        ("[batching]\nmax_batch_size = 0", "batching.max_batch_size = 0: give a whole number from 1"),
        ("[batching]\nmax_batch_size = true", "batching.max_batch_size = True"),
        ("[batching]\nbatch_timeout_ms = -1", "batching.batch_timeout_ms = -1: give milliseconds"),
        ("[batching]\nbatch_timeout_ms = inf", "batching.batch_timeout_ms = inf"),
        ("[batching]\nallowed_batch_sizes = []", "batching.allowed_batch_sizes = []: give a list"),
        ("[batching]\nallowed_batch_sizes = [4, 2]", "each larger than the one before"),
        ("[batching]\nallowed_batch_sizes = [4, 4]", "each larger than the one before"),
        ("[batching]\npad_variable_length_inputs = 1", "give true or false"),
        ("[batching]\nmax_enqueued = 1.5", "batching.max_enqueued = 1.5"),
        ("[session]\nworkers = 0", "session.workers = 0: give a whole number from 1 to 4096"),
        ("[session]\nthreads = 1", "unknown key session.threads = 1: use one of workers, runs_per_worker"),
    ],
)
def test_faults_are_told(tmp_path: Path, text: str, told: str) -> None:
    """The message names the file, the key, the value and the remedy."""
    path = tmp_path / "model.toml"
    path.write_text(text)
    with pytest.raises(ModelLoadError) as caught:
        load_file(path)
    assert str(path) in caught.value.message
    assert told in caught.value.message
    assert caught.value.exit_code == ExitCode.MODEL_LOAD


def test_what_can_not_be_read(tmp_path: Path) -> None:
    """A directory in the file's place, or bytes that are no text, are told as such."""
    path = tmp_path / "model.toml"
    path.mkdir()
    with pytest.raises(ModelLoadError, match="can't be read"):
        load_file(path)
    path.rmdir()
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ModelLoadError, match="UTF-8"):
        load_file(path)


@pytest.mark.parametrize("settings", [UNSET, MEANT, ModelSettings(session=RunSettings(workers=5))])
@pytest.mark.parametrize("before", [None, "", WHOLE, "[batching]\nallowed_batch_sizes = [\n  1,\n  2,\n]\n", "[broken"])
def test_what_is_written_is_read_again(tmp_path: Path, settings: ModelSettings, before: str | None) -> None:
    """Whatever stood in the file, afterwards it says what was to be written; nothing else lies beside it."""
    path = tmp_path / "model.toml"
    if before is not None:
        path.write_text(before)
        path.chmod(0o600)
    write_model_settings(path, settings)
    assert load_file(path) == settings
    assert stat.S_IMODE(path.stat().st_mode) == (0o644 if before is None else 0o600)
    assert list(tmp_path.iterdir()) == [path]


def test_what_people_wrote_stays(tmp_path: Path) -> None:
    """Comments and order stay; a key changes where it stands, a new one comes last in its table."""
    path = tmp_path / "model.toml"
    path.write_text("# ours\n[session]  # measured\nworkers = 1  # one\n\n[batching]\n# rows\nmax_batch_size = 4\n")
    write_model_settings(path, ModelSettings(BatchingSettings(None, 0), RunSettings(3, 2)))
    assert path.read_text() == (
        "# ours\n[session]  # measured\nworkers = 3  # one\nruns_per_worker = 2\n\n[batching]\n# rows\n"
        "batch_timeout_ms = 0\n"
    )


def test_what_does_not_change_stays_as_written(tmp_path: Path) -> None:
    """A key that keeps its value keeps its lines: a list on several, a number with a separator, a default."""
    path = tmp_path / "model.toml"
    rest = (
        "allowed_batch_sizes = [\n  8,  # small\n  32,\n]\npad_variable_length_inputs = false  # never\n"
        "max_enqueued = 1_000\n"
    )
    path.write_text(f"[session]\nworkers = 1\n[batching]\n{rest}")
    write_model_settings(path, ModelSettings(BatchingSettings(None, 2.5, (8, 32), False, 1000), RunSettings(3)))
    assert path.read_text() == f"[session]\nworkers = 3\n[batching]\n{rest}batch_timeout_ms = 2.5\n"


def test_nonsense_is_not_written(tmp_path: Path) -> None:
    """Settings that could not be read again leave the file as it was."""
    path = tmp_path / "model.toml"
    path.write_text(WHOLE)
    with pytest.raises(ModelLoadError, match="max_batch_size = -1"):
        write_model_settings(path, ModelSettings(BatchingSettings(-1)))
    assert path.read_text() == WHOLE
