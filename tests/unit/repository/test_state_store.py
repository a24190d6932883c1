"""What workers report of loading through the state directory, also where it can't be written."""

from __future__ import annotations

import logging
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from thriftserve.repository.state_store import ATTEMPTS, LoadReport, StateDir, collect_load_results


@contextmanager
def no_file_may_grow() -> Iterator[None]:
    """Have the kernel refuse every write to a file of this process, as a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    """A state directory that is ready for use."""
    state = StateDir(tmp_path / "state")
    state.prepare()
    return state


def test_a_full_state_disk_fails_no_load(state: StateDir, caplog: pytest.LogCaptureFixture) -> None:
    """Loading goes on where its report can't be written, and the log says so."""
    report = LoadReport(state)
    with no_file_may_grow():
        with report.loading("digits", 3):
            pass
        report.done()
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert errors and all(str(state.path) in text for text in errors)


def test_a_disk_that_fills_up_blames_no_version(state: StateDir) -> None:
    """A version whose load was reported is not blamed for the end of its worker if the next report was not written."""
    report = LoadReport(state)
    with report.loading("digits", 3):
        assert state.names(ATTEMPTS) == [f"{ATTEMPTS}/{os.getpid()}"]
    with no_file_may_grow():
        report.done()
    assert state.names(ATTEMPTS) == []
    assert list(collect_load_results(state)) == []
