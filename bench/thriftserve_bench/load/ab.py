"""Apache's load generator: one run of it, read.

port, requests, concurrency  --ab-->  its report and its percentiles  -->  AbReport
"""

from __future__ import annotations

import csv
import re
import resource
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from thriftserve_bench.workloads.text_request import BODY, PATH

#: What to do if it is missing.
INSTALL_AB = "ab is not installed: it is in Debian's package apache2-utils (httpd-tools elsewhere)"
_ANSWER_TIMEOUT_S = 60
_COMPLETE = re.compile(r"^Complete requests:\s+(\d+)", re.MULTILINE)
_FAILED = re.compile(r"^Failed requests:\s+(\d+)", re.MULTILINE)
_NOT_2XX = re.compile(r"^Non-2xx responses:\s+(\d+)", re.MULTILINE)
_SECONDS = re.compile(r"^Time taken for tests:\s+([\d.]+) seconds", re.MULTILINE)


class AbFailed(Exception):
    """It ended without a report; the message is its own."""


@dataclass(frozen=True)
class AbReport:
    """What ab reports of a run.

    Attributes:
        requests: answered, right or wrong.
        failed: of those: broken off, of another length than the first answer, or of another status than 2xx.
        elapsed_s: from the first to the last.
        percentiles_ms: latency that 0, 1, …, 99 of 100 requests did not exceed.
        cpu_s: user and system, its own.
    """

    requests: int
    failed: int
    elapsed_s: float
    percentiles_ms: list[float]
    cpu_s: float


def ab_program() -> str | None:
    """Return the path of ab, or None if it is not installed."""
    return shutil.which("ab")


def run_ab(program: str, port: int, requests: int, concurrency: int, keep_alive: bool, directory: Path) -> AbReport:
    """Send BODY so many times.

    Args:
        program: from `ab_program`.
        port: on this machine.
        requests: how many.
        concurrency: how many of them at a time.
        keep_alive: whether connections stay open (`ab -k`); otherwise each request opens its own.
        directory: a directory for its files.

    Raises:
        AbFailed: it ended without a report.
    """
    body, percentiles = directory / "body.json", directory / "percentiles.csv"
    body.write_bytes(BODY)
    percentiles.unlink(missing_ok=True)
    command = [program, "-q", "-r", "-s", str(_ANSWER_TIMEOUT_S), "-n", str(requests), "-c", str(concurrency)]
    command += ["-p", str(body), "-T", "application/json", "-e", str(percentiles), *(["-k"] if keep_alive else [])]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    completed = subprocess.run(
        [*command, f"http://127.0.0.1:{port}{PATH}"], capture_output=True, text=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if completed.returncode or not percentiles.exists():
        raise AbFailed(f"ab ended with {completed.returncode}: {completed.stderr.strip()[-300:]}")
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return read_report(completed.stdout, percentiles.read_text(encoding="utf-8"), cpu_s)


def read_report(report: str, percentiles: str, cpu_s: float) -> AbReport:
    """Read ab's report and the file of its percentiles.

    Raises:
        AbFailed: something is missing.
    """
    complete, seconds = _COMPLETE.search(report), _SECONDS.search(report)
    if complete is None or seconds is None:
        raise AbFailed(f"ab's report can't be read: {report[-300:]!r}")
    failed, not_2xx = _FAILED.search(report), _NOT_2XX.search(report)
    # An answer of another status may be of another length, too: it counts once.
    wrong = max(int(failed[1]) if failed else 0, int(not_2xx[1]) if not_2xx else 0)
    rows = list(csv.reader(percentiles.splitlines()))[1:]
    return AbReport(int(complete[1]), wrong, float(seconds[1]), [float(row[1]) for row in rows], cpu_s)
