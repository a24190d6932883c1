"""The comparison of HTTP stacks: what ab says, its arithmetic, its files, and both stacks for real."""

from __future__ import annotations

import argparse
import http.client
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from thriftserve_bench.benchmarks.http.benchmark import settings_of
from thriftserve_bench.cli import main, make_parser
from thriftserve_bench.load.ab import AbFailed, read_report
from thriftserve_bench.records.http import LISTS_FORM, STANDARD_JSON, AbWindow, BodyWindow, HttpRun
from thriftserve_bench.report.http import body_misses, markdown, pairs
from thriftserve_bench.run_file import NotARun
from thriftserve_bench.servers.nginx import Nginx, config_text, nginx_program
from thriftserve_bench.workloads.jobs import WrongAnswer
from thriftserve_bench.workloads.text_request import check_same

AB = pytest.mark.skipif(shutil.which("ab") is None, reason="ab is not here (deploy/programs.sh installs it)")
NGINX = pytest.mark.skipif(nginx_program() is None, reason="nginx is not here (deploy/programs.sh installs it)")
REPORT = """\
Time taken for tests:   2.500 seconds
Complete requests:      1000
Failed requests:        7
   (Connect: 0, Receive: 0, Length: 7, Exceptions: 0)
Non-2xx responses:      9
"""
IMAGES_AND_NPY = ("application/octet-stream", "application/x-npy", "image/jpeg")
_LOOK_EVERY_S = 0.02


def window(requests: int, *, failed: int = 0, p99_ms: float = 3.0) -> AbWindow:
    """A window of one second."""
    return AbWindow(requests, failed, 1.0, [1.0] * 99 + [p99_ms], requests * 1e-3, 0.1, 2**20, 2**21, 0.5)


def a_run() -> HttpRun:
    """Ours three times as fast one by one, twice at ten, where a request fails; a body that costs too much."""
    machine = {"cpu": "C", "cores": 2, "kernel": "L"}
    run = HttpRun("2026-01-02", {"rounds": 3, "requests": 100}, machine, {"thrift": "0.25"}, "abc")
    run.stacks = {"published": "Flask", "ours": "gateway"}
    run.cell("published", 1, False).windows.extend(window(rate) for rate in (100, 90, 300))
    run.cell("ours", 1, False).windows.extend(window(rate) for rate in (300, 310, 10))
    run.cell("published", 10, True).windows.append(window(100))
    run.cell("ours", 10, True).windows.append(window(201, failed=1))
    for name, ms in (("application/octet-stream", 0.4), ("image/jpeg", 1.5), (LISTS_FORM, 19), (STANDARD_JSON, 40)):
        run.body(name, 602_112, 200).windows.append(BodyWindow(10, ms / 100))
    return run


def test_abs_report_is_read() -> None:
    """Requests, seconds and percentiles come out; a request that is wrong in two ways counts once."""
    percentiles = "Percentage served,Time in ms\n0,0.500\n1,0.750\n"
    measured = read_report(REPORT, percentiles, 0.25)
    assert (measured.requests, measured.failed, measured.elapsed_s, measured.cpu_s) == (1000, 9, 2.5, 0.25)
    assert measured.percentiles_ms == [0.5, 0.75]
    with pytest.raises(AbFailed, match="apr_socket_connect"):
        read_report("apr_socket_connect(): refused", percentiles, 0.0)


def test_ours_is_held_against_the_published_stack() -> None:
    """Medians of the rounds; a ratio below 3, a failed request of ours and bodies that cost too much are reported."""
    run = a_run()
    alone, ten = pairs(run)
    assert alone.ratio == 3.0
    assert alone.misses() == []
    assert ten.misses() == [
        "10 at a time, connections kept: ours failed 1 requests",
        "10 at a time, connections kept: 2.00 times the published stack's rate, wanted 3",
    ]
    assert body_misses(run) == ["image/jpeg: 1.50 ms of the gateway's CPU, wanted less than 1"]
    run.body(LISTS_FORM, 0, 0).windows[:] = [BodyWindow(10, 0.22)]
    assert body_misses(run)[1].startswith("JSON lists: 0.55 of the standard library's json")


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    """A saved run is the same run, its table too; another file is refused with its name."""
    run = a_run()
    run.save(tmp_path / "http.json")
    measured = HttpRun.load(tmp_path / "http.json")
    assert measured == run
    assert "| 1 | new | 100 | 300 | 3.00 |" in markdown(measured)
    (tmp_path / "other.json").write_text('{"format": "else"}', encoding="utf-8")
    with pytest.raises(NotARun, match=r"other\.json"):
        HttpRun.load(tmp_path / "other.json")


def test_answers_are_the_same_up_to_float32() -> None:
    """The last digits of a number may differ; a word, a row more or a missing name may not."""
    row = {"labels": "sport", "classes_id": 0, "softmax": [0.98, 0.01]}
    check_same({"predictions": [row]}, {"predictions": [row | {"softmax": [0.9800000190734863, 0.01]}]})
    for other in (
        row | {"labels": "money"},
        row | {"softmax": [0.97, 0.01]},
        row | {"softmax": [0.98]},
        {"labels": "x"},
    ):
        with pytest.raises(WrongAnswer, match=r"answer\.predictions\[0\]"):
            check_same({"predictions": [row]}, {"predictions": [other]})


def flags(*words: str) -> argparse.Namespace:
    """The flags of a command line."""
    return make_parser().parse_args(["http", *words])


def test_flags_become_settings() -> None:
    """--quick can be overruled, the machine's cores decide the processes, one gateway is left without nginx."""
    settings = settings_of(flags("--quick", "--rounds", "2", "--stacks", "ours", "--connections", "new", "--no-nginx"))
    assert (settings.rounds, settings.stacks, settings.keep_alive, settings.gateways) == (2, ("ours",), (False,), 1)
    assert settings.gunicorn_workers == 2 * (os.cpu_count() or 1) + 1
    assert settings_of(flags("--stacks", "none")).stacks == ()
    for words in ("--stacks theirs", "--rounds 0", "--concurrency 0", "--gateways 2 --no-nginx", "--requests -1"):
        with pytest.raises(ValueError, match=words.split()[0]):
            settings_of(flags(*words.split()))


def test_without_ab_that_part_is_left_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The package is named, nothing is started, and the exit code says that nothing was measured."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["http", "--body-requests", "0", "--output", str(tmp_path / "http.json")]) == 1
    stderr = capsys.readouterr().err
    assert "apache2-utils" in stderr
    assert "nothing was measured" in stderr
    assert not (tmp_path / "http.json").exists()


@NGINX
def test_nginx_holds_its_port_and_leaves_nothing(tmp_path: Path) -> None:
    """It takes the port that the kernel picked; without an application it says so; it is gone with its workers."""
    assert "server 127.0.0.1:7;\n        server 127.0.0.1:8;" in config_text(1, (7, 8), tmp_path)
    program = nginx_program()
    assert program is not None
    proxy = Nginx(program, [1], tmp_path)
    try:
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
            try:
                connection.request("GET", "/")
                assert connection.getresponse().status == http.client.BAD_GATEWAY
                break
            except ConnectionRefusedError:
                time.sleep(_LOOK_EVERY_S)
            finally:
                connection.close()
        family = [psutil.Process(proxy.pid), *psutil.Process(proxy.pid).children()]
        assert len(family) > 1
    finally:
        proxy.stop()
    assert not [each for each in family if each.is_running()]


@AB
@pytest.mark.timeout(300)  # five processes that import TensorFlow, on whatever machine
def test_a_short_run_measures_both_stacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both start and give the same answers, images too; the file gives the same table."""
    out = tmp_path / "http.json"
    words = "--concurrency 2 --rounds 1 --requests 20 --connections new --gunicorn-workers 1 --body-requests 2"
    assert main(["http", *words.split(), "--cache", str(tmp_path / "cache"), "--output", str(out)]) == 0
    run = HttpRun.load(out)
    assert set(run.skipped) <= {"nginx"}
    assert sorted(run.stacks) == ["ours", "published"]
    assert run.versions["flask"]
    for cell in run.cells:
        (measured,) = cell.windows
        assert (measured.requests, measured.failed) == (20, 0)
        assert measured.server_cpu_s > 0
        assert measured.alone_bytes > 0
    assert [body.name for body in run.bodies] == [*IMAGES_AND_NPY, LISTS_FORM, STANDARD_JSON]
    assert all(window.cpu_s > 0 for body in run.bodies for window in body.windows)
    table = capsys.readouterr().out
    assert "| 2 | new |" in table
    assert main(["report", "--markdown", str(out)]) == 0
    assert capsys.readouterr().out == table


@AB
def test_ctrl_c_leaves_no_process(tmp_path: Path) -> None:
    """SIGINT ends a long run early; the windows so far are recorded and marked; servers, nginx and ab are gone."""
    path = tmp_path / "http.json"
    words = [
        "--stacks",
        "ours",
        "--rounds",
        "1000",
        "--requests",
        "100",
        "--concurrency",
        "2",
        "--body-requests",
        "0",
        "--output",
    ]
    command = [sys.executable, "-m", "thriftserve_bench.cli", "http", *words, str(path)]
    family: list[psutil.Process] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            seen: set[int] = set()
            while len(seen) < 3:
                assert process.poll() is None
                family = psutil.Process(process.pid).children(recursive=True)
                seen |= {each.pid for each in family if _name(each) == "ab"}
                time.sleep(_LOOK_EVERY_S)
        except BaseException:
            process.kill()
            raise
        process.send_signal(signal.SIGINT)
        shown, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "cut short" in shown
    measured = HttpRun.load(path)
    assert measured.cut_short
    assert all(window.failed == 0 for cell in measured.cells for window in cell.windows)
    assert not [each for each in family if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.NoSuchProcess:  # gone between the two looks
        return ""
