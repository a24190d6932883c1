"""The experiments' report: the table recomputed here from the raw calls, planted slips found, the page whole."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from experiment_samples import sample_run
from thriftserve_bench.benchmarks.experiments.benchmark import settings_of
from thriftserve_bench.cli import main, make_parser
from thriftserve_bench.records.experiments import PATTERNS, TYPES, Call, ExperimentRun, Outcome
from thriftserve_bench.report.experiments import digest
from thriftserve_bench.report.experiments.consistency import findings
from thriftserve_bench.report.experiments.joined import commands
from thriftserve_bench.report.experiments.page import write_page
from thriftserve_bench.report.experiments.table import headline, rows, verdicts
from thriftserve_bench.servers import BATCHING, SERVER_TYPES
from thriftserve_bench.simulator import predict
from thriftserve_bench.simulator.advice import FORKING, POOL, Advice
from thriftserve_bench.simulator.ideal import ideal_s

#: Written down here once more, from the published table: row, pattern, type, ideal in units of one call.
PUBLISHED_IDEALS = [
    ("1a", "series", "TSimpleServer", 100),
    ("1b", "shared", "TSimpleServer", 100),
    ("2", "ten", "TProcessPoolServer", 10),
    ("3", "hundred", "TProcessPoolServer", 10),
    ("4", "ten", "TNonblockingServer", 100),
    ("5", "ten", "TForkingServer", 10),
    ("6", "hundred", "TForkingServer", 1),
]
VOID = {"meta", "link", "input", "br", "img", "hr"}


@pytest.fixture(scope="module", autouse=True)
def _simulated_once() -> Iterator[None]:
    """Tables of the same run need the same predictions: each is simulated once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "predict", cache(predict.predict))
        yield


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of simulated results, as the experiments would leave it."""
    path = tmp_path_factory.mktemp("stored") / "experiments.json"
    sample_run().save(path)
    return path


@pytest.fixture
def run(stored: Path) -> ExperimentRun:
    return ExperimentRun.load(stored)


@pytest.fixture(scope="module")
def report_dir(stored: Path) -> Path:
    """The folder of a page, written by the command."""
    directory = stored.parent / "page"
    assert main(["report", str(stored), "--page", str(directory)]) == 0
    return directory


@pytest.fixture
def few_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page with few cases to choose from, where they don't matter: most of its time is theirs."""
    for name, values in (("CORES", (2,)), ("PROCESSES", (10,)), ("SERVICES_MS", (300,))):
        monkeypatch.setattr(f"thriftserve_bench.simulator.advice.{name}", values)


class Page(HTMLParser):
    """Elements in their order, and whatever is not closed as it was opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.faults: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self._script = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._script = dict(attrs).get("id") or "" if tag == "script" else ""
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        if self._script:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data

    def figures(self) -> list[dict[str, str | None]]:
        """The attributes of every figure that can be traced."""
        return [attrs for tag, attrs in self.elements if tag == "button" and "trace" in (attrs.get("class") or "")]


@pytest.fixture(scope="module")
def page(report_dir: Path) -> Page:
    return Page((report_dir / "index.html").read_text(encoding="utf-8"))


def test_the_table_follows_from_the_raw_calls(run: ExperimentRun, stored: Path) -> None:
    """Each measured time is the last end among the calls in the file, each ratio that by the ideal."""
    raw = json.loads(stored.read_text(encoding="utf-8"))["outcomes"]
    last = {
        (outcome["pattern"], outcome["side"], outcome["server_type"]): sorted(
            call["end_s"] for call in outcome["calls"]
        )[-1]
        for outcome in raw
    }
    table = rows(run)
    assert len(table) == len(PATTERNS) * len(SERVER_TYPES)
    for row in table:
        for side in ("ours", "apache"):
            cell = row.cell(side)
            assert (cell is None) == (row.server_type not in TYPES[side])
            if cell is None:
                continue
            assert cell.elapsed_s == last[row.pattern.name, side, row.server_type]
            ratio = row.ratio(side)
            assert ratio is not None
            assert abs(ratio * row.ideal_s - last[row.pattern.name, side, row.server_type]) < 1e-9


def test_a_time_that_is_stored_wrong_does_not_reach_the_table(run: ExperimentRun) -> None:
    """What an outcome says of itself is checked, not shown: the table has the calls' own time."""
    run.outcomes[0].elapsed_s += 5
    row = next(row for row in rows(run) if row.ours and row.ours.outcome is run.outcomes[0])
    assert row.ours is not None
    assert row.ours.elapsed_s == max(call.end_s for call in run.outcomes[0].calls)
    assert [outcome.cell for outcome in findings(run)] == [row.ours.id]


def test_the_published_rows_come_first(run: ExperimentRun) -> None:
    """The seven published rows, in their order, with the ideal that the published text allows."""
    chosen = headline(rows(run))
    shown = [(row.name, row.pattern.name, row.server_type, row.ideal_s / 0.3) for row in chosen]
    for (name, pattern, server_type, units), expected in zip(shown, PUBLISHED_IDEALS, strict=True):
        assert (name, pattern, server_type) == expected[:3]
        assert units == pytest.approx(expected[3])
    names = [row.name for row in rows(run)]
    assert names == [*["1a"] * 7, *["1b"] * 7, "2", "3", "4", "5", "6", *names[19:]]
    assert set(names[19:]) == {"(2, 4, 5)", "(3, 6)"}


@pytest.mark.parametrize(
    ("pattern", "server_type", "workload", "units"),
    [
        ("ten", "TThreadPoolServer", "sleep", 20),
        ("ten", "TThreadPoolServer", "hold-gil", 100),
        ("hundred", "TThreadedServer", "sleep", 1),
        ("ten", "TProcessPoolServer", "sleep", 25),
        ("ten", "TBatchingServer", "hold-gil", 25),
        ("hundred", "TForkingServer", "spin", 50),
        ("shared", "TForkingServer", "sleep", 100),
        ("ten", "TSimpleServer", "sleep", 100),
    ],
)
def test_the_ideal(pattern: str, server_type: str, workload: str, units: int) -> None:
    """Seats, one lock a process and cores bound how many calls run at once: 4 workers, 5 threads, 2 cores."""
    table = ideal_s(PATTERNS[pattern], server_type, workers=4, threads=5, service_s=0.5, workload=workload, cores=2)
    assert table == pytest.approx(units * 0.5)


def drop(calls: list[Call]) -> list[Call]:
    return calls[1:]


def double(calls: list[Call]) -> list[Call]:
    return [*calls, calls[0]]


def swap_for_another(calls: list[Call]) -> list[Call]:
    return [calls[1], *calls[1:]]


def end_late(calls: list[Call]) -> list[Call]:
    return [replace(calls[0], end_s=calls[0].end_s + 60), *calls[1:]]


def end_early(calls: list[Call]) -> list[Call]:
    return [replace(calls[0], end_s=calls[0].end_s - 0.2), *calls[1:]]


def start_late(calls: list[Call]) -> list[Call]:
    return [*calls[:5], replace(calls[5], start_s=calls[5].end_s - 0.2), *calls[6:]]


def end_before_the_start(calls: list[Call]) -> list[Call]:
    return [replace(calls[0], end_s=calls[0].start_s - 0.1), *calls[1:]]


def start_again_too_soon(calls: list[Call]) -> list[Call]:
    return [calls[0], replace(calls[1], start_s=calls[0].start_s), *calls[2:]]


def all_in_one_process(calls: list[Call]) -> list[Call]:
    return [replace(call, worker_pid=1) for call in calls]


@pytest.mark.parametrize(
    "slip",
    [
        drop,
        double,
        swap_for_another,
        end_late,
        end_early,
        start_late,
        end_before_the_start,
        start_again_too_soon,
        all_in_one_process,
    ],
)
def test_a_planted_slip_is_detected(run: ExperimentRun, slip: Callable[[list[Call]], list[Call]]) -> None:
    """One call lost, counted twice, moved or put where it can't have been: the cell is named, no other is."""
    assert findings(run) == []
    wanted = ("ten", "ours", "TProcessPoolServer")
    planted = next(
        outcome for outcome in run.outcomes if (outcome.pattern, outcome.side, outcome.server_type) == wanted
    )
    planted.calls = slip(planted.calls)
    assert {outcome.cell for outcome in findings(run)} == {"ten/ours/TProcessPoolServer/hold-gil"}
    assert any("ten/ours/TProcessPoolServer/hold-gil" in line for line in digest.warnings(run))


def test_targets_are_judged_by_the_raw_calls(run: ExperimentRun) -> None:
    """Each of the seven targets is met by times near the ideal, and missed once the pool needs a tenth more."""
    judged = verdicts(rows(run))
    assert [outcome.target.row for outcome in judged] == ["2", "3", "4", "5", "6", "(2, 4, 5)", "(3, 6)"]
    assert all(outcome.met and outcome.binding for outcome in judged)
    slow = next(
        outcome
        for outcome in run.outcomes
        if outcome.pattern == "ten" and outcome.server_type == POOL and outcome.side == "ours"
    )
    slow.calls = [replace(call, start_s=call.start_s * 1.1, end_s=call.end_s * 1.1) for call in slow.calls]
    assert [outcome.target.row for outcome in verdicts(rows(run)) if not outcome.met] == ["2"]


def test_a_quick_run_is_not_held_to_targets_of_300_ms() -> None:
    """At another service time a target is shown, and said not to bind."""
    judged = verdicts(rows(sample_run(service_ms=20)))
    assert len(judged) == 7
    assert not any(outcome.binding for outcome in judged)
    assert "does not bind at 20 ms" in digest.verdict_text(judged[0])


def test_repetitions_and_failures(run: ExperimentRun) -> None:
    """Of repetitions the middle one is shown; unanswered calls and outcomes that failed are said, not averaged away."""
    first = run.outcomes[0]
    for factor in (3, 2):
        calls = [replace(call, start_s=call.start_s * factor, end_s=call.end_s * factor) for call in first.calls]
        run.outcomes.append(replace(first, calls=calls, elapsed_s=first.elapsed_s * factor))
    row = next(row for row in rows(run) if row.ours and row.ours.outcome.pattern == first.pattern)
    assert row.ours is not None
    assert row.ours.id.endswith("#3")
    broken = run.outcomes[1]
    broken.calls[4] = replace(broken.calls[4], outcome="timed out")
    run.outcomes[2] = Outcome("series", "TThreadedServer", "ours", "hold-gil", 300, 10, 10, 0, failure="it ended")
    printed = digest.markdown(run)
    assert "(1 of 100 failed)" in printed
    assert "not measured: it ended" in printed
    assert next(row for row in rows(run) if row.server_type == broken.server_type).against_apache() is None


def test_the_page_is_well_formed_and_needs_nothing_else(report_dir: Path, page: Page) -> None:
    """Every element is closed in its order, ids are unique, and nothing is fetched from anywhere."""
    assert page.faults == []
    assert page.open == []
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    for _, attrs in page.elements:
        for name in ("src", "href", "action", "srcset", "data"):
            target = attrs.get(name) or ""
            assert target.startswith("#") or not target or (report_dir / target).exists(), target
    text = (report_dir / "index.html").read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[^\"'\s]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|WebSocket", text)
    assert "A simulated &lt;CPU&gt;" in text


def test_every_figure_leads_to_its_calls(page: Page, stored: Path) -> None:
    """Each figure names a cell whose raw calls are in the page, and follows from them by this test's own arithmetic."""
    stored_run = json.loads(stored.read_text(encoding="utf-8"))
    raw: dict[str, Any] = json.loads(page.scripts["raw"])
    by_cell = {outcome["cell"]: outcome for outcome in raw["outcomes"]}
    for carried, original in zip(raw["outcomes"], stored_run["outcomes"], strict=True):
        assert [dict(zip(raw["call_fields"], call, strict=True)) for call in carried["calls"]] == original["calls"]
    figures = page.figures()
    for attrs in figures:
        outcome = by_cell[attrs["data-cell"] or ""]
        measured = max(call[raw["call_fields"].index("end_s")] for call in outcome["calls"])
        pattern, server_type = outcome["pattern"], outcome["server_type"]
        units = {"ten": 10, "hundred": 1 if server_type == FORKING else 10}.get(pattern, 100)
        ideal = (units if server_type in (POOL, BATCHING, FORKING) else 100) * 0.3
        expected = {"elapsed": measured, "ideal": ideal, "ratio": measured / ideal}
        if attrs["data-kind"] in expected:
            assert float(attrs["data-value"] or "nan") == pytest.approx(expected[attrs["data-kind"] or ""])
        else:
            assert attrs["data-kind"] == "predicted"
    shown = {attrs["data-cell"] for attrs in figures if attrs["data-kind"] == "elapsed"}
    assert shown == set(by_cell)
    assert raw["machine"] == stored_run["machine"]
    assert {"versions", "commit", "settings", "calibration"} <= set(raw)


def test_plots_and_results_lie_beside_the_page(report_dir: Path, stored: Path) -> None:
    """Each plot is there as PNG and SVG, with something on it; the results are the file's own."""
    names = ["experiments-hold-gil", "forks", "latencies-hold-gil", "predicted", "timelines-hold-gil"]
    assert sorted(path.stem for path in (report_dir / "plots").glob("*.png")) == names
    for name in names:
        with Image.open(report_dir / "plots" / f"{name}.png") as image:
            assert image.width > 500
            colours = image.convert("RGB").getcolors(image.width * image.height)
            assert colours is not None and len(colours) > 50
        drawing = (report_dir / "plots" / f"{name}.svg").read_text(encoding="utf-8")
        assert drawing.count("<path") + drawing.count("<use") > 30
        Page(drawing)
    assert (report_dir / "results.json").read_bytes() == stored.read_bytes()


@pytest.mark.usefixtures("few_cases")
def test_a_run_that_was_cut_short_says_so(run: ExperimentRun, tmp_path: Path) -> None:
    """What is there is shown, on the page and as Markdown, under a line that says that it is not all."""
    run.cut_short = True
    run.outcomes = run.outcomes[:9]
    run.fork_costs = []
    text = write_page(run, tmp_path).read_text(encoding="utf-8")
    assert Page(text).faults == []
    for printed in (text, digest.markdown(run)):
        assert "Cut short: the run was stopped before its end; 9 outcomes were measured." in printed


@pytest.mark.usefixtures("few_cases")
def test_a_run_without_outcomes_has_a_page(run: ExperimentRun, tmp_path: Path) -> None:
    """Interrupted before the first outcome: still a page, not a traceback."""
    run.outcomes, run.cut_short = [], True
    assert Page(write_page(run, tmp_path).read_text(encoding="utf-8")).faults == []
    assert "0 outcomes were measured" in digest.markdown(run)


@pytest.mark.usefixtures("few_cases")
def test_slips_are_on_the_page(run: ExperimentRun, tmp_path: Path) -> None:
    """A page over inconsistent raw data says so at its top, by cell."""
    run.outcomes = run.outcomes[:2]
    run.outcomes[1].calls.pop()
    text = write_page(run, tmp_path).read_text(encoding="utf-8")
    assert "Inconsistent raw data in series/apache/TSimpleServer/hold-gil: 99 calls recorded" in text
    assert "1 of 2 outcomes have raw calls that cannot be right" in text


def test_markdown_by_the_command(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`report --markdown` prints the published rows with reasons; hold-gil is called a stand-in."""
    assert main(["report", "--markdown", str(stored)]) == 0
    printed = capsys.readouterr().out
    assert printed == digest.markdown(ExperimentRun.load(stored))
    assert re.search(r"^\| 2 \| 10 threads × 10 calls, a client each \| TProcessPoolServer \|", printed, re.MULTILINE)
    assert "stand-in for a machine with a core for every worker" in printed
    assert "A process for each call: 100 forks one after another" in printed
    assert "A child takes 12.0 ms with ours to be born and ready" in printed


def test_the_terminal_shows_the_same_times(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without flags the table goes to the terminal."""
    assert main(["report", str(stored)]) == 0
    printed = capsys.readouterr().out
    assert "wanted at 300 ms: under 3 s: met" in printed
    assert "hold-gil 300 ms: 100 threads × 1 call, a client each" in printed
    assert max(map(len, printed.split("Row 2")[0].splitlines())) <= 80


def test_runs_of_one_machine_are_joined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two workloads' files make one table; where the machines differ it is refused."""
    files = [tmp_path / f"{name}.json" for name in ("hold-gil", "sleep", "elsewhere")]
    for path, cores in zip(files, (2, 2, 64), strict=True):
        name = "sleep" if path.stem == "elsewhere" else path.stem
        sample_run(workloads=(name,), cores=cores).save(path)
    assert main(["report", "--markdown", *map(str, files[:2])]) == 0
    printed = capsys.readouterr().out
    assert "hold-gil 300 ms" in printed
    assert "sleep 300 ms" in printed
    assert main(["report", "--markdown", str(files[0]), str(files[2])]) == 1
    assert "cores is 2 in one and 64 in another" in capsys.readouterr().err


def test_the_command_to_measure_again(run: ExperimentRun) -> None:
    """The page's command line is one that the experiments understand, with the run's own settings."""
    run.settings = {"workload": "spin", "service_ms": 15.0, "workers": 3, "threads": 4, "side_by_side": 2}
    (line,) = commands(run)
    printed = settings_of(make_parser().parse_args(line.split()[1:]))
    assert (printed.workload, printed.service_ms, printed.workers, printed.threads, printed.side_by_side) == (
        "spin",
        15.0,
        3,
        4,
        2,
    )


@pytest.mark.parametrize(
    "content", ["", "[]", '{"format": "another"}', '{"format": "thriftserve-bench experiments 1"}']
)
def test_other_files_are_refused(tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that holds no run is named; no page is written."""
    path = tmp_path / "other.json"
    path.write_text(content, encoding="utf-8")
    assert main(["report", str(path), "--page", str(tmp_path / "page")]) == 1
    assert str(path) in capsys.readouterr().err
    assert not (tmp_path / "page").exists()


@pytest.fixture(scope="module")
def advice(page: Page) -> dict[str, Advice]:
    """What the page tells in each case."""
    printed = json.loads(page.scripts["derived"])["advice"]
    return {
        key: Advice(winner, size, printed["reasons"][why], dict(zip(printed["types"], seconds, strict=True)))
        for key, (winner, size, why, seconds) in printed["answers"].items()
    }


@pytest.mark.parametrize(
    ("case", "winner", "size"),
    [
        ("hold-gil|300|ten|2|10|light", BATCHING, "--workers 10"),
        ("hold-gil|300|hundred|2|100|tensorflow", BATCHING, "--workers 100"),
        ("spin|300|ten|2|10|light", BATCHING, "--workers 2"),
        ("sleep|300|hundred|2|10|light", BATCHING, "--workers 1 --runs-per-worker 100"),
        ("spin|300|ten|64|1|light", BATCHING, "--workers 1"),
    ],
)
def test_the_winner_of_a_case(advice: dict[str, Advice], case: str, winner: str, size: str) -> None:
    """Calls that hold the lock go to processes, calls that wait to threads, and cores bound what computes."""
    assert (advice[case].winner, advice[case].size) == (winner, size)
    times = [value for value in advice[case].seconds.values() if value is not None]
    printed = advice[case].seconds[winner]
    assert printed is not None
    assert printed <= min(times) * 1.05


def test_nobody_is_advised_what_he_cannot_afford(advice: dict[str, Advice]) -> None:
    """Where fewer processes may be than callers come, a process a connection is out, and said to be."""
    printed = advice["hold-gil|300|hundred|2|10|light"]
    assert printed.seconds[FORKING] is None
    assert "TForkingServer would need 100 processes; you can afford 10" in printed.why
    assert advice["hold-gil|300|hundred|2|100|light"].seconds[FORKING] is not None


def test_a_large_parent_makes_forks_dear(advice: dict[str, Advice]) -> None:
    """TensorFlow in the parent costs a forking server time in the same case, and no other type."""
    light, heavy = (advice[f"hold-gil|10|hundred|64|100|{parent}"].seconds for parent in ("light", "tensorflow"))
    forking = heavy.pop(FORKING), light.pop(FORKING)
    assert forking[0] is not None and forking[1] is not None
    assert forking[0] > 1.3 * forking[1]
    assert light == heavy
