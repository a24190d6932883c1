"""Two runs compared: planted changes are found, noise is not, and runs that differ in kind are turned away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweep_windows import window
from thriftserve_bench import cli
from thriftserve_bench.records import calls as results
from thriftserve_bench.records import experiments as experiments
from thriftserve_bench.records.sweep import CLOSED, Point, Setting, SweepRun, Variant
from thriftserve_bench.report.compare import beyond_noise

MACHINE = {"cpu": "Abacus", "cores": 2}
SETTINGS: dict[str, Any] = {"workers": 4, "threads": 10, "pin": True, "cores": {"load": "0", "servers": "1"}}
#: Calls a second of five windows: a spread of some per cent, as a quiet machine has.
USUAL = (990.0, 1000.0, 1010.0, 985.0, 1005.0)


def calls_run(rates: Sequence[float], apache: Sequence[float] = USUAL, **changed: Any) -> results.CallsRun:
    """Results of `calls`: one cell."""

    def windows(every: Sequence[float], failures: int) -> list[results.Window]:
        plain = results.Window(0, failures, "", 1.0, [(100, 1)], 0.1, 0.1, 0, 0, 0.0)
        # CPU and latency stay as they are: only the rate is played with.
        return [replace(plain, calls=int(rate), server_cpu_s=rate * 1e-4) for rate in every]

    failures = changed.pop("failures", 0)
    cell = results.MeasuredCell(
        results.Cell("TThreadPoolServer", "tiny", 4), windows(rates, failures), windows(apache, 0)
    )
    return results.CallsRun("now", SETTINGS | changed, MACHINE, {}, "unknown", [cell])


def sweep_run(p99_ms: Sequence[float], load: float = 4.0) -> SweepRun:
    """Results of `sweep`: one point; of the 100 calls of a window the slowest two took `p99_ms`."""
    windows = [window([1000] * 98 + [int(one * 1000)] * 2) for one in p99_ms]
    setting = Setting(Variant("TForkingServer", 0, 0), "tiny", CLOSED, load, int(load))
    point = Point(setting, windows=windows, settled=True)
    return SweepRun("now", {"connections": 32, "cores": {}}, MACHINE, {}, "unknown", [point])


def experiment_run(*elapsed_s: float, outcome: str = "ok") -> experiments.ExperimentRun:
    """Results of the experiments: one pattern on one server, once or more."""
    calls = [experiments.Call(0, 0.0, 1.0, outcome)]
    outcomes = [
        experiments.Outcome("ten", "TForkingServer", "ours", "hold-gil", 300.0, 0, 0, one, calls) for one in elapsed_s
    ]
    return experiments.ExperimentRun("now", {}, MACHINE, {}, "unknown", outcomes)


@pytest.fixture
def compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Saves two runs and compares them: exit code, and all that was printed."""

    def compare(before: Any, after: Any, *flags: str) -> tuple[int, str]:
        paths = [tmp_path / "a.json", tmp_path / "b.json"]
        for path, run in zip(paths, (before, after), strict=True):
            run.save(path)
        code = cli.main(["compare", *map(str, paths), *flags])
        return code, "".join(capsys.readouterr())

    return compare


def test_noise_is_what_overlaps_or_is_small() -> None:
    """A change needs ranges that are apart and medians that differ by more than the threshold."""
    assert not beyond_noise([90, 100, 110], [105, 120, 130], 0.05)
    assert not beyond_noise([100, 100, 101], [102, 103, 104], 0.05)
    assert beyond_noise([90, 100, 110], [111, 120, 130], 0.05)
    assert beyond_noise([100], [106], 0.05)
    assert not beyond_noise([100], [104], 0.05)


def test_planted_regression_of_calls(compared: Callable[..., tuple[int, str]]) -> None:
    """A tenth fewer calls a second in every window is found, and is a regression; a tenth more is none."""
    slower = [0.9 * one for one in USUAL]
    code, said = compared(calls_run(USUAL), calls_run(slower))
    assert code == 1
    assert "worse: TThreadPoolServer tiny x4 ours: calls/s 1,000 -> 900 (-10.0%)" in said
    assert "1 regression\n" in said
    code, said = compared(calls_run(slower), calls_run(USUAL))
    assert code == 0
    assert "better: TThreadPoolServer" in said


def test_noise_of_calls(compared: Callable[..., tuple[int, str]]) -> None:
    """Windows that scatter as they do, and one that was far off, are no change; nor is what the threshold allows."""
    assert compared(calls_run(USUAL), calls_run((1003, 980, 1015, 995, 700)))[0] == 0
    slower = [0.9 * one for one in USUAL]
    assert compared(calls_run(USUAL), calls_run(slower), "--threshold", "15")[0] == 0


def test_apache_tells_and_does_not_count(compared: Callable[..., tuple[int, str]]) -> None:
    """Apache's side is shown where it moved, and is no regression of ours."""
    code, said = compared(calls_run(USUAL), calls_run(USUAL, apache=[0.8 * one for one in USUAL]))
    assert code == 0
    assert "apache: calls/s" in said


def test_calls_that_begin_to_fail(compared: Callable[..., tuple[int, str]]) -> None:
    """A failed call where there was none is a regression, however fast the rest."""
    code, said = compared(calls_run(USUAL), calls_run(USUAL, failures=1))
    assert code == 1
    assert "failed calls 0 -> 5" in said
    assert compared(calls_run(USUAL, failures=1), calls_run(USUAL))[0] == 0


def test_planted_regression_of_a_sweep(compared: Callable[..., tuple[int, str]]) -> None:
    """A longer tail is found where everything else is as it was; a tail that scatters is not."""
    code, said = compared(sweep_run((10, 11, 12)), sweep_run((20, 22, 24)))
    assert code == 1
    assert "worse: TForkingServer tiny x4: p99 ms" in said
    assert "5 figures compared, 1 changed" in said
    assert compared(sweep_run((10, 11, 24)), sweep_run((20, 22, 25)))[0] == 0


def test_planted_regression_of_the_experiments(compared: Callable[..., tuple[int, str]]) -> None:
    """Seconds of an experiment: with one run of each the threshold decides, with several their range does."""
    code, said = compared(experiment_run(3.1), experiment_run(3.4))
    assert code == 1
    assert "seconds 3.1 -> 3.4" in said
    assert compared(experiment_run(3.1), experiment_run(3.2))[0] == 0
    assert compared(experiment_run(3.1, 3.45, 3.2), experiment_run(3.4, 3.5, 3.6))[0] == 0
    assert compared(experiment_run(3.1), experiment_run(3.1, outcome="TimeoutError"))[0] == 1


def test_other_settings_are_listed(compared: Callable[..., tuple[int, str]]) -> None:
    """Runs with other workers can't be compared, and it says which setting it is; --anyway does it."""
    code, said = compared(calls_run(USUAL), calls_run(USUAL, workers=8))
    assert code == 2
    assert "workers: 4 and 8" in said
    assert "threads" not in said
    code, said = compared(calls_run(USUAL), calls_run(USUAL, workers=8), "--anyway")
    assert code == 0
    assert "differs: workers: 4 and 8" in said


def test_other_kinds_and_cells(compared: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    """Runs of two kinds, runs without a common cell, and files that are no runs are 2."""
    code, said = compared(calls_run(USUAL), sweep_run((10,)), "--anyway")
    assert code == 2
    assert "format" in said
    code, said = compared(sweep_run((10,), load=4), sweep_run((10,), load=8))
    assert code == 2
    assert "no cell in common" in said
    other = tmp_path / "other.json"
    other.write_text("[]", encoding="utf-8")
    assert cli.main(["compare", str(other), str(other)]) == 2
    assert cli.main(["compare", str(tmp_path / "none.json"), str(other)]) == 2
