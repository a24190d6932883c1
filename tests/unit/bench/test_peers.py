"""The comparison with other servers: its arithmetic, its HTTP client, its environments, one short real run."""

from __future__ import annotations

import argparse
import http.server
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from thriftserve_bench import process_tree
from thriftserve_bench.benchmarks.peers.benchmark import settings_of
from thriftserve_bench.cli import main, make_parser
from thriftserve_bench.load.job_load import JobOrder, encoded_samples, measure
from thriftserve_bench.load.overload import OverloadLoop
from thriftserve_bench.load.protocols import PROTOCOLS, http_length
from thriftserve_bench.processes import JsonLinesChild
from thriftserve_bench.records.peers import Ceiling, CeilingWindow, PeersRun, PeerWindow
from thriftserve_bench.report.peers import comparisons, markdown
from thriftserve_bench.run_file import NotARun
from thriftserve_bench.servers.environments import Peer, PeerMissing, environment
from thriftserve_bench.workloads.jobs import JOBS, Sample, WrongAnswer, load_samples, save_samples

SECONDS = 0.1


def window(calls: int, *, failures: int = 0, per_client: tuple[int, ...] = (5, 5), p99_us: int = 900) -> PeerWindow:
    """A window of one second."""
    latencies = [(100, calls - 1), (p99_us, 1)]
    return PeerWindow(calls, failures, "", 1.0, latencies, calls * 1e-5, 0.1, 1, 1, 0.5, [*per_client], 2**20)


def a_run() -> PeersRun:
    """Three windows of ours and of three peers; the fastest of them starves a client, the next one fails a call."""
    settings = {"rounds": 3, "seconds": 1.0}
    run = PeersRun("2026-01-02", settings, {"cpu": "C", "cores": 2, "kernel": "L"}, {"thrift": "0.25"}, "abc")
    for name, family in (("ours", "thriftserve"), ("even", "a"), ("unfair", "b"), ("wrong", "c")):
        run.systems[name] = {"family": family, "workers": 2, "idle_cores": 0.0}
    run.cell("tensor", 8, "even").windows.extend(window(calls) for calls in (90, 300, 100))
    run.cell("tensor", 8, "unfair").windows.append(window(500, per_client=(500, 0)))
    run.cell("tensor", 8, "wrong").windows.append(window(400, failures=1))
    run.cell("tensor", 8, "ours").windows.extend(window(calls) for calls in (150, 130, 10))
    run.ceilings.append(Ceiling("tensor", "2 x 1, frozen", True, [CeilingWindow(300, 2.0), CeilingWindow(160, 1.0)]))
    run.ceilings.append(Ceiling("tensor", "2 x 1, as loaded", False, [CeilingWindow(900, 1.0)]))
    run.ceilings.append(Ceiling("tensor", "2 x 1, beside 8 clients", True, [CeilingWindow(140, 1.0)], with_clients=8))
    return run


def test_ours_is_held_against_the_best_peer_that_serves_everybody() -> None:
    """Medians of the rounds, ratio, share of the fixed ceiling; a peer that starves or fails is not the best one."""
    (measured,) = comparisons(a_run())
    assert measured.peer is not None
    assert measured.peer.system == "even"
    assert measured.peer.figures.calls_per_s == 100
    assert measured.ours.figures.calls_per_s == 130
    assert measured.ratio == 1.3
    assert measured.ceiling == 155
    assert measured.of_ceiling == pytest.approx(130 / 155)
    assert measured.of_ceiling_with_clients == pytest.approx(130 / 140)
    (limit, memory) = measured.misses()
    assert limit.startswith("84% of what the machine does without RPC")
    assert memory.startswith("memory 1.00 of even's")


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    """A saved run is the same run, its table too; another file is refused with its name."""
    run = a_run()
    run.save(tmp_path / "peers.json")
    measured = PeersRun.load(tmp_path / "peers.json")
    assert measured == run
    assert "| tensor | 8 | even | ours | 100 | 130 | 1.30 |" in markdown(measured)
    (tmp_path / "other.json").write_text('{"format": "else"}', encoding="utf-8")
    with pytest.raises(NotARun, match=r"other\.json"):
        PeersRun.load(tmp_path / "other.json")


Answer = Callable[[np.ndarray[tuple[int, ...], np.dtype[np.float32]]], tuple[int, bytes]]


@contextmanager
def http_server(answer: Answer) -> Iterator[int]:
    """An HTTP server of the standard library that answers float32 bodies; yields its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            status, body = answer(np.frombuffer(content, np.float32))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            serving.join()


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Eight tiny questions."""
    path = tmp_path / "tiny.npz"
    inputs = [np.array([number, 1, 2], np.float32) for number in range(8)]
    save_samples(path, [Sample(x.tobytes(), x.shape, x / 2 + 2) for x in inputs])
    return path


def test_http_clients_are_answered_and_counted(pool: Path) -> None:
    """Every client's answers are counted, right ones only; no client is left out."""
    with http_server(lambda x: (200, (x / 2 + 2).tobytes())) as port:
        measured = measure(JobOrder("http", "tiny", str(pool), port, os.getpid(), 3, SECONDS))
    assert measured.failures == 0, measured.reason
    assert measured.calls == sum(measured.per_client) == sum(count for _, count in measured.latencies_us)
    assert min(measured.per_client) > 0
    assert measured.elapsed_s >= SECONDS
    assert measured.server_cpu_s > 0
    assert measured.alone_bytes > 0


def test_paced_server_answers_right_at_its_pace(pool: Path) -> None:
    """Clients of the paced server get the answers to their own samples, in all no more a second than its rate."""
    paced_server = JsonLinesChild("thriftserve_bench.servers.paced_server", ["tiny", str(pool)])
    try:
        port = paced_server.ask({"rate": 100.0})["port"]
        measured = measure(JobOrder("thrift", "tiny", str(pool), port, paced_server.pid, 3, 5 * SECONDS))
        assert paced_server.ask({"rate": 1e6})["port"] == port
        freed = measure(JobOrder("thrift", "tiny", str(pool), port, paced_server.pid, 3, 5 * SECONDS))
    finally:
        paced_server.close()
    assert (measured.failures, freed.failures) == (0, 0), measured.reason or freed.reason
    assert min(measured.per_client) > 0
    assert 0 < measured.calls <= 100 * (measured.elapsed_s + 0.1) < freed.calls


def test_requests_come_at_their_rate(pool: Path) -> None:
    """No more than are to come, and each of them is accounted for."""
    paced_server = JsonLinesChild("thriftserve_bench.servers.paced_server", ["tiny", str(pool)])
    try:
        port = paced_server.ask({"rate": 1e6})["port"]
        measured = OverloadLoop(port, JOBS["tiny"], encoded_samples(str(pool), "tiny", "thrift")).run(
            200.0, 5 * SECONDS
        )
    finally:
        paced_server.close()
    assert (measured.failed, measured.refused_ms) == (0, []), measured.reason
    assert 0 < len(measured.answered_ms) + measured.not_sent <= 200 * 5 * SECONDS + 1


class SlowSender(OverloadLoop):
    """Takes longer to send a request than it has."""

    def _send(self, number: int, due: float) -> None:
        self.arrivals.answered_ms.append((time.monotonic() - due) * 1000)
        time.sleep(0.001)


def test_a_sender_that_can_not_keep_up_has_no_arrears(pool: Path) -> None:
    """It sends as many as it can, says how many those were, and is late by no more each time."""
    measured = SlowSender(0, JOBS["tiny"], encoded_samples(str(pool), "tiny", "thrift")).run(100_000, 0.4)
    late_ms = measured.answered_ms
    assert measured.rate * 0.4 == pytest.approx(len(late_ms), rel=0.5)
    assert measured.rate <= 1000
    half = len(late_ms) // 2
    assert np.median(late_ms[half:]) < 2 * np.median(late_ms[:half])  # of arrears, three times as late


def test_mixed_up_answers_are_failures(pool: Path) -> None:
    """Another question's answer, and a status that is not 200, count as failures; the window is given up."""
    mixed = np.array([99, 1, 2], np.float32).tobytes()
    for answer, reason in ((mixed, "a value differs"), (b"busy", "503")):
        status = 503 if answer == b"busy" else 200
        with http_server(lambda x, reply=(status, answer): reply) as port:  # type: ignore[misc]  # bound now
            measured = measure(JobOrder("http", "tiny", str(pool), port, os.getpid(), 2, SECONDS))
        assert measured.calls == 0
        assert measured.failures == 20
        assert reason in measured.reason


def test_a_reply_is_whole_when_its_header_says_so() -> None:
    """An HTTP reply's length is known once its header is there; one without a length is wrong."""
    reply = b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-LENGTH: 12\r\n\r\n123456789012"
    assert http_length(reply) == len(reply)
    assert http_length(reply[:30]) == 0
    with pytest.raises(WrongAnswer, match="Content-Length"):
        http_length(b"HTTP/1.1 200 OK\r\n\r\n")


def test_floats_and_classes_have_their_tolerance() -> None:
    """A net's scores may differ by a thousandth, the last of the best classes by one; a neighbour's answer may not."""
    check = PROTOCOLS["content"].check
    scores = Sample(b"", (), np.array([0.5, 0.25], np.float32))
    check(JOBS["tensor"], np.array([0.5005, 0.25], np.float32).tobytes(), scores)
    with pytest.raises(WrongAnswer):
        check(JOBS["tensor"], np.array([0.25, 0.5], np.float32).tobytes(), scores)
    classes = Sample(b"", (), np.array([7, 3, 1, 9, 4]))
    check(JOBS["jpeg"], np.array([7, 3, 9, 1, 5], np.int32).tobytes(), classes)
    for wrong in ([3, 7, 1, 9, 4], [7, 3, 1, 5, 6], [7, 3]):
        with pytest.raises(WrongAnswer):
            check(JOBS["jpeg"], np.array(wrong, np.int32).tobytes(), classes)


def test_a_pool_is_read_as_it_was_written(pool: Path) -> None:
    """Contents, shapes and answers come back."""
    measured = load_samples(pool)
    assert len(measured) == 8
    assert measured[3].shape == (3,)
    assert measured[3].answer.tolist() == [3.5, 2.5, 3.0]


def test_an_environment_shows_what_lies_under_it(tmp_path: Path) -> None:
    """What is here counts as installed; its Python imports it, and the programs of the benchmarks."""
    python = environment(Peer("under", ("numpy",)), tmp_path, ["--no-index"])
    code = "import numpy, thriftserve_bench.servers.host_flags, sys; print(sys.prefix)"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(tmp_path / "under")
    assert environment(Peer("under", ("numpy",)), tmp_path, ["--of-no-use"]) == python


def test_a_peer_that_pip_can_not_install_is_left_out_with_its_reason(tmp_path: Path) -> None:
    """The reason is pip's own, and nothing half built is left behind."""
    flags = ["--no-index", "--find-links", str(tmp_path)]
    with pytest.raises(PeerMissing, match=r"absent can't be installed: .*thriftserve-absent-peer"):
        environment(Peer("absent", ("thriftserve-absent-peer>=1",)), tmp_path / "cache", flags)
    assert not list((tmp_path / "cache").iterdir())


def flags(*words: str) -> argparse.Namespace:
    """The flags of a command line."""
    return make_parser().parse_args(["peers", *words])


_FAMILY = """
import os
if child := os.fork():
    print(child, flush=True)
while True:
    pass
"""


def test_a_paused_tree_takes_no_cpu_and_goes_on() -> None:
    """Neither the process nor its child does anything until they may go on; a paused tree can be ended."""
    spinning = subprocess.Popen([sys.executable, "-c", _FAMILY], stdout=subprocess.PIPE)
    try:
        assert spinning.stdout is not None
        child = int(spinning.stdout.readline())
        process_tree.pause(spinning.pid)
        time.sleep(0.05)  # the last microseconds are booked when it leaves its core
        before = own_cpu(spinning.pid, child)
        time.sleep(0.2)
        assert own_cpu(spinning.pid, child) == before
        process_tree.resume(spinning.pid)
        until = time.monotonic() + 20
        while any(now <= then for now, then in zip(own_cpu(spinning.pid, child), before, strict=True)):
            assert time.monotonic() < until
            time.sleep(0.01)
        process_tree.pause(spinning.pid)
    finally:
        process_tree.resume(spinning.pid)
        process_tree.stop(spinning.pid, 5)
        spinning.communicate()
    assert not psutil.pid_exists(child)


def own_cpu(*pids: int) -> list[float]:
    """CPU seconds of processes."""
    return [process_tree.own_cpu_s(pid) for pid in pids]


def test_flags_become_settings() -> None:
    """Lists are read, --quick can be overruled, wrong names are reported with the known ones."""
    measured = settings_of(
        flags("--quick", "--rounds", "2", "--jobs", "jpeg,tiny", "--peers", "none", "--server-type", "T")
    )
    assert (measured.rounds, measured.jobs, measured.peers, measured.server_types) == (2, ("jpeg", "tiny"), (), ("T",))
    with pytest.raises(ValueError, match="no 'tinny'; use some of tiny, tensor, jpeg"):
        settings_of(flags("--jobs", "tinny", "--server-type", "T"))


def test_a_short_run_measures_ours_beside_apaches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both start, answer correctly and are recorded; the file gives the same table."""
    out = tmp_path / "peers.json"
    words = "--jobs tiny --clients 2 --rounds 1 --seconds 0.2 --server-type TThreadPoolServer --peers"
    assert main(["peers", *words.split(), "stock TThreadedServer", "--cache", str(tmp_path), "--output", str(out)]) == 0
    run = PeersRun.load(out)
    assert run.skipped == {}
    assert len(run.cells) == 2
    for cell in run.cells:
        (measured,) = cell.windows
        assert measured.failures == 0, measured.reason
        assert measured.calls > 0, cell.system
    table = capsys.readouterr().out
    assert "| tiny | 2 | stock T" in table
    assert main(["report", "--markdown", str(out)]) == 0
    assert capsys.readouterr().out == table
