"""`thriftserve model tune`: what it tries, whom it declares the winner, what it writes, and Ctrl-C."""

from __future__ import annotations

import doctest
import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dependent_models import saved_model
from small_models import small
from thriftserve.errors import ConfigError, InvalidArgument, ModelLoadError
from thriftserve.repository import model_settings
from thriftserve.tools import tune, tune_search
from thriftserve.tools.tune_search import Arrangement, Candidate, Result, Search, arrangements, best
from thriftserve.tools.tune_workers import TuneWorkers
from thriftserve_bench.process_tree import signal_group

COMMAND = [sys.executable, "-m", "thriftserve", "model", "tune"]
#: Few cells, whatever the machine has.
TWO_CORES = sorted(os.sched_getaffinity(0))[:2]


def _tune(*arguments: str, cores: int = 1) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
        preexec_fn=lambda: os.sched_setaffinity(0, TWO_CORES[:cores]),
    )


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """A base path of its own, with a settings file in it."""
    base_path = tmp_path / "half"
    shutil.copytree(small("half_plus_two"), base_path)
    (base_path / "model.toml").write_text("[batching]\nmax_batch_size = 7  # a guess\nmax_enqueued = 5\n")
    return base_path


def test_the_winner_goes_into_the_models_file(half: Path) -> None:
    """Every combination is measured, the winner marked and written; what else the file says stays."""
    done = _tune(str(half), "--batch-sizes", "1,64", "--seconds", "0.1", cores=2)
    assert done.returncode == 0, done.stderr
    assert "measuring" in done.stderr
    lines = [line for line in done.stdout.splitlines() if line[3:10].strip().isdigit()]
    assert len(lines) == 2 * len(arrangements(len(TWO_CORES)))
    (marked,) = (line for line in lines if line.startswith("->"))
    workers, runs, threads, rows = map(int, marked.split()[1:5])
    written = model_settings.load(half / "1")
    assert written.session == model_settings.RunSettings(workers, runs, threads)
    assert (written.batching.max_batch_size, written.batching.max_enqueued) == (rows, 5)
    assert rows == 64  # a run of a tiny model takes as long for one row as for many
    assert "# a guess" in (half / "model.toml").read_text()


def test_dry_run_writes_nothing(half: Path) -> None:
    """With --dry-run the settings are shown and the file stays; a signature without rows has one batch size."""
    before = (half / "model.toml").read_bytes()
    done = _tune(str(half), "--signature", "constants", "--seconds", "0.05", "--objective", "latency", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "max_batch_size = 1" in done.stdout
    assert f"not written; for {half / 'model.toml'}" in done.stdout
    assert (half / "model.toml").read_bytes() == before


def test_no_batch_that_would_change_answers(tmp_path: Path) -> None:
    """Where rows depend on each other only batch 1 is measured: what is written would be the author's word."""
    path = tmp_path / "mixed"
    shutil.copytree(saved_model().parent, path)
    flags = ["--batch-sizes", "1,8", "--seconds", "0.05", "--dry-run"]
    for signature, rows in (("softmax", {"1"}), ("half", {"1", "8"})):
        done = _tune(str(path), "--signature", signature, *flags)
        assert done.returncode == 0, done.stderr
        lines = [line for line in done.stdout.splitlines() if line[3:10].strip().isdigit()]
        assert {line.removeprefix("->").split()[3] for line in lines} == rows
        assert ("do not share runs, so only batch 1 is measured" in done.stderr) == (signature == "softmax")


def test_ctrl_c_shows_what_was_measured(half: Path) -> None:
    """SIGINT in the midst ends it with 130, the table of what there is, nothing written and no process left."""
    before = (half / "model.toml").read_bytes()
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, str(half), "--seconds", "2", "--batch-sizes", "1,2"],
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        start_new_session=True,
    )
    os.close(theirs)
    seen = b""
    while b"] 1/" not in seen:  # the first is measured, the bar tells of the second
        seen += os.read(ours, 4096)
    signal_group(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=30)
    os.close(ours)
    assert process.returncode == 130
    assert "->" in said
    assert "not written" in said
    assert (half / "model.toml").read_bytes() == before
    with pytest.raises(ProcessLookupError):
        signal_group(process.pid, 0)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["/no/such/place"], 4, "/no/such/place: there is no such directory"),
        (["HALF", "--signature", "nine"], 2, "signature 'nine'"),
        (["HALF", "--batch-sizes", "0,x"], 2, "write whole numbers from 1"),
        (["HALF", "--seconds", "0"], 2, "both must be above 0"),
        (["HALF", "--devices", "gpu:77"], 5, "gpu:77"),
        (["HALF", "--what"], 2, "unrecognized argument --what"),
    ],
)
def test_mistakes_are_told(arguments: list[str], code: int, told: str) -> None:
    """Wrong paths and flags end it at once, with the exit code that `serve` has for them and one line."""
    done = _tune(*(str(small("half_plus_two")) if one == "HALF" else one for one in arguments))
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    assert told in done.stderr


def test_bad_settings_file_is_told_before_measuring(half: Path) -> None:
    """A model.toml that can't be read fails the command by its name, before the minutes that measuring takes."""
    (half / "model.toml").write_text("[batching]\nrows = 1\n")
    done = _tune(str(half))
    assert done.returncode == 4
    assert "unknown key batching.rows" in done.stderr
    assert "measuring" not in done.stderr


@pytest.mark.parametrize("cores", [1, 2, 6, 64])
def test_arrangements_fill_the_cores(cores: int) -> None:
    """All of them but the lonely one keep more than half of the cores busy, none more than all."""
    found = arrangements(cores)
    assert Arrangement(1, 1, 1) in found
    assert all(cores / 2 < one.cores <= cores for one in found if one != Arrangement(1, 1, 1))
    assert {Arrangement(cores, 1, 1), Arrangement(1, cores, 1), Arrangement(1, 1, cores)} <= set(found)
    assert doctest.testmod(tune_search).failed == 0


def test_best_prefers_what_is_cheaper() -> None:
    """Among results as good as each other, the fewest processes win, then the smallest batch."""
    results = [
        Result(Candidate(Arrangement(2, 1, 1), 4), 1000.0, 8.0, 9.0, 1.0),
        Result(Candidate(Arrangement(1, 2, 1), 8), 990.0, 16.0, 17.0, 1.0),
        Result(Candidate(Arrangement(1, 2, 1), 4), 985.0, 8.1, 9.0, 1.0),
        Result(Candidate(Arrangement(1, 1, 1), 1), 600.0, 1.6, 2.0, 1.0),
    ]
    assert best(results, "throughput") is results[2]
    assert best(results, "latency") is results[3]
    assert best([], "latency") is None


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "[session]\nworkers = 2\n"),
        ("[batching]\nmax_enqueued = 1\n", "[batching]\nmax_enqueued = 1\n\n[session]\nworkers = 2\n"),
        ("[session]\nworkers=1 # so\n[batching]\n", "[session]\nworkers=2 # so\n[batching]\n"),
        (
            "[session]\n# workers = 9\nintra_op_threads = 1\n\n[batching]\n",
            "[session]\n# workers = 9\nintra_op_threads = 1\nworkers = 2\n\n[batching]\n",
        ),
        ("[session] # all\n", "[session] # all\nworkers = 2\n"),
    ],
)
def test_keys_are_set_in_place(tmp_path: Path, before: str, after: str) -> None:
    """A key is replaced where it stands, or added to its table, and the rest of the file is left as it is."""
    path = tmp_path / "model.toml"
    path.write_text(before)
    tune.write_settings(path, {"session": {"workers": 2}})
    assert path.read_text() == after
    assert [one.name for one in tmp_path.iterdir()] == ["model.toml"]


def test_unwritable_places_are_told(tmp_path: Path) -> None:
    """A file that is no settings file is not overwritten, and a directory that is not there is named."""
    (tmp_path / "model.toml").write_text("x = [")
    with pytest.raises(ModelLoadError, match="not valid TOML"):
        tune.write_settings(tmp_path / "model.toml", {"session": {"workers": 2}})
    with pytest.raises(ConfigError, match="--dry-run shows the settings"):
        tune.write_settings(tmp_path / "none" / "model.toml", {"session": {"workers": 2}})


def test_versions_own_file_goes_before(tmp_path: Path) -> None:
    """The file that is written is the one that is read: the version's where it has one, else the base path's."""
    (tmp_path / "1").mkdir()
    assert tune.settings_file(tmp_path / "1") == tmp_path / "model.toml"
    (tmp_path / "1" / "model.toml").touch()
    assert tune.settings_file(tmp_path / "1") == tmp_path / "1" / "model.toml"


class _FakeWorkers(TuneWorkers):
    """Workers that note what they are asked: every run takes 1 ms, and three rows are refused."""

    def __init__(self, asked: list[tuple[int, float]]) -> None:
        self._asked = asked

    def call(self, runs: int, rows: int, seconds: float) -> tuple[float, list[float]]:
        self._asked.append((rows, seconds))
        if rows == 3:
            raise InvalidArgument("three rows are refused")
        return rows * 1000.0, [0.001] * 10

    def close(self) -> None:
        """End nothing."""


def _search(start_workers: Callable[[int, int], TuneWorkers], budget_s: float = 60.0) -> Search:
    return Search(start_workers, "throughput", 4.0, budget_s, lambda *_: None)


def test_the_promising_are_measured_again() -> None:
    """Every candidate gets a quarter of the time, the best four half of it, then all; a refusal costs its candidate."""
    asked: list[tuple[int, float]] = []
    search = _search(lambda workers, threads: _FakeWorkers(asked))
    search.run(Candidate(Arrangement(1, 1, 1), rows) for rows in (1, 2, 3, 4, 5, 6))
    assert [rows for rows, seconds in asked if seconds == 1.0] == [1, 2, 3, 4, 5, 6]
    assert [rows for rows, seconds in asked if seconds == 2.0] == [2, 4, 5, 6]
    assert [rows for rows, seconds in asked if seconds == 4.0] == [2, 4, 5, 6]
    assert list(search.failed.values()) == ["three rows are refused"]
    assert search.skipped == 0
    winner = best(search.results.values(), "throughput")
    assert winner is not None
    assert (winner.candidate.rows, winner.seconds) == (6, 4.0)


def test_workers_that_do_not_start_cost_their_candidates_only() -> None:
    """A number of processes that can't load the model is noted; it ends the search if none can."""

    def start(workers: int, threads: int) -> TuneWorkers:
        if workers > 1:
            raise ModelLoadError("no memory")
        return _FakeWorkers([])

    alone, pair = (Candidate(Arrangement(workers, 1, 1), 1) for workers in (1, 2))
    search = _search(start)
    search.run([pair, alone])
    assert (list(search.results), search.failed) == ([alone], {pair: "no memory"})
    with pytest.raises(ModelLoadError):
        _search(start).run([pair])


def test_a_search_ends_when_its_time_is_over() -> None:
    """After the budget nothing new begins, but something is measured in any case."""
    candidates = [Candidate(Arrangement(1, 1, 1), rows) for rows in (1, 2, 4)]
    search = _search(lambda workers, threads: _FakeWorkers([]), budget_s=0.0)
    search.run(candidates)
    assert (list(search.results), search.skipped) == (candidates[:1], 2)
