"""/metrics: what the gateway counts, what it tells of the servers, in one process and in several; health."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from client_service import scripted, silent
from documents import ROOT, SUPPORT
from gateway_served import COMMAND, Door, gateway
from served import Served
from thriftserve.gateway import metric_families as table
from thriftserve_bench.process_tree import signal_process
from thriftserve_bench.processes import ServerProcess, clean_environment

TESTS = str(SUPPORT)
BODY = {"inputs": {"x": [1, 2]}}
#: Nobody listens there: a port that only root may bind.
NOBODY = 1
Labels = frozenset[tuple[str, str]]


class Scrape:
    """What /metrics said at one moment."""

    def __init__(self, door: Door, path: str = "/metrics") -> None:
        answer = door.get(path)
        assert answer.status == 200, answer
        assert answer.headers["content-type"].startswith("text/plain; version=")
        self.families = list(text_string_to_metric_families(answer.body.decode()))
        samples = [sample for family in self.families for sample in family.samples]
        self.samples = {(one.name, frozenset(one.labels.items())): one.value for one in samples}
        assert len(self.samples) == len(samples), "a series stands there twice"

    def value(self, name: str, **labels: str) -> float:
        """The sum of the series that have these labels."""
        wanted = set(labels.items())
        return sum(value for (one, has), value in self.samples.items() if one == name and wanted <= has)


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    flags = ["--model", "any=python:served_models:Doubler", "--model", "moody=python:gateway_models:Moody"]
    with Served(*flags, "--workers", "1", PYTHONPATH=TESTS) as running:
        yield running


@pytest.fixture(scope="module")
def door(server: Served) -> Iterator[Door]:
    """A gateway before a server and an address where none is."""
    with gateway(server.port, NOBODY) as made:
        yield made


def moody(door: Door, how: str, query: str = "") -> int:
    return door.post(f"/v1/models/moody:predict{query}", {"inputs": {"how": [how]}}).status


def test_each_metric_is_documented_and_as_documented(door: Door) -> None:
    """What is told has the names, kinds, labels and words of the table, and the page has a row for each."""
    assert door.predict("any", BODY).status == 200
    found = {family.name: family for family in Scrape(door).families}
    expected = {one.name.removesuffix("_total") if one.kind == "counter" else one.name: one for one in table.FAMILIES}
    assert set(found) == set(expected)
    for name, family in found.items():
        wanted = expected[name]
        kind = "gauge" if wanted.kind == "info" else wanted.kind
        assert (family.type, family.documentation) == (kind, wanted.help)
        assert {frozenset(one.labels) - {"le"} for one in family.samples} == {frozenset(wanted.labels)}, name
    page = (ROOT / "docs/reference/metrics.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in page if line.startswith("| `thriftserve_")] == [table.row(one) for one in table.FAMILIES]


def test_requests_are_counted_by_what_they_were(door: Door) -> None:
    """Model, resolved version, method and code; durations and bytes beside them; nothing is counted twice."""
    before = Scrape(door)
    answers = [door.predict("any", BODY) for _ in range(3)]
    assert door.post("/v1/models/any/versions/1:predict", b"{").status == 400
    assert door.get("/V1/models/any").status == 200
    after = Scrape(door, "/monitoring/prometheus/metrics")

    def grew(name: str, **labels: str) -> float:
        return after.value(name, **labels) - before.value(name, **labels)

    requests = "thriftserve_gateway_requests_total"
    assert grew(requests, model="any", version="1", method="predict", code="200") == 3
    assert grew(requests, model="any", version="1", method="predict", code="400") == 1
    assert grew(requests, model="any", version="", method="status", code="200") == 1
    assert grew(requests, method="metrics") == 1
    assert grew(requests) == 6
    what = {"model": "any", "method": "predict"}
    assert grew("thriftserve_gateway_request_duration_seconds_count", **what) == 4
    assert grew("thriftserve_gateway_request_duration_seconds_bucket", le="600.0", **what) == 4
    assert grew("thriftserve_gateway_received_bytes_total", **what) == 3 * len(json.dumps(BODY)) + 1
    assert grew("thriftserve_gateway_sent_bytes_total", **what) > 3 * len(answers[0].body)
    assert after.value("thriftserve_gateway_requests_in_flight") == 0


def test_addresses_do_not_make_series(door: Door) -> None:
    """Models, versions, verbs and paths that only clients know of count as none."""
    door.predict("any", BODY)
    first = len(Scrape(door).samples)
    for number in range(300):
        assert door.predict(f"nobody{number}", BODY).status == 404
        assert door.get(f"/v1/models/any/versions/{number + 2}").status == 404
        assert door.get(f"/somewhere/{number}").status == 404
        assert door.get(f"/v2/models/nobody{number}").status == 404
    scrape = Scrape(door)
    # Four kinds of 404: a count each; a histogram, a sum and a count of bytes for those that are new.
    assert len(scrape.samples) < first + 4 + 4 * 24
    assert scrape.value("thriftserve_gateway_requests_total", model="", code="404") >= 900
    assert not any(("model", "nobody7") in labels for _, labels in scrape.samples)


def test_what_was_late_and_what_was_shed_is_counted(server: Served) -> None:
    """Deadlines, full queues of servers, and the gateway's own limit, which does not stop those who watch."""
    with gateway(server.port, flags=("--max-in-flight", "2")) as door:
        assert moody(door, "sleep 0.3", "?timeout=0.05") == 504
        assert moody(door, "raise") == 500
        assert moody(door, "ResourceExhausted") == 503
        others = [Door(door.process) for _ in range(2)]
        with ThreadPoolExecutor(2) as pool:
            slow = [pool.submit(moody, other, "sleep 1.5") for other in others]
            while Scrape(door).value("thriftserve_gateway_requests_in_flight") < 2:
                time.sleep(0.01)
            assert (moody(door, "fine"), door.get("/healthz").status, door.get("/readyz").status) == (503, 200, 200)
            assert [one.result() for one in slow] == [200, 200]
        for other in others:
            other.hang_up()
        scrape = Scrape(door)
    # A model that never answers well is known by its name all the same.
    for code in ("500", "503", "504"):
        assert scrape.value("thriftserve_gateway_requests_total", model="moody", version="1", code=code) >= 1
    assert scrape.value("thriftserve_gateway_deadline_exceeded_total") == 1
    assert scrape.value("thriftserve_gateway_requests_shed_total", by="server") == 1
    assert scrape.value("thriftserve_gateway_requests_shed_total", by="gateway") == 1


def test_servers_tell_of_themselves(door: Door, server: Served) -> None:
    """Who is up, queue and compute time, rows, models; a worker that is killed and replaced stays in the counts."""
    backend = f"127.0.0.1:{server.port}"
    time.sleep(1.1)  # what servers say is kept for a second
    before = Scrape(door)
    assert before.value("thriftserve_up", backend=backend) == 1
    assert before.value("thriftserve_up", backend=f"127.0.0.1:{NOBODY}") == 0
    assert not any(
        name != "thriftserve_up" and ("backend", f"127.0.0.1:{NOBODY}") in has for name, has in before.samples
    )
    for state, value in (("AVAILABLE", 1), ("LOADING", 0)):
        assert before.value("thriftserve_model_state", model="any", version="1", state=state) == value
    assert 0 < before.value("thriftserve_model_load_seconds", model="any", version="1") < 60
    assert before.value("thriftserve_model_transitions_total", model="any", state="AVAILABLE") == 1
    assert before.value("thriftserve_model_transitions_total", model="any", state="END") == 0
    for role in ("worker", "front", "keeper"):
        assert before.value("thriftserve_worker_resident_memory_bytes", role=role) > 10e6
    assert before.value("thriftserve_worker_cpu_seconds_total", role="worker") > 0
    assert before.value("thriftserve_gateway_process_resident_memory_bytes", pid=str(door.process.pid)) > 10e6
    assert door.predict("any", BODY).status == 200
    with server.client() as client:
        (pid,) = (one.pid for one in client.server_status().workers if one.role == "worker")
    signal_process(pid, signal.SIGKILL)
    while (after := Scrape(door)).value("thriftserve_worker_restarts_total", role="worker") < 1:
        time.sleep(0.05)
    rows = ("thriftserve_batch_size_rows_sum", "thriftserve_batch_size_rows_count", "thriftserve_requests_total")
    assert [after.value(one) - before.value(one) for one in rows][:2] == [2, 1]
    assert after.value(rows[2]) > before.value(rows[2])
    assert after.value("thriftserve_queue_time_seconds_bucket", le="+Inf") == after.value(rows[1])
    assert 0 < after.value("thriftserve_compute_time_seconds_sum") < 10


def test_several_processes_tell_as_one(server: Served, tmp_path: Path) -> None:
    """With a directory in common each tells of all; one that was killed leaves its counts and nothing else."""
    env = clean_environment(PROMETHEUS_MULTIPROC_DIR=str(tmp_path / "metrics"))
    arguments = ["--backend", f"127.0.0.1:{server.port}"]
    with (
        ServerProcess(arguments, command=COMMAND, env=env) as first,
        ServerProcess(arguments, command=COMMAND, env=env) as second,
    ):
        doors = [Door(first), Door(second)]
        for door in doors:
            assert door.predict("any", BODY).status == 200
        requests = {"model": "any", "version": "1", "method": "predict", "code": "200"}
        for door in doors:
            scrape = Scrape(door)
            assert scrape.value("thriftserve_gateway_requests_total", **requests) == 2
            assert scrape.value("thriftserve_gateway_request_duration_seconds_count", model="any") == 2
            assert scrape.value("thriftserve_gateway_process_resident_memory_bytes", pid=str(second.pid)) > 10e6
            assert scrape.value("thriftserve_up") == 1
        with ThreadPoolExecutor(1) as pool:
            hung = pool.submit(lambda: moody(doors[1], "sleep 2"))
            while Scrape(doors[0]).value("thriftserve_gateway_requests_in_flight") < 1:
                time.sleep(0.01)
            second.kill()
            assert hung.exception() is not None
        scrape = Scrape(doors[0])
        assert scrape.value("thriftserve_gateway_requests_total", **requests) == 2
        assert scrape.value("thriftserve_gateway_requests_in_flight") == 0
        assert scrape.value("thriftserve_gateway_process_resident_memory_bytes", pid=str(second.pid)) == 0
        doors[0].hang_up()


def test_health_says_what_is_wrong(server: Served) -> None:
    """Without a server the process lives but is not ready, and says whom it could not reach; with one of two, which."""
    with gateway(NOBODY) as door:
        assert door.get("/healthz").status == 200
        told = door.get("/readyz")
        assert told.status == 503
        (one,) = told.json()["backends"]
        assert one["backend"] == f"127.0.0.1:{NOBODY}" and one["status"] == "failed" and "refused" in one["error"]
    with gateway(server.port, NOBODY) as door:
        told = door.get("/readyz")
        assert told.status == 200
        assert told.json()["status"] == "degraded"
        assert [one["status"] for one in told.json()["backends"]] == ["ok", "failed"]
    with scripted(silent) as mute, gateway(mute) as door:
        assert door.get("/readyz?timeout=0.02").status == 504
