"""What-ifs: the specification, its faults, the table, the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from thriftserve_bench import cli
from thriftserve_bench.records.experiments import ExperimentRun
from thriftserve_bench.servers import APACHE_TYPES, BATCHING, SERVER_TYPES
from thriftserve_bench.simulator.setup import NotSimulated
from thriftserve_bench.simulator.what_if import parse_spec, simulate_text


def test_a_specification_is_answered_for_all_types_side_by_side() -> None:
    """Ensures that the spelling of the command line is read, and each type stands beside the patterns."""
    lines = simulate_text("cores=64, workers=20, service_ms=300").splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.startswith("T")}
    assert tuple(rows) == SERVER_TYPES
    for name in ("TProcessPoolServer", BATCHING):
        assert [float(cell) for cell in rows[name]] == pytest.approx([30.0, 30.0, 3.0, 1.5], rel=0.03)
    theirs = [line.split()[0] for line in simulate_text("side=apache").splitlines() if line.startswith("T")]
    assert tuple(theirs) == APACHE_TYPES


def test_slots_of_a_worker_are_asked_for() -> None:
    """Ensures that calls which wait without the lock do so together in one worker, as many as it has slots."""
    for runs, expected in ((1, 3.0), (5, 0.6)):
        text = simulate_text(f"workers=1,runs={runs},workload=sleep,pattern=ten,server_type={BATCHING},service_ms=30")
        (row,) = [line.split() for line in text.splitlines() if line.startswith("T")]
        assert float(row[1]) == pytest.approx(expected, rel=0.05)


def test_one_type_is_answered_in_detail() -> None:
    """Ensures that clients, calls and one type are taken from the specification."""
    text = simulate_text("workers=4,service_ms=100,clients=8,calls=2,server_type=TProcessPoolServer")
    assert "8 clients x 2 calls" in text
    (row,) = [line.split() for line in text.splitlines() if line.startswith("T")]
    assert float(row[1]) == pytest.approx(0.4, abs=0.02)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cores", "cores: expected name=value"),
        ("cores=two", "cores=two: expected a number"),
        ("cores=1,cores=2", "each name once"),
        ("colour=red", "expected name=value"),
        ("cores=0", "cores=0: expected 1 or more"),
        ("service_ms=nan", "service_s=nan: expected 0 or more"),
        ("service_ms=-1", "service_s=-0.001: expected 0 or more"),
        ("clients=10001", "expected 1 to 10,000"),
        ("clients=10000,calls=21", "200,000"),
        ("calls=5", "expected clients"),
        ("pattern=eleven", "expected one of series"),
        ("pattern=ten,clients=3", "expected one of the two"),
        ("server_type=TBestServer", "expected one of TSimpleServer"),
        ("side=apache,server_type=TBatchingServer", "there is none with side=apache"),
        ("runs=0", "runs=0: expected 1 or more"),
        ("workload=dream", "expected one of hold-gil"),
        ("fork_ms=-2", "fork_ms=-2: expected 0 or more"),
    ],
)
def test_a_bad_specification_is_reported(spec: str, message: str) -> None:
    """Ensures that what can't be simulated is named, with what was expected."""
    with pytest.raises(NotSimulated) as raised:
        simulate_text(spec)
    assert message in str(raised.value)


def test_what_is_left_out_has_defaults() -> None:
    """Ensures that an empty specification asks for the published machine, and pools have a thread a worker."""
    question = parse_spec("")
    assert (question.cores, question.workers) == (64, 10)
    assert parse_spec("workers=7").setup("TThreadPoolServer", None).threads == 7


def test_the_command_answers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Ensures the command line: an answer with a run's costs and a fork's own, exit codes for what makes no sense."""
    file = tmp_path / "run.json"
    costs = {"first_call_s/ours/TForkingServer": 2.0}  # all of it set-up, of which 0.1 s are the fork
    ExperimentRun("now", {}, {"cores": 2}, {}, "none", calibration=costs).save(file)
    flags = ["simulate", "--pattern", "hundred", "--server-type", "TForkingServer", "--results", str(file)]
    assert cli.main([*flags, "--fork-ms", "100", "--service-ms", "330"]) == 0
    (row,) = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("T")]
    assert float(row[1]) == pytest.approx(100 * 0.1 + 2.0 + 0.33, rel=0.02)
    assert cli.main(["simulate", "--cores", "0"]) == 2
    assert "cores=0" in capsys.readouterr().err
    file.write_text("{}")
    assert cli.main(flags) == 1
