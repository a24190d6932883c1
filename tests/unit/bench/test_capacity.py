"""From a day's requests to nodes: the published arithmetic, and sweeps made for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sweep_windows import window
from thriftserve_bench import cli
from thriftserve_bench.records.sweep import CLOSED, OPEN, Point, Setting, SweepRun, Variant
from thriftserve_bench.report.capacity import Demand, plan, sustained_rates

TWO = Variant("TProcessPoolServer", 2, 0)


def point(mode: str, load: float, p99_ms: float, *, calls_per_s: float | None = None, failures: int = 0) -> Point:
    """A settled point of one second in which every call took `p99_ms`."""
    calls = int(calls_per_s or load)
    failed = {"RESOURCE_EXHAUSTED": failures} if failures else {}
    one = window([int(p99_ms * 1000)] * calls, failures=failed)
    return Point(Setting(TWO, "tiny", mode, load, 8), windows=[one, replace(one), replace(one)], settled=True)


def run_of(*points: Point) -> SweepRun:
    """A run of these points."""
    return SweepRun("now", {}, {"cpu": "Abacus", "cores": 2}, {}, "unknown", list(points))


def test_published_arithmetic(capsys: pytest.CaptureFixture[str]) -> None:
    """5 million page views a day, 80 % in 40 % of the day: 115.7/s, 231 to 347/s with head-room; each step is shown."""
    assert Demand(5e6).peak_per_s == pytest.approx(115.74, abs=0.005)
    assert cli.main(["capacity", "--page-views-per-day", "5000000"]) == 0
    shown = capsys.readouterr().out
    for step in ("5,000,000", "4,000,000 in 34,560 s", "115.7 requests/s", "x2: 231.5", "x3: 347.2"):
        assert step in shown


def test_every_number_can_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    """Requests a page, the share and its part of the day, and the head-room."""
    flags = ["--requests-per-page", "3", "--share", "0.5", "--of-day", "0.25", "--headroom", "1.5"]
    assert cli.main(["capacity", "--page-views-per-day", "86400", *flags]) == 0
    shown = capsys.readouterr().out
    assert "= 259,200 requests a day" in shown
    assert "= 6.0 requests/s" in shown
    assert "x1.5: 9.0" in shown
    assert "x2" not in shown


def test_highest_rate_under_the_target_counts() -> None:
    """The highest offered rate before the first that misses the target; a lucky one above that does not count."""
    found = sustained_rates(
        run_of(*(point(OPEN, load, ms) for load, ms in ((400, 60), (100, 5), (200, 20), (800, 10)))), 50.0
    )
    assert [(one.per_s, round(one.p99_ms), one.is_highest) for one in found] == [(200.0, 20, False)]
    assert found[0].nodes(347.2) == 2
    assert found[0].nodes(200.0) == 1
    assert found[0].nodes(200.1) == 2


def test_rates_that_were_not_kept_do_not_count() -> None:
    """Failed calls, or fewer answers than were asked for, whatever their latency."""
    assert sustained_rates(run_of(point(OPEN, 100, 5), point(OPEN, 200, 5, failures=1)), 50.0)[0].per_s == 100.0
    slow = point(OPEN, 200, 5)
    slow.windows = [replace(one, elapsed_s=2.0) for one in slow.windows]
    assert sustained_rates(run_of(point(OPEN, 100, 5), slow), 50.0)[0].per_s == 100.0


def test_closed_loop_says_so() -> None:
    """Where there is no open loop, the closed one's rate is taken with a warning; with one, it is not looked at."""
    closed = point(CLOSED, 8, 5, calls_per_s=900)
    lines = plan(run_of(closed), 50.0, [1000.0])
    assert "900.0/s" in lines[1] and "closed loop" in lines[1]
    assert "2 nodes, 4 workers" in lines[2]
    assert sustained_rates(run_of(closed, point(OPEN, 100, 5)), 50.0)[0].per_s == 100.0


def test_sweep_in_the_arithmetic(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command reads a sweep's file and goes on to nodes and workers; what misses the target says so."""
    path = tmp_path / "sweep.json"
    run_of(point(OPEN, 100, 5), point(OPEN, 200, 20)).save(path)
    asked = ["capacity", "--requests-per-day", "5e6", "--sweep", str(path)]
    assert cli.main([*asked, "--p99-ms", "50"]) == 0
    shown = capsys.readouterr().out
    assert "it may hold more" in shown
    assert "347.2/s / 200.0/s = 1.74: 2 nodes, 4 workers" in shown
    assert cli.main([*asked, "--p99-ms", "1"]) == 0
    assert "no load that was measured met the target" in capsys.readouterr().out


def test_what_is_of_no_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers out of range are 2, a file that is no sweep is 1; each is named."""
    assert cli.main(["capacity", "--page-views-per-day", "0"]) == 2
    assert "--page-views-per-day" in capsys.readouterr().err
    assert cli.main(["capacity", "--page-views-per-day", "1", "--share", "1.1"]) == 2
    assert "--share" in capsys.readouterr().err
    path = tmp_path / "other.json"
    path.write_text('{"format": "other"}', encoding="utf-8")
    assert cli.main(["capacity", "--page-views-per-day", "1", "--sweep", str(path)]) == 1
    assert "other" in capsys.readouterr().err
